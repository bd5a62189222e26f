"""How right the answers are: for each kind a list of metrics, the first of them the one that `max_drop` is about."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploycomp.errors import InputRefused
from deploycomp.evaluate import statistics
from deploycomp.evaluate.predictions import Predictions, RowsLike, kind_of
from deploycomp.evaluate.statistics import Statistic

__all__ = ["Metric", "gold_labels", "has_entities", "main_metric", "metrics_of", "squad_f1", "squad_normalize"]

MAIN = {
    "label": "accuracy",
    "labels": "micro_f1",
    "value": "pearson",
    "tags": "f1",
    "answer": "f1",
    "similarity": "spearman",
    "token": "accuracy_at_1",
}
"""Kind of answer → the metric that stands for it."""

_ENTITY_TAG = re.compile(r"[BILUSEM][-_].+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TOKEN_MARKS = "Ġ▁# \t\n"


@dataclass(frozen=True)
class Metric:
    """One metric of one model on some rows.

    Args:
        name: As in the report.
        statistic: Its value for any weights of the rows.
        hits: For a share of rows, whether each row counts; exact methods are used for these.
    """

    name: str
    statistic: Statistic
    hits: np.ndarray | None = None


def main_metric(task: str, problem_type: str | None = None, labels: Sequence[str] | None = None) -> str:
    """Return the metric that `max_drop` is about.

    Args:
        task: The task.
        problem_type: transformers' name for the kind of text classification.
        labels: The model's labels; tags that mark no entities (parts of speech) are judged by token.

    Raises:
        UsageError: The task has no metric.
    """
    kind = kind_of(task, problem_type)
    return "token_accuracy" if kind == "tags" and labels and not has_entities(labels) else MAIN[kind]


def has_entities(labels: Sequence[str]) -> bool:
    """Whether tags mark entities: `B-X`, `I-X` and their relatives."""
    return any(_ENTITY_TAG.fullmatch(label) for label in labels)


def metrics_of(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    """Return the metrics of a model's answers, the main one first.

    Raises:
        InputRefused: The rows cannot decide the metric: all labels are the same number, or no row has an entity.
    """
    return _BY_KIND[predictions.kind](rows, predictions)


def gold_labels(rows: RowsLike, predictions: Predictions) -> list[int]:
    """The rows' labels as indices into the model's.

    Raises:
        InputRefused: The model does not know one.
    """
    return [_index(label, predictions, rows, row) for row, label in enumerate(rows.column("label"))]


def squad_normalize(text: str) -> str:
    """Lower-case and drop punctuation, articles and extra white space, as SQuAD's official script does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def squad_f1(gold: str, found: str) -> float:
    """F1 over words of two answers, as SQuAD's official script (version 2) computes it."""
    right, answer = squad_normalize(gold).split(), squad_normalize(found).split()
    if not right or not answer:
        return float(right == answer)
    common = sum((Counter(right) & Counter(answer)).values())
    return 2 * common / (len(right) + len(answer))


def _share(name: str, hits: Sequence[bool] | np.ndarray) -> Metric:
    flags = np.asarray(hits, bool)
    return Metric(name, statistics.mean(flags), flags)


def _index(label: str, predictions: Predictions, rows: RowsLike, row: int) -> int:
    try:
        return predictions.labels.index(label)
    except ValueError:
        raise InputRefused(
            f"the model does not know the label '{label}'",
            where=f"{rows.name}, row {row + 1}",
            why=f"it was read without the model's labels, which are: {', '.join(predictions.labels[:12])}",
        ) from None


def _label(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    right, found = np.array(gold_labels(rows, predictions)), np.array(predictions.values)
    size = len(predictions.labels)
    gold = statistics.one_hot(right[:, None].tolist(), size)
    guess = statistics.one_hot(found[:, None].tolist(), size)
    counts = (gold, guess, gold.multiply(guess).tocsr())
    binary = [Metric("f1", statistics.f1(*counts, average=1))] if size == 2 else []
    return [
        _share("accuracy", right == found),
        *binary,
        Metric("macro_f1", statistics.f1(*counts, average="macro")),
        Metric("weighted_f1", statistics.f1(*counts, average="weighted")),
    ]


def _labels(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    right = [
        tuple(sorted(_index(label, predictions, rows, row) for label in labels))
        for row, labels in enumerate(rows.column("label"))
    ]
    size = len(predictions.labels)
    gold, guess = statistics.one_hot(right, size), statistics.one_hot(predictions.values, size)
    counts = (gold, guess, gold.multiply(guess).tocsr())
    return [
        Metric("micro_f1", statistics.f1(*counts, average="micro")),
        Metric("macro_f1", statistics.f1(*counts, average="macro")),
        _share("accuracy", [tuple(a) == tuple(b) for a, b in zip(right, predictions.values, strict=True)]),
    ]


def _value(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    gold = _varied(rows, "label")
    return [
        Metric("pearson", statistics.pearson(gold, predictions.values)),
        Metric("spearman", statistics.spearman(gold, predictions.values)),
    ]


def _similarity(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    gold = _varied(rows, "score")
    return [
        Metric("spearman", statistics.spearman(gold, predictions.values)),
        Metric("pearson", statistics.pearson(gold, predictions.values)),
    ]


def _varied(rows: RowsLike, column: str) -> list[float]:
    gold = rows.column(column)
    if len(set(gold)) < 2:
        raise InputRefused(
            "a correlation needs rows with different labels", where=rows.name, why=f"all {len(gold)} are the same"
        )
    return gold


def _tags(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    gold, found = rows.column("tags"), predictions.values
    same = [sum(a == b for a, b in zip(*pair, strict=True)) for pair in zip(gold, found, strict=True)]
    tokens = Metric("token_accuracy", statistics.ratio(same, [len(tags) for tags in gold]))
    if not has_entities(predictions.labels):
        return [tokens]
    right, guess = [_entities(tags) for tags in gold], [_entities(tags) for tags in found]
    if not any(right):
        raise InputRefused(
            "no row has an entity, so there is no F1",
            where=rows.name,
            why=f"{len(gold)} rows were read",
            hint="take more rows, or other data",
        )
    counts = tuple(
        np.array([[len(each)] for each in sets], np.float64)
        for sets in (right, guess, [a & b for a, b in zip(right, guess, strict=True)])
    )
    return [
        Metric("f1", statistics.f1(*counts, average="micro")),
        Metric("precision", statistics.precision(counts[1], counts[2])),
        Metric("recall", statistics.recall(counts[0], counts[2])),
        tokens,
    ]


def _entities(tags: Sequence[str]) -> set[Any]:
    """(type, first, last) of each entity of a row, by seqeval's reading of tags, the one of conlleval."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(list(tags)))


def _answer(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    """As SQuAD's official script (version 2): the right answer to an unanswerable question is the empty one."""
    exact, overlap = [], []
    for answers, found in zip(rows.column("answers"), predictions.values, strict=True):
        golds = [answer for answer in answers if squad_normalize(answer)] or [""]
        exact.append(any(squad_normalize(gold) == squad_normalize(found) for gold in golds))
        overlap.append(max(squad_f1(gold, found) for gold in golds))
    metrics = [Metric("f1", statistics.mean(overlap)), _share("exact_match", exact)]
    answerable = np.array([bool(answers) for answers in rows.column("answers")])
    if answerable.all():
        return metrics
    return [
        *metrics,
        Metric("has_answer_f1", statistics.ratio(overlap * answerable, answerable)),
        Metric("has_answer_exact_match", statistics.ratio(exact * answerable, answerable)),
        Metric("no_answer_accuracy", statistics.ratio(exact * ~answerable, ~answerable)),
    ]


def _token(rows: RowsLike, predictions: Predictions) -> list[Metric]:
    gold = [_spelling(label) for label in rows.column("label")]
    found = [[_spelling(token) for token in tokens] for tokens in predictions.values]
    return [
        _share("accuracy_at_1", [right in tokens[:1] for right, tokens in zip(gold, found, strict=True)]),
        _share("accuracy_at_5", [right in tokens for right, tokens in zip(gold, found, strict=True)]),
    ]


def _spelling(token: str) -> str:
    """A token without what its tokenizer marks word boundaries by, and without case, which many models drop."""
    return token.strip(_TOKEN_MARKS).casefold() or token


_BY_KIND = {
    "label": _label,
    "labels": _labels,
    "value": _value,
    "tags": _tags,
    "answer": _answer,
    "similarity": _similarity,
    "token": _token,
}
