"""Known values, and: verdict and interval are two readings of one count."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, wilcoxon

from deploycomp.gate import signedrank as s

coarse = st.integers(-6, 6).map(lambda value: value / 4)
"""Few values, so that ties, zeros and hits of the bound are common; quarters, so that sums are exact."""
fine = st.floats(-1, 1).map(lambda value: round(value, 9))
lists = st.lists(coarse, min_size=1, max_size=12) | st.lists(fine, min_size=1, max_size=12)
levels = st.sampled_from([0.3, 0.05, 0.01, 0.001])


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=11, unique=True), st.data())
def test_without_ties_it_is_scipys_exact_test(sizes: list[float], data: st.DataObject) -> None:
    values = [size * data.draw(st.sampled_from([-1, 1])) for size in sizes]
    averages = s.walsh_averages(values)
    for side, ours in (("greater", s.p_above), ("less", s.p_below)):
        expected = wilcoxon(values, alternative=side, method="exact").pvalue
        assert ours(averages, 0.0) == pytest.approx(expected, rel=1e-12)


def test_the_null_distribution_is_counted_out() -> None:
    for n in range(1, 9):
        sums = [
            sum(r for r, up in zip(range(1, n + 1), ups, strict=True) if up)
            for ups in itertools.product([0, 1], repeat=n)
        ]
        for w in range(n * (n + 1) // 2 + 1):
            assert s._tail(n)[w] == pytest.approx(np.mean([each >= w for each in sums]), rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 7, 30, 64, 300])
def test_n_signs_reach_two_to_the_minus_n(rounds: int) -> None:
    everything = rounds * (rounds + 1) // 2
    assert s._tail(rounds)[-1] == 0.5**rounds
    assert s.critical(rounds, 0.5**rounds) == everything
    assert s.critical(rounds, 0.49 * 0.5**rounds) == everything + 1
    assert s.critical(rounds, 0.0) == everything + 1


@given(lists, st.data())
def test_under_random_signs_a_p_value_of_at_most_p_has_probability_p(sizes: list[float], data: st.DataObject) -> None:
    """Validity by enumeration of all signs, ties and zeros included: the very claim of the gate."""
    sizes = [abs(each) for each in sizes[:8]]
    level = data.draw(levels)
    for p_value in (s.p_above, s.p_below):
        flips = itertools.product([-1, 1], repeat=len(sizes))
        rejected = [
            p_value(s.walsh_averages([a * b for a, b in zip(sizes, signs, strict=True)]), 0.0) <= level
            for signs in flips
        ]
        assert np.mean(rejected) <= level


@given(lists, coarse, levels, levels)
def test_the_interval_excludes_a_bound_exactly_where_the_test_rejects_it(
    values: list[float], bound: float, lower: float, upper: float
) -> None:
    averages = s.walsh_averages(values)
    low, high = s.bounds(averages, lower=lower, upper=upper)
    assert (low > bound) == (s.p_above(averages, bound) <= lower)
    assert (high < bound) == (s.p_below(averages, bound) <= upper)
    if lower + upper < 0.5:
        assert low <= s.estimate(averages) <= high


@given(lists, coarse)
def test_ties_and_zeros_only_raise_the_p_value(values: list[float], bound: float) -> None:
    """Against the rank sum with ties broken in favour of the claim, which is the largest exact statistic."""
    moved = np.asarray(values) - bound
    order = np.lexsort((moved > 0, np.abs(moved)))  # among equals, the positive get the higher ranks
    ranks = np.empty(len(moved))
    ranks[order] = np.arange(1, len(moved) + 1)
    middle = rankdata(np.abs(moved))[moved > 0].sum()
    counted = (s.walsh_averages(values) > bound).sum()
    assert counted <= middle <= ranks[moved > 0].sum()


@given(lists, st.integers(0, 11), st.floats(0, 1), coarse)
def test_a_slower_round_never_lowers_the_evidence(values: list[float], place: int, more: float, bound: float) -> None:
    slower = list(values)
    slower[place % len(values)] += more
    assert s.p_above(s.walsh_averages(slower), bound) <= s.p_above(s.walsh_averages(values), bound)
    assert s.p_below(s.walsh_averages(slower), bound) >= s.p_below(s.walsh_averages(values), bound)


@given(lists)
def test_turned_signs_turn_everything(values: list[float]) -> None:
    averages, turned = s.walsh_averages(values), s.walsh_averages([-each for each in values])
    assert s.p_above(averages, 0.25) == s.p_below(turned, -0.25)
    low, high = s.bounds(averages, lower=0.05, upper=0.01)
    assert (-high, -low) == s.bounds(turned, lower=0.01, upper=0.05)


@given(st.lists(st.lists(coarse, min_size=5, max_size=5), min_size=1, max_size=4), coarse)
def test_counts_of_many_are_the_counts_of_each(many: list[list[float]], bound: float) -> None:
    found = s.counts_above(many, bound)
    for values, counts in zip(many, found, strict=True):
        for end in range(1, 6):
            assert counts[end - 1] == (s.walsh_averages(values[:end]) > bound).sum()


def test_the_estimate_by_hand() -> None:
    """Averages of 1, 2, 6: 1, 1.5, 2, 3.5, 4, 6."""
    averages = s.walsh_averages([6, 1, 2])
    assert averages.tolist() == [1, 1.5, 2, 3.5, 4, 6]
    assert s.estimate(averages) == 2.75
