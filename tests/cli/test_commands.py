"""Each command once for real: what people read, what programs read, and nothing when quiet."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploycomp.artifact import Artifact
from deploycomp.report import load_schema
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made

Run = Callable[..., Any]

SMALL = ("--batch-size", "1", "--sequence-length", "8", "--threads", "1", "--block-seconds", "0.02", "--blocks", "2")


# ------------------------------------------------------------ export


def test_export_tells_what_it_made(run: Run, tmp_path: Path):
    (tmp_path / "out").mkdir()
    done = run("export", made.model(), "--int8", "--no-benchmark", "-o", tmp_path / "out" / "x")
    assert done.code == 0, done.err
    assert done.err == ""
    headline, *_ = done.out.splitlines()
    assert "smaller" in headline
    assert f"{tmp_path / 'out' / 'x' / 'model.onnx'}  in " in done.out
    assert done.out.splitlines()[-1] == f"report: {tmp_path / 'out' / 'x' / 'report.html'}"
    assert made.entries(tmp_path / "out") == ["x"]
    assert Artifact.open(tmp_path / "out" / "x").digest == made.exported().artifact.digest


def test_export_as_json_is_the_report(run: Run, tmp_path: Path):
    done = run("export", made.model(), "--int8", "--no-benchmark", "--json", "-o", tmp_path / "x")
    assert done.code == 0
    assert done.err == ""
    report = dict(done.json)
    assert report.pop("output") == str(tmp_path / "x")
    jsonschema.validate(report, load_schema())
    assert report == json.loads((tmp_path / "x" / "report.json").read_text(encoding="utf-8"))


def test_export_goes_to_a_folder_named_after_the_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = run("export", made.model(), "--no-benchmark", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert made.entries(tmp_path) == [f"{made.model().name}-fp32"]


def test_export_refuses_an_existing_output_and_replaces_it_when_asked(run: Run, tmp_path: Path):
    out = shutil.copytree(made.exported().artifact.path, tmp_path / "out")
    before = made.files(out)
    arguments = ("export", made.model(), "--no-benchmark", "-o", out)
    done = run(*arguments)
    assert done.code == 2
    assert "add --overwrite" in done.err
    assert made.files(out) == before
    assert run(*arguments, "--overwrite").code == 0
    assert Artifact.open(out).manifest["precision"] == "fp32"
    Artifact.open(out).verify()
    assert made.entries(tmp_path) == ["out"]


def test_the_installed_command_calibrates(tmp_path: Path):
    rows = [{"text": text, "label": label} for text, label in zip(tiny.texts(9), tiny.TEXT_LABELS * 3, strict=True)]
    made.write_rows(tmp_path / "train.jsonl", rows)
    flags = ("--int8", "--no-benchmark", "--calibration", "train.jsonl", "--calibration-rows", "6")
    child = made.start("export", made.model(), *flags, "--keep-float", "classifier*", "-q", "-o", "out", cwd=tmp_path)
    assert child.communicate(timeout=120) == ("", "")
    assert child.returncode == 0
    manifest = Artifact.open(tmp_path / "out").manifest
    facts = manifest["steps"][1]["facts"]
    assert facts["activations"] == "static"
    assert (facts["calibration"]["data"], facts["calibration"]["rows"]) == ("train.jsonl", 6)
    assert manifest["recipe"]["calibrate"]["data"] == "train.jsonl"
    assert Predictor.load(tmp_path / "out")("a good film").label in tiny.TEXT_LABELS
    assert made.entries(tmp_path) == ["out", "train.jsonl"]


def test_export_stops_at_a_broken_goal(run: Run, tmp_path: Path):
    goal = ("--eval", made.labelled(), "--max-drop", "3%")
    done = run("export", made.model(), "--int8", "--no-benchmark", *goal, "-o", tmp_path / "out")
    assert done.code == 1
    assert "accuracy falls by" in done.err
    assert made.entries(tmp_path) == []


# ------------------------------------------------------------ evaluate


def test_evaluate_an_artifact(run: Run):
    artifact = made.exported().artifact.path
    done = run("evaluate", artifact, made.labelled(), "--json")
    assert done.code == 0, done.out
    result = done.json
    assert set(result["scores"]) == {"artifact"}
    assert result["agreement"] == result["drop"] == {}
    rows = [json.loads(line) for line in made.labelled().read_text().splitlines()]
    right = [answer.label for answer in Predictor.load(artifact)([row["text"] for row in rows])]
    share = sum(row["label"] == answer for row, answer in zip(rows, right, strict=True)) / len(rows)
    accuracy = result["scores"]["artifact"]["accuracy"]
    assert accuracy["value"] == pytest.approx(share)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    lines = run("evaluate", artifact, made.labelled()).out
    assert "accuracy" in lines
    assert "95 % CI" in lines


def test_evaluate_against_the_source(run: Run):
    done = run("evaluate", made.exported().artifact.path, made.labelled(), "--against", made.model(), "--json")
    assert done.code == 0, done.out
    result = done.json
    assert result["scores"]["source"]["accuracy"]["value"] == 1.0
    assert result["drop"]["artifact"]["value"] == pytest.approx(1 - result["agreement"]["artifact"]["value"])
    goal = ("--against", made.model(), "--max-drop")
    assert run("evaluate", made.exported().artifact.path, made.labelled(), *goal, "100%", "-q").code == 0
    broken = run("evaluate", made.exported().artifact.path, made.labelled(), *goal, "3%", "--json")
    assert broken.code == broken.json["exit_code"] == 1
    assert broken.json["error"] == "GateFailed"


def test_evaluate_a_model_folder(run: Run):
    done = run("evaluate", made.model(), made.labelled(), "--json")
    assert done.code == 0, done.out
    assert done.json["scores"]["artifact"]["accuracy"]["value"] == 1.0
    assert run("evaluate", made.model(), made.labelled(), "-q").out == ""


def test_evaluate_takes_columns_and_a_limit(run: Run, tmp_path: Path):
    rows = [
        {"sentence": text, "intent": label} for text, label in zip(tiny.texts(9), tiny.TEXT_LABELS * 3, strict=True)
    ]
    data = made.write_rows(tmp_path / "data.jsonl", rows)
    columns = ("--column", "text=sentence", "--column", "label=intent")
    done = run("evaluate", made.exported().artifact.path, data, *columns, "--limit", "6", "--json")
    assert done.code == 0, done.out
    assert done.json["rows"] == 6


def test_evaluate_refuses_other_tasks(run: Run):
    done = run(
        "evaluate",
        made.exported().artifact.path,
        made.labelled(),
        "--against",
        made.model("bert", "sentence-similarity"),
    )
    assert done.code in (2, 3)
    assert "text-classification" in done.err


def test_evaluate_refuses_a_changed_artifact(run: Run, tmp_path: Path):
    out = shutil.copytree(made.exported().artifact.path, tmp_path / "out")
    (out / "tokenizer.json").write_text("{}")
    done = run("evaluate", out, made.labelled())
    assert done.code == 3
    assert "tokenizer.json has changed" in done.err


# ------------------------------------------------------------ benchmark


def test_benchmark_side_by_side(run: Run):
    artifact = made.exported().artifact.path
    done = run("benchmark", artifact, made.fp32().model, made.model(), *SMALL, "--json")
    assert done.code == 0, done.out
    names = [artifact.name, "model.onnx", made.model().name]
    assert list(done.json["candidates"]) == names
    assert [done.json["candidates"][name]["kind"] for name in names] == ["onnx", "onnx", "torch"]
    assert [cell["candidate"] for cell in done.json["cells"]] == names
    assert all(cell["p50_ms"] > 0 for cell in done.json["cells"])


def test_benchmark_of_two_of_one_name_as_a_table(run: Run):
    artifact = made.exported().artifact.path
    done = run("benchmark", artifact / "model.onnx", artifact / "model.onnx", *SMALL)
    assert done.code == 0, done.err
    assert "model.onnx#2" in done.out
    assert "p50" in done.out
    assert "1×8" in done.out


# ------------------------------------------------------------ inspect, doctor


def test_inspect_a_model_folder(run: Run):
    facts = run("inspect", made.model(), "--json").json
    assert facts["kind"] == "model"
    assert facts["name"] == made.model().name
    lines = run("inspect", made.model())
    assert (lines.code, lines.err) == (0, "")
    assert "bert" in lines.out


def test_inspect_a_graph_and_an_artifact(run: Run):
    artifact = made.exported().artifact
    graph = run("inspect", artifact.model, "--json").json
    whole = run("inspect", artifact.path, "--json").json
    assert (graph["kind"], whole["kind"]) == ("onnx", "artifact")
    assert whole["digest"] == artifact.digest
    assert whole["precision"] == "int8"
    for line in (["inspect", artifact.model], ["inspect", artifact.path]):
        done = run(*line)
        assert (done.code, done.err) == (0, "")
        assert "DynamicQuantizeMatMul" in done.out
    assert run("inspect", artifact.path, "-q").out == ""


@pytest.mark.parametrize("what", ["folder", "text"])
def test_inspect_refuses_what_is_no_model(run: Run, tmp_path: Path, what: str):
    path = tmp_path / "x.onnx" if what == "text" else tmp_path
    if what == "text":
        path.write_bytes(b"not protobuf at all")
    done = run("inspect", path, "--json")
    assert done.code == done.json["exit_code"] == 3


def test_doctor(run: Run):
    facts = run("doctor", "--json").json
    assert facts["cpu"]["cores"] >= 1
    assert facts["onnxruntime"]["providers"]
    done = run("doctor")
    assert (done.code, done.err) == (0, "")
    assert facts["target"] in done.out
    assert run("doctor", "-q").out == ""
