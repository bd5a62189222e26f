"""The command: what is decided without a clock, and one gate of a model against itself with real processes."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploycomp.report.gate import load_gate_schema
from tests.cli import made
from tests.measure.models import onnx_model

Run = Callable[..., Any]

SMALL = ("--sequence-length", "8", "--threads", "1")


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """(candidate, baseline), equal and tiny."""
    return onnx_model(tmp_path / "new"), onnx_model(tmp_path / "old")


def larger(model: Path) -> Path:
    """Put weights beside a model that it does not need."""
    model.with_name("model.onnx.data").write_bytes(bytes(100_000))
    return model


# ------------------------------------------------------------ verdicts that take no clock


def test_a_larger_model_fails_with_its_table(run: Run, models: tuple[Path, Path]):
    done = run("gate", larger(models[0]), "--baseline", models[1], *SMALL)
    assert done.code == 1
    assert "FAIL" in done.out
    assert "skipped" in done.out
    assert "on disk, allowed is +1 %" in done.out
    assert "the candidate fails the gate" in done.err


def test_the_result_is_one_document_also_when_it_fails(run: Run, models: tuple[Path, Path], tmp_path: Path):
    output, junit = tmp_path / "results" / "gate.json", tmp_path / "results" / "gate.xml"
    files = ("--output", output, "--junit", junit)
    done = run("gate", larger(models[0]), "--baseline", models[1], *SMALL, "--json", *files)
    assert (done.code, done.err) == (1, "")
    jsonschema.validate(done.json, load_gate_schema())
    assert done.json["verdict"] == "fail"
    assert json.loads(output.read_text(encoding="utf-8")) == done.json
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "1"
    assert made.entries(output.parent) == ["gate.json", "gate.xml"]


def test_github_gets_a_summary_and_annotations(
    run: Run, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = run("gate", larger(models[0]), "--baseline", models[1], *SMALL)
    assert done.code == 1
    assert summary.read_text().startswith("before\n### deploycomp gate: FAIL")
    assert "::error title=deploycomp gate%3A size::" in done.out


def test_wrong_answers_fail(run: Run):
    """INT8 of the tiny classifier, gated by rows that it answers otherwise."""
    int8, fp32 = made.exported().artifact.path, made.fp32().path
    data = ("--eval", made.labelled(), "--max-drop", "4%")
    done = run("gate", int8, "--baseline", fp32, "--max-size-growth", "100%", *SMALL, *data, "--json")
    assert done.code == 1
    verdicts = {each["kind"]: each["verdict"] for each in done.json["checks"]}
    assert verdicts == {
        "size": "pass",
        "text": "pass",
        "answers": "pass",
        "accuracy": "fail",
        "latency": "skipped",
        "memory": "skipped",
    }
    assert done.json["goals"]["max_drop"] == 0.04


def test_an_artifact_that_reads_texts_otherwise_than_its_source_fails(run: Run, tmp_path: Path):
    """As one does whose tokenizer, runtime or kernels are not those that it was sealed with."""
    spoiled = Path(shutil.copytree(made.fp32().path, tmp_path / "spoiled"))
    made.edit_manifest(spoiled, lambda manifest: manifest["runtime"].update(truncation_side="left"))
    done = run("gate", spoiled, "--baseline", made.fp32().path, *SMALL, "--json")
    assert done.code == 1
    text = next(each for each in done.json["checks"] if each["kind"] == "text")
    assert text["verdict"] == "fail"
    assert "reads a text otherwise than its source does" in text["reason"]


def test_an_artifact_that_was_changed_is_refused(run: Run, tmp_path: Path):
    spoiled = Path(shutil.copytree(made.fp32().path, tmp_path / "spoiled"))
    with (spoiled / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    done = run("gate", spoiled, "--baseline", made.fp32().path, *SMALL)
    assert done.code == 3
    assert "is not what was sealed" in done.err


def test_a_stored_baseline_of_another_machine_decides_nothing(run: Run, models: tuple[Path, Path], tmp_path: Path):
    values = [1.0 + 0.001 * index for index in range(20)]
    number = {"kind": "latency", "threads": 1, "batch_size": 1, "sequence_length": 8, "candidate": values}
    stored = {
        "bytes": 1000,
        "context": {"fingerprint": {"cpu name": "Another CPU", "threads": [1]}},
        "samples": {"numbers": [number], "reference_ms": {"1": values}},
    }
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(stored))
    done = run("gate", models[0], "--baseline", path, *SMALL, "--json")
    assert done.code == 6
    jsonschema.validate(done.json, load_gate_schema())
    assert (done.json["verdict"], done.json["advisory"]) == ("inconclusive", True)
    assert "cpu name: Another CPU then" in done.json["why"]
    assert "--allow-advisory" in done.json["next"]
    told = run("gate", models[0], "--baseline", path, *SMALL)
    assert told.code == 6
    assert "the gate cannot decide" in told.err


# ------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-slowdown", "5"), "--max-slowdown takes a percentage"),
        (("--max-memory-growth", "-1%"), "--max-memory-growth takes a percentage"),
        (("--false-alarm", "1%"), "--accept-false-alarms"),
        (("--false-alarm", "0%"), "should be greater than 0"),
        (("--false-alarm", "50%", "--accept-false-alarms"), "should be less than 0.5"),
        (("--max-drop", "1%"), "a largest drop needs data"),
        (("--retrained",), "answers may only differ where data judge them"),
        (("--limit", "5"), "belong to data"),
        (("--threads", "100000"), "threads cannot be measured here"),
        (("--noise", "none.json"), "there is no such file"),
        (("--budget", "1"), "is too short to decide anything"),
    ],
)
def test_wrong_options_are_refused(run: Run, models: tuple[Path, Path], options: tuple[str, ...], said: str):
    done = run("gate", models[0], "--baseline", models[1], *SMALL, *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_false_alarm_rate_is_tightened_freely(run: Run, models: tuple[Path, Path]):
    done = run("gate", larger(models[0]), "--baseline", models[1], *SMALL, "--false-alarm", "0.01%", "--json")
    assert (done.code, done.json["false_alarm"]) == (1, 0.0001)
    loose = ("--false-alarm", "1%", "--accept-false-alarms")
    done = run("gate", models[0], "--baseline", models[1], *SMALL, *loose, "--json")
    assert (done.code, done.json["false_alarm"]) == (1, 0.01)


def test_files_that_are_not_there(run: Run, models: tuple[Path, Path], tmp_path: Path):
    for baseline in ("none", "none.json", "none.onnx"):
        done = run("gate", models[0], "--baseline", tmp_path / baseline)
        assert done.code == 2
        assert "there is no such" in done.err
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    done = run("gate", models[0], "--baseline", empty)
    assert done.code == 3
    assert "not the JSON of a gate or a benchmark" in done.err


# ------------------------------------------------------------ calibrate


def test_calibrate_is_a_command_of_its_own(run: Run):
    done = run("gate", "calibrate", "--help")
    assert done.code == 0
    assert "gate calibrate [OPTIONS]" in done.out
    assert "--junit" not in done.out
    for option in ("--json", "--quiet", "--verbose", "--help", "--output"):
        assert option in done.out
    done = run("gate", "calibrate", "nowhere")
    assert done.code == 2
    assert "there is no such" in done.err


# ------------------------------------------------------------ for real


def test_a_model_against_itself_never_fails(run: Run, models: tuple[Path, Path]):
    """Real processes. What they take is not asserted: a busy machine may leave it open, and must not fail it."""
    goals = ("--max-slowdown", "100%", "--max-memory-growth", "100%", "--budget", "900")
    done = run("gate", models[0], "--baseline", models[1], *SMALL, *goals, "--json")
    assert done.code in (0, 6), done.out
    jsonschema.validate(done.json, load_gate_schema())
    assert done.json["rounds"] == done.json["looks"][-1]["rounds"]
    assert set(done.json["samples"]["first"]["1"]) <= {"baseline", "candidate"}
    assert done.json["context"]["fingerprint"]["threads"] == [1]
    assert done.json["context"]["warnings"] == []


# ------------------------------------------------------------ goals from a recipe


def test_goals_come_from_a_recipe_and_flags_overrule_them(run: Run, models: tuple[Path, Path], tmp_path: Path):
    recipe = tmp_path / "goals.yaml"
    recipe.write_text("gate: {max_size_growth: 0.02, max_slowdown: 0.2, false_alarm: 0.0005}\n", encoding="utf-8")
    line = ("gate", larger(models[0]), "--baseline", models[1], *SMALL, "--json", "--recipe", recipe)
    said = run(*line).json
    assert said["goals"] == {
        "max_slowdown": 0.2,
        "max_memory_growth": 0.05,
        "max_size_growth": 0.02,
        "max_drop": None,
    }
    assert said["false_alarm"] == 0.0005
    assert run(*line, "--max-slowdown", "7%").json["goals"]["max_slowdown"] == 0.07


def test_a_recipe_without_goals_is_refused(run: Run, models: tuple[Path, Path], tmp_path: Path):
    recipe = tmp_path / "none.yaml"
    recipe.write_text("version: 1\n", encoding="utf-8")
    done = run("gate", models[0], "--baseline", models[1], "--recipe", recipe)
    assert done.code == 2
    assert "the recipe has no `gate`" in done.err


def test_a_recipe_cannot_loosen_the_false_alarms_silently(run: Run, models: tuple[Path, Path], tmp_path: Path):
    recipe = tmp_path / "loose.yaml"
    recipe.write_text("gate: {false_alarm: 0.05}\n", encoding="utf-8")
    done = run("gate", models[0], "--baseline", models[1], "--recipe", recipe)
    assert done.code == 2
    assert "5% false alarms are more than 0.1%" in done.err
