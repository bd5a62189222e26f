"""The demo's data keeps what its README promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise

import pytest

from deploycomp.demo.train import BATCH_SIZE, DATA, EPOCHS, _learning_rate

SPLITS = ("train", "validation", "test")


def rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_enough_intents_and_utterances():
    labels = Counter(row["label"] for split in SPLITS for row in rows(split))
    assert len(labels) >= 17
    assert "out_of_scope" in labels
    assert labels.total() >= 1000
    assert min(labels.values()) >= 40


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_every_label(split: str):
    assert {row["label"] for row in rows(split)} == {row["label"] for row in rows("train")}
    assert all(set(row) == {"text", "label"} and row["text"].strip() for row in rows(split))


def test_no_utterance_stands_twice():
    texts = [normal(row["text"]) for split in SPLITS for row in rows(split)]
    assert len(set(texts)) == len(texts)


def test_utterances_are_written_not_filled_in():
    texts = [normal(row["text"]).split() for row in rows("train")]
    assert len({len(text) for text in texts}) >= 15
    openings = Counter(tuple(text[:2]) for text in texts)
    assert openings.most_common(1)[0][1] < 0.03 * len(texts)
    assert len({word for text in texts for word in text}) > 1200


def test_the_learning_rate_rises_then_falls_to_nothing():
    steps = EPOCHS * (len(rows("train")) // BATCH_SIZE)
    rates = [_learning_rate(step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert 0 < rates[0] < rates[peak] <= 1
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert rates[-1] < 0.05
