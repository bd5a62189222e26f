"""The latency table from measured points, and the goal that is met as measured: clocks are replaced by arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deploycomp import latency, prunestep
from deploycomp.compress.prune.sublayers import sublayers
from deploycomp.compression import compress_model
from deploycomp.latency import Setting, copied, export_graph, latency_table
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


class Machine:
    """In place of a bench: graphs of known times, and a neighbour that slows whole rounds down, and calls."""

    def __init__(self, alone: Mapping[str, float], *, process: float = 0.0):
        self.alone, self.process, self.asked = alone, process, list[tuple[list[str], int, int]]()
        self.draw = np.random.default_rng(0)

    def open(self, graphs: Mapping[str, Path], setting: Setting, seconds: float) -> Any:
        threads = setting.threads or 2
        alternate = lambda names, threads, block, least_rounds: self.rounds(names, threads, block)  # noqa: E731
        return SimpleNamespace(plan=SimpleNamespace(threads=[threads]), alternate=alternate)

    def rounds(self, names: list[str], threads: int, block: int) -> dict[str, Any]:
        self.asked.append((names, threads, block))
        times = np.array([self.alone[name] for name in names]) * np.exp(
            self.process * self.draw.normal(size=len(names))
        )
        shared = np.exp(0.3 * self.draw.random((40, 1)))
        single = np.where(self.draw.random((40, len(names))) < 0.2, 1.9, 1.0)
        samples = times * shared * single * 1e6
        return {name: {"cells": [{"samples_ns": took}]} for name, took in zip(names, samples.T, strict=True)}


def test_a_busy_neighbour_does_not_bend_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    alone = {"whole": 3.0, **{f"heads-{count}": 2.0 + 0.1 * count for count in range(8)}}
    machine = Machine(alone)
    monkeypatch.setattr(latency, "_open", machine.open)
    times = latency.table_times(dict.fromkeys(alone, tmp_path), Setting(threads=2), lambda _message, _share: None)
    ratios = {name: value / times["whole"] for name, value in times.items()}
    assert ratios == pytest.approx({name: value / 3.0 for name, value in alone.items()}, rel=0.02)
    assert 3.0 <= times["whole"] < 3.0 * 1.2
    assert {threads for _, threads, _ in machine.asked} == {1}  # two wait for one another
    assert all(names[0] == "whole" and len(names) <= latency.GROUP for names, *_ in machine.asked)


def without_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock looks at names only."""
    monkeypatch.setattr(latency, "table_times", clock)
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

    monkeypatch.setattr(latency, "table_times", clock)
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


@pytest.mark.parametrize(("noise", "turns"), [(0.001, 1), (0.2, latency.TURNS)])
def test_a_ratio_is_measured_until_it_tells_the_goal(
    noise: float, turns: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    machine, shares = Machine({"source": 3.0, "half": 1.5}, process=noise), list[float]()
    monkeypatch.setattr(latency, "_open", machine.open)
    for name in machine.alone:
        (tmp_path / name).mkdir()
        (tmp_path / name / latency.GRAPH).touch()
    models: dict[str, Any] = dict.fromkeys(machine.alone)
    say = lambda _message, share: shares.append(share)  # noqa: E731
    found = latency.measure_ratios(models, Setting(), tmp_path, progress=say)
    assert list(found) == ["half"]
    speedup, low, high = found["half"]
    assert low <= speedup <= high
    assert speedup == pytest.approx(2, rel=max(0.02, noise))
    assert [block for *_, block in machine.asked] == list(range(turns * latency.RATIO_PROCESSES))
    assert {threads for _, threads, _ in machine.asked} == {2}
    assert shares == sorted(shares)


def test_corrections_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    facts = prune(monkeypatch, tmp_path, [1.3, 1.32, 1.33, 1.34])
    assert len(facts["measured"]) == prunestep.CORRECTIONS + 1


@pytest.mark.parametrize("bits", [None, 8], ids=["FP32", "INT8"])
def test_a_graph_of_weights_that_others_need_leaves_them(tmp_path, bits):
    model = load(resolve(tiny.build(tmp_path / "m", "bert", "text-classification")))
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    shared = export_graph(model.fork(), Setting(sequence_length=8, bits=bits), tmp_path / "shared", release=False)
    after = model.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    own = export_graph(copied(model), Setting(sequence_length=8, bits=bits), tmp_path / "own")
    assert shared.read_bytes() == own.read_bytes()
