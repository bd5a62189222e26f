"""The latency table from measured points, and the goal that is met as measured: clocks are replaced by arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp import latency, prunestep
from deploycomp.compress.prune.sublayers import sublayers
from deploycomp.compression import compress_model
from deploycomp.latency import Setting, latency_table
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.recipe import Calibrate, Export, Prune, Recipe
from tests import tiny
from tests.cli import made

OVERHEAD, HEAD, NEURON = 1.0, 0.5, 0.01


def clock(graphs: Mapping[str, Path], *_: Any) -> dict[str, float]:
    """What a machine would show on which a head takes half a millisecond, and a neuron a hundredth."""
    times: dict[str, float] = {}
    inner = tiny.LAYERS - 1
    whole = OVERHEAD + tiny.LAYERS * (HEAD * tiny.HEADS + NEURON * tiny.INTERMEDIATE)
    unit = {"heads": (HEAD, tiny.HEADS), "neurons": (NEURON, tiny.INTERMEDIATE)}
    for name in graphs:
        kind, _, level = name.partition("-")
        if name == "whole":
            times[name] = whole
        elif level == "last":
            cost, count = unit[kind]
            times[name] = whole - cost * (count - count // 2)
        else:
            cost, count = unit[kind]
            times[name] = whole - inner * cost * (count - int(level))
    return times


def test_a_busy_neighbour_does_not_bend_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    draw = np.random.default_rng(0)
    alone = {"one": 2.0, "other": 2.2}

    def noisy(candidates: Any, *_: Any, samples: bool, **__: Any) -> dict[str, Any]:
        """Half of the blocks have a neighbour nearly all the time, and the others now and then."""
        assert samples
        cells = []
        for each in candidates:
            busy = [draw.random(100) < (0.9 if block % 2 else 0.3) for block in range(6)]
            calls = [alone[each.name] * (1 + 0.01 * draw.random(100)) * np.where(part, 1.9, 1.0) for part in busy]
            cells.append({"candidate": each.name, "block_samples_ns": [(call * 1e6).tolist() for call in calls]})
        return {"cells": cells}

    monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", noisy)
    times = latency.fastest_times(dict.fromkeys(alone, tmp_path), Setting(), lambda _message, _share: None)
    assert times == pytest.approx(alone, rel=0.01)


def without_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock looks at names only."""
    monkeypatch.setattr(latency, "fastest_times", clock)
    monkeypatch.setattr(latency, "export_graph", lambda _model, _setting, folder, **_: folder)


def test_the_table_is_what_the_clock_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    without_exports(monkeypatch)
    model = load(resolve(made.model()))
    costs = latency_table(model, Setting(), tmp_path)
    for part in sublayers(model.module, model.anatomy):
        one = HEAD if part.kind == "heads" else NEURON
        np.testing.assert_allclose(costs.tables[part.name], one * np.arange(part.units + 1), rtol=1e-6)
    assert costs.rest == pytest.approx(OVERHEAD)
    assert costs.whole == pytest.approx(clock({"whole": tmp_path})["whole"])


def test_the_measured_graphs_have_the_units_that_they_are_named_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import onnx_ir as ir

    monkeypatch.setattr(latency, "fastest_times", clock)
    latency_table(load(resolve(made.model())), Setting(), tmp_path)
    graph = ir.load(tmp_path / "heads-2" / "model.onnx").graph
    heads = [node.attributes["q_num_heads"].value for node in graph if node.op_type == "Attention"]
    assert heads == [2, tiny.HEADS]
    none = ir.load(tmp_path / "heads-0" / "model.onnx").graph
    assert sum(node.op_type == "Attention" for node in none) == tiny.LAYERS - 1


def prune(monkeypatch: pytest.MonkeyPatch, folder: Path, measured: list[float]) -> dict[str, Any]:
    shown = itertools.chain(measured, itertools.repeat(measured[-1]))
    without_exports(monkeypatch)

    def ratios(models: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, tuple[float, float, float]]:
        value = next(shown)
        return {list(models)[-1]: (value, value - 0.01, value + 0.01)}

    monkeypatch.setattr(prunestep, "measure_ratios", ratios)
    rows = made.write_rows(folder / "train.jsonl", [{"text": text} for text in tiny.texts(80, seed=2)])
    recipe = Recipe.model_validate({
        "model": str(made.model()),
        "steps": (Prune(speedup=1.4), Export()),
        "calibrate": Calibrate(data=str(rows), rows=50, held_out=30),
    })  # fmt: skip
    return compress_model(recipe, folder / "out").report["steps"][0]["facts"]


def test_a_goal_that_is_met_needs_no_correction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    facts = prune(monkeypatch, tmp_path, [1.41])
    assert len(facts["measured"]) == 1
    assert facts["measured"][0]["predicted"] >= 1.4


def test_a_goal_that_is_missed_is_gone_on_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    facts = prune(monkeypatch, tmp_path, [1.2, 1.41])
    assert [each["speedup"] for each in facts["measured"]] == [1.2, 1.41]
    assert facts["measured"][1]["cost"] < facts["measured"][0]["cost"]
    assert len(facts["trail"]) == 1 + Prune(speedup=1.4).rounds + 1


def test_a_goal_that_is_passed_is_gone_back_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    facts = prune(monkeypatch, tmp_path, [1.7, 1.41])
    assert [each["speedup"] for each in facts["measured"]] == [1.7, 1.41]
    assert facts["measured"][1]["cost"] > facts["measured"][0]["cost"]


@pytest.mark.parametrize(("noise", "turns"), [(0.001, 1), (0.5, latency.TURNS)])
def test_a_ratio_is_measured_until_it_tells_the_goal(
    noise: float, turns: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    draw, seeds, shares = np.random.default_rng(0), [], []

    def benchmark(candidates: Any, settings: Any, *, seed: int, pace: bool, progress: Any) -> dict[str, Any]:
        assert pace
        seeds.append(seed)
        progress("measured", 1.0)
        cost = {"source": 3.0, "half": 1.5}
        cells = [
            {"candidate": each.name, "block_p50_ms": list(cost[each.name] * np.exp(noise * draw.normal(size=8)))}
            for each in candidates
        ]
        return {"cells": cells}

    monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", benchmark)
    for name in ("source", "half"):
        (tmp_path / name).mkdir()
        (tmp_path / name / latency.GRAPH).touch()
    models: dict[str, Any] = {"source": None, "half": None}
    say = lambda _message, share: shares.append(share)  # noqa: E731
    speedup, low, high = latency.measure_ratios(models, Setting(), tmp_path, progress=say)["half"]
    assert low <= speedup <= high
    assert 1.5 < speedup < 2.7
    assert seeds == list(range(turns))
    assert shares == sorted(shares)


def test_corrections_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    facts = prune(monkeypatch, tmp_path, [1.3, 1.32, 1.33, 1.34])
    assert len(facts["measured"]) == prunestep.CORRECTIONS + 1
