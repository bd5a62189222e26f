"""Entities are those of transformers' token classification pipeline, whichever way tokens are grouped."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import UsageError
from deploycomp.runtime.decode import softmax, trim
from deploycomp.runtime.entities import AGGREGATIONS, Tokens, check_aggregation, entities
from tests import tiny
from tests.runtime.graphs import byte_level, wordpiece

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def logits_of(tags: list[str], labels: list[str] = TAGS) -> np.ndarray:
    return np.array([[4.0 if label == tag else 0.0 for label in labels] for tag in tags], dtype=np.float32)


def prefix_of(tokenizer) -> str | None:
    return getattr(tokenizer.model, "continuing_subword_prefix", None)


def pipeline_of(tokenizer, labels: list[str]):
    """The pipeline's decoding alone: it needs no model but the names of its labels."""
    from transformers import TokenClassificationPipeline

    pipe = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipe.tokenizer = tokenizer
    pipe.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))
    return pipe


TOKENIZERS = {name: tiny.ARCHITECTURES[name].tokenizer() for name in ("bert", "roberta", "xlm-roberta", "deberta-v2")}
TEXT = st.text(alphabet="abgort .,-()/é漢字😀\n", max_size=30)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@settings(deadline=None, max_examples=40)
@given(text=TEXT, seed=st.integers(0, 2**32 - 1))
def test_entities_are_those_of_the_pipeline(name: str, aggregation: str, text: str, seed: int):
    import torch
    from transformers.pipelines.token_classification import AggregationStrategy

    tokenizer = TOKENIZERS[name]
    encoded = tokenizer(text, return_special_tokens_mask=True, return_offsets_mapping=True, return_tensors="pt")
    ids = encoded["input_ids"][0].tolist()
    logits = np.random.default_rng(seed).normal(0, 3, (len(ids), len(TAGS))).astype(np.float32)
    asked = {
        "logits": torch.tensor(logits)[None],
        "input_ids": encoded["input_ids"],
        "sentence": text,
        "offset_mapping": encoded["offset_mapping"],
        "special_tokens_mask": encoded["special_tokens_mask"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that other tokenizers than WordPiece know no words
        wanted = pipeline_of(tokenizer, TAGS).postprocess([asked], AggregationStrategy(aggregation))
    tokens = Tokens(
        tokenizer.convert_ids_to_tokens(ids),
        [tuple(each) for each in encoded["offset_mapping"][0].tolist()],
        encoded["special_tokens_mask"][0].tolist(),
        [each == tokenizer.unk_token_id for each in ids],
    )
    prefix = prefix_of(tokenizer.backend_tokenizer)
    found = entities(text, logits, tokens, TAGS, aggregation=check_aggregation(aggregation), prefix=prefix)
    assert [(each.label, each.start, each.end) for each in found] == [
        (each["entity_group"], *trim(text, each["start"], each["end"])) for each in wanted
    ]
    assert [each.score for each in found] == pytest.approx([float(each["score"]) for each in wanted], abs=1e-5)


def _found(text: str, tags: list[str], labels: list[str] = TAGS) -> list[tuple[str, str]]:
    """Entities of a text whose words, split at spaces, have *tags*."""
    words, offsets, start = text.split(" "), [], 0
    for word in words:
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    found = entities(
        text, logits_of(tags, labels), Tokens(words, offsets, [0] * len(tags), [False] * len(tags)), labels
    )
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


def test_special_tokens_are_no_part_of_a_text():
    tokens = Tokens(["[CLS]", "ada", "lee", "[SEP]"], [(0, 0), (0, 3), (4, 7), (0, 0)], [1, 0, 0, 1], [False] * 4)
    (entity,) = entities("ada lee", logits_of(["B-LOC", "B-PER", "I-PER", "B-LOC"]), tokens, TAGS)
    assert (entity.label, entity.text) == ("PER", "ada lee")


def test_the_score_is_the_mean_over_tokens():
    logits = np.array([[0.0, 2.0, 0, 0, 0], [0.0, 0, 5.0, 0, 0]])
    (entity,) = entities("ada lee", logits, Tokens(["ada", "lee"], [(0, 3), (4, 7)], [0, 0], [False] * 2), TAGS)
    assert entity.score == pytest.approx((softmax(logits[0])[1] + softmax(logits[1])[2]) / 2)


def test_an_unknown_aggregation_is_refused():
    assert check_aggregation("first") == "first"
    with pytest.raises(UsageError, match="there is no aggregation 'last'") as refused:
        check_aggregation("last")
    assert refused.value.hint == "one of simple, first, average, max"


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_level()], ids=["wordpiece", "byte-level"])
@settings(deadline=None)
@given(text=st.text(alphabet="abcz .,-é漢😀\n", max_size=40), aggregation=st.sampled_from(AGGREGATIONS), data=st.data())
def test_entities_are_pieces_of_the_text_in_order(tokenizer, text: str, aggregation, data: st.DataObject):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoding = tokenizer.encode(text)
    tags = data.draw(st.lists(st.sampled_from(TAGS), min_size=len(encoding), max_size=len(encoding)))
    tokens = Tokens(encoding.tokens, encoding.offsets, encoding.special_tokens_mask, [False] * len(encoding))
    found = entities(text, logits_of(tags), tokens, TAGS, aggregation=aggregation, prefix=prefix_of(tokenizer))
    start = 0
    for entity in found:
        assert entity.text == text[entity.start : entity.end] == entity.text.strip()
        assert start <= entity.start <= entity.end  # tokens of one character, such as bytes of it, may overlap
        assert 0 < entity.score <= 1
        start = entity.start
