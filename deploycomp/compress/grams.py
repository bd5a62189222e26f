"""Second moments Σ x xᵀ over tokens: symmetric, so little more than one half of them is computed and kept."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Gram"]

BLOCKS = 4
"""Along each side; of 16 blocks, 10 are computed."""
LEAST = 128
"""Products with fewer columns run at a lower rate than they save."""
AT_ONCE = 128
"""Tokens that wait for one another: products of fewer read and write the sum more than they compute."""


class Gram:
    """Sum of xᵀ x, as blocks of rows from the diagonal on.

    Args:
        columns: Of x.
    """

    def __init__(self, columns: int):
        size = max(LEAST, -(-columns // BLOCKS))
        self.begins = range(0, columns, size)
        self.blocks = [torch.zeros(min(size, columns - begin), columns - begin) for begin in self.begins]
        self.columns = columns
        self._waiting: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Add xᵀ x of [tokens, columns], which nobody may change from now on: it may wait for more."""
        self._waiting.append(x)
        if sum(len(each) for each in self._waiting) >= AT_ONCE:
            self._multiply()

    def _multiply(self) -> None:
        x = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)
        self._waiting = []
        for begin, block in zip(self.begins, self.blocks, strict=True):
            block.addmm_(x[:, begin : begin + len(block)].T, x[:, begin:])

    def full(self) -> Tensor:
        """The whole matrix, [columns, columns]."""
        if self._waiting:
            self._multiply()
        whole = torch.empty(self.columns, self.columns)
        for begin, block in zip(self.begins, self.blocks, strict=True):
            end = begin + len(block)
            whole[begin:end, begin:] = block
            whole[end:, begin:end] = block[:, len(block) :].T
        return whole
