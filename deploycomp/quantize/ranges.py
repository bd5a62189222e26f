"""From a histogram to the scale and zero point of asymmetric U8 activations: x ≈ scale · (q − zero_point).

minmax      the whole range
percentile  all but the outermost share of the values
mse         the range with the smallest squared error, clipping included
entropy     the range with the smallest KL divergence from the histogram to its 256 levels

Both ends are searched, one after the other, because an activation behind GELU has a short and a long tail. Zero is
always a level, as padding, ReLU and masking produce it exactly.

Sources: Jacob et al. 2018 (arXiv 1712.05877) for the grid; Migacz 2017 (GTC S7310, TensorRT) for entropy, here with
two ends; Wu et al. 2020 (arXiv 2004.09602) for percentiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from deploycomp.errors import UsageError
from deploycomp.quantize.calibrate import Histogram, Statistics

__all__ = ["LEVELS", "METHODS", "PERCENTILE", "Method", "choose_range", "grid", "squared_error"]

Method = Literal["minmax", "mse", "percentile", "entropy"]
METHODS: tuple[str, ...] = get_args(Method)

LEVELS = 256

PERCENTILE = 99.99
"""Best for BERT in NVIDIA's experiments (Wu et al. 2020, table 6)."""

STEPS = 64
"""Ends tried in one search: a step is a 64th of what lies between zero and the end of the range."""

ROUNDS = 2
"""Each end is searched this often; a third round changes nothing on real activations."""

Grid = tuple[np.float32, np.uint8]
Doubles = npt.NDArray[np.float64]
Ends = tuple[float, float]


def choose_range(statistics: Statistics, method: Method, *, percentile: float = PERCENTILE) -> Grid:
    """Choose the grid of an activation.

    Args:
        statistics: Of the activation, with at least one token.
        method: See the head of this file.
        percentile: Share of the values to keep, in percent; read by `percentile` only.

    Returns:
        Scale and zero point.

    Raises:
        UsageError: No such method, or a percentile outside (50, 100].
    """
    whole = statistics.low, statistics.high
    if method == "minmax":
        return grid(*whole)
    if method == "percentile":
        return grid(*_percentile(statistics, percentile))
    if method == "mse":
        return grid(*_search(whole, lambda ends: squared_error(statistics.histogram, grid(*ends))))
    if method == "entropy":
        return grid(*_search(whole, lambda ends: _divergence(statistics.histogram, ends)))
    raise UsageError(f"there is no range method {method!r}", where="int8", hint=f"one of {', '.join(METHODS)}")


def grid(low: float, high: float) -> Grid:
    """The 256 levels that span [low, high] and zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / (LEVELS - 1))
    if not scale > 0:  # all values are zero, or so small that float32 has no step for them
        return np.float32(1.0), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS - 1))


def squared_error(histogram: Histogram, levels: Grid) -> float:
    """Σ (x − quantized x)² over the centres of the bins."""
    scale, zero_point = float(levels[0]), float(levels[1])
    filled = histogram.counts > 0
    values = histogram.centers[filled]
    rounded = np.clip(np.rint(values / scale) + zero_point, 0, LEVELS - 1)
    return float(histogram.counts[filled] @ np.square((rounded - zero_point) * scale - values))


def _search(whole: Ends, error: Callable[[Ends], float]) -> Ends:
    """Move one end and then the other to where the error is smallest; the widest of equals wins."""
    best, least = whole, error(whole)
    for _ in range(ROUNDS):
        for end in (0, 1):
            for share in np.arange(STEPS, 0, -1) / STEPS:
                moved = float(whole[end] * share)
                ends = (moved, best[1]) if end == 0 else (best[0], moved)
                found = error(ends)
                if found < least:
                    best, least = ends, found
    return best


def _percentile(statistics: Statistics, percentile: float) -> Ends:
    """Cut half of what may go from each end."""
    if not 50 < percentile <= 100:
        raise UsageError(f"a percentile lies in (50, 100], not {percentile}", where="int8")
    counts, edges = statistics.histogram.counts, statistics.histogram.edges
    below = np.cumsum(counts)
    cut = (100 - percentile) / 200 * below[-1]
    low = edges[np.searchsorted(below, cut, side="right")]
    high = edges[np.searchsorted(below, below[-1] - cut, side="left") + 1]
    return max(float(low), statistics.low), min(float(high), statistics.high)


def _divergence(histogram: Histogram, ends: Ends) -> float:
    """KL(P ‖ Q): P has what lies outside added to its last bins, Q spreads each level evenly over its filled bins."""
    scale, zero_point = grid(*ends)
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    inside = (histogram.centers >= low) & (histogram.centers <= high)
    counts = histogram.counts.astype(np.float64)
    if not counts[inside].sum():
        return np.inf
    places = np.flatnonzero(inside)
    first, last = places[0], places[-1]
    own = counts[first : last + 1]
    levels = np.clip(np.rint(histogram.centers[first : last + 1] / float(scale)) + int(zero_point), 0, LEVELS - 1)
    level = levels.astype(np.int64)
    total = np.bincount(level, own, LEVELS)
    filled = np.bincount(level, own > 0, LEVELS)
    spread = np.where(own > 0, total[level] / np.maximum(filled[level], 1), 0.0)
    clipped = own.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    p, q = clipped / clipped.sum(), spread / spread.sum()
    # An end bin may be empty until the outliers are added to it; TensorRT's smoothing is replaced by a floor on Q.
    mask = p > 0
    return float(np.sum(p[mask] * np.log(p[mask] / np.maximum(q[mask], np.finfo(np.float32).tiny))))
