"""Every row comes once, beside rows of its length, padded on the right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.compress.batches import Batch, label_tensor, make_batches, tokens_at_once
from deploycomp.models.model import TorchModel
from tests import tiny

PAD = 77
lengths = st.lists(st.integers(1, 40), max_size=30)


def feed(number: int, length: int) -> dict[str, np.ndarray]:
    """A row that can be told from every other."""
    ids = np.full((1, length), 1000 + number, np.int64)
    types = np.arange(length, dtype=np.int64)[None] % 2
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}


def batches_of(model: TorchModel, count: int = 6, *, seed: int = 0, tokens: int = 64, **words: int) -> list[Batch]:
    """Real rows of tiny text for a model; several batches, with padding in some."""
    rows = [
        model.tokenizer(text, return_tensors="np", return_token_type_ids=True)
        for text in tiny.texts(count, seed=seed, **words)
    ]
    feeds = [{name: row[name] for name in model.inputs} for row in rows]
    return make_batches(feeds, pad_token_id=model.tokenizer.pad_token_id, tokens=tokens)


@given(lengths=lengths, tokens=st.integers(1, 200))
def test_every_row_comes_once_and_whole(lengths: list[int], tokens: int):
    feeds = [feed(number, length) for number, length in enumerate(lengths)]
    batches = make_batches(feeds, pad_token_id=PAD, tokens=tokens)
    seen: list[int] = []
    for batch in batches:
        ids, mask, types = (batch.inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
        assert ids.dtype == mask.dtype == types.dtype == torch.int64
        assert batch.mask.dtype == torch.bool
        assert batch.rows == len(ids)
        assert ids.numel() <= tokens or batch.rows == 1
        for row in range(batch.rows):
            number = int(ids[row, 0]) - 1000
            length = lengths[number]
            seen.append(number)
            real = feeds[number]
            assert torch.equal(ids[row, :length], torch.tensor(real["input_ids"][0]))
            assert torch.equal(types[row, :length], torch.tensor(real["token_type_ids"][0]))
            assert (ids[row, length:] == PAD).all()
            assert mask[row].tolist() == [1] * length + [0] * (ids.shape[1] - length)
            assert not types[row, length:].any()
        assert ids.shape[1] == max(int(each.sum()) for each in mask)  # no column of padding alone
    assert sorted(seen) == list(range(len(lengths)))
    assert [lengths[number] for number in seen] == sorted(lengths)


@given(lengths=lengths.filter(len), tokens=st.integers(1, 200))
def test_no_two_batches_would_fit_in_one(lengths: list[int], tokens: int):
    batches = make_batches((feed(0, length) for length in lengths), pad_token_id=PAD, tokens=tokens)
    for first, second in pairwise(batches):
        shortest = int(second.mask[0].sum())
        assert (first.rows + 1) * shortest > tokens


@given(lengths=lengths, limit=st.integers(1, 300))
def test_the_limit_counts_real_tokens_from_the_first_row_on(lengths: list[int], limit: int):
    batches = make_batches((feed(n, length) for n, length in enumerate(lengths)), pad_token_id=PAD, limit=limit)
    taken = sorted({int(each) - 1000 for batch in batches for each in batch.inputs["input_ids"][:, 0]})
    assert taken == list(range(len(taken)))
    total = sum(lengths[: len(taken)])
    assert total <= limit or len(taken) == 1
    if len(taken) < len(lengths):
        assert total + lengths[len(taken)] > limit


def test_no_rows_are_no_batches():
    assert make_batches([], pad_token_id=PAD) == []


def test_labels_as_outputs_count_them():
    names = ("no", "maybe", "yes")
    assert label_tensor(["yes", "no"], names, "single_label_classification").tolist() == [2, 0]
    several = label_tensor([["yes", "no"], []], names, "multi_label_classification")
    assert several.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert label_tensor([0.5, 2], None, "regression").tolist() == [[0.5], [2.0]]


def test_labels_follow_their_rows():
    lengths = [9, 3, 5, 3]
    feeds = [feed(number, length) for number, length in enumerate(lengths)]
    batches = make_batches(feeds, pad_token_id=PAD, tokens=12, labels=torch.tensor([10, 11, 12, 13]))
    for batch in batches:
        assert batch.labels is not None
        assert batch.labels.tolist() == (batch.inputs["input_ids"][:, 0] - 1000 + 10).tolist()


@pytest.mark.parametrize(
    ("layers", "hidden", "tokens"),
    [(6, 384, 512), (12, 768, 128), (24, 1024, 64), (96, 8192, 64), (0, 0, 512)],
    ids=["MiniLM-L6", "BERT-base", "BERT-large", "too large", "unknown"],
)
def test_larger_models_see_fewer_tokens_at_once(layers, hidden, tokens):
    assert tokens_at_once(layers, hidden) == tokens
