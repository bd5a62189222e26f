"""Wilcoxon's signed-rank test as an exact randomisation test, and the interval that it inverts to.

    d₁ … dₙ ──► n(n+1)/2 Walsh averages (dᵢ+dⱼ)/2, i ≤ j ──► W = how many lie above a bound

Under "each dᵢ - bound has a random sign", W is the sum of a random subset of the ranks 1 … n, which is counted out
exactly. Without ties W is the rank sum of the positive differences (Tukey 1949; Hollander and Wolfe 1999, section 3).

**Ties and zeros only make it more careful.** Break ties of |dᵢ - bound| at random: the ranks are 1 … n again, the test
is exact. A Walsh average that equals the bound is never counted, neither above nor below, which is the smallest count
that any breaking could give. So the p-value is at least the exact one, monotone in every dᵢ, and its inversion is
simply an order statistic of the Walsh averages: verdict and interval cannot disagree.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bounds", "counts_above", "critical", "estimate", "p_above", "p_below", "walsh_averages"]

Array = NDArray[np.float64]


def walsh_averages(differences: Sequence[float] | Array) -> Array:
    """Return the n(n+1)/2 averages of all pairs of *differences*, each with itself too, sorted."""
    values = np.asarray(differences, np.float64)
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def estimate(averages: Array) -> float:
    """Return the median of the Walsh averages: the estimate of Hodges and Lehmann (1963)."""
    return float(np.median(averages))


def p_above(averages: Array, bound: float) -> float:
    """Return the p-value of "the differences centre at most at *bound*"; small when they lie above it."""
    return float(_tail(_rounds(averages))[int((averages > bound).sum())])


def p_below(averages: Array, bound: float) -> float:
    """Return the p-value of "the differences centre at least at *bound*"; small when they lie below it."""
    return float(_tail(_rounds(averages))[int((averages < bound).sum())])


def bounds(averages: Array, *, lower: float, upper: float) -> tuple[float, float]:
    """Return both ends of the confidence interval for the centre, each at its own level.

    Args:
        averages: See `walsh_averages`.
        lower: Probability that the lower end lies above the centre, at most.
        upper: Probability that the upper end lies below the centre, at most.

    Returns:
        (low, high): low > bound exactly where `p_above` is at most *lower*, high < bound exactly where `p_below` is at
        most *upper*. Infinite where so few differences cannot reach the level.
    """
    rounds, size = _rounds(averages), len(averages)
    need_low, need_high = critical(rounds, lower), critical(rounds, upper)
    low = averages[size - need_low] if need_low <= size else -np.inf
    high = averages[need_high - 1] if need_high <= size else np.inf
    return float(low), float(high)


@functools.lru_cache(maxsize=4096)
def critical(rounds: int, level: float) -> int:
    """Return the smallest count W with P(W or more) ≤ *level*; one more than there are where none is that rare.

    Args:
        rounds: Number of differences, at least one.
        level: Below 1.
    """
    return int(np.count_nonzero(_tail(rounds) > level))


def counts_above(differences: ArrayLike, bound: ArrayLike) -> NDArray[np.int64]:
    """Count Walsh averages above *bound* after each difference, for many sequences at once.

    Args:
        differences: [..., rounds].
        bound: [...] or one number.

    Returns:
        [..., rounds]: at i the count among the averages of the first i + 1 differences. For the count below a bound,
        turn both signs.
    """
    values = np.asarray(differences, np.float64)
    twice = 2 * np.asarray(bound, np.float64)[..., None]
    counts = np.zeros(values.shape, np.int64)
    for last in range(values.shape[-1]):
        sums: NDArray[Any] = values[..., : last + 1] + values[..., last : last + 1]
        counts[..., last] = (sums > twice).sum(-1)
    return counts.cumsum(-1)


def _rounds(averages: Array) -> int:
    """N from n(n+1)/2."""
    return int((np.sqrt(8 * len(averages) + 1) - 1) / 2)


@functools.lru_cache(maxsize=1024)
def _tail(rounds: int) -> Array:
    """P(W ≥ w) for w = 0 … n(n+1)/2, where each rank 1 … n is in the sum by the toss of a fair coin."""
    mass = np.ones(1)
    for rank in range(1, rounds + 1):
        gap = np.zeros(rank)
        mass = (np.concatenate([mass, gap]) + np.concatenate([gap, mass])) / 2
    return np.minimum(mass[::-1].cumsum()[::-1], 1.0)
