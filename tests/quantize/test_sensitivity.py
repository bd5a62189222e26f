"""Sensitivity: the layer that hurts ranks first, and no more layers go back to float than are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.onnxmodel import OnnxModel
from deploycomp.quantize.costs import Costs
from deploycomp.quantize.int8 import quantize
from deploycomp.quantize.sensitivity import distance, rank, restore_until
from deploycomp.recipe import Int8
from tests.quantize import graphs

LOGITS = [np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]]), np.array([[1.0, 1.0, 3.0]])]
HARM = {"a": 0.1, "b": 1.0, "c": 0.0, "d": 0.3}


def fake(kept: frozenset[str]) -> list[np.ndarray]:
    """Each layer in INT8 pushes the first logit by its harm."""
    push = sum(harm for layer, harm in HARM.items() if layer not in kept)
    return [each + np.array([push, 0, 0]) for each in LOGITS]


def test_distance_is_kl_or_the_mean_square():
    assert distance(LOGITS, LOGITS, logits=True) == 0
    assert distance(LOGITS, [each + 5 for each in LOGITS], logits=True) == pytest.approx(0, abs=1e-12)
    assert distance(LOGITS, [each + 5 for each in LOGITS], logits=False) == pytest.approx(25)
    p, q = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    assert distance([np.log(p)], [np.log(q)], logits=True) == pytest.approx(np.sum(p * np.log(p / q)))


def test_layers_are_ranked_by_what_a_millisecond_buys():
    seen: list[float] = []
    table = rank(
        fake, LOGITS, {"a": 0.01, "b": 1.0, "c": 0.5, "d": 1.0}, logits=True, progress=lambda _, f: seen.append(f)
    )
    assert [row["layer"] for row in table] == ["a", "b", "d", "c"]
    assert table[1]["recovered"] > table[0]["recovered"] > table[3]["recovered"] == 0
    assert seen[-1] == 1


def test_a_layer_that_int8_makes_slower_ranks_by_what_it_recovers():
    table = rank(fake, LOGITS, dict.fromkeys(HARM, -0.2), logits=True)
    assert [row["layer"] for row in table] == ["b", "d", "a", "c"]


@given(count=st.integers(0, 40), needed=st.integers(0, 45))
def test_the_fewest_layers_that_are_enough(count: int, needed: int):
    order = [f"layer{index}" for index in range(count)]
    chosen, trail = restore_until(order, lambda kept: len(kept) >= needed)
    assert chosen == frozenset(order[: min(needed, count)])
    assert len(trail) <= 2 * np.log2(count + 1) + 3
    assert len({each["layers"] for each in trail}) == len(trail)
    assert trail[-1]["good"] or needed > count or any(each["good"] for each in trail)


def test_the_layer_behind_an_outlier_channel_ranks_first_on_a_real_graph(tmp_path: Path):
    outlier = np.where(np.arange(2 * graphs.WIDTH) == 3, 200.0, 1.0)
    path, feeds = graphs.save(graphs.mlp(scale=outlier), tmp_path / "m.onnx"), graphs.rows(20)
    reference = [graphs.answer(path, **row)[0] for row in feeds]
    built: list[frozenset[str]] = []

    def answers(kept: frozenset[str]) -> list[np.ndarray]:
        built.append(kept)
        model = OnnxModel(ir.load(path), "x", ("x",), ("y",))
        model, _ = quantize(model, Int8(), bits=8, ops="fused", keep_float=sorted(kept))
        into = graphs.save(model, tmp_path / f"{len(built)}.onnx")
        return [graphs.answer(into, **row)[0] for row in feeds]

    table = rank(answers, reference, {"up": 1.0, "down": 1.0}, logits=False)
    assert [row["layer"] for row in table] == ["down", "up"]
    order = [row["layer"] for row in table]
    limit = 0.5 * distance(reference, answers(frozenset()), logits=False)
    chosen, _ = restore_until(order, lambda kept: distance(reference, answers(kept), logits=False) <= limit)
    assert chosen == {"down"}


def test_costs_are_measured_once_for_each_shape(monkeypatch: pytest.MonkeyPatch):
    from deploycomp.quantize import costs as module

    monkeypatch.setattr(module, "BLOCK_SECONDS", 0.0)
    costs = Costs(16, threads=1)
    times = {kind: costs(64, 64, kind) for kind in ("float", "dynamic", "static")}
    assert all(0 < ms < 1000 for ms in times.values())
    assert {kind: costs(64, 64, kind) for kind in times} == times  # type: ignore[arg-type]
    assert costs.gain(64, 64, "static") == times["float"] - times["static"]
