"""Files, folders and hub data sets: what is opened, which split is taken, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploycomp.data import load_rows
from deploycomp.data.sources import find_training, open_table
from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError

ROWS = [{"text": "good", "label": "positive"}, {"text": 'bad, "really"', "label": "negative"}]
TASK = "text-classification"


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write(folder: Path, suffix: str) -> Path:
    import pandas as pd

    path = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        jsonl(path)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif suffix == ".csv":
        pd.DataFrame(ROWS).to_csv(path, index=False)
    else:
        path.write_text("text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_file_type_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    rows = load_rows(str(write(tmp_path, suffix)), task=TASK)
    assert rows.rows == ROWS
    assert rows.digest == load_rows(str(jsonl(tmp_path / "other.jsonl")), task=TASK).digest
    assert (rows.split, rows.available, len(rows)) == (None, 2, 2)


def test_the_name_holds_no_absolute_path(tmp_path: Path) -> None:
    rows = load_rows(str(jsonl(tmp_path / "set" / "rows.jsonl")), task=TASK)
    assert rows.name == "set/rows.jsonl"


@pytest.mark.parametrize(
    "name", ["a b.jsonl", "data[1].jsonl", "x*.jsonl", "a::b.jsonl", "ünï-#%20.jsonl", ".hidden.jsonl", "-x.jsonl"]
)
def test_names_are_no_patterns(tmp_path: Path, name: str) -> None:
    assert load_rows(str(jsonl(tmp_path / name)), task=TASK).rows == ROWS


def test_csv_texts_that_look_missing_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufefftext,label\nNA,a\nnull,b\nNone,a\n", encoding="utf-8")
    assert load_rows(str(path), task=TASK).column("text") == ["NA", "null", "None"]


def test_csv_texts_that_are_all_numbers_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n12,a\n13,b\n")
    assert load_rows(str(path), task=TASK).column("text") == ["12", "13"]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"an open quote\ta\nclosed"\tb\n')
    assert load_rows(str(path), task=TASK).column("text") == ['"an open quote', 'closed"']


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.jsonl", '{"text": "a"}\n{"text":', "JSON parse error"),
        ("empty.jsonl", "", "holds no rows"),
        ("scalars.jsonl", "1\n2\n", "JSON parse error"),
        ("header.csv", "text,label\n", "holds no rows"),
        ("empty.csv", "", "No columns"),
        ("ragged.csv", "text,label\na,b\nc,d,e\n", "Expected 2 fields in line 3"),
        ("no.parquet", "this is no parquet", "Parquet"),
    ],
)
def test_corrupt_files_are_refused(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputRefused, match="the data cannot be read") as refused:
        load_rows(str(tmp_path / name), task=TASK)
    assert reason in str(refused.value.why)
    assert refused.value.where == f"{tmp_path.name}/{name}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bytes.csv", b"text,label\n\xff\xfe,a\n"),
        ("latin.csv", "text,label\ncaf\xe9,a\n".encode("latin-1")),
        ("latin.tsv", "text\tlabel\ncaf\xe9\ta\n".encode("latin-1")),
        ("latin.jsonl", '{"text": "caf\xe9", "label": "a"}\n'.encode("latin-1")),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_way_to_mend_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputRefused, match="the file is not UTF-8 text") as refused:
        load_rows(str(tmp_path / name), task=TASK)
    assert refused.value.where == f"{tmp_path.name}/{name}"
    assert str(refused.value.hint).startswith("save it as UTF-8: iconv")


def test_what_may_not_be_read_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def deny(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(EnvironmentFailed, match="cannot be read") as refused:
        load_rows(str(tmp_path), task=TASK)
    assert refused.value.where == str(tmp_path)
    assert "chmod" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("nothing.jsonl", "the data does not exist"),
        ("./nothing", "the data does not exist"),
        ("/a/b/c", "the data does not exist"),
        ("https://x.org/a.jsonl", "the data does not exist"),
        ("a b", "the data does not exist"),
    ],
)
def test_a_missing_path_is_no_hub_data_set(data: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        load_rows(data, task=TASK)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.pkl"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(UsageError, match=r"a data file ends in \.jsonl") as refused:
        load_rows(str(path), task=TASK)
    assert refused.value.why == "this one ends in .pkl"


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a file has no splits"):
        load_rows(str(jsonl(tmp_path / "a.jsonl")), task=TASK, split="test")


# Folders


def split_of(folder: Path, split: str | None = None) -> str | None:
    with open_table(str(folder), split=split) as table:
        return table.split


def test_a_folder_prefers_validation_then_test(tmp_path: Path) -> None:
    for name in ("train", "test"):
        jsonl(tmp_path / f"{name}.jsonl")
    (tmp_path / "README.md").write_text("no data")
    assert split_of(tmp_path) == "test"
    jsonl(tmp_path / "dev.jsonl")
    assert split_of(tmp_path) == "dev"
    assert split_of(tmp_path, "validation") == "dev"
    assert split_of(tmp_path, "train") == "train"


def test_training_data_is_never_taken_silently(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl")
    with pytest.raises(UsageError, match="no split to judge on was found") as refused:
        split_of(tmp_path)
    assert "another split is not taken silently" in str(refused.value.why)
    assert refused.value.hint == "name it: --split train"


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl")
    with pytest.raises(UsageError, match="there is no split 'validation'") as refused:
        split_of(tmp_path, "validation")
    assert refused.value.why == "found: test"


def test_shards_are_joined_in_order(tmp_path: Path) -> None:
    for index, row in enumerate(ROWS):
        jsonl(tmp_path / "data" / f"test-{index:05}-of-00002.jsonl", [row])
    assert load_rows(str(tmp_path), task=TASK).rows == ROWS


def test_one_split_in_two_formats_is_ambiguous(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl")
    write(tmp_path, ".csv").rename(tmp_path / "test.csv")
    with pytest.raises(UsageError, match="split 'test' is there more than once") as refused:
        split_of(tmp_path)
    assert refused.value.why == "test.csv, test.jsonl"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder holds no data files"):
        split_of(tmp_path)


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub in memory: `fail` is raised, else `splits` are there; `asked` records the calls."""
    import datasets

    state: dict[str, Any] = {"splits": ["train", "validation"], "fail": None, "asked": []}

    def names(name: str, config: str | None = None) -> list[str]:
        state["asked"].append((name, config))
        if state["fail"]:
            raise state["fail"]
        return state["splits"]

    def load(name: str, config: str | None = None, *, split: str) -> Any:
        state["asked"].append((name, config, split))
        features = datasets.Features(
            {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
        )
        rows = {"sentence": ["a", "b"], "label": [1, 0]} if not state.get("empty") else {"sentence": [], "label": []}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return state


def test_a_hub_data_set_is_loaded_without_scripts(hub: dict[str, Any]) -> None:
    rows = load_rows("glue:sst2", task=TASK, labels=["NEG", "POS"])
    assert rows.rows == [{"text": "a", "label": "POS"}, {"text": "b", "label": "NEG"}]
    assert (rows.name, rows.split, rows.columns) == ("glue:sst2", "validation", {"text": "sentence", "label": "label"})
    assert hub["asked"] == [("glue", "sst2"), ("glue", "sst2", "validation")]


def test_a_hub_split_is_chosen_or_refused(hub: dict[str, Any]) -> None:
    assert load_rows("org/name", task=TASK, split="train").split == "train"
    with pytest.raises(UsageError, match="there is no split 'test'"):
        load_rows("org/name", task=TASK, split="test")
    hub["splits"] = ["train"]
    with pytest.raises(UsageError, match="no split to judge on"):
        load_rows("org/name", task=TASK)


def test_an_empty_hub_data_set_is_refused(hub: dict[str, Any]) -> None:
    hub["empty"] = True
    with pytest.raises(InputRefused, match="the data cannot be read") as refused:
        load_rows("org/name", task=TASK)
    assert refused.value.why == "it holds no rows"


def hub_failures() -> list[Any]:
    from datasets.exceptions import DatasetNotFoundError

    return [
        (DatasetNotFoundError("Dataset 'x' doesn't exist"), UsageError, "no such file, folder or hub data set"),
        (ConnectionError("Couldn't reach 'x'"), EnvironmentFailed, "the hub data set cannot be loaded"),
        (ValueError("Config name is missing"), UsageError, "needs a configuration"),
        (RuntimeError("Dataset scripts are no longer supported"), InputRefused, "scripts are not run"),
        (KeyError("surprise"), EnvironmentFailed, "the hub data set cannot be loaded"),
    ]


@pytest.mark.parametrize("case", range(5))
def test_hub_failures_say_what_to_do(hub: dict[str, Any], case: int) -> None:
    hub["fail"], kind, what = hub_failures()[case]
    with pytest.raises(kind, match=what) as failed:
        load_rows("org/name", task=TASK)
    assert failed.value.why


# Side effects


WATCHED = """
import sys
touched = []
network = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: touched.append(event) if event in network else None)
from deploycomp.data import load_rows
heavy = {"datasets", "torch", "transformers", "pandas", "pyarrow", "onnxruntime", "scipy", "sklearn"} & set(sys.modules)
assert not heavy, heavy
rows = load_rows(sys.argv[1], task="text-classification")
assert len(rows) == 2 and not touched, touched
assert "torch" not in sys.modules
"""


def test_local_data_touches_no_network_no_home_and_prints_nothing(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    scratch.mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(scratch)}
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    data = jsonl(tmp_path / "rows.jsonl")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED, str(data)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []
    assert list(scratch.rglob("*")) == []


def test_an_offline_hub_says_so(tmp_path: Path) -> None:
    code = "from deploycomp.data import load_rows\nload_rows('org/name', task='text-classification')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "EnvironmentFailed" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr


def test_the_callers_settings_of_datasets_come_back(tmp_path: Path) -> None:
    import datasets
    from datasets.utils import logging

    verbosity, bars = logging.get_verbosity(), datasets.are_progress_bars_disabled()
    load_rows(str(jsonl(tmp_path / "a.jsonl")), task=TASK)
    assert (logging.get_verbosity(), datasets.are_progress_bars_disabled()) == (verbosity, bars)


# ------------------------------------------------------------------------------------------------
# The train split of what is judged on


@pytest.mark.parametrize("judged", ["validation", "valid", "val", "dev", "test"])
def test_the_train_file_beside_a_split_is_found(tmp_path: Path, judged: str) -> None:
    path, beside = jsonl(tmp_path / f"{judged}.jsonl"), jsonl(tmp_path / "train.jsonl")
    assert find_training(str(path)) == (str(beside), None)


@pytest.mark.parametrize(
    ("judged", "beside"), [("rows", "train.jsonl"), ("test", "training.jsonl"), ("test", "train.csv"), ("train", "x")]
)
def test_other_files_have_no_train_split(tmp_path: Path, judged: str, beside: str) -> None:
    jsonl(tmp_path / beside)
    assert find_training(str(jsonl(tmp_path / f"{judged}.jsonl"))) is None


@pytest.mark.parametrize("name", ["train.jsonl", "data/train-00000-of-00002.parquet"])
def test_the_train_split_of_a_folder_is_found(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / "test.jsonl")
    jsonl(tmp_path / name)
    assert find_training(str(tmp_path)) == (str(tmp_path), "train")


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    jsonl(tmp_path / "test.jsonl")
    (tmp_path / "train").mkdir()
    (tmp_path / "train.txt").write_text("no rows")
    assert find_training(str(tmp_path)) is None


def test_the_train_split_of_a_hub_data_set_is_found_where_it_has_one(hub: dict[str, Any]) -> None:
    assert find_training("glue:sst2") == ("glue:sst2", "train")
    hub["splits"] = ["test"]
    assert find_training("glue:sst2") is None
