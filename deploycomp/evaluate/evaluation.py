"""Several candidates on the same rows: the `evaluation` part of report.json."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from deploycomp.evaluate.judge import agreement, agreement_of_rows, check_drop, check_resolvable, compare, score
from deploycomp.evaluate.labels import check_labels
from deploycomp.evaluate.predictions import Predictions, RowsLike, null_threshold, predict
from deploycomp.evaluate.statistics import Drop

if TYPE_CHECKING:
    from deploycomp.evaluate.library import LibraryModel

__all__ = ["check_evaluation", "evaluate_candidates"]

SOURCE = "source"
DELIVERED = "artifact"

Progress = Callable[[str, float], None]


def evaluate_candidates(
    predictors: Mapping[str, LibraryModel],
    rows: RowsLike,
    *,
    batch_size: int = 16,
    max_drop: float | None = None,
    alone: Collection[str] = (),
    null_score_diff_threshold: float | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Judge candidates on the same rows, each against "source" where that is among them.

    Args:
        predictors: Candidate name → model; "source" is the reference.
        rows: What to judge on.
        batch_size: Rows at once.
        max_drop: The goal, see `check_drop` for the rule; recorded.
        alone: Candidates that also answer one row at a time: ranges of dynamic INT8 span a batch with its padding, so
            an answer may depend on batch mates.
        null_score_diff_threshold: From which score on nothing is the answer to a question; None lets the rows decide,
            see `null_threshold`; recorded.
        progress: Told (message, fraction 0..1).
        warn: Told a sentence for the report's warnings.

    Returns:
        The `evaluation` part of report.json; without a source no agreement and no drop.

    Raises:
        UsageError: The goal cannot be decided on so few rows, or a model is made for another task.
        InputRefused: The rows cannot decide the metric.
        VerificationFailed: The labels look permuted, or a model answers with NaN.
        GateFailed: The goal is broken.
    """
    if max_drop is not None:
        check_resolvable(max_drop, len(rows), where=rows.name)
    threshold = null_threshold(rows, null_score_diff_threshold)
    answers: dict[str, Predictions] = {}
    runs = len(predictors) + len(alone)
    for index, (name, predictor) in enumerate(_source_first(predictors)):
        part = _part(progress, f"evaluate {name}", index, runs)
        answers[name] = predict(
            predictor, rows, batch_size=batch_size, null_score_diff_threshold=threshold, progress=part
        )
        if index == 0 and (warning := check_labels(rows, answers[name])):
            (warn or _ignore)(warning)
    if cut := max(answer.truncated for answer in answers.values()):
        (warn or _ignore)(f"texts of {rows.name} that were cut to the model's maximum length: {cut:,}")
    scores = {name: score(rows, answer) for name, answer in answers.items()}
    others = {name: answer for name, answer in answers.items() if SOURCE in answers and name != SOURCE}
    source = answers.get(SOURCE)
    for name, answer in others.items():
        if source is not None and source.kind == "tags":
            scores[name]["rows_unchanged"] = agreement_of_rows(source, answer)
    evaluation = {
        "data": rows.name,
        "split": rows.split,
        "digest": rows.digest,
        "rows": len(rows),
        "metric": next(iter(next(iter(scores.values())))),
        "scores": {name: {metric: value.as_dict() for metric, value in each.items()} for name, each in scores.items()},
        "agreement": {name: agreement(source, answer).as_dict() for name, answer in others.items() if source},
        "drop": {name: compare(rows, source, answer).as_dict() for name, answer in others.items() if source},
        "max_drop": max_drop,
        "null_score_diff_threshold": threshold,
        "alone": {},
    }
    check_evaluation(evaluation)
    for index, name in enumerate(alone, start=len(predictors)):
        part = _part(progress, f"evaluate {name} row by row", index, runs)
        single = predict(predictors[name], rows, batch_size=1, null_score_diff_threshold=threshold, progress=part)
        evaluation["alone"][name] = _beside(rows, single, answers[name], batch_size)
    return evaluation


def _beside(rows: RowsLike, alone: Predictions, batched: Predictions, batch_size: int) -> dict[str, Any]:
    """What the batch does to the answers of one candidate."""
    main = next(iter(score(rows, alone).values()))
    return {"batch_size": batch_size, "score": main.as_dict(), "agreement": agreement(alone, batched).as_dict()}


def check_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Hold what is delivered (else every candidate) to the evaluation's own `max_drop`; see `check_drop` for the rule.

    Raises:
        UsageError: The goal cannot be decided on so few rows.
        GateFailed: The drop is larger.
    """
    drops, max_drop = evaluation["drop"], evaluation["max_drop"]
    if max_drop is None:
        return
    for name in [DELIVERED] if DELIVERED in drops else list(drops):
        check_drop(
            Drop(**drops[name]),
            max_drop=max_drop,
            metric=evaluation["metric"],
            rows=evaluation["rows"],
            where=f"{name} on {evaluation['data']}",
        )


def _ignore(_: str) -> None:
    """Take a warning that nobody asked for."""


def _source_first(predictors: Mapping[str, LibraryModel]) -> list[tuple[str, LibraryModel]]:
    return sorted(predictors.items(), key=lambda item: item[0] != SOURCE)


def _part(progress: Progress | None, message: str, index: int, count: int) -> Progress | None:
    """Progress of one candidate, as its share of the whole."""
    if progress is None:
        return None
    return lambda _, fraction: progress(message, (index + fraction) / count)
