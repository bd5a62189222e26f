"""Which layers to put back to float: accuracy recovered for each millisecond given up.

    rank            for each layer: distance(everything INT8) − distance(this one in float), over its milliseconds
    restore_until   put layers back in that order until the answers are good enough; then give back what is not needed

A layer's distance is measured with all others in INT8, as Intel's and NNCF's accuracy-aware tuning do, but by KL
divergence instead of the metric, which a few hundred rows cannot resolve for a single layer.

Sources: Dong et al. 2020 (arXiv 1911.03852), ranking by sensitivity; NNCF's accuracy control, the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Answers", "distance", "rank", "restore_until"]

Arrays = Sequence[npt.NDArray[np.floating]]

Answers = Callable[[frozenset[str]], Arrays]
"""Names of layers kept in float → the answers of such a model, one array a row."""

LEAST_MS = 1e-3
"""A layer that costs nothing, or less than float, ranks as if it cost a microsecond."""


def distance(reference: Arrays, answers: Arrays, *, logits: bool) -> float:
    """How far answers are from the reference.

    Args:
        reference: One array a row; for logits the classes lie on the last axis.
        answers: The same rows.
        logits: KL divergence of the softmax, averaged over rows (and tokens); else the mean squared error.

    Returns:
        Nats, or the square of the outputs' unit.
    """
    total, count = 0.0, 0
    for right, given in zip(reference, answers, strict=True):
        right, given = right.astype(np.float64), given.astype(np.float64)
        if logits:
            p, q = _log_softmax(right), _log_softmax(given)
            each = np.sum(np.exp(p) * (p - q), axis=-1)
        else:
            each = np.square(given - right)
        total, count = total + float(each.sum()), count + each.size
    return total / max(count, 1)


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def rank(
    answers: Answers,
    reference: Arrays,
    milliseconds: Mapping[str, float],
    *,
    logits: bool,
    progress: Callable[[str, float], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure what each layer in float would bring and cost.

    Args:
        answers: Runs the model with some layers kept in float.
        reference: The FP32 answers.
        milliseconds: Layer → what INT8 saves there, see `costs`.
        logits: See `distance`.
        progress: Told ("sensitivity", fraction).

    Returns:
        For each layer `layer`, `recovered` (by how much the distance shrinks), `ms` and `ratio`, the best ratio first.
    """
    start = distance(reference, answers(frozenset()), logits=logits)
    table: list[dict[str, Any]] = []
    for index, (layer, ms) in enumerate(milliseconds.items()):
        recovered = start - distance(reference, answers(frozenset([layer])), logits=logits)
        table.append({"layer": layer, "recovered": recovered, "ms": ms, "ratio": recovered / max(ms, LEAST_MS)})
        if progress:
            progress("sensitivity", (index + 1) / len(milliseconds))
    return sorted(table, key=lambda row: (-row["ratio"], row["layer"]))


def restore_until(
    order: Sequence[str], good: Callable[[frozenset[str]], bool]
) -> tuple[frozenset[str], list[dict[str, Any]]]:
    """Keep the fewest layers of an order in float with which a model is good.

    1, 2, 4, … layers are put back until it is, then halving finds how many of the last group are
    needed: about 2·log₂ n models instead of n. This supposes that more layers in float are never worse.

    Args:
        order: Layers, the best first, see `rank`.
        good: Checks the model with some layers kept in float.

    Returns:
        The layers, all of *order* where nothing is good, and the trail: `layers` kept in float and whether that was
        `good`, for each model in turn.
    """
    trail: list[dict[str, Any]] = []

    def enough(count: int) -> bool:
        found = bool(good(frozenset(order[:count])))
        trail.append({"layers": count, "good": found})
        return found

    low, high = -1, 0  # the largest count known to be too small, and the next to try
    while not enough(high):
        if high == len(order):
            return frozenset(order), trail
        low, high = high, min(max(1, 2 * high), len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return frozenset(order[:high]), trail
