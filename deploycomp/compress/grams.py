"""Second moments Σ w x xᵀ over tokens: symmetric, so little more than one half of them is computed and kept."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Gram"]

BLOCKS = 4
"""Along each side; of 16 blocks, 10 are computed."""
LEAST = 128
"""Products with fewer columns run at a lower rate than they save."""


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

    def add(self, left: Tensor, right: Tensor) -> None:
        """Add leftᵀ right, [tokens, columns] each, which differ in the weights of tokens only."""
        for begin, block in zip(self.begins, self.blocks, strict=True):
            block.addmm_(left[:, begin : begin + len(block)].T, right[:, begin:])

    def full(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The whole matrix, [columns, columns]."""
        whole = torch.empty(self.columns, self.columns, dtype=dtype)
        for begin, block in zip(self.begins, self.blocks, strict=True):
            end = begin + len(block)
            whole[begin:end, begin:] = block
            whole[end:, begin:end] = block[:, len(block) :].T
        return whole
