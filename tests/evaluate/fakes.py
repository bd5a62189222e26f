"""A real `Predictor` over a model that is a table: each word of a tiny vocabulary has its own outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from deploycomp.data import Rows
from deploycomp.runtime import Predictor

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer_of(words: Sequence[str]) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def predictor_of(
    task: str,
    outputs: Mapping[str, Sequence[float]],
    *,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    max_length: int = 64,
) -> Predictor:
    """Make a model whose output for a token, or for a text's first token, is what *outputs* says of it.

    Args:
        task: The task.
        outputs: Word → its logits, or (start, end) logits, or its vector; other tokens have zeros.
        labels: Names of the logits.
        problem_type: As in the manifest.
        max_length: Where texts are cut.
    """
    tokenizer = tokenizer_of(list(outputs))
    width = len(next(iter(outputs.values())))
    table = np.zeros((len(SPECIAL) + len(outputs), width), np.float32)
    table[len(SPECIAL) :] = list(outputs.values())

    def run(feeds: dict[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        values = table[feeds["input_ids"]]
        if task == "question-answering":
            return [values[..., 0], values[..., 1]]
        if task == "fill-mask":  # what is likely for the mask is said by the word before it
            return [np.roll(values, 1, axis=1)]
        return [values[:, 1]] if task in ("text-classification", "sentence-similarity") else [values]

    runtime = {
        "labels": list(labels) if labels else None,
        "problem_type": problem_type,
        "mask_token": "[MASK]",
        "max_length": max_length,
    }
    inputs = {"input_ids": ["batch", "sequence"], "attention_mask": ["batch", "sequence"]}
    return Predictor(tokenizer, {"task": task, "signature": {"inputs": inputs}, "runtime": runtime}, run)


def classifier(labels: Sequence[str], *, order: Sequence[int] | None = None) -> Predictor:
    """A model that answers the label whose name is the first word of the text; *order* permutes its outputs."""
    rows = np.eye(len(labels))[:, list(order or range(len(labels)))] * 5
    words = dict(zip(labels, rows.tolist(), strict=True))
    return predictor_of("text-classification", words, labels=labels)


def labeled(pairs: Sequence[tuple[str, str]], **settings: Any) -> Rows:
    """Rows of (text, label)."""
    rows = [{"text": text, "label": label} for text, label in pairs]
    return Rows.of(rows, task="text-classification", name="set/test.jsonl", columns=_same("text", "label"), **settings)


def rows_of(task: str, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Rows:
    return Rows.of(rows, task=task, name="set/test.jsonl", columns=_same(*rows[0]), **settings)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}
