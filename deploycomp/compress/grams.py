"""Second moments Σ w x xᵀ over tokens: symmetric, so little more than one half of them is computed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["add_gram", "fill_gram"]

BLOCKS = 4
"""Along each side; of 16 blocks, 10 are computed."""
LEAST = 128
"""Products with fewer columns run at a lower rate than they save."""


def add_gram(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add leftᵀ right, which must be symmetric, to the blocks on and above the diagonal.

    Args:
        total: [columns, columns], changed in place; `fill_gram` makes it whole after the last call.
        left, right: [tokens, columns]: of one of them each token is weighted.
    """
    for begin, end in _blocks(len(total)):
        total[begin:end, begin:].addmm_(left[:, begin:end].T, right[:, begin:])


def fill_gram(total: Tensor) -> Tensor:
    """Copy what is above the diagonal to below it, in place, and return it."""
    for begin, end in _blocks(len(total)):
        total[end:, begin:end] = total[begin:end, end:].T
    return total


def _blocks(columns: int) -> Iterator[tuple[int, int]]:
    size = max(LEAST, -(-columns // BLOCKS))
    for begin in range(0, columns, size):
        yield begin, min(begin + size, columns)
