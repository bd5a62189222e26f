"""How large each method may be so that what it stores is at most 1/ratio of the matrix.

    budget P        rows · columns / ratio
    svd             rank   = P / (rows + columns)
    linear AE       latent = (P - rows - columns) / (rows + columns)             a norm for each row, one shift
    autoencoder     latent = x of  10 x² + (rows + 4 columns + 7) x + rows + columns ≤ P           widths x, 2x, 4x
    kronecker       terms  = P / (blocks + p q)                                  blocks = rows/p · columns/q
    tucker          ranks  = one share of [rows/p, p, columns], the largest that fits

Rounded down. The first three are the formulas of Banaei et al. 2023 ("Revisiting Offline Compression", Findings of
EACL; the authors' code). The encoder is not stored and not counted; hidden layers have 6 x biases, and the seventh is
the authors'. Rows are those of the whole stack: the decoder of a group is stored once.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from deploycomp.models.factors import numbers

__all__ = [
    "INNER",
    "OUTER",
    "autoencoder_latent",
    "budget",
    "kronecker_sizes",
    "linear_latent",
    "numbers",
    "svd_rank",
    "tucker_sizes",
]

INNER, OUTER = 2, 4
"""Widths of the autoencoder's decoder, in latents (papers.md 1.3)."""

_HEAD = 64
"""Rows of a block of Tucker where the paper has the width of a head (papers.md 1.7)."""

_NEAR = 2.0
"""A divisor further than this factor from the wanted block is worse than padding: 30522 = 6 · 5087 has none near √."""


def budget(rows: int, columns: int, ratio: float) -> int:
    """Numbers that may be stored.

    Args:
        rows: Of the stack.
        columns: Of the stack.
        ratio: Numbers of the matrix for one that is stored.

    Returns:
        Rounded down.

    Raises:
        ValueError: The ratio is not above 0.
    """
    if not ratio > 0:
        raise ValueError(f"a compression ratio of {ratio:g} is not above 0")
    return int(rows * columns / ratio)


def svd_rank(rows: int, columns: int, ratio: float) -> int:
    """Rank of a truncated SVD.

    Args:
        rows: Of the stack.
        columns: Of the stack.
        ratio: Of compression.

    Returns:
        The largest that fits, 0 where none does.
    """
    return budget(rows, columns, ratio) // (rows + columns)


def linear_latent(rows: int, columns: int, ratio: float) -> int:
    """Latents of a row in the linear autoencoder, beside its norm and the shift.

    Args:
        rows: Of the stack.
        columns: Of the stack.
        ratio: Of compression.

    Returns:
        The largest that fits, 0 where none does.
    """
    return max(0, svd_rank(rows, columns, ratio) - 1)


def autoencoder_latent(rows: int, columns: int, ratio: float) -> int:
    """Latents of a row in the autoencoder, beside its norm and the decoder.

    Args:
        rows: Of the stack.
        columns: Of the stack.
        ratio: Of compression.

    Returns:
        The largest x that fits, 0 where none does.
    """
    a = INNER + INNER * OUTER
    b = rows + OUTER * columns + INNER + OUTER + 1
    room = budget(rows, columns, ratio) - rows - columns
    return (math.isqrt(b * b + 4 * a * room) - b) // (2 * a) if room > 0 else 0


def kronecker_sizes(members: Sequence[int], columns: int, ratio: float) -> dict[str, int]:
    """Sizes of a sum of Kronecker products.

    Args:
        members: Rows of each matrix of the stack.
        columns: Of the stack.
        ratio: Of compression.

    Returns:
        Sizes of the rule `kronecker`: the most terms that fit, 0 where none does, with blocks near the square roots of
        the stack's sides.
    """
    p, q = _block(members, math.sqrt(sum(members))), _block([columns], math.sqrt(columns))
    blocks = sum(-(-rows // p) for rows in members) * -(-columns // q)
    fit = budget(sum(members), columns, ratio) // (blocks + p * q)
    return {"terms": min(fit, blocks, p * q), "rows": p, "columns": q}


def tucker_sizes(members: Sequence[int], columns: int, ratio: float, *, head: int = _HEAD) -> dict[str, int]:
    """Sizes of a Tucker decomposition of the stack as [blocks, rows of a block, columns].

    Args:
        members: Rows of each matrix of the stack.
        columns: Of the stack.
        ratio: Of compression.
        head: Rows of a block, unless another number near it divides every member's rows.

    Returns:
        Sizes of the rule `tucker`: the largest ranks that fit, in one proportion to the three sides, 0 where none do.
    """
    p = _block(members, head)
    sides = (sum(-(-rows // p) for rows in members), p, columns)
    most = max(sides)

    def sizes(share: int) -> dict[str, int]:
        ranks = [max(min(1, share), share * side // most) for side in sides]
        return {"rank1": ranks[0], "rank2": ranks[1], "rank3": ranks[2], "rows": p}

    limit = budget(sum(members), columns, ratio)
    return sizes(bisect_right(range(1, most + 1), limit, key=lambda k: numbers("tucker", sizes(k), members, columns)))


def _block(lengths: Sequence[int], wanted: float) -> int:
    """The common divisor nearest to a length, or that length where none is near."""
    common = math.gcd(*lengths)
    divisors = [each for each in range(1, common + 1) if common % each == 0]
    best = min(divisors, key=lambda each: abs(math.log(each / wanted)))
    return best if 1 / _NEAR <= best / wanted <= _NEAR else math.ceil(wanted)
