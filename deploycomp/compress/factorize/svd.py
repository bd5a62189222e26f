"""Truncated SVD of a stack, plain or with a weight for each row.

    W ≈ L D,   L = U_r S_r,   D = V_rᵀ                                nearest in ‖W - L D‖   (Eckart & Young 1936)
    diag(c) W = U S Vᵀ,   L = diag(c)⁻¹ U_r S_r,   D = V_rᵀ           nearest in ‖diag(c) (W - L D)‖

The second is FWSVD (Hsu et al. 2022, "Language model compression with weighted low-rank factorization"), where c is the
root of each row's Fisher information.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored

__all__ = ["leading", "svd", "truncate"]

_LEAST = 1e-3
"""Share of the mean weight below which no row's weight falls: the left factor is divided by it."""


def svd(group: Group, rank: int, *, row_weights: Tensor | None = None) -> Stored:
    """Store a group as latents of its own times a basis they share.

    Args:
        group: What is stored.
        rank: Components that stay; at most as many as the stack has are stored.
        row_weights: c, [rows of the stack], not negative; None weighs all rows the same.

    Returns:
        Rule `low_rank`, without norms and shift.
    """
    rows = group.stacked.double()
    if row_weights is None:
        latents, basis = truncate(rows, rank)
    else:
        c = row_weights.double().clamp(min=_LEAST * float(row_weights.double().mean()))[:, None]
        latents, basis = truncate(c * rows, rank)
        latents = latents / c
    own = tuple({"latents": each.contiguous()} for each in group.split(latents.float()))
    return Stored("low_rank", {"rank": len(basis), "norms": 0, "shift": 0}, own, {"basis": basis.float()})


def truncate(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find the nearest matrix of a rank, from the eigenvectors of the smaller Gram matrix.

    Args:
        matrix: [rows, columns].
        rank: At most as many components as it has are returned.

    Returns:
        U S, [rows, rank], and Vᵀ, [rank, columns], float64; largest first.

    Raises:
        ValueError: The rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"a rank of {rank} stores nothing")
    rows, rank = matrix.double(), min(rank, *matrix.shape)
    if len(rows) < rows.shape[1]:
        left = leading(rows @ rows.T, rank)
        basis = left.T @ rows
        lengths = torch.linalg.vector_norm(basis, dim=1).clamp(min=torch.finfo(torch.float64).tiny)
        return left * lengths, basis / lengths[:, None]
    right = leading(rows.T @ rows, rank)
    return rows @ right, right.T.contiguous()


def leading(gram: Tensor, rank: int) -> Tensor:
    """Find the eigenvectors of the largest eigenvalues.

    Args:
        gram: Symmetric, [side, side].
        rank: How many.

    Returns:
        [side, rank], orthonormal, largest first.
    """
    return torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)
