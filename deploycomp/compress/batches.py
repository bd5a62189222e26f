"""Rows as padded batches of nearly equal length, for passes through a PyTorch model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "label_tensor", "make_batches", "tokens_at_once"]

TOKENS = 512
"""Tokens of a batch at most, padding included."""
LEAST_TOKENS = 64
PASS_BYTES = 80_000_000
"""What a backward pass may keep of a batch: of a BERT-base 128 tokens."""
VALUES = 16
"""As many as a token has channels are kept of it in each layer."""


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length.

    Args:
        inputs: Input name → int64 [rows, tokens].
        labels: What is right, if that is known: class [rows], or a value of each output [rows, outputs].
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Which tokens are real, bool [rows, tokens]."""
        return self.inputs["attention_mask"].bool()

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.mask.shape[0])


def tokens_at_once(layers: int, hidden: int) -> int:
    """Tokens of a batch that a backward pass through a model has room for, a multiple of `LEAST_TOKENS`."""
    room = PASS_BYTES // max(1, 4 * VALUES * layers * hidden)
    return max(LEAST_TOKENS, min(TOKENS, room // LEAST_TOKENS * LEAST_TOKENS))


def make_batches(
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    pad_token_id: int,
    limit: int | None = None,
    tokens: int = TOKENS,
    labels: Tensor | None = None,
) -> list[Batch]:
    """Batch single rows by length.

    Args:
        feeds: Input name → [1, length] for each row.
        pad_token_id: What fills `input_ids`.
        limit: Stop before this many real tokens are exceeded.
        tokens: Tokens of a batch at most, padding included.
        labels: Of the rows, in their order.

    Returns:
        Batches from short rows to long ones.
    """
    rows: list[Mapping[str, np.ndarray]] = []
    taken = 0
    for feed in feeds:
        length = feed["input_ids"].shape[1]
        if limit is not None and rows and taken + length > limit:
            break
        taken += length
        rows.append(feed)
    order = sorted(range(len(rows)), key=lambda place: rows[place]["input_ids"].shape[1])
    rows = [rows[place] for place in order]
    batches: list[Batch] = []
    begin = 0
    for end in range(1, len(rows) + 1):
        longer = rows[end]["input_ids"].shape[1] if end < len(rows) else 0
        if end == len(rows) or longer * (end + 1 - begin) > tokens:
            right = None if labels is None else labels[order[begin:end]]
            batches.append(Batch(_pad(rows[begin:end], pad_token_id), right))
            begin = end
    return batches


def label_tensor(labels: Sequence[Any], names: Sequence[str] | None, problem_type: str | None) -> Tensor:
    """Write labels as a model's outputs count them.

    Args:
        labels: Of rows: a name, several names, or a number.
        names: The model's, in the order of its outputs.
        problem_type: As transformers names it.

    Returns:
        The class, int64 [rows], or a value of each output, [rows, outputs].
    """
    order = list(names or ())
    if problem_type == "single_label_classification":
        return torch.tensor([order.index(each) for each in labels])
    if problem_type == "multi_label_classification":
        return torch.tensor([[float(name in each) for name in order] for each in labels])
    return torch.tensor([[float(each)] for each in labels])


def _pad(rows: list[Mapping[str, np.ndarray]], pad_token_id: int) -> dict[str, Tensor]:
    width = max(row["input_ids"].shape[1] for row in rows)
    inputs: dict[str, Tensor] = {}
    for name in rows[0]:
        fill = pad_token_id if name == "input_ids" else 0
        padded = np.full((len(rows), width), fill, np.int64)
        for index, row in enumerate(rows):
            padded[index, : row[name].shape[1]] = row[name][0]
        inputs[name] = torch.from_numpy(padded)
    return inputs
