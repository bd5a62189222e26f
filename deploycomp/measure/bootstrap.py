"""Intervals of a cell's figures: blocks are resampled whole, because calls of one process are not independent.

    blocks  a b c d e ──draw with replacement──► b b d a e ──pool their calls──► p50, p90, …  × 2000 ──► 2.5 % … 97.5 %

Source: cluster bootstrap, Davison and Hinkley 1997, section 3.8 (resample clusters, keep all of each).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["CONFIDENCE", "MIN_BLOCKS", "RESAMPLES", "Interval", "cluster_intervals", "median_interval"]

Interval = tuple[float, float]

CONFIDENCE = 0.95
RESAMPLES = 2000
MIN_BLOCKS = 3
"""Two blocks make three different pools, which is no interval; three blocks make ten, and the interval is about their
span."""


def cluster_intervals(
    blocks: Sequence[Sequence[int]], *, percents: Sequence[int], seed: int = 0
) -> tuple[dict[int, Interval], Interval, Interval] | None:
    """Resample blocks with replacement and compute the figures of their pooled calls.

    Args:
        blocks: Duration of each call, one sequence per block, none empty.
        percents: Percentiles by nearest rank, as 50 and 90.
        seed: Of the draws.

    Returns:
        95 % percentile intervals: of each percentile, of the mean, of the coefficient of variation; in the unit of the
        durations. None below `MIN_BLOCKS` blocks.
    """
    if len(blocks) < MIN_BLOCKS:
        return None
    sizes = np.array([len(block) for block in blocks])
    values = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    owner = np.repeat(np.arange(len(blocks)), sizes)
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]
    sums = np.bincount(owner, weights=values)
    squares = np.bincount(owner, weights=(values - values.mean()) ** 2)
    draws = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    drawn = np.stack([np.bincount(draw, minlength=len(blocks)) for draw in draws])
    count = drawn @ sizes
    mean = drawn @ sums / count
    variance = np.maximum(drawn @ squares / count - (mean - values.mean()) ** 2, 0)
    ranks = np.ceil(np.outer(count, percents) / 100)
    passed = np.cumsum(owner[:, None] == np.arange(len(blocks)), axis=0)
    return (
        {
            percent: _middle(values[_at_rank(passed, drawn, rank)])
            for percent, rank in zip(percents, ranks.T, strict=True)
        },
        _middle(mean),
        _middle(np.sqrt(variance) / mean),
    )


def _at_rank(passed: np.ndarray, drawn: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """For each resample the first place in order where *rank* of its calls are passed: one binary search for all.

    Args:
        passed: [values, blocks], how many calls of each block are not above a value.
        drawn: [resamples, blocks], how often each block was drawn.
        rank: [resamples].
    """
    low, high = np.zeros(len(drawn), np.intp), np.full(len(drawn), len(passed) - 1)
    while np.any(low < high):
        middle = (low + high) // 2
        enough = np.sum(drawn * passed[middle], axis=1) >= rank
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return low


def median_interval(values: Sequence[float], *, seed: int = 0) -> Interval | None:
    """Return the 95 % bootstrap interval of the median of one value for each block; None below `MIN_BLOCKS`."""
    if len(values) < MIN_BLOCKS:
        return None
    draws = np.random.default_rng(seed).choice(np.asarray(values, dtype=np.float64), (RESAMPLES, len(values)))
    return _middle(np.median(draws, axis=1))


def _middle(resampled: np.ndarray) -> Interval:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return float(low), float(high)
