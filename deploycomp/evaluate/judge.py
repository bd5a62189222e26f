"""Intervals of a model's metrics, agreement with the source, the paired drop, and the goal that it is held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from deploycomp.errors import GateFailed, UsageError
from deploycomp.evaluate import statistics
from deploycomp.evaluate.metrics import metrics_of
from deploycomp.evaluate.predictions import Predictions, RowsLike
from deploycomp.evaluate.statistics import Drop, Interval

__all__ = ["CORRELATIONS", "agreement", "agreement_of_rows", "check_drop", "check_resolvable", "compare", "score"]

CORRELATIONS = ("pearson", "spearman")


def score(rows: RowsLike, predictions: Predictions) -> dict[str, Interval]:
    """Judge a model's answers.

    Args:
        rows: The rows with what is right.
        predictions: The answers.

    Returns:
        Metric → value with its 95 % confidence interval, the main metric first: Wilson's for shares of rows, a
        percentile bootstrap over rows for the rest.

    Raises:
        InputRefused: The rows cannot decide the metric, or hold a label that the model does not know.
    """
    metrics = metrics_of(rows, predictions)
    sampled = {metric.name: metric.statistic for metric in metrics if metric.hits is None}
    intervals = statistics.bootstrap(sampled, len(rows)) if sampled else {}
    for metric in metrics:
        if metric.hits is not None:
            intervals[metric.name] = statistics.wilson(int(metric.hits.sum()), len(rows))
    return {metric.name: intervals[metric.name] for metric in metrics}


def agreement(source: Predictions, candidate: Predictions) -> Interval:
    """How often a candidate answers as the source does, whether right or wrong.

    Args:
        source: The reference's answers.
        candidate: The candidate's answers to the same rows.

    Returns:
        The share of rows with the same answer; of words with the same tag; for numbers and cosines Pearson's
        correlation of both outputs, where 1 is the same up to scale. With its 95 % confidence interval.
    """
    if source.kind == "tags":
        same = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in _pairs(source, candidate)]
        share = statistics.ratio(same, [len(tags) for tags in source.values])
        return statistics.bootstrap({"tokens": share}, len(source))["tokens"]
    if source.kind in ("value", "similarity"):
        if np.array_equal(source.values, candidate.values):
            return Interval(1.0, 1.0, 1.0)  # a constant has no correlation, not even with itself
        correlation = statistics.pearson(source.values, candidate.values)
        return statistics.bootstrap({"both": correlation}, len(source))["both"]
    return agreement_of_rows(source, candidate)


def agreement_of_rows(source: Predictions, candidate: Predictions) -> Interval:
    """The share of rows with the very same answer: all tags of a row, the first token of a masked one."""
    if source.kind == "token":
        same = sum(a[:1] == b[:1] for a, b in _pairs(source, candidate))
    else:
        same = sum(a == b for a, b in _pairs(source, candidate))
    return statistics.wilson(same, len(source))


def _pairs(source: Predictions, candidate: Predictions) -> zip[tuple[Any, Any]]:
    return zip(source.values, candidate.values, strict=True)


def compare(rows: RowsLike, source: Predictions, candidate: Predictions) -> Drop:
    """Return the drop of the main metric, source minus candidate, on the same rows.

    Args:
        rows: The rows with what is right.
        source: The reference's answers.
        candidate: The candidate's answers.

    Returns:
        The drop with its paired 95 % confidence interval and the p-value of no difference. For a share of rows the
        interval is Newcombe's and the test McNemar's exact one, otherwise both are a paired bootstrap over rows.
    """
    first, second = metrics_of(rows, source)[0], metrics_of(rows, candidate)[0]
    if first.hits is not None and second.hits is not None:
        return statistics.paired_shares(first.hits, second.hits)
    return statistics.paired_bootstrap(first.statistic, second.statistic, len(rows))


def check_resolvable(max_drop: float, rows: int, *, where: str | None = None) -> None:
    """Refuse a goal that so few rows cannot decide: less than what one row is worth.

    Args:
        max_drop: The largest accepted drop, a fraction.
        rows: How many rows there are.
        where: The data, for errors.

    Raises:
        UsageError: `max_drop` is smaller than 1 / rows.
    """
    if max_drop * rows < 1 - 1e-9:
        need = f"at least {int(np.ceil(1 / max_drop - 1e-9)):,} rows, or " if max_drop else ""
        raise UsageError(
            f"a largest drop of {_points(max_drop)} cannot be decided on {rows} rows",
            where=where,
            why=f"one row alone is worth {_points(1 / rows)}",
            hint=f"take {need}a max_drop of at least {np.ceil(1e4 / rows - 1e-9) / 100:g}%",
        )


def check_drop(drop: Drop, *, max_drop: float, metric: str, rows: int, where: str | None = None) -> None:
    """Hold a candidate to the goal.

    The rule: the drop itself, the point estimate on the given rows, must not exceed *max_drop*. Its confidence
    interval is said beside it and decides nothing: it tells how far other rows could differ.

    Args:
        drop: See `compare`.
        max_drop: The largest accepted drop, a fraction.
        metric: The main metric, for the message.
        rows: How many rows it was measured on.
        where: The candidate and the data, for the message.

    Raises:
        UsageError: The goal cannot be decided on so few rows.
        GateFailed: The drop is larger.
    """
    check_resolvable(max_drop, rows, where=where)
    if drop.value <= max_drop + 1e-12:
        return
    shown = _plain if metric in CORRELATIONS else _points
    raise GateFailed(
        f"{metric} falls by {shown(drop.value)}, more than the accepted {shown(max_drop)}",
        where=where,
        why=f"on {rows} rows, 95 % CI {shown(drop.low)} to {shown(drop.high)}, p = {drop.p_value:.2g}",
        hint="--target auto may allow 8-bit weights; `embeddings: false` in a recipe keeps tables in float; "
        "or accept it with a larger --max-drop",
    )


def _points(value: float) -> str:
    return f"{100 * value:.3g} pt"


def _plain(value: float) -> str:
    return f"{value:.4g}"
