"""Tucker decomposition of a stack cut into blocks of rows, [blocks, p, columns].

    T ≈ core ×₁ U ×₂ V ×₃ C,   core = T ×₁ Uᵀ ×₂ Vᵀ ×₃ Cᵀ

U, V, C start as the leading eigenvectors of T's three Gram matrices (HOSVD), then each in turn is found again from T
projected on the other two (HOOI; De Lathauwer et al. 2000, "On the best rank-1 and rank-(R1, R2, ..., RN)
approximation"). Banaei et al. 2023 cut attention matrices into heads, and go on with gradient steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.svd import leading

__all__ = ["tucker"]

_SWEEPS = 3
"""The error of the matrices here falls by less than 0.1 % after the third."""


def tucker(group: Group, sizes: Mapping[str, int], *, sweeps: int = _SWEEPS) -> Stored:
    """Store a group as a core and a factor for each side.

    Args:
        group: What is stored; members that blocks do not fill are padded with zeros.
        sizes: Three ranks and the rows of a block (`sizes.tucker_sizes`).
        sweeps: Of the improvement after the start.

    Returns:
        Rule `tucker`.

    Raises:
        ValueError: A rank is below 1.
    """
    p, ranks = sizes["rows"], [sizes["rank1"], sizes["rank2"], sizes["rank3"]]
    if min(ranks) < 1:
        raise ValueError(f"ranks of {ranks} store nothing")
    blocks = [_blocks(each.double(), p) for each in group.matrices]
    tensor = torch.cat(blocks)
    ranks = [min(pair) for pair in zip(ranks, tensor.shape, strict=True)]
    factors = [_leading(tensor, side, rank) for side, rank in enumerate(ranks)]
    for side in list(range(3)) * sweeps:
        factors[side] = _leading(_project(tensor, factors, skip=side), side, ranks[side])
    outer, inner, columns = (each.float() for each in factors)
    shared = {"core": _project(tensor, factors).float(), "inner": inner, "columns": columns}
    own = tuple({"outer": each} for each in torch.split(outer, [len(each) for each in blocks]))
    return Stored("tucker", {"rank1": ranks[0], "rank2": ranks[1], "rank3": ranks[2], "rows": p}, own, shared)


def _blocks(matrix: Tensor, p: int) -> Tensor:
    """[rows, columns] → [rows / p, p, columns]."""
    return nn.functional.pad(matrix, (0, 0, 0, -len(matrix) % p)).reshape(-1, p, matrix.shape[1])


def _leading(tensor: Tensor, side: int, rank: int) -> Tensor:
    """What spans a side best, [length of the side, rank]."""
    flat = tensor.movedim(side, 0).flatten(1)
    return leading(flat @ flat.T, rank)


def _project(tensor: Tensor, factors: Sequence[Tensor], *, skip: int | None = None) -> Tensor:
    """Replace sides by their coordinates in the factors."""
    for side, factor in enumerate(factors):
        if side != skip:
            tensor = (tensor.movedim(side, -1) @ factor).movedim(-1, side)
    return tensor
