"""Raw outputs → answers: pure functions on arrays. Entities have a file of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from deploycomp.errors import InputRefused
from deploycomp.runtime.results import Classification, Fill, Labels, Tags

__all__ = [
    "classify",
    "fill",
    "first_tokens",
    "multi_label",
    "name_labels",
    "sigmoid",
    "similarity",
    "softmax",
    "tag_words",
    "trim",
]

OUTSIDE = "O"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) in float64, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def name_labels(labels: Sequence[str] | None, count: int) -> list[str]:
    """Return the labels of *count* logits, LABEL_0 and on where there are none.

    Raises:
        InputRefused: Their number is another.
    """
    if not labels:
        return [f"LABEL_{index}" for index in range(count)]
    if len(labels) != count:
        raise InputRefused(f"the manifest names {len(labels)} labels, the model has {count}", where="runtime.labels")
    return list(labels)


def classify(logits: np.ndarray, labels: Sequence[str], *, top_k: int | None = None) -> Classification:
    """Choose the best of exclusive labels.

    Args:
        logits: [labels].
        labels: Their names.
        top_k: Keep only so many scores.
    """
    scores = _ranked(logits, softmax(logits), labels, top_k=top_k)
    label = next(iter(scores))
    return Classification(label, scores[label], scores)


def multi_label(
    logits: np.ndarray, labels: Sequence[str], *, threshold: float = 0.5, top_k: int | None = None
) -> Labels:
    """Choose every label whose sigmoid of *logits* [labels] is at least *threshold*."""
    scores = _ranked(logits, sigmoid(logits), labels, top_k=top_k)
    return Labels(tuple(label for label, score in scores.items() if score >= threshold), scores)


def _ranked(logits: np.ndarray, scores: np.ndarray, labels: Sequence[str], *, top_k: int | None) -> dict[str, float]:
    """Label → score, in the order of the logits: they differ where scores are rounded to the same."""
    order: list[int] = np.argsort(-logits, kind="stable")[:top_k].tolist()
    return {labels[index]: float(scores[index]) for index in order}


def first_tokens(words: Iterable[int | None], count: int) -> np.ndarray:
    """Return the index of each word's first token, -1 where it has none (cut off, or no character is known).

    Args:
        words: For each token its word, None for special tokens.
        count: Number of words.
    """
    first = np.full(count, -1, dtype=np.int64)
    for token, word in enumerate(words):
        if word is not None and word < count and first[word] < 0:
            first[word] = token
    return first


def tag_words(logits: np.ndarray, words: Sequence[int | None], count: int, labels: Sequence[str]) -> Tags:
    """Tag each of *count* words by its first token.

    Args:
        logits: [tokens, labels].
        words: For each token its word, None for special tokens.
        count: Number of words.
        labels: Their names.
    """
    tags = [OUTSIDE if OUTSIDE in labels else labels[0]] * count
    scores = [0.0] * count
    first = first_tokens(words, count)
    known = np.flatnonzero(first >= 0)
    for word, chances in zip(known.tolist(), softmax(logits[first[known]]), strict=True):
        best = int(chances.argmax())
        tags[word], scores[word] = labels[best], float(chances[best])
    return Tags(tuple(tags), tuple(scores))


def fill(logits: np.ndarray, spell: Callable[[int], str], *, top_k: int) -> list[list[Fill]]:
    """Return the best tokens for each masked position.

    Args:
        logits: [masked positions, vocabulary].
        spell: Token id → text.
        top_k: How many for each position.
    """
    return [
        [Fill(spell(int(token)), float(scores[token])) for token in np.argsort(-scores, kind="stable")[:top_k]]
        for scores in softmax(logits)
    ]


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of *a* [n, d] and each row of *b* [m, d]: [n, m]; 0 for a zero vector."""
    left, right = (np.atleast_2d(np.asarray(rows, dtype=np.float64)) for rows in (a, b))
    return _unit(left) @ _unit(right).T


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Move the ends of `[start, end)` off white space (byte-level tokens carry the space before a word)."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()) if piece.strip() else end
