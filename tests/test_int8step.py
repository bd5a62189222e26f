"""The INT8 step whole: what is calibrated, what is kept and why, on tiny real models."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploycomp.artifact import MANIFEST
from deploycomp.context import Context
from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.evaluate import Drop
from deploycomp.int8step import ATTENTION, Int8Step
from deploycomp.measure.candidate import Candidate
from deploycomp.pipeline import ExportResult, export_model
from deploycomp.recipe import Benchmark, Calibrate, Evaluate, Export, Fixed, Int8, Recipe
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made

TEXTS = tiny.texts(40, seed=3)
ROWS = 24
FORMS = ("static, attention as mask", "static, attention as plain")
UNCALIBRATED = "no calibration data was given, and the evaluation data has no train split beside it"


@functools.cache
def data() -> Path:
    """A folder of train.jsonl, hard for the source, so that INT8 flips some, and validation.jsonl, easy for it."""
    from deploycomp.assess import source_predictor
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    texts = tiny.texts(600, seed=7)
    answers = source_predictor(load(resolve(made.model())))(texts)
    rows = [
        (min(answer.score - other for name, other in answer.scores.items() if name != answer.label), text, answer.label)
        for text, answer in zip(texts, answers, strict=True)
    ]
    order = [{"text": text, "label": label} for _, text, label in sorted(rows)]
    folder = made.folder() / "int8step"
    folder.mkdir()
    made.write_rows(folder / "train.jsonl", order[5:85])
    made.write_rows(folder / "validation.jsonl", order[-60:])
    return folder


def recipe(
    *, rows: int = ROWS, held_out: int = 0, goal: float | None = None, tune: bool = False, **int8: Any
) -> Recipe:
    """INT8 calibrated on some rows, judged where there is a goal."""
    return made.recipe(
        steps=(Export(), Int8(**int8)),
        calibrate=Calibrate(data=str(data() / "train.jsonl"), rows=rows, held_out=held_out),
        evaluate=None if goal is None else Evaluate(data=str(data() / "validation.jsonl"), max_drop=goal),
        tune=tune,
    )


def facts(result: ExportResult) -> dict[str, Any]:
    """What manifest and report say of the INT8 step; only the report has milliseconds."""
    stored, shown = (
        next(step["facts"] for step in steps if step["step"] == "int8")
        for steps in (result.artifact.manifest["steps"], result.report["steps"])
    )
    assert not {"tuning", "sensitivity"} & set(stored)
    return {**stored, **shown}


def operators(result: ExportResult) -> set[str]:
    return {node.op_type for node in onnx.load(result.artifact.model).graph.node}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """INT8 with static ranges; never change it."""
    return export_model(recipe(), tmp_path_factory.mktemp("calibrated") / "out")


# ------------------------------------------------------------ static or dynamic


def test_with_rows_activations_are_static(calibrated: ExportResult):
    said = facts(calibrated)
    assert said["activations"] == "static"
    assert said["calibration"]["data"] == "int8step/train.jsonl"
    assert said["calibration"]["rows"] == ROWS
    assert said["uncalibrated"] == ""
    assert {layer["activations"] for layer in said["layers"] if layer["op"] != "Gather"} == {"static"}
    assert operators(calibrated) & {"DynamicQuantizeMatMul", "DynamicQuantizeLinear"} == set()
    assert {"QuantizeLinear", "MatMulIntegerToFloat"} <= operators(calibrated)


def test_the_report_says_what_was_calibrated(calibrated: ExportResult):
    said = next(step["facts"] for step in calibrated.report["steps"] if step["step"] == "int8")
    assert said["calibration"] == facts(calibrated)["calibration"]
    assert said["saturation"]["saturated"] == 0
    assert [each["input"] for each in said["smoothing"]]


def test_answers_do_not_depend_on_batch_mates(calibrated: ExportResult):
    predictor = Predictor.load(calibrated.artifact.path)
    alone, together = (predictor.raw(TEXTS, batch_size=size).rows for size in (1, 16))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0].outputs["logits"], other[0].outputs["logits"], atol=1e-6)


def test_without_rows_activations_are_dynamic_and_the_reason_is_said():
    said = facts(made.exported())
    assert said["activations"] == "dynamic"
    assert said["calibration"] is None
    assert said["uncalibrated"] == UNCALIBRATED
    assert "DynamicQuantizeMatMul" in operators(made.exported())


def test_dynamic_is_taken_where_it_is_asked_for(tmp_path: Path):
    done = export_model(recipe(activations="dynamic"), tmp_path / "out")
    assert facts(done)["activations"] == "dynamic"
    assert "QuantizeLinear" not in operators(done)


def test_static_without_rows_is_refused(tmp_path: Path):
    asked = made.recipe(steps=(Export(), Int8(activations="static")))
    with pytest.raises(UsageError, match="static ranges need calibration rows") as caught:
        export_model(asked, tmp_path / "out")
    assert caught.value.why == UNCALIBRATED
    assert caught.value.hint == "--calibration DATA"
    assert made.entries(tmp_path) == []


def test_calibration_data_that_is_judged_on_leaves_nothing(tmp_path: Path):
    asked = Evaluate(data=str(data() / "train.jsonl"))
    with pytest.raises(UsageError, match="the same rows"):
        export_model(recipe().model_copy(update={"evaluate": asked}), tmp_path / "out")
    assert made.entries(tmp_path) == []


@pytest.mark.parametrize("method", ["mse", "percentile", "entropy"])
def test_ranges_follow_the_method(calibrated: ExportResult, method: str, tmp_path: Path):
    done = export_model(recipe(ranges=method), tmp_path / "out")
    assert facts(done)["activations"] == "static"
    assert done.artifact.digest != calibrated.artifact.digest


def test_random_tokens_calibrate_when_allowed(tmp_path: Path):
    done = export_model(made.recipe(calibrate=Calibrate(rows=8, allow_random=True)), tmp_path / "out")
    assert facts(done)["activations"] == "static"
    assert facts(done)["calibration"]["data"] == "random tokens"


def test_fixed_dimensions_are_calibrated_too(tmp_path: Path):
    steps = (Export(fixed=Fixed(batch=1, sequence=16)), Int8())
    done = export_model(recipe(goal=1.0, held_out=20).model_copy(update={"steps": steps}), tmp_path / "out")
    assert facts(done)["activations"] == "static"
    assert facts(done)["restored"]["layers"] == []


def test_two_runs_give_the_same_bytes(calibrated: ExportResult, tmp_path: Path):
    export_model(recipe(), tmp_path / "out")
    for name in ("model.onnx", MANIFEST):
        assert (tmp_path / "out" / name).read_bytes() == (calibrated.artifact.path / name).read_bytes()


def test_progress_never_goes_back(tmp_path: Path):
    told: list[float] = []
    export_model(recipe(rows=8), tmp_path / "out", progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


# ------------------------------------------------------------ layers that stay in float


def test_a_pattern_leaves_layers_in_float(tmp_path: Path):
    done = export_model(recipe(keep_float=("*.attention.output.dense",)), tmp_path / "out")
    left = {each["node"]: each["reason"] for each in facts(done)["left_in_float"]}
    kept = [node for node, reason in left.items() if reason == "stays in float, as asked"]
    assert len(kept) == tiny.LAYERS
    assert not any(layer["name"].endswith("attention.output.dense") for layer in facts(done)["layers"])


def test_a_pattern_that_fits_nothing_is_refused_with_a_close_match(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no layer is named '\*\.attention\.output\.dens'") as caught:
        export_model(recipe(keep_float=("*.attention.output.dens",)), tmp_path / "out")
    assert "attention.output.dense" in str(caught.value.hint)
    assert made.entries(tmp_path) == []


# ------------------------------------------------------------ layers that are put back


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer costs the same, on any machine."""
    costs = {"float": 2.0, "static": 1.0, "dynamic": 1.0}
    monkeypatch.setattr("deploycomp.quantize.costs.Costs._measure", lambda _, inputs, outputs, kind: costs[kind])


@pytest.mark.usefixtures("even")
def test_layers_are_put_back_until_the_goal_holds_on_held_out_rows(tmp_path: Path):
    done = export_model(recipe(held_out=50, goal=0.02, smooth=False, embeddings=False), tmp_path / "out")
    said = facts(done)
    restored = said["restored"]
    assert restored["rows"] == 50
    assert 0 < len(restored["layers"]) < len(said["sensitivity"])
    assert restored["drop"] <= 0.02
    assert restored["trail"][0] == {"layers": 0, "good": False}
    assert {"layers": len(restored["layers"]), "good": True} in restored["trail"]
    assert not any(each["good"] for each in restored["trail"] if each["layers"] < len(restored["layers"]))
    assert [row["ratio"] for row in said["sensitivity"]] == sorted(
        (row["ratio"] for row in said["sensitivity"]), reverse=True
    )
    best = [row["layer"] for row in said["sensitivity"]][: len(restored["layers"])]
    assert sorted(best) == restored["layers"]
    assert not {layer["name"] for layer in said["layers"]} & set(restored["layers"])


@pytest.mark.usefixtures("even")
def test_a_goal_out_of_reach_puts_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.int8step import _Judge

    monkeypatch.setattr(_Judge, "good", lambda *_: False)
    restored = facts(export_model(recipe(held_out=20, goal=1.0, rows=8), tmp_path / "out"))["restored"]
    assert restored["layers"] == []
    assert not any(each["good"] for each in restored["trail"])


def test_nothing_is_put_back_when_the_goal_holds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("deploycomp.quantize.sensitivity.rank", lambda *_, **__: pytest.fail("layers were ranked"))
    said = facts(export_model(recipe(held_out=50, goal=1.0), tmp_path / "out"))
    assert said["restored"]["layers"] == []
    assert said["restored"]["rows"] == 50
    assert "sensitivity" not in said


def test_without_held_out_rows_nothing_is_put_back(tmp_path: Path):
    said = facts(export_model(recipe(held_out=0, goal=1.0), tmp_path / "out"))
    assert "restored" not in said


@pytest.mark.usefixtures("even")
@pytest.mark.parametrize("needed", [1, 4])
def test_the_drop_that_is_told_is_that_of_the_layers_that_were_kept(
    needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The last model that was tried is not always the one that is kept."""
    from deploycomp.int8step import _Judge

    kept: list[int] = []
    graph = _Judge.graph
    monkeypatch.setattr(_Judge, "graph", lambda self, layers: kept.append(len(layers)) or graph(self, layers))

    def fall(*_: Any) -> Drop:
        value = 0.1 if kept[-1] >= needed else 0.9 - kept[-1] / 100
        return Drop(value, value, value, 1.0)

    monkeypatch.setattr("deploycomp.evaluate.compare", fall)
    monkeypatch.setattr(
        "deploycomp.quantize.sensitivity.rank",
        lambda _, __, milliseconds, **___: [
            {"layer": each, "recovered": 1.0, "ms": 1.0, "ratio": 1.0} for each in milliseconds
        ],
    )
    restored = facts(export_model(recipe(held_out=20, goal=0.5, rows=8), tmp_path / "out"))["restored"]
    assert len(restored["layers"]) == needed
    assert restored["drop"] == 0.1


# ------------------------------------------------------------ what is fastest here


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds by name, 1 where none are given."""
    milliseconds: dict[str, float] = {}

    def fake(candidates: Sequence[Candidate], settings: Benchmark, **_: Any) -> dict[str, Any]:
        shape = {"threads": 1, "batch_size": 1, "sequence_length": 8}
        speed = [milliseconds.get(each.name, 1.0) for each in candidates]
        assert all(each.path.is_file() for each in candidates)
        return {
            "cells": [
                {"candidate": each.name, **shape, "p50_ms": ms, "block_p50_ms": [ms] * settings.blocks}
                for each, ms in zip(candidates, speed, strict=True)
            ]
        }

    monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", fake)
    return milliseconds


def test_tuning_keeps_the_faster_kind_and_its_session(clock: dict[str, float], tmp_path: Path):
    clock.update({"dynamic": 0.5, "denormals are zero": 0.4, "=fp32": 0.1})
    done = export_model(recipe(tune=True), tmp_path / "out")
    said = facts(done)
    assert said["activations"] == said["tuning"]["kept"] == "dynamic"
    assert done.artifact.manifest["runtime"]["session"] == {"session.set_denormal_as_zero": "1"}
    assert Predictor.load(done.artifact.path)(TEXTS[0]).label in tiny.TEXT_LABELS
    assert {each["name"] for each in said["tuning"]["variants"] if each["what"] == "graph"} == {
        "static",
        "dynamic",
        *FORMS,
        "fp32",
    }


@pytest.mark.parametrize("form", ["mask", "plain"])
def test_tuning_keeps_the_faster_form_of_attention(form: str, clock: dict[str, float], tmp_path: Path):
    clock.update({"dynamic": 0.8, f"static, attention as {form}": 0.5})
    done = export_model(recipe(tune=True), tmp_path / "out")
    said = facts(done)
    assert said["tuning"]["kept"] == f"static, attention as {form}"
    assert said["activations"] == "static"
    assert said["attention"] == {"form": form, "nodes": tiny.LAYERS}
    assert "Attention" not in operators(done)
    assert ("MultiHeadAttention" in operators(done)) == (form == "mask")
    assert done.artifact.manifest["runtime"]["onnxruntime"]["lowest"] == "1.24"
    assert Predictor.load(done.artifact.path)(TEXTS[0]).label in tiny.TEXT_LABELS


@pytest.mark.usefixtures("clock")
def test_a_form_without_a_kernel_here_is_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.runtime import kernels

    run = kernels.kernels_run

    def lacking(*given: Any) -> Any:
        return Counter({name: n for name, n in run(*given).items() if name != "MultiHeadAttention"})

    monkeypatch.setattr(kernels, "kernels_run", lacking)
    said = variants(facts(export_model(recipe(tune=True), tmp_path / "out")))
    assert said[FORMS[0]]["why"] == "here MultiHeadAttention would run as many small operators"
    assert said[FORMS[1]]["ratio"] is not None


@pytest.mark.usefixtures("clock")
def test_a_form_that_an_old_runtime_needs_is_not_tuned_away(tmp_path: Path):
    steps = (Export(opset=18), Int8())
    done = export_model(recipe(tune=True).model_copy(update={"steps": steps}), tmp_path / "out")
    assert not set(FORMS) & set(variants(facts(done)))
    assert done.artifact.manifest["runtime"]["onnxruntime"] == {
        **done.artifact.manifest["runtime"]["onnxruntime"],
        "lowest": "1.18",
        "padding": "any",
    }


@pytest.mark.usefixtures("clock")
def test_tuning_keeps_static_where_nothing_is_faster(calibrated: ExportResult, tmp_path: Path):
    done = export_model(recipe(tune=True), tmp_path / "out")
    assert facts(done)["activations"] == "static"
    assert done.artifact.manifest["runtime"]["session"] == {}
    assert done.artifact.model.read_bytes() == calibrated.artifact.model.read_bytes()


@pytest.mark.usefixtures("clock")
def test_a_variant_with_other_answers_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check = Context.check

    def strict(self: Context, graph: Path, precision: str, *, stage: str, **more: Any) -> Any:
        if stage == "dynamic variant":
            raise VerificationFailed("it differs", why="the error is 3, allowed is 1")
        return check(self, graph, precision, stage=stage, **more)

    monkeypatch.setattr(Context, "check", strict)
    variants = facts(export_model(recipe(tune=True), tmp_path / "out"))["tuning"]["variants"]
    refused = next(each for each in variants if each["name"] == "dynamic")
    assert (refused["kept"], refused["why"]) == (False, "the error is 3, allowed is 1")


@pytest.mark.parametrize(
    ("target", "tune", "expected"), [("auto", None, True), ("portable", None, False), ("auto", False, False)]
)
def test_tuning_is_for_this_machine_or_on_demand(
    target: str, tune: bool | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[bool] = []

    def stop(_: Int8Step, __: Int8, model: Any, context: Context) -> Any:
        seen.append(context.tuning)
        raise VerificationFailed("far enough")

    monkeypatch.setattr(Int8Step, "apply", stop)
    with pytest.raises(VerificationFailed, match="far enough"):
        export_model(made.recipe(target=target, tune=tune), tmp_path / "out")
    assert seen == [expected]


# ------------------------------------------------------------ attention in INT8


def attention_in_int8(**more: Any) -> Recipe:
    return recipe(weight_bits=8, **{"held_out": 20, "tune": True, **more})


def variants(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in said["tuning"]["variants"] if each["what"] == "graph"}


def test_tuning_keeps_attention_in_int8_where_it_is_faster(
    clock: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deploycomp.int8step.MAX_DISTANCE", 100)
    clock[ATTENTION] = 0.5
    done = export_model(attention_in_int8(), tmp_path / "out")
    said = facts(done)
    assert said["tuning"]["kept"] == ATTENTION
    assert said["activations"] == "static"
    assert said["nodes"]["Attention"] == [tiny.LAYERS - 1, tiny.LAYERS], "the last layer has one query"
    assert "QLinearMatMul" in operators(done)
    assert Predictor.load(done.artifact.path)(TEXTS[0]).label in tiny.TEXT_LABELS


def test_attention_in_int8_answers_alike_alone_and_in_a_batch(tmp_path: Path):
    done = export_model(recipe(weight_bits=8, attention="int8"), tmp_path / "out")
    predictor = Predictor.load(done.artifact.path)
    alone, together = (predictor.raw(TEXTS, batch_size=size).rows for size in (1, 16))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0].outputs["logits"], other[0].outputs["logits"], atol=1e-6)


@pytest.mark.parametrize(
    ("held_out", "limit", "why"),
    [
        (20, 0.0, r"its answers are \d+\.\d\d times as far from FP32 as with attention in float \(0.0 may be\)"),
        (0, 100.0, "there are no held-out answers to compare its own with"),
    ],
)
def test_attention_in_int8_is_refused_with_the_reason(
    clock: dict[str, float], held_out: int, limit: float, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("deploycomp.int8step.MAX_DISTANCE", limit)
    clock[ATTENTION] = 0.5
    done = export_model(attention_in_int8(held_out=held_out), tmp_path / "out")
    assert re.fullmatch(why, variants(facts(done))[ATTENTION]["why"])
    assert facts(done)["tuning"]["kept"] == "static"
    assert "QLinearMatMul" not in operators(done)


def test_attention_that_cannot_be_in_int8_is_refused_with_the_reason(clock: dict[str, float], tmp_path: Path):
    clock[ATTENTION] = 0.5
    steps = (Export(opset=18), Int8(weight_bits=8))
    done = export_model(attention_in_int8().model_copy(update={"steps": steps}), tmp_path / "out")
    assert variants(facts(done))[ATTENTION]["why"] == "the graph has no fused attention"


@pytest.mark.parametrize("asked", [{"attention": "float"}, {"activations": "dynamic"}, {"weight_bits": 7}])
@pytest.mark.usefixtures("clock")
def test_attention_is_tried_only_where_it_may_be_kept(asked: dict[str, Any], tmp_path: Path):
    done = export_model(recipe(held_out=20, tune=True, **{"weight_bits": 8, **asked}), tmp_path / "out")
    assert ATTENTION not in variants(facts(done))


@pytest.mark.usefixtures("clock")
def test_attention_in_int8_on_demand_is_not_measured_away(clock: dict[str, float], tmp_path: Path):
    clock["dynamic"] = 0.1
    done = export_model(attention_in_int8(attention="int8"), tmp_path / "out")
    assert set(variants(facts(done))) == {ATTENTION, "fp32"}
    assert "QLinearMatMul" in operators(done)


@pytest.mark.parametrize(
    ("asked", "why"),
    [({"weight_bits": 7}, "weights have 7 bits"), ({"activations": "dynamic"}, "activations are dynamic, as asked")],
)
def test_attention_in_int8_that_would_be_wrong_is_refused(asked: dict[str, Any], why: str, tmp_path: Path):
    with pytest.raises(UsageError, match="attention cannot be in INT8") as caught:
        export_model(recipe(attention="int8", **{"weight_bits": 8, **asked}), tmp_path / "out")
    assert str(caught.value.why).startswith(why)
    assert made.entries(tmp_path) == []


def test_attention_in_int8_without_rows_is_refused(tmp_path: Path):
    asked = made.recipe(steps=(Export(), Int8(attention="int8")))
    with pytest.raises(UsageError, match="attention in INT8 needs calibration rows") as caught:
        export_model(asked, tmp_path / "out")
    assert caught.value.why == UNCALIBRATED


@pytest.mark.usefixtures("even")
def test_attention_goes_back_to_float_before_any_layer(
    clock: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from deploycomp.int8step import _Judge

    monkeypatch.setattr("deploycomp.int8step.MAX_DISTANCE", 100)
    monkeypatch.setattr(_Judge, "good", lambda self, _: self.variant != ATTENTION)
    clock[ATTENTION] = 0.5
    done = export_model(attention_in_int8(goal=1.0), tmp_path / "out")
    said = facts(done)
    assert said["restored"]["layers"] == []
    assert said["restored"]["attention"] is not None
    assert "QLinearMatMul" not in operators(done)
    assert "went back to float" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
