"""Weights: clipping is never worse by its own measure, and a corrected bias takes the mean error back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.quantize import weights
from deploycomp.quantize.weights import LARGEST, corrected_bias, quantize_weight
from tests.quantize import graphs

MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-100, 100, width=32)
)


def weighted_error(weight: np.ndarray, quantized: tuple[np.ndarray, np.ndarray], importance: np.ndarray) -> np.ndarray:
    integers, scale = quantized
    return importance.astype(np.float32) @ np.square(integers * scale - weight)


@settings(deadline=None)
@given(weight=MATRICES, bits=st.sampled_from([7, 8]), seed=st.integers(0, 9))
def test_clipping_is_never_worse_by_its_own_measure(weight: np.ndarray, bits: Any, seed: int):
    importance = np.random.default_rng(seed).uniform(0.01, 10, size=len(weight))
    clipped = quantize_weight(weight, bits=bits, axis=1, clip="mse", importance=importance)
    plain = quantize_weight(weight, bits=bits, axis=1)
    slack = 1 + 1e-5
    assert np.all(weighted_error(weight, clipped, importance) <= weighted_error(weight, plain, importance) * slack)
    assert np.all(clipped[1] <= plain[1])
    assert np.abs(clipped[0].astype(int)).max() <= LARGEST[bits]


def test_clipping_gains_where_one_weight_stands_out():
    weight = graphs.weights(256, 32)
    weight[0] *= 2.5
    ones = np.ones(256)
    plain, clipped = (quantize_weight(weight, bits=7, axis=1, clip=clip) for clip in ("max", "mse"))
    assert weighted_error(weight, clipped, ones).sum() < 0.97 * weighted_error(weight, plain, ones).sum()


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_a_large_matrix_are_as_the_whole(axis: int, monkeypatch: pytest.MonkeyPatch):
    weight = graphs.weights(40, 30)
    importance = np.linspace(1, 2, weight.shape[1 - axis])
    whole = quantize_weight(weight, bits=8, axis=axis, clip="mse", importance=importance)
    monkeypatch.setattr(weights, "CHUNK", 100)
    parts = quantize_weight(weight, bits=8, axis=axis, clip="mse", importance=importance)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("bias", [None, np.linspace(-1, 1, 48, dtype=np.float32)])
def test_a_corrected_bias_takes_the_mean_error_back(bits: Any, bias: np.ndarray | None):
    weight = graphs.weights(64, 48)
    x = np.random.default_rng(3).normal(1.0, 1.0, size=(500, 64))
    integers, scale = quantize_weight(weight, bits=bits, axis=1)
    before = x @ (integers * scale) - x @ weight
    new = corrected_bias(weight, integers, scale, x.mean(0), bias)
    after = before + new - (0 if bias is None else bias)
    assert np.abs(before.mean(0)).max() > 1e-3
    assert np.abs(after.mean(0)).max() < 1e-6
    assert new.dtype == np.float32
