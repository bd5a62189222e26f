"""Ranges: zero is a level, ends stay inside, and each method keeps its promise."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.errors import UsageError
from deploycomp.quantize.calibrate import Statistics
from deploycomp.quantize.ranges import LEVELS, METHODS, choose_range, grid, squared_error

VALUES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.floats(-1e4, 1e4, width=32)
)


def statistics(values: np.ndarray) -> Statistics:
    made = Statistics(values.shape[-1])
    made.add(values.astype(np.float32))
    return made


def ends(levels: tuple[np.float32, np.uint8]) -> tuple[float, float]:
    scale, zero_point = float(levels[0]), int(levels[1])
    return -zero_point * scale, (LEVELS - 1 - zero_point) * scale


@given(low=st.floats(-1e30, 1e30), high=st.floats(-1e30, 1e30))
def test_a_grid_spans_its_ends_to_half_a_step_and_holds_zero(low: float, high: float):
    low, high = min(low, high), max(high, low)
    scale, zero_point = grid(low, high)
    assert scale.dtype == np.float32
    assert zero_point.dtype == np.uint8
    assert scale > 0
    first, last = ends((scale, zero_point))
    assert first <= 0 <= last
    slack = 0.5001 * float(scale)
    assert first <= min(low, 0) + slack
    assert last >= max(high, 0) - slack


@settings(deadline=None, max_examples=30)
@given(values=VALUES, order=st.randoms(use_true_random=False), method=st.sampled_from(METHODS))
def test_the_same_rows_in_any_order_have_the_same_range(values: np.ndarray, order: random.Random, method):
    """One row after another, as calibration takes them: what a range is made of is counts, and counts have no order."""
    shuffled = order.sample(list(values), len(values))
    first, second = Statistics(values.shape[-1]), Statistics(values.shape[-1])
    for one, other in zip(values, shuffled, strict=True):
        first.add(one[None])
        second.add(other[None])
    assert choose_range(first, method) == choose_range(second, method)


@settings(deadline=None, max_examples=40)
@given(values=VALUES, method=st.sampled_from(METHODS))
def test_every_method_stays_within_the_range_of_the_values(values: np.ndarray, method):
    made = statistics(values)
    first, last = ends(choose_range(made, method))
    scale = float(choose_range(made, "minmax")[0])
    assert first >= min(made.low, 0) - scale
    assert last <= max(made.high, 0) + scale or not values.any() or scale == 1.0


@settings(deadline=None, max_examples=40)
@given(values=VALUES)
def test_mse_is_never_worse_than_minmax(values: np.ndarray):
    made = statistics(values)
    errors = {method: squared_error(made.histogram, choose_range(made, method)) for method in ("mse", "minmax")}
    assert errors["mse"] <= errors["minmax"]


def heavy_tail() -> Statistics:
    random = np.random.default_rng(0)
    return statistics(np.concatenate([random.normal(size=(20_000, 50)), [[40.0] * 2 + [0.0] * 48]]))


def test_an_outlier_is_cut_by_all_but_minmax():
    made = heavy_tail()
    scales = {method: float(choose_range(made, method)[0]) for method in METHODS}
    assert scales["mse"] < scales["minmax"]
    assert scales["percentile"] < 0.25 * scales["minmax"]
    assert scales["entropy"] < 0.25 * scales["minmax"]
    assert squared_error(made.histogram, choose_range(made, "mse")) < 0.75 * squared_error(
        made.histogram, choose_range(made, "minmax")
    )


def test_a_percentile_keeps_its_share():
    values = np.random.default_rng(1).normal(size=(1000, 100)).astype(np.float32)
    made = statistics(values)
    for percentile in (90.0, 99.0, 99.99):
        first, last = ends(choose_range(made, "percentile", percentile=percentile))
        assert np.mean((values >= first) & (values <= last)) * 100 == pytest.approx(percentile, abs=0.3)
    assert choose_range(made, "percentile", percentile=100) == choose_range(made, "minmax")


def test_entropy_keeps_an_even_distribution_whole():
    made = statistics(np.random.default_rng(2).uniform(-1, 1, size=(2000, 50)))
    assert float(choose_range(made, "entropy")[0]) > 0.9 * float(choose_range(made, "minmax")[0])


@pytest.mark.parametrize("method", METHODS)
def test_an_activation_that_is_always_zero_has_a_grid(method):
    assert choose_range(statistics(np.zeros((3, 4))), method) == (np.float32(1), np.uint8(0))


def test_what_cannot_be_is_refused():
    made = heavy_tail()
    with pytest.raises(UsageError, match="no range method"):
        choose_range(made, "best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="percentile lies in"):
        choose_range(made, "percentile", percentile=20)
