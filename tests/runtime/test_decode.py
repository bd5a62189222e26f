from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.errors import InputRefused
from deploycomp.runtime import decode
from deploycomp.runtime.decode import classify, first_tokens, multi_label, name_labels, tag_words

LOGITS = hnp.arrays(np.float32, st.integers(1, 8), elements=st.floats(-1e4, 1e4, width=32))
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@settings(deadline=None)
@given(LOGITS)
def test_softmax_is_a_distribution(logits: np.ndarray):
    chances = decode.softmax(logits)
    assert chances.sum() == pytest.approx(1)
    assert (chances >= 0).all()
    np.testing.assert_allclose(decode.softmax(logits + np.float32(1)), chances, atol=1e-3)


@settings(deadline=None)
@given(LOGITS)
def test_sigmoid_does_not_overflow(logits: np.ndarray):
    with np.errstate(all="raise"):
        chances = decode.sigmoid(logits)
    np.testing.assert_allclose(chances + decode.sigmoid(-logits), 1, atol=1e-12)


@settings(deadline=None)
@given(LOGITS)
def test_the_best_label_is_the_largest_logit(logits: np.ndarray):
    labels = name_labels(None, len(logits))
    answer = classify(logits, labels)
    assert answer.label == f"LABEL_{logits.argmax()}"
    assert list(answer.scores.values()) == sorted(answer.scores.values(), reverse=True)
    assert answer.score == max(answer.scores.values())
    assert classify(logits, labels, top_k=1).scores == {answer.label: answer.score}


def test_labels_at_or_over_the_threshold():
    answer = multi_label(np.array([0.0, -3.0, 4.0]), ["a", "b", "c"])
    assert answer.labels == ("c", "a")
    assert answer.scores["a"] == 0.5
    assert multi_label(np.array([0.0, -3.0, 4.0]), ["a", "b", "c"], threshold=0.99).labels == ()


def test_a_manifest_with_too_few_labels_is_refused():
    with pytest.raises(InputRefused, match="names 2 labels, the model has 3"):
        name_labels(["a", "b"], 3)


def test_the_first_sub_token_stands_for_a_word():
    words = [None, 0, 0, 1, 3, 3, None]
    assert first_tokens(words, 4).tolist() == [1, 3, -1, 4]
    logits = _logits(["O", "B-PER", "B-LOC", "O", "I-LOC", "O", "O"])
    tags = tag_words(logits, words, 4, TAGS)
    assert tags.labels == ("B-PER", "O", "O", "I-LOC")
    assert tags.scores[2] == 0.0, "no token, no opinion"
    assert tags.scores[0] == pytest.approx(decode.softmax(logits[1]).max())


def test_no_words_no_tags():
    assert tag_words(_logits(["O", "O"]), [None, None], 0, TAGS) == ((), ())


def test_a_word_without_a_token_gets_the_first_label_where_there_is_no_o():
    assert tag_words(np.zeros((0, 2)), [], 1, ["NOUN", "VERB"]) == (("NOUN",), (0.0,))


def _logits(tags: list[str], labels: list[str] = TAGS) -> np.ndarray:
    return np.array([[4.0 if label == tag else 0.0 for label in labels] for tag in tags], dtype=np.float32)


def test_fill_ranks_tokens_of_each_position():
    filled = decode.fill(np.array([[0.0, 3.0, 1.0], [9.0, 0.0, 0.0]]), "xyz".__getitem__, top_k=2)
    assert [[candidate.token for candidate in position] for position in filled] == [["y", "z"], ["x", "y"]]
    assert decode.fill(np.zeros((0, 3)), "xyz".__getitem__, top_k=2) == []


def test_similarity_is_the_cosine():
    a, b = np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[2.0, 0], [0, -1]])
    expected = [[1, 0], [2**-0.5, -(2**-0.5)], [0, 0]]
    np.testing.assert_allclose(decode.similarity(a, b), expected, atol=1e-12)
    assert decode.similarity(a[0], b[0]).shape == (1, 1)


def test_trim():
    assert decode.trim("  ab  ", 0, 6) == (2, 4)
    assert decode.trim("    ", 1, 3) == (3, 3)
