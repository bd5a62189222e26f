"""What a model answers to every row: an artifact through `Predictor`, a checkpoint through its own library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from deploycomp.errors import InputRefused, UsageError, VerificationFailed

if TYPE_CHECKING:
    from deploycomp.evaluate.library import LibraryModel

__all__ = ["Kind", "Predictions", "RowsLike", "inputs_of", "kind_of", "null_threshold", "predict"]

Kind = Literal["label", "labels", "value", "tags", "answer", "similarity", "token"]
"""How answers are judged: one label, a set of labels, a number, a tag a word, a text, a cosine, a masked token."""

Progress = Callable[[str, float], None]

SINGLE = "single_label_classification"

CHUNK = 1024
"""Rows whose raw outputs are held at once: with 512 tokens and 768 values each that is 1.6 GB at worst."""

_TOP_K: dict[Kind, int] = {"answer": 1, "label": 1, "token": 5}
"""Candidates that are kept of an answer; five tokens, for accuracy at 5."""

_KINDS: dict[str, Kind] = {
    "text-classification": "label",
    "token-classification": "tags",
    "question-answering": "answer",
    "sentence-similarity": "similarity",
    "feature-extraction": "similarity",
    "fill-mask": "token",
}
_PROBLEMS: dict[str | None, Kind] = {"multi_label_classification": "labels", "regression": "value"}


class RowsLike(Protocol):
    """What evaluation reads of `deploycomp.data.Rows`; rooms do not import each other."""

    @property
    def task(self) -> str:
        """The task that they are for."""
        ...

    @property
    def name(self) -> str:
        """What to call the data."""
        ...

    @property
    def split(self) -> str | None:
        """The split, where there are some."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of the rows."""
        ...

    @property
    def problem_type(self) -> str | None:
        """What kind of text classification it is."""
        ...

    @property
    def columns(self) -> dict[str, str]:
        """Our columns that are there."""
        ...

    @property
    def mask(self) -> str:
        """How the rows write a masked token."""
        ...

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """One column of every row."""
        ...


@dataclass(frozen=True)
class Predictions:
    """The answers of one model to every row.

    Args:
        kind: What an answer is.
        values: One answer a row: an index into *labels*; a sorted tuple of such; a float; a tuple of tags; a text; a
            cosine; the five best tokens.
        labels: The model's labels, for kinds that have labels.
        truncated: Texts that were cut to the model's maximum length.
    """

    kind: Kind
    values: list[Any]
    labels: tuple[str, ...] = ()
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.values)


def kind_of(task: str, problem_type: str | None) -> Kind:
    """Return how answers of a task are judged.

    Raises:
        UsageError: The task has no metric.
    """
    if task not in _KINDS:
        raise UsageError(f"task '{task}' has no metric", why=f"tasks with one: {', '.join(_KINDS)}")
    return _PROBLEMS.get(problem_type, "label") if task == "text-classification" else _KINDS[task]


NO_ANSWER = 0.0
"""`null_score_diff_threshold` of BERT's run_squad.py and of the SQuAD 2 script: the likelier of span and nothing."""


def null_threshold(rows: RowsLike, asked: float | None = None) -> float | None:
    """Return from which score on nothing is the answer, None where every question is answered by a span.

    No checkpoint says whether it was trained to abstain, the rows do: only where some are unanswerable may answers be
    empty, so that a model of SQuAD 1.1 is judged on SQuAD 1.1 as ever.

    Args:
        rows: The rows with what is right.
        asked: The threshold that was asked for; it holds whatever the rows are.

    Raises:
        UsageError: One was asked for, and the task is no question answering.
    """
    if rows.task != "question-answering":
        if asked is None:
            return None
        raise UsageError(
            "null_score_diff_threshold is for question answering", where=rows.name, why=f"the task is {rows.task}"
        )
    if asked is not None:
        return asked
    return None if all(rows.column("answers")) else NO_ANSWER


def predict(
    predictor: LibraryModel,
    rows: RowsLike,
    *,
    batch_size: int = 16,
    null_score_diff_threshold: float | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Run every row through a model.

    Args:
        predictor: The model with its pre- and post-processing.
        rows: What to run.
        batch_size: Rows at once.
        null_score_diff_threshold: See `null_threshold`, which decides where this is None.
        progress: Told (message, fraction 0..1).

    Returns:
        One answer for each row, in order.

    Raises:
        UsageError: The model is made for another task than the rows.
        InputRefused: The model answers with several numbers a row.
        VerificationFailed: The model answers with what is no finite number.
    """
    kind = kind_of(rows.task, rows.problem_type)
    _check_match(predictor, rows, kind)
    inputs = inputs_of(rows, predictor)
    options: dict[str, Any] = {"top_k": _TOP_K.get(kind)}
    options["null_score_diff_threshold"] = null_threshold(rows, null_score_diff_threshold)
    values: list[Any] = []
    labels: tuple[str, ...] = ()
    truncated = 0
    for start in range(0, len(inputs), CHUNK):
        part = inputs[start : start + CHUNK]
        found = predictor.answer(
            part,
            batch_size=batch_size,
            progress=_part(progress, start, len(part), len(inputs)),
            **options,
        )
        truncated += found.truncated
        labels = labels or (found.labels if kind in ("label", "labels", "tags") else ())
        values += _read(kind, found.values, labels)
    if kind == "similarity":
        values = _cosines(values)
    if kind in ("value", "similarity") and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise VerificationFailed("the model returned no finite number", where=f"{rows.name}, row {row + 1}")
    return Predictions(kind, values, labels, truncated)


def _check_match(predictor: LibraryModel, rows: RowsLike, kind: Kind) -> None:
    """The rows were read for what the model does."""
    if predictor.task != rows.task:
        why = f"the model is made for {predictor.task}, the data was read for {rows.task}"
        raise UsageError("model and data do not fit", where=rows.name, why=why)
    theirs = predictor.runtime.get("problem_type")
    if kind_of(predictor.task, theirs) != kind:
        why = (
            f"the labels of the data are {rows.problem_type or SINGLE}, the model's problem_type is {theirs or SINGLE}"
        )
        raise UsageError("model and data do not fit", where=rows.name, why=why)


def inputs_of(rows: RowsLike, predictor: LibraryModel) -> list[Any]:
    """Return what the predictor takes; both sentences of a similarity stand one after the other."""
    mask = str(predictor.runtime.get("mask_token"))
    if rows.task == "token-classification":
        return rows.column("tokens")
    if rows.task == "question-answering":
        return list(zip(rows.column("question"), rows.column("context"), strict=True))
    texts = rows.column("text")
    if rows.task == "fill-mask":
        return [text.replace(rows.mask, mask) for text in texts]
    if "text_pair" not in rows.columns:
        return texts
    pairs = list(zip(texts, rows.column("text_pair"), strict=True))
    return pairs if rows.task == "text-classification" else [text for pair in pairs for text in pair]


def _read(kind: Kind, decoded: Any, labels: Sequence[str]) -> list[Any]:
    """What the predictor answered, as `Predictions` keeps it."""
    index = {label: place for place, label in enumerate(labels)}
    if kind == "label":
        return [index[answer.label] for answer in decoded]
    if kind == "labels":
        return [tuple(sorted(index[label] for label in answer.labels)) for answer in decoded]
    if kind == "tags":
        return [tuple(answer.labels) for answer in decoded]
    if kind == "answer":
        return [answer[0].text for answer in decoded]
    if kind == "token":
        return [tuple(fill.token for fill in masks[0]) if masks else () for masks in decoded]
    if kind == "similarity":
        # A sentence embedding is one vector; token vectors are averaged, all of them real tokens.
        return [np.asarray(vectors, np.float64).reshape(-1, vectors.shape[-1]).mean(0) for vectors in decoded]
    if decoded and not isinstance(decoded[0], float):
        raise InputRefused("a regression with several numbers a row has no metric", why=f"there are {len(decoded[0])}")
    return list(decoded)


def _cosines(vectors: Sequence[np.ndarray]) -> list[float]:
    """Cosine of each first and second sentence; 0 for a zero vector."""
    first, second = np.stack(vectors[::2]), np.stack(vectors[1::2])
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (np.einsum("ij,ij->i", first, second) / np.where(norms > 0, norms, 1.0)).tolist()


def _part(progress: Progress | None, start: int, size: int, total: int) -> Progress | None:
    """Progress of one chunk, as its share of the whole."""
    if progress is None:
        return None
    return lambda message, fraction: progress(message, (start + fraction * size) / total)
