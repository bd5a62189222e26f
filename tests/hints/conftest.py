"""Commands in this process, and the inputs that they are given."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.cli import made
from tests.cli.conftest import run
from tests.fuzz.doors import Traces

__all__ = ["run", "traced", "world"]


@pytest.fixture(scope="module", autouse=True)
def traced() -> Iterator[None]:
    """Equal models are traced once: hints are about everything but the graph, and other files about it too."""
    from deploycomp.export import torch_export

    made.exported(), made.fp32()  # which other files compare to the last byte
    real = torch_export.export
    Traces({"": 1_000}, []).install()
    gc.collect()
    gc.freeze()  # an export collects three times, and what was imported by now is never garbage
    yield
    gc.unfreeze()
    torch_export.export = real


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Names that a case may use: models, artifacts, data, and places to write to."""
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in made.labelled().read_text(encoding="utf-8").splitlines()]
    other = [{"sentence": row["text"], "intent": row["label"]} for row in rows]
    captions = [{"caption": row["text"], "label": row["label"]} for row in rows]
    blank = [{**row, "text": " ", "caption": row["text"]} for row in rows]
    unknown = [{**row, "label": "unknown", "intent": row["label"]} for row in rows]
    splits, train = tmp_path / "splits", tmp_path / "train"
    splits.mkdir()
    train.mkdir()
    made.write_rows(splits / "validation.jsonl", rows)
    made.write_rows(splits / "test.jsonl", [{**row, "label": -1} for row in rows])
    made.write_rows(train / "train.jsonl", rows)
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "precious.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    return {
        "M": made.model(),
        "SENTENCES": made.model("bert", "sentence-similarity"),
        "INT8": made.exported().artifact.path,
        "FP32": made.fp32().path,
        "ROWS": made.labelled(),
        "OTHER": made.write_rows(tmp_path / "other.jsonl", other),
        "CAPTIONS": made.write_rows(tmp_path / "captions.jsonl", captions),
        "BLANK": made.write_rows(tmp_path / "blank.jsonl", blank),
        "UNKNOWN": made.write_rows(tmp_path / "unknown.jsonl", unknown),
        "TRAINING": made.write_rows(tmp_path / "training.jsonl", [{"text": text} for text in tiny.texts(60, seed=8)]),
        "SPLITS": splits,
        "TRAIN": train,
        "COPY": Path(shutil.copytree(made.model(), tmp_path / "copy")),
        "HEADLESS": _headless(tmp_path / "headless"),
        "DENSE": _dense(tmp_path / "dense"),
        "SETFIT": _setfit(tmp_path / "setfit"),
        "FIXED": tmp_path / "file",
        "FOREIGN": tmp_path / "foreign",
        "EMPTY": tmp_path / "empty",
        "OUT": tmp_path / "out",
        "ELSEWHERE": tmp_path / "elsewhere",
        "FILE": tmp_path / "written.json",
    }


def _headless(folder: Path) -> Path:
    """A classifier whose head was not saved."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(made.model(), folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _setfit(folder: Path) -> Path:
    """A sentence encoder with a classifier of scikit-learn beside it."""
    shutil.copytree(made.model("bert", "sentence-similarity"), folder)
    (folder / "model_head.pkl").write_bytes(b"\x80\x04N.")
    (folder / "config_setfit.json").write_text(
        '{"labels": ["a", "b"], "normalize_embeddings": false}', encoding="utf-8"
    )
    return folder


def _dense(folder: Path) -> Path:
    """A sentence-transformers folder with a Dense module."""
    shutil.copytree(made.model("bert", "sentence-similarity"), folder)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([*modules, dense]), encoding="utf-8")
    return folder
