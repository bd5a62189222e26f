from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.measure.bootstrap import cluster_intervals, median_interval
from deploycomp.measure.figures import summary

MS = 1_000_000
blocks_of_calls = st.lists(st.lists(st.integers(1, 10**10), min_size=1, max_size=30), min_size=3, max_size=6)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_less_than_three_blocks_have_no_interval(count: int):
    assert cluster_intervals([[1, 2, 3]] * count, percents=[50]) is None
    assert median_interval([1.0] * count) is None


@settings(deadline=None)
@given(blocks_of_calls)
def test_intervals_are_ordered_and_within_what_was_measured(blocks: list[list[int]]):
    found = cluster_intervals(blocks, percents=[50, 90])
    assert found is not None
    percentiles, mean, variation = found
    pooled = [each for block in blocks for each in block]
    for low, high in (*percentiles.values(), mean):
        assert min(pooled) * (1 - 1e-9) <= low <= high <= max(pooled) * (1 + 1e-9)
    assert all(low in pooled and high in pooled for low, high in percentiles.values())
    assert 0 <= variation[0] <= variation[1]


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=20), st.integers(3, 6))
def test_equal_blocks_leave_no_doubt(block: list[int], count: int):
    found = cluster_intervals([block] * count, percents=[50])
    assert found is not None
    (median, mean, variation) = found[0][50], found[1], found[2]
    assert median[0] == median[1] == sorted(block)[math.ceil(len(block) / 2) - 1]
    assert mean == pytest.approx([statistics.fmean(block)] * 2)
    expected = statistics.pstdev(block) / statistics.fmean(block)
    assert variation == pytest.approx([expected] * 2, abs=1e-6)


def test_calls_of_one_block_are_not_evidence_of_their_own():
    """A thousand calls in each of three processes that differ: the interval spans the processes."""
    found = cluster_intervals([[10] * 1000, [11] * 1000, [12] * 1000], percents=[50])
    assert found is not None
    assert found[0][50] == (10.0, 12.0)


def test_the_interval_covers_the_mean_of_noisy_processes():
    draw = random.Random(4)
    runs, covered = 200, 0
    for seed in range(runs):
        levels = [draw.gauss(1000, 50) for _ in range(12)]
        blocks = [[int(level + draw.gauss(0, 20)) for _ in range(20)] for level in levels]
        found = cluster_intervals(blocks, percents=[50], seed=seed)
        assert found is not None
        covered += found[1][0] <= 1000 <= found[1][1]
    assert 0.86 <= covered / runs <= 0.98  # 95 % is meant, a percentile bootstrap of 12 blocks has a little less


def test_a_summary_has_an_interval_for_each_figure_it_has():
    figures = summary([[10 * MS, 12 * MS] * 30, [11 * MS] * 60, [13 * MS] * 60], batch_size=4)
    names = {"p50_ms", "p90_ms", "p95_ms", "mean_ms", "throughput_per_s", "cv"}  # 180 calls are too few for p99
    assert set(figures["intervals"]) == names
    for name in names:
        low, high = figures["intervals"][name]
        assert low <= figures[name] <= high
    assert summary([[MS, MS], [MS, MS]], batch_size=1)["intervals"] is None
