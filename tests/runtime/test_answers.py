from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.runtime import encode
from deploycomp.runtime.answers import Window, best_spans
from deploycomp.runtime.encode import Settings
from tests.runtime.graphs import wordpiece


def _window(start: list[float], end: list[float]) -> Window:
    """[CLS] q [SEP] and five words of one letter, "a b c d e", then [SEP]."""
    parts = [None, 0, None, 1, 1, 1, 1, 1, None]
    offsets = [(0, 0), (0, 1), (0, 0), (0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (0, 0)]
    return Window(np.array(start, dtype=np.float32), np.array(end, dtype=np.float32), offsets, parts)


def test_one_window_scores_as_the_pipeline_of_transformers_did():
    """transformers 4: mask all but context and [CLS] with -10000, softmax, then P(start)·P(end) for valid spans."""
    draw = np.random.default_rng(3)
    start, end = draw.normal(size=(2, 9))
    (span,) = best_spans("a b c d e", [_window(list(start), list(end))])
    allowed = [0, 3, 4, 5, 6, 7]
    chances = []
    for logits in (start.astype(np.float32).astype(float), end.astype(np.float32).astype(float)):
        masked = np.full(9, -10000.0)
        masked[allowed] = logits[allowed]
        masked = np.exp(masked - masked.max())
        chances.append(masked / masked.sum())
    table = np.triu(np.outer(*chances))
    table[0], table[:, 0] = 0, 0
    first, last = np.unravel_index(table.argmax(), table.shape)
    assert (span.start, span.end) == ((first - 3) * 2, (last - 3) * 2 + 1)
    assert span.score == pytest.approx(table.max())


def test_the_end_never_comes_before_the_start():
    low = -9.0
    window = _window([low] * 3 + [0, 0, 0, 9, 0, low], [low] * 3 + [0, 9, 0, 1, 0, low])
    assert best_spans("a b c d e", [window])[0].text == "d"


def test_the_question_is_never_an_answer():
    window = _window([0, 99, 0, 1, 0, 0, 0, 0, 99], [0, 99, 0, 1, 0, 0, 0, 0, 99])
    assert best_spans("a b c d e", [window])[0].text == "a"


def test_the_longest_answer():
    window = _window([0, 0, 0, 9, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 9, 0])
    assert best_spans("a b c d e", [window])[0].text == "a b c d e"
    assert len(best_spans("a b c d e", [window], max_answer_tokens=2)[0].text.split()) <= 2


def test_the_best_window_wins_and_the_score_is_shared():
    weak = _window([0] * 9, [0] * 9)
    strong = _window([0, 0, 0, 0, 8, 0, 0, 0, 0], [0, 0, 0, 0, 8, 0, 0, 0, 0])
    alone = best_spans("a b c d e", [strong])[0]
    both = best_spans("a b c d e", [weak, strong])[0]
    assert alone.text == both.text == "b"
    assert both.score < alone.score, "the other window's tokens take some of the probability"


def test_one_span_of_two_windows_counts_once():
    window = _window([0, 0, 0, 5, 0, 0, 0, 0, 0], [0, 0, 0, 5, 0, 0, 0, 0, 0])
    spans = best_spans("a b c d e", [window, window], top_k=5)
    assert len({(span.start, span.end) for span in spans}) == len(spans) == 5
    assert spans[0].text == "a"


def test_a_context_without_tokens_has_an_empty_answer():
    window = Window(np.zeros(3), np.zeros(3), [(0, 0), (0, 1), (0, 0)], [None, 0, None])
    assert best_spans("", [window]) == [("", 0.0, 0, 0)]
    assert best_spans("", [Window(np.zeros(0), np.zeros(0), [], [])]) == [("", 0.0, 0, 0)]


# ------------------------------------------------------------ no answer


def _null_and_best(windows: list[Window], longest: int = 30) -> tuple[float, float]:
    """run_squad.py: the null score at its weakest window, and the best span's, both sums of two raw logits."""
    nulls, best = [], -np.inf
    for window in windows:
        start, end = (np.asarray(each, np.float64) for each in (window.start_logits, window.end_logits))
        nulls.append(start[0] + end[0])
        for first in range(3, 8):
            for last in range(first, min(8, first + longest)):
                best = max(best, start[first] + end[last])
    return min(nulls), best


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 3), threshold=st.sampled_from([-3.0, -0.5, 0.0, 0.5, 3.0]))
def test_nothing_is_the_answer_by_the_rule_of_run_squad(seed: int, count: int, threshold: float):
    draw = np.random.default_rng(seed)
    windows = [_window(*draw.normal(scale=2, size=(2, 9)).tolist()) for _ in range(count)]
    null, best = _null_and_best(windows)
    (with_null,) = best_spans("a b c d e", windows, null_score_diff_threshold=threshold)
    (without,) = best_spans("a b c d e", windows)
    if null - best > threshold:
        assert (with_null.text, with_null.start, with_null.end) == ("", 0, 0)
    else:
        assert with_null == without
    assert without.text


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1))
def test_at_zero_the_null_answer_ranks_as_in_the_pipeline_of_transformers(seed: int):
    """transformers 4, `handle_impossible_answer=True`: one more candidate, P(start of it) · P(end of it), by score."""
    window = _window(*np.random.default_rng(seed).normal(scale=2, size=(2, 9)).tolist())
    chances = []
    for logits in (window.start_logits.astype(float), window.end_logits.astype(float)):
        masked = np.where(np.isin(np.arange(9), [0, 3, 4, 5, 6, 7]), logits, -10000.0)
        masked = np.exp(masked - masked.max())
        chances.append(masked / masked.sum())
    expected = [(chances[0][0] * chances[1][0], "")]
    for first in range(3, 8):
        for last in range(first, 8):
            expected.append((chances[0][first] * chances[1][last], "a b c d e"[2 * first - 6 : 2 * last - 5]))
    found = best_spans("a b c d e", [window], top_k=16, null_score_diff_threshold=0.0)
    assert [span.text for span in found] == [text for _, text in sorted(expected, reverse=True)]
    assert [span.score for span in found] == pytest.approx([score for score, _ in sorted(expected, reverse=True)])


def test_on_a_tie_the_span_is_the_answer():
    window = _window([1, 0, 0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0, 0, 0])
    assert [each.text for each in best_spans("a b c d e", [window], top_k=2, null_score_diff_threshold=0)] == ["a", ""]


def test_nothing_is_the_answer_in_a_context_of_nothing():
    window = Window(np.zeros(3), np.zeros(3), [(0, 0), (0, 1), (0, 0)], [None, 0, None])
    assert best_spans("", [window], null_score_diff_threshold=0.0) == [("", 1.0, 0, 0)]


@settings(deadline=None, max_examples=60)
@given(
    context=st.text(alphabet="ab ,é", min_size=1, max_size=80),
    seed=st.integers(0, 2**32 - 1),
    top_k=st.integers(1, 6),
    longest=st.integers(1, 8),
)
def test_answers_are_pieces_of_the_context(context: str, seed: int, top_k: int, longest: int):
    rows, _ = encode.encode_questions(wordpiece(), [("who", context)], Settings(max_length=20))
    draw = np.random.default_rng(seed)
    windows = [Window(*draw.normal(size=(2, len(row))), row.offsets, row.parts) for row in rows]
    spans = best_spans(context, windows, top_k=top_k, max_answer_tokens=longest)
    assert 1 <= len(spans) <= top_k
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    assert len({(span.start, span.end) for span in spans}) == len(spans)
    assert sum(span.score for span in spans) <= 1 + 1e-9 or len(rows) > 1
    for span in spans:
        assert 0 <= span.start <= span.end <= len(context)
        assert span.text == context[span.start : span.end] == span.text.strip()
        assert 0 <= span.score <= 1
        assert len(wordpiece_tokens(span.text)) <= longest


def wordpiece_tokens(text: str) -> list[str]:
    tokenizer = wordpiece()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.encode(text, add_special_tokens=False).tokens
