from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import InputRefused, UsageError
from deploycomp.runtime import encode
from deploycomp.runtime.decode import trim
from deploycomp.runtime.encode import Settings
from tests.runtime.graphs import byte_level, wordpiece

TEXTS = st.text(alphabet="abcdefgh .,-é漢😀\n", max_size=60)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 512), max_size=60), batch_size=st.integers(1, 20))
def test_every_row_is_in_one_batch_and_waste_is_bounded(lengths: list[int], batch_size: int):
    batches = encode.plan_batches(lengths, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)

    def cost(plan: list[list[int]]) -> int:
        return sum(len(each) * max(lengths[index] for index in each) + encode.CALL_TOKENS for each in plan)

    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    full = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    assert cost(batches) <= min(cost(full), cost([[index] for index in order]))


def test_batches_are_stable_and_longest_first():
    assert encode.plan_batches([5, 9, 5, 9], 2) == [[1, 3], [0, 2]]
    assert encode.plan_batches([], 4) == []
    assert encode.plan_batches([500, 5], 4) == [[0], [1]]
    assert encode.plan_batches([20, 19, 19, 18], 4) == [[0, 1, 2, 3]]  # 4 tokens of padding cost less than a call


def test_a_fixed_batch_is_filled():
    assert encode.plan_batches([9, 9, 5, 5], 4, fixed=True) == [[0, 1, 2, 3]]
    assert encode.plan_batches([9, 9, 5, 5], 4) == [[0, 1], [2, 3]]


def test_settings_are_read_from_the_manifest():
    assert Settings.read({}) == Settings()
    read = Settings.read(
        {
            "max_length": 512,
            "pad_token_id": 1,
            "padding_side": "left",
            "truncation_side": "left",
            "split_special_tokens": True,
            "fixed": {"batch": 2, "sequence": 16},
        }
    )
    assert read == Settings(16, 1, 0, "left", "left", True, 2, 16)


def test_texts_are_cut_on_the_side_that_the_tokenizer_names():
    (row,), _ = encode.encode_texts(wordpiece(), ["a cat the dog"], Settings(max_length=4, truncation_side="left"))
    assert row.encoding.tokens == ["[CLS]", "the", "dog", "[SEP]"]
    rows, _ = encode.encode_questions(wordpiece(), [("a", "the big dog runs " * 4)], Settings(max_length=14))
    left, _ = encode.encode_questions(
        wordpiece(), [("a", "the big dog runs " * 4)], Settings(max_length=14, truncation_side="left")
    )
    assert rows[0].encoding.tokens[:4] == ["[CLS]", "a", "[SEP]", "the"]
    assert left[0].encoding.tokens[-2:] == ["runs", "[SEP]"]


def test_special_tokens_in_a_text_are_split_where_the_tokenizer_says_so():
    (row,), _ = encode.encode_texts(wordpiece(), ["a [SEP]"], Settings())
    (split,), _ = encode.encode_texts(wordpiece(), ["a [SEP]"], Settings(split_special_tokens=True))
    assert row.encoding.tokens == ["[CLS]", "a", "[SEP]", "[SEP]"]
    assert split.encoding.tokens != row.encoding.tokens


def test_truncation_and_padding_of_the_tokenizer_file_are_replaced():
    rows, truncated = encode.encode_texts(wordpiece(), ["a cat", "the big dog runs in the river"], Settings())
    assert [len(row) for row in rows] == [4, 9]
    assert truncated == 0


def test_too_long_texts_are_cut_and_counted():
    rows, truncated = encode.encode_texts(wordpiece(), ["a " * 50, "a", ""], Settings(max_length=10))
    assert [len(row) for row in rows] == [10, 3, 2]
    assert rows[0].encoding.tokens[-1] == "[SEP]"
    assert truncated == 1


def test_a_pair_loses_tokens_of_its_longer_text_first():
    (row,), truncated = encode.encode_texts(wordpiece(), [("a cat", "the " * 40)], Settings(max_length=12))
    assert row.encoding.tokens == ["[CLS]", "a", "cat", "[SEP]", *["the"] * 7, "[SEP]"]
    assert row.parts == [None, 0, 0, None, *[1] * 7, None]
    assert truncated == 1


def test_words_keep_their_numbers():
    (row,), _ = encode.encode_texts(wordpiece(), [["ada", "runs", "", "rivers"]], Settings(), words=True)
    assert row.encoding.tokens == ["[CLS]", "ada", "runs", "river", "##s", "[SEP]"]
    assert row.words == [None, 0, 1, 3, 3, None]


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encode, "CHUNK", 2)
    told: list[tuple[str, float]] = []
    encode.encode_texts(wordpiece(), ["a"] * 3, Settings(), progress=lambda *what: told.append(what))
    assert told == [("tokenize", 2 / 3), ("tokenize", 1.0)]


def test_a_maximum_length_without_room_is_refused():
    with pytest.raises(InputRefused, match="3 tokens has no room beside the 3 special ones"):
        encode.encode_texts(wordpiece(), ["a"], Settings(max_length=3))
    with pytest.raises(InputRefused, match="no room for a question and a context"):
        encode.encode_questions(wordpiece(), [("a", "b")], Settings(max_length=5))


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UsageError, match="cannot be tokenized") as caught:
        encode.encode_texts(wordpiece(), ["fine", "bad \ud800"], Settings())
    assert caught.value.why is not None
    assert "Unicode" in caught.value.why


def _spans(context: str, encodings: list) -> set[tuple[int, int]]:
    """Characters of the context's tokens, without the space that a byte-level token may carry in some windows."""
    found = {
        trim(context, *offsets)
        for encoding in encodings
        for offsets, part in zip(encoding.offsets, encoding.sequence_ids, strict=True)
        if part == 1
    }
    return {(start, end) for start, end in found if start < end}


@settings(max_examples=60, deadline=None)
@given(question=TEXTS, context=TEXTS, repeat=st.integers(1, 12), length=st.integers(10, 60), bpe=st.booleans())
def test_windows_cover_the_whole_context(question: str, context: str, repeat: int, length: int, bpe: bool):
    tokenizer = byte_level() if bpe else wordpiece()
    context = context * repeat
    rows, _ = encode.encode_questions(tokenizer, [(question, context)], Settings(max_length=length))
    tokenizer.no_truncation()
    whole = tokenizer.encode(question, context)
    expected = _spans(context, [whole])
    found = _spans(context, [row.encoding for row in rows])
    assert found == expected
    assert all(len(row) <= length and row.item == 0 for row in rows)


def test_windows_overlap_by_the_stride():
    rows, truncated = encode.encode_questions(wordpiece(), [("who", "a b c d " * 10)], Settings(max_length=30))
    inside = [[offsets for offsets, part in zip(row.offsets, row.parts, strict=True) if part == 1] for row in rows]
    assert len(rows) > 1
    for before, after in itertools.pairwise(inside):
        assert len(set(before) & set(after)) == 10  # a third of 30
    assert truncated == 0


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_level()], ids=["wordpiece", "byte-level"])
def test_a_question_longer_than_the_window_is_cut_and_counted(tokenizer):
    pairs = [("why " * 100, "a cat runs"), ("who", "a cat runs")]
    rows, truncated = encode.encode_questions(tokenizer, pairs, Settings(max_length=24))
    assert truncated == 1
    assert [row.item for row in rows] == sorted(row.item for row in rows)
    assert all(len(row) <= 24 for row in rows)
    assert sum(part == 0 for part in rows[0].parts) <= 12


def _rows(texts: list[str]) -> list[encode.Encoded]:
    return encode.encode_texts(wordpiece(), texts, Settings())[0]


def test_feeds_are_padded_to_the_longest_row_only():
    feeds = encode.make_feeds(_rows(["a cat", "a big dog runs"]), encode.INPUT_NAMES, Settings(pad_token_type_id=3))
    assert {name: array.dtype for name, array in feeds.items()} == dict.fromkeys(encode.INPUT_NAMES, np.int64)
    assert feeds["input_ids"].shape == (2, 6)
    np.testing.assert_array_equal(feeds["attention_mask"], [[1, 1, 1, 1, 0, 0], [1] * 6])
    np.testing.assert_array_equal(feeds["token_type_ids"][0], [0, 0, 0, 0, 3, 3])
    assert list(encode.make_feeds(_rows(["a"]), ("input_ids",), Settings())) == ["input_ids"]


def test_left_padding():
    settings = Settings(padding_side="left")
    feeds = encode.make_feeds(_rows(["a", "a big dog"]), encode.INPUT_NAMES, settings)
    np.testing.assert_array_equal(feeds["attention_mask"][0], [0, 0, 1, 1, 1])
    assert encode.row_slice(3, 5, settings) == slice(2, 5)


def test_fixed_shapes_are_filled_by_repeating_the_last_row():
    settings = Settings(fixed_batch=4, fixed_sequence=12)
    feeds = encode.make_feeds(_rows(["a cat", "a"]), encode.INPUT_NAMES, settings)
    assert feeds["input_ids"].shape == (4, 12)
    np.testing.assert_array_equal(feeds["input_ids"][2], feeds["input_ids"][1])
    assert feeds["attention_mask"].sum(axis=1).tolist() == [4, 3, 3, 3]


def test_a_text_without_tokens_attends_one_position():
    tokenizer = wordpiece()
    tokenizer.post_processor = None
    rows, _ = encode.encode_texts(tokenizer, [""], Settings())
    feeds = encode.make_feeds(rows, encode.INPUT_NAMES, Settings())
    assert feeds["attention_mask"].tolist() == [[1]]


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(InputRefused, match="tokenizer is missing"):
        encode.load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputRefused, match="tokenizer cannot be read"):
        encode.load_tokenizer(tmp_path / "tokenizer.json")


PARITY = [
    "",
    "a gripping , funny film",
    "Straße, naïve café — 漢字 and emoji 😀!",
    "U.S. stocks\nrose  3.5%\t(again)",
    "long " * 700,
]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["minilm-l6-sst2", "minilm-l6-clinc150", "minilm-l6-wnut17"])
def test_encodings_equal_those_of_transformers(shared_models: Path, name: str):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(shared_models / name)
    ours = encode.load_tokenizer(shared_models / name / "tokenizer.json")
    limit = Settings(max_length=64)
    for pairs, inputs in ((False, PARITY), (True, list(zip(PARITY, reversed(PARITY), strict=True)))):
        rows, _ = encode.encode_texts(ours, inputs, limit)
        # in lists, because a single pair with an empty second text is taken for a single text there
        expected = theirs(
            *([list(part) for part in zip(*inputs, strict=True)] if pairs else [inputs]), truncation=True, max_length=64
        )
        assert [row.encoding.ids for row in rows] == expected["input_ids"]
        assert [row.encoding.type_ids for row in rows] == expected["token_type_ids"]
    words = [text.split() for text in PARITY[1:]]
    rows, _ = encode.encode_texts(ours, words, limit, words=True)
    for row, split in zip(rows, words, strict=True):
        expected = theirs(split, is_split_into_words=True, truncation=True, max_length=64)
        assert row.encoding.ids == expected["input_ids"]
        assert row.words == expected.word_ids()
    rows, _ = encode.encode_questions(ours, [("who rose?", PARITY[3] * 40)], Settings(max_length=384))
    expected = theirs(
        "who rose?",
        PARITY[3] * 40,
        truncation="only_second",
        max_length=384,
        stride=128,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [row.encoding.ids for row in rows] == expected["input_ids"]
    assert [row.offsets for row in rows] == [[tuple(pair) for pair in row] for row in expected["offset_mapping"]]
