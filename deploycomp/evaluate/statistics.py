"""Intervals and tests: Wilson and McNemar for shares of rows, a seeded bootstrap over rows for everything else.

A `Statistic` maps weights [resamples, rows] to values [resamples]. Weights of one give the value on the data itself,
the counts of a bootstrap resample give the value on that resample, and two systems seen with the same weights are
paired. Every metric below is a sum over rows or a rank, so a thousand resamples are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Drop",
    "Interval",
    "Statistic",
    "bootstrap",
    "f1",
    "mcnemar",
    "mean",
    "newcombe",
    "one_hot",
    "paired_bootstrap",
    "paired_shares",
    "pearson",
    "point",
    "precision",
    "ratio",
    "recall",
    "spearman",
    "wilson",
]

Array = NDArray[Any]
Statistic = Callable[[Array], Array]

CONFIDENCE = 0.95
Z = 1.959963984540054
"""The normal quantile of 97.5 %."""

RESAMPLES = 1_000
SEED = 20_261_120

_CHUNK = 4_000_000
"""Weights drawn at once; 32 MB in float64."""
_FLAT = 1e-12
"""A spread below this part of the magnitude is rounding: the values are constant."""


@dataclass(frozen=True)
class Interval:
    """A value with the two ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return plain values, for a report."""
        return asdict(self)


@dataclass(frozen=True)
class Drop(Interval):
    """Source minus candidate, paired by row; positive is a loss.

    Args:
        p_value: Of no difference, two-sided.
    """

    p_value: float


# Shares of rows


def wilson(hits: int, rows: int) -> Interval:
    """Return the share of hits with Wilson's score interval (Wilson 1927), which holds near 0 and 1 as well."""
    share, square = hits / rows, Z * Z
    center = (share + square / (2 * rows)) / (1 + square / rows)
    half = Z / (1 + square / rows) * float(np.sqrt(share * (1 - share) / rows + square / (4 * rows * rows)))
    return Interval(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)))


def newcombe(source: ArrayLike, candidate: ArrayLike) -> Interval:
    """Return the difference of two shares of the same rows, source minus candidate.

    The interval is method 10 of Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998): Wilson intervals squared and added, with the
    correlation of the pairs, continuity-corrected.

    Args:
        source: For each row whether the source is right.
        candidate: For each row whether the candidate is right.
    """
    first, second = np.asarray(source, bool), np.asarray(candidate, bool)
    rows = len(first)
    both, only_first = int((first & second).sum()), int((first & ~second).sum())
    only_second = int((~first & second).sum())
    neither = rows - both - only_first - only_second
    a, b = wilson(both + only_first, rows), wilson(both + only_second, rows)
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    product = both * neither - only_first * only_second
    if product > 0:
        product = max(product - rows / 2, 0)
    phi = product / float(np.sqrt(margins)) if margins else 0.0
    value = (only_first - only_second) / rows
    return Interval(
        value,
        max(-1.0, value - _added(a.value - a.low, b.high - b.value, phi)),
        min(1.0, value + _added(b.value - b.low, a.high - a.value, phi)),
    )


def _added(one: float, other: float, phi: float) -> float:
    return float(np.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other)))


def mcnemar(source: ArrayLike, candidate: ArrayLike) -> float:
    """Return the exact two-sided p-value of McNemar's test: a sign test on the rows where only one of them is right."""
    from scipy.stats import binomtest

    first, second = np.asarray(source, bool), np.asarray(candidate, bool)
    lost, won = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def paired_shares(source: ArrayLike, candidate: ArrayLike) -> Drop:
    """Return the drop of a share of rows, with Newcombe's interval and McNemar's exact p-value."""
    difference = newcombe(source, candidate)
    return Drop(difference.value, difference.low, difference.high, mcnemar(source, candidate))


# The bootstrap


def point(statistic: Statistic, rows: int) -> float:
    """Return the value on the data itself."""
    return float(statistic(np.ones((1, rows)))[0])


def bootstrap(statistics: Mapping[str, Statistic], rows: int) -> dict[str, Interval]:
    """Return percentile bootstrap intervals over rows (Efron 1979), all statistics seeing the same resamples.

    An interval is widened to its value where the bootstrap is biased (a macro average loses rare labels), never cut.
    """
    draws: dict[str, list[Array]] = {name: [] for name in statistics}
    for weights in _resamples(rows):
        for name, statistic in statistics.items():
            draws[name].append(statistic(weights))
    return {
        name: _percentiles(point(statistic, rows), np.concatenate(draws[name]))
        for name, statistic in statistics.items()
    }


def paired_bootstrap(source: Statistic, candidate: Statistic, rows: int) -> Drop:
    """Return the drop of a statistic with its paired percentile interval.

    The p-value is twice the share of resamples on the other side of zero, counted with the data itself (Efron and
    Tibshirani 1993, chapter 16; Berg-Kirkpatrick et al. 2012): never 0, and 1 for identical systems.
    """
    draws = np.concatenate([source(weights) - candidate(weights) for weights in _resamples(rows)])
    interval = _percentiles(point(source, rows) - point(candidate, rows), draws)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return Drop(interval.value, interval.low, interval.high, p_value)


def _resamples(rows: int) -> Iterator[Array]:
    """Counts [resamples, rows] of rows drawn with replacement, in chunks that fit in memory."""
    random = np.random.default_rng(SEED)
    step = max(1, _CHUNK // rows)
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = random.integers(0, rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _percentiles(value: float, draws: Array) -> Interval:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)))


# Statistics


def mean(values: ArrayLike) -> Statistic:
    """The mean of one value a row."""
    return ratio(values, np.ones(len(np.asarray(values))))


def ratio(over: ArrayLike, under: ArrayLike) -> Statistic:
    """The sum of one value a row over the sum of another; 0 where the latter is 0."""
    top, bottom = np.asarray(over, np.float64), np.asarray(under, np.float64)
    return lambda weights: _divide(weights @ top, weights @ bottom)


def one_hot(labels: Sequence[Sequence[int]], size: int) -> Any:
    """A sparse matrix [rows, size] with 1 where a row has a label."""
    from scipy.sparse import csr_matrix

    row = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    column = np.fromiter((index for each in labels for index in each), np.int64, count=len(row))
    return csr_matrix((np.ones(len(row)), (row, column)), shape=(len(labels), size))


def f1(gold: Any, found: Any, hits: Any, *, average: Literal["micro", "macro", "weighted"] | int) -> Statistic:
    """F1 from counts a row and label [rows, labels], as scikit-learn averages it; 0 where nothing is there.

    Args:
        gold: How often a label is right.
        found: How often it was predicted.
        hits: How often both.
        average: `micro` pools all labels, `macro` is the mean over labels that are there or were predicted,
            `weighted` weights by how often a label is right, a number takes one label.
    """

    def statistic(weights: Array) -> Array:
        right, predicted, both = (_totals(counts, weights) for counts in (gold, found, hits))
        if average == "micro":
            return _divide(2 * both.sum(1), right.sum(1) + predicted.sum(1))
        each = _divide(2 * both, right + predicted)
        if average == "macro":
            return _divide(each.sum(1), (right + predicted > 0).sum(1))
        return _divide((each * right).sum(1), right.sum(1)) if average == "weighted" else each[:, average]

    return statistic


def precision(found: Any, hits: Any) -> Statistic:
    """Of what was found, the share that is right."""
    return ratio(_per_row(hits), _per_row(found))


def recall(gold: Any, hits: Any) -> Statistic:
    """Of what is there, the share that was found."""
    return ratio(_per_row(hits), _per_row(gold))


def pearson(first: ArrayLike, second: ArrayLike) -> Statistic:
    """Pearson's correlation; 0 where one side is constant and there is none."""
    x, y = _standardized(first), _standardized(second)
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def statistic(weights: Array) -> Array:
        size = weights.sum(1)
        sx, sy, sxx, syy, sxy = (weights @ moments).T / size
        return _correlation(sxy - sx * sy, sxx - sx * sx, syy - sy * sy)

    return statistic


def spearman(first: ArrayLike, second: ArrayLike) -> Statistic:
    """Spearman's rank correlation, ties at their middle rank, ranked anew in every resample."""
    x, y = _ranker(first), _ranker(second)

    def statistic(weights: Array) -> Array:
        size = weights.sum(1)
        rx, ry = x(weights) / size[:, None] - 0.5, y(weights) / size[:, None] - 0.5
        sums = [np.einsum("ij,ij,ij->i", weights, a, b) / size for a, b in ((rx, ry), (rx, rx), (ry, ry))]
        return _correlation(*sums)

    return statistic


def _totals(counts: Any, weights: Array) -> Array:
    """`weights @ counts` for dense and sparse counts."""
    return np.asarray(counts.T @ weights.T).T


def _per_row(counts: Any) -> Array:
    return np.asarray(counts.sum(axis=1), np.float64).ravel()


def _divide(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.zeros(np.shape(over)), where=np.asarray(under) > 0)


def _standardized(values: ArrayLike) -> Array:
    x = np.asarray(values, np.float64)
    spread = x.std()
    if spread <= _FLAT * np.abs(x).max():
        return np.zeros_like(x)
    return (x - x.mean()) / spread


def _correlation(covariance: Array, one: Array, other: Array) -> Array:
    defined = (one > _FLAT) & (other > _FLAT)
    scale = np.sqrt(np.where(defined, one * other, 1.0))
    return np.clip(np.where(defined, covariance / scale, 0.0), -1.0, 1.0)


def _ranker(values: ArrayLike) -> Callable[[Array], Array]:
    """Weights [resamples, rows] → middle ranks, counted from 0, in each resample."""
    _, group, count = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])

    def ranks(weights: Array) -> Array:
        sizes = np.add.reduceat(weights[:, order], starts, axis=1)
        return (np.cumsum(sizes, axis=1) - sizes / 2)[:, group]

    return ranks
