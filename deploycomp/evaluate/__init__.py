"""Task metrics with confidence intervals, agreement with the source model, and the paired drop; it only looks.

    rows ─ predictions (what a model answers) ─ metrics (how right that is) ─ judge (intervals, drop, goal)

Metrics are summed by row, so that `statistics` can resample them; `labels` notices permuted labels.
"""

from __future__ import annotations

from deploycomp.evaluate.evaluation import check_evaluation, evaluate_candidates
from deploycomp.evaluate.judge import agreement, agreement_of_rows, check_drop, check_resolvable, compare, score
from deploycomp.evaluate.labels import check_labels
from deploycomp.evaluate.metrics import main_metric
from deploycomp.evaluate.predictions import Predictions, inputs_of, null_threshold, predict
from deploycomp.evaluate.statistics import Drop, Interval

__all__ = [
    "Drop",
    "Interval",
    "Predictions",
    "agreement",
    "agreement_of_rows",
    "check_drop",
    "check_evaluation",
    "check_labels",
    "check_resolvable",
    "compare",
    "evaluate_candidates",
    "inputs_of",
    "main_metric",
    "null_threshold",
    "predict",
    "score",
]
