from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.measure.figures import NO_DIFFERENCE, ratios, slower_cells, summary

MS = 1_000_000
durations = st.integers(1, 10**10)
blocks_of_calls = st.lists(st.lists(durations, min_size=1, max_size=300), min_size=1, max_size=4)


def bench(**blocks: list[float]) -> dict[str, Any]:
    """A benchmark of one cell: candidate → block medians in ms."""
    at = {"threads": 2, "batch_size": 1, "sequence_length": 16}
    return {"cells": [{"candidate": name, **at, "block_p50_ms": each} for name, each in blocks.items()]}


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(49, None, None), (50, 45.0, None), (499, 450.0, None), (500, 450.0, 495.0)]
)
def test_a_percentile_needs_five_samples_beyond_it(count: int, p90: float | None, p99: float | None):
    figures = summary([[each * MS for each in range(1, count + 1)]], batch_size=1)
    assert (figures["p90_ms"], figures["p99_ms"]) == (p90, p99)
    assert figures["p50_ms"] == (count + 1) / 2


def test_blocks_are_pooled_and_each_has_its_median():
    figures = summary([[1 * MS, 2 * MS, 9 * MS], [4 * MS]], batch_size=8)
    assert figures == {
        "p50_ms": 3.0,
        "p90_ms": None,
        "p95_ms": None,
        "p99_ms": None,
        "mean_ms": 4.0,
        "cv": pytest.approx(9.5**0.5 / 4),  # 1, 2, 9 and 4 around 4
        "intervals": None,
        "throughput_per_s": 2000.0,
        "samples": 4,
        "block_p50_ms": [2.0, 4.0],
    }


@settings(deadline=None)
@given(blocks_of_calls)
def test_percentiles_are_ordered_and_within_what_was_measured(blocks: list[list[int]]):
    figures = summary(blocks, batch_size=1)
    pooled = [each / MS for block in blocks for each in block]
    known = [figures[name] for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms") if figures[name] is not None]
    assert [min(pooled), *known, max(pooled)] == sorted([min(pooled), *known, max(pooled)])
    assert all(each in pooled for each in known[1:])


@settings(deadline=None)
@given(blocks_of_calls, st.randoms(use_true_random=False))
def test_order_within_a_block_does_not_matter(blocks: list[list[int]], draw: random.Random):
    assert summary([draw.sample(block, len(block)) for block in blocks], batch_size=1) == summary(blocks, batch_size=1)


def test_ratio_of_paired_blocks_cancels_drift():
    (entry,) = ratios(bench(artifact=[11.0, 22.0, 33.0], fp32=[10.0, 20.0, 30.0]), "artifact", "fp32")
    assert entry["cell"] == {"threads": 2, "batch_size": 1, "sequence_length": 16}
    assert entry["ratio"] == pytest.approx(1.1)
    assert entry["low"] == pytest.approx(1.1)
    assert entry["high"] == pytest.approx(1.1)
    assert entry["verdict"] == "slower"


def test_three_blocks_use_student():
    (entry,) = ratios(bench(a=[1.0, 1.1, 1.21], b=[1.0, 1.0, 1.0]), "a", "b")
    step = 1.1 ** (4.302653 / 3**0.5)  # t(0.975, 2); the logarithms deviate by log 1.1
    assert entry["ratio"] == pytest.approx(1.1)
    assert (entry["low"], entry["high"]) == pytest.approx((1.1 / step, 1.1 * step), rel=1e-5)


def test_many_blocks_are_resampled_with_the_seed():
    draw = random.Random(1)
    data = bench(a=[draw.uniform(1, 2) for _ in range(8)], b=[1.0] * 8)
    first, again, other = (ratios(data, "a", "b", seed=seed)[0] for seed in (3, 3, 4))
    assert first == again
    assert first["ratio"] == other["ratio"]
    assert min(data["cells"][0]["block_p50_ms"]) <= first["low"] <= first["ratio"] <= first["high"]
    assert first["high"] <= max(data["cells"][0]["block_p50_ms"])


def test_one_noisy_block_of_many_does_not_hide_a_loss():
    data = bench(a=[1.2] * 7 + [5.0], b=[1.0] * 8)
    assert [entry["verdict"] for entry in slower_cells(data, "a", "b")] == ["slower"]


@pytest.mark.parametrize(
    ("a", "verdict"),
    [
        ([1.5, 1.52, 1.49], "slower"),
        ([0.5, 0.52, 0.49], "faster"),
        ([1.3, 1.0, 0.9], NO_DIFFERENCE),
        ([1.01, 1.2, 1.4], NO_DIFFERENCE),  # all above 1, and still what chance does in one of eight runs
        ([1.3], NO_DIFFERENCE),
    ],
)
def test_only_a_whole_interval_is_a_verdict(a: list[float], verdict: str):
    data = bench(a=a, b=[1.0] * len(a))
    (entry,) = ratios(data, "a", "b")
    assert entry["verdict"] == verdict
    assert bool(slower_cells(data, "a", "b")) == (verdict == "slower")
    assert (entry["low"] is None) == (len(a) == 1)


def test_cells_that_only_one_was_measured_in_are_left_out():
    assert ratios(bench(a=[1.0, 1.0]), "a", "b") == []
    assert ratios(bench(b=[1.0, 1.0]), "a", "b") == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=3, max_size=12))
def test_swapping_the_two_turns_the_verdict_around(pairs: list[tuple[float, float]]):
    data = bench(a=[pair[0] for pair in pairs], b=[pair[1] for pair in pairs])
    (forth,), (back,) = ratios(data, "a", "b"), ratios(data, "b", "a")
    assert 0 < forth["low"] <= forth["high"]
    if len(pairs) < 6:
        assert (back["low"], back["high"]) == pytest.approx((1 / forth["high"], 1 / forth["low"]))
        assert {forth["verdict"], back["verdict"]} in ({"slower", "faster"}, {NO_DIFFERENCE})


@pytest.mark.parametrize("blocks", [3, 5, 6, 8])
def test_equal_candidates_are_seldom_called_slower(blocks: int):
    draw = random.Random(blocks)
    runs = 300

    def noisy() -> list[float]:
        spikes = [draw.expovariate(4) if draw.random() < 0.1 else 0.0 for _ in range(blocks)]
        return [1 + spike + draw.gauss(0, 0.03) for spike in spikes]

    called = sum(bool(slower_cells(bench(a=noisy(), b=noisy()), "a", "b")) for _ in range(runs))
    assert called / runs <= 0.06  # 2.5 % are meant; the seeded draw of 300 leaves room for chance
