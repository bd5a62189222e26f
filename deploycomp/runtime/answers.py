"""Start and end logits of a context's windows → the best answers in it.

P(start) and P(end) are softmaxes over every context token of every window and one null answer (the first
special token, at its weakest over the windows); for one window that is what transformers' question answering
pipeline computed. A span lies in one window, ends at or after its start, and has a bounded number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deploycomp.runtime.decode import trim
from deploycomp.runtime.results import Span

__all__ = ["MAX_ANSWER_TOKENS", "Window", "best_spans"]

MAX_ANSWER_TOKENS = 30
"""The longest answer, as in BERT's run_squad.py."""


class Window(NamedTuple):
    """What one window of a context needs to be decoded; every field has one value for each token."""

    start_logits: np.ndarray
    end_logits: np.ndarray
    offsets: Sequence[tuple[int, int]]
    parts: Sequence[int | None]
    """0 in the question, 1 in the context, None for special tokens."""


def best_spans(
    context: str, windows: Sequence[Window], *, top_k: int = 1, max_answer_tokens: int = MAX_ANSWER_TOKENS
) -> list[Span]:
    """Find the best answers in a context, see the rule at the top of this file.

    Args:
        context: The context.
        windows: Its windows.
        top_k: How many different answers.
        max_answer_tokens: The longest answer.

    Returns:
        At most *top_k* spans, best first; one empty span where the context has no token.
    """
    starts = _log_probabilities([window.start_logits for window in windows], windows)
    ends = _log_probabilities([window.end_logits for window in windows], windows)
    answers: dict[tuple[int, int], float] = {}
    for window, start, end in zip(windows, starts, ends, strict=True):
        for span, score in _candidates(context, window, start, end, top_k, max_answer_tokens):
            answers[span] = max(score, answers.get(span, -np.inf))
    best = sorted(answers.items(), key=lambda answer: (-answer[1], answer[0]))[:top_k]
    spans = [Span(context[start:end], float(np.exp(score)), start, end) for (start, end), score in best]
    return spans or [Span("", 0.0, 0, 0)]


def _candidates(
    context: str, window: Window, start: np.ndarray, end: np.ndarray, top_k: int, max_answer_tokens: int
) -> Iterator[tuple[tuple[int, int], float]]:
    """The *top_k* best spans of one window with their log probabilities; different tokens may be one span."""
    tokens = _inside(window)
    distance = np.arange(len(tokens))[None, :] - np.arange(len(tokens))[:, None]
    first, last = np.nonzero((distance >= 0) & (distance < max_answer_tokens))
    scores = start[first] + end[last]
    seen: set[tuple[int, int]] = set()
    for index in np.argsort(-scores, kind="stable"):
        begin, stop = window.offsets[tokens[first[index]]][0], window.offsets[tokens[last[index]]][1]
        span = trim(context, begin, stop)
        if span not in seen:
            seen.add(span)
            yield span, float(scores[index])
        if len(seen) == top_k:
            return


def _inside(window: Window) -> list[int]:
    """The tokens of the context."""
    return [token for token, part in enumerate(window.parts) if part == 1]


def _log_probabilities(logits: list[np.ndarray], windows: Sequence[Window]) -> list[np.ndarray]:
    """For each window the log probability of each context token."""
    rows = [np.asarray(row, dtype=np.float64) for row in logits]
    values = [row[_inside(window)] for row, window in zip(rows, windows, strict=True)]
    nulls = [
        row[list(window.parts).index(None)] for row, window in zip(rows, windows, strict=True) if None in window.parts
    ]
    every = np.concatenate([*values, [min(nulls)] if nulls else []])
    if not every.size:
        return values
    total = every.max() + np.log(np.exp(every - every.max()).sum())
    return [value - total for value in values]
