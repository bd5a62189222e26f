"""Start and end logits of a context's windows → the best answers in it.

P(start) and P(end) are softmaxes over every context token of every window and one null answer (the first
special token, at its weakest over the windows); for one window that is what transformers' question answering
pipeline computed. A span lies in one window, ends at or after its start, and has a bounded number of tokens.

"No answer" (SQuAD 2) is asked for by a threshold, as in run_squad.py: it wins where the null answer's logits, start
plus end, at their weakest over the windows, exceed the best span's by more. At 0 the more probable wins, which is what
the pipeline did with `handle_impossible_answer`.
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
    context: str,
    windows: Sequence[Window],
    *,
    top_k: int = 1,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    null_score_diff_threshold: float | None = None,
) -> list[Span]:
    """Find the best answers in a context, see the rule at the top of this file.

    Args:
        context: The context.
        windows: Its windows.
        top_k: How many different answers.
        max_answer_tokens: The longest answer.
        null_score_diff_threshold: By how much the null answer must beat the best span to be the answer; None never
            answers nothing.

    Returns:
        At most *top_k* spans, best first, the null answer among them as an empty span where it may be one; one empty
        span where the context has no token.
    """
    starts, start_total = _log_probabilities([window.start_logits for window in windows], windows)
    ends, end_total = _log_probabilities([window.end_logits for window in windows], windows)
    answers: dict[tuple[int, int], float] = {}
    for window, start, end in zip(windows, starts, ends, strict=True):
        for span, score in _candidates(context, window, start, end, top_k, max_answer_tokens):
            answers[span] = max(score, answers.get(span, -np.inf))
    ranked = [(-score, Span(context[start:end], _chance(score), start, end)) for (start, end), score in answers.items()]
    nulls = [float(window.start_logits[null]) + float(window.end_logits[null]) for window, null in _nulls(windows)]
    if null_score_diff_threshold is not None and nulls:
        score = min(nulls) - start_total - end_total
        ranked.append((null_score_diff_threshold - score, Span("", _chance(score), 0, 0)))
    # On a tie the span comes first: nothing must be *more* likely to be the answer.
    best = sorted(ranked, key=lambda each: (each[0], not each[1].text, each[1].start, each[1].end))[:top_k]
    return [span for _, span in best] or [Span("", 0.0, 0, 0)]


def _chance(score: float) -> float:
    return float(np.exp(score))


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


def _nulls(windows: Sequence[Window]) -> Iterator[tuple[Window, int]]:
    """Each window with its first special token, which stands for no answer."""
    for window in windows:
        if None in window.parts:
            yield window, list(window.parts).index(None)


def _log_probabilities(logits: list[np.ndarray], windows: Sequence[Window]) -> tuple[list[np.ndarray], float]:
    """For each window the log probability of each context token, and what was taken off its logits."""
    rows = [np.asarray(row, dtype=np.float64) for row in logits]
    values = [row[_inside(window)] for row, window in zip(rows, windows, strict=True)]
    nulls = [
        row[list(window.parts).index(None)] for row, window in zip(rows, windows, strict=True) if None in window.parts
    ]
    every = np.concatenate([*values, [min(nulls)] if nulls else []])
    if not every.size:
        return values, 0.0
    total = float(every.max() + np.log(np.exp(every - every.max()).sum()))
    return [value - total for value in values], total
