"""Saturation: the integer simulation counts what VPMADDUBSW would clip, and 7 bits never clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.quantize import saturation as module
from deploycomp.quantize.calibrate import calibrate
from deploycomp.quantize.saturation import count_saturations, saturation
from deploycomp.quantize.weights import LARGEST
from tests.quantize import graphs

K = st.shared(st.integers(1, 9), key="k")
LEVELS = K.flatmap(lambda k: hnp.arrays(np.uint8, (3, k)))
WEIGHTS = K.flatmap(lambda k: hnp.arrays(np.int8, (k, 4), elements=st.integers(-127, 127)))


def by_hand(levels: np.ndarray, weight: np.ndarray) -> dict[str, int]:
    sums = []
    for token in levels.tolist():
        for column in weight.T.tolist():
            products = [a * w for a, w in zip(token, column, strict=True)] + [0]
            sums += [products[i] + products[i + 1] for i in range(0, len(token), 2)]
    clipped = sum(not -32768 <= each <= 32767 for each in sums)
    return {"pairs": len(sums), "saturated": clipped, "largest": max(map(abs, sums))}


@given(levels=LEVELS, weight=WEIGHTS)
def test_it_counts_what_a_loop_counts(levels: np.ndarray, weight: np.ndarray):
    assert count_saturations(levels, weight) == by_hand(levels, weight)


@given(levels=LEVELS, weight=WEIGHTS)
def test_seven_bits_never_saturate(levels: np.ndarray, weight: np.ndarray):
    small = np.clip(weight, -LARGEST[7], LARGEST[7]).astype(np.int8)
    assert count_saturations(levels, small)["saturated"] == 0


def test_the_largest_numbers_that_there_are():
    levels, weight = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    assert count_saturations(levels, weight) == {"pairs": 1, "saturated": 1, "largest": 64770}


def test_a_bounded_chunk_counts_the_same(monkeypatch: pytest.MonkeyPatch):
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (20, 64)).astype(np.uint8)
    weight = random.integers(-127, 128, (64, 16)).astype(np.int8)
    whole = count_saturations(levels, weight)
    monkeypatch.setattr(module, "CHUNK", 100)
    assert count_saturations(levels, weight) == whole
    assert whole["saturated"] > 0


def test_facts_of_a_model(tmp_path: Path):
    model = graphs.mlp()
    path = graphs.save(model, tmp_path / "m.onnx")
    statistics = calibrate(model, path, graphs.rows(), ["x", "hidden"], threads=1)
    eight, seven = (saturation(model, statistics, bits=bits) for bits in (8, 7))
    assert [each["layer"] for each in eight["layers"]] == ["up", "down"]
    assert eight["pairs"] == seven["pairs"] == sum(each["pairs"] for each in eight["layers"])
    assert seven["saturated"] == 0
    assert seven["largest"] <= seven["bound"] == 32640
    assert eight["largest"] > seven["largest"]
