"""What `Predictor` returns for each task; embeddings are plain arrays and a regression is a float."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Answered", "Classification", "Entity", "Fill", "Labels", "Span", "Tags"]


class Classification(NamedTuple):
    """The best label of a text, and every label's probability, best first."""

    label: str
    score: float
    scores: dict[str, float]


class Labels(NamedTuple):
    """The labels of a text that reach the threshold, best first, and every label's probability."""

    labels: tuple[str, ...]
    scores: dict[str, float]


class Entity(NamedTuple):
    """A named piece of a text: `text == source[start:end]`, the score is the mean over its tokens or words."""

    label: str
    score: float
    start: int
    end: int
    text: str


class Tags(NamedTuple):
    """One tag and its probability for each given word; a word without a token (cut off) has "O" and 0."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]


class Span(NamedTuple):
    """An answer: `text == context[start:end]`, the score is P(start) · P(end); empty where nothing is the answer."""

    text: str
    score: float
    start: int
    end: int


class Fill(NamedTuple):
    """A token for a masked position, and its probability."""

    token: str
    score: float


class Answered(NamedTuple):
    """The answers to many inputs."""

    values: Any
    """One a row; for sentence-similarity an array [n, d]."""
    labels: tuple[str, ...] = ()
    """The model's labels in its own order, where it has some."""
    truncated: int = 0
    """Inputs that were cut to the maximum length."""
