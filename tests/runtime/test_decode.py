from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.errors import InputRefused
from deploycomp.runtime import decode
from deploycomp.runtime.decode import classify, entities, first_tokens, multi_label, name_labels, tag_words
from tests.runtime.graphs import byte_level, wordpiece

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


def _found(text: str, tags: list[str], labels: list[str] = TAGS) -> list[tuple[str, str]]:
    """Entities of a text whose words, split at spaces, have *tags*."""
    offsets, start = [], 0
    for word in text.split(" "):
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    found = entities(text, _logits(tags, labels), list(range(len(tags))), offsets, labels)
    assert all(text[entity.start : entity.end] == entity.text for entity in found)
    return [(entity.label, entity.text) for entity in found]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O O O", []),
        ("B-PER I-PER O B-LOC", [("PER", "ada lee"), ("LOC", "graz")]),
        ("B-PER B-PER O O", [("PER", "ada"), ("PER", "lee")]),  # B begins anew
        ("I-PER I-PER O O", [("PER", "ada lee")]),  # I without B begins
        ("B-PER I-LOC O O", [("PER", "ada"), ("LOC", "lee")]),  # another label
        ("O B-LOC I-LOC I-LOC", [("LOC", "lee in graz")]),
        ("B-PER O I-PER O", [("PER", "ada"), ("PER", "in")]),  # O ends
    ],
)
def test_bio_merging(tags: str, expected: list[tuple[str, str]]):
    assert _found("ada lee in graz", tags.split()) == expected


def test_other_schemes():
    bioes = ["O", "B-X", "I-X", "E-X", "S-X"]
    assert _found("a b c d", ["S-X", "S-X", "B-X", "E-X"], bioes) == [("X", "a"), ("X", "b"), ("X", "c d")]
    bare = ["O", "PER", "LOC"]
    assert _found("a b c d", ["PER", "PER", "LOC", "O"], bare) == [("PER", "a b"), ("LOC", "c")]
    names = ["O", "E-MAIL", "NAME"]  # no scheme, so E- is no prefix
    assert _found("a b c d", ["E-MAIL", "E-MAIL", "O", "NAME"], names) == [("E-MAIL", "a b"), ("NAME", "d")]
    hyphen = ["O", "B-PRODUCT-NAME", "I-PRODUCT-NAME"]
    assert _found("a b", ["B-PRODUCT-NAME", "I-PRODUCT-NAME"], hyphen) == [("PRODUCT-NAME", "a b")]


def test_a_word_without_a_token_does_not_split_an_entity():
    logits = _logits(["B-PER", "I-PER"])
    (entity,) = entities("ada \u200b lee", logits, [0, 2], [(0, 3), (6, 9)], TAGS)
    assert entity.text == "ada \u200b lee"


def test_the_score_is_the_mean_over_words():
    logits = np.array([[0.0, 2.0, 0, 0, 0], [0.0, 0, 5.0, 0, 0]])
    (entity,) = entities("ada lee", logits, [0, 1], [(0, 3), (4, 7)], TAGS)
    assert entity.score == pytest.approx((decode.softmax(logits[0])[1] + decode.softmax(logits[1])[2]) / 2)


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_level()], ids=["wordpiece", "byte-level"])
@settings(deadline=None)
@given(text=st.text(alphabet="abcz .,-é漢😀\n", max_size=40), data=st.data())
def test_entities_are_pieces_of_the_text_in_order(tokenizer, text: str, data: st.DataObject):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoding = tokenizer.encode(text)
    tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=len(encoding), max_size=len(encoding)))
    found = entities(text, _logits(tags), encoding.word_ids, encoding.offsets, TAGS)
    end = 0
    for entity in found:
        assert entity.text == text[entity.start : entity.end] == entity.text.strip()
        assert end <= entity.start <= entity.end
        assert 0 < entity.score <= 1
        end = entity.end


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
