"""The singular value decomposition in a metric of rows R and of columns K, on its smaller side.

    min |R^½ (W - M) K^½|²  over M of rank r           R^½ W K^½ = U S Vᵀ, the loss of component i is S_i²
    rows ≤ columns     (R^½ W) K (R^½ W)ᵀ = U S² Uᵀ    M = (R^-½ U_r) (U_rᵀ R^½ W)
    rows > columns     K^½ (Wᵀ R W) K^½ = V S² Vᵀ      M = (W K^½ V_r) (V_rᵀ K^-½)

(Eckart & Young 1936, in the metric; the left form is DRONE's closed form without its inverse, Chen et al. 2021.) Only
the metric of the smaller side is inverted, and R is never larger than its blocks: an embedding's is a diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored

__all__ = ["Components", "damped", "decompose", "low_rank"]

_SMALLEST = torch.finfo(torch.float32).tiny
"""Keeps what is all zeros invertible."""


@dataclass(frozen=True)
class Components:
    """W = latents · basis, the components that matter most first, in float64.

    Args:
        latents: [rows, components].
        basis: [components, columns].
        energies: S², what dropping each adds to the squared error in the metric, [components].
    """

    latents: Tensor
    basis: Tensor
    energies: Tensor


def damped(moment: Tensor, share: float) -> Tensor:
    """Add a share of its mean diagonal to a second moment.

    Args:
        moment: [size, size].
        share: What is added.

    Returns:
        [size, size], float64, invertible.
    """
    matrix = moment.double()
    more = share * matrix.diagonal().mean().clamp(min=_SMALLEST)
    return matrix + more * torch.eye(len(matrix), dtype=torch.float64)


def decompose(matrix: Tensor, rows: Sequence[Tensor], columns: Tensor) -> Components:
    """Decompose a matrix in a metric.

    Args:
        matrix: W, [rows, columns].
        rows: R, the blocks of its diagonal: [size, size] each, or [size] where a block is a diagonal itself.
        columns: K, [columns, columns].

    Returns:
        All components, as many as the smaller side is long, each with rows and columns of equal scale, so that both
        can be stored in half precision.
    """
    w, k = matrix.double(), columns.double()
    blocks = [each.double() for each in rows]
    if w.shape[0] <= w.shape[1]:
        roots = [_roots(each) for each in blocks]
        half = _times([root for root, _ in roots], w)
        energies, u = _descending(half @ k @ half.T)
        latents, basis = _times([inverse for _, inverse in roots], u), u.T @ half
    else:
        root, inverse = _roots(k)
        energies, v = _descending(root @ (w.T @ _times(blocks, w)) @ root)
        latents, basis = w @ (root @ v), v.T @ inverse
    scale = (_size(basis, 1) / _size(latents, 0)).sqrt()
    return Components(latents * scale, basis / scale[:, None], energies)


def low_rank(
    group: Group,
    components: Components,
    rank: int,
    *,
    biases: tuple[Tensor | None, ...] = (),
    shift: Tensor | None = None,
) -> Stored:
    """Store the first components of a group.

    Args:
        group: Its matrices.
        components: Of the stack.
        rank: How many are kept at most.
        biases: New ones.
        shift: A row that is added to every row, [columns].

    Returns:
        What is stored, in float32.
    """
    latents, basis = components.latents[:, :rank].float(), components.basis[:rank].float()
    shared = {"basis": basis} if shift is None else {"basis": basis, "shift": shift.float()}
    sizes = {"rank": len(basis), "norms": 0, "shift": int(shift is not None)}
    own = tuple({"latents": each.contiguous()} for each in group.split(latents))
    return Stored("low_rank", sizes, own, {**shared, "basis": basis.contiguous()}, biases)


def _roots(metric: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a metric and its inverse."""
    if metric.dim() == 1:
        root = metric.clamp(min=_SMALLEST).sqrt()
        return root, 1 / root
    values, vectors = torch.linalg.eigh(metric)
    root = values.clamp(min=_SMALLEST).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _times(blocks: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """A block-diagonal matrix times *matrix*."""
    parts = torch.split(matrix, [len(each) for each in blocks])
    pairs = zip(blocks, parts, strict=True)
    return torch.cat([each[:, None] * part if each.dim() == 1 else each @ part for each, part in pairs])


def _descending(moment: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def _size(matrix: Tensor, dim: int) -> Tensor:
    """Root mean square along a dimension."""
    return matrix.square().mean(dim).clamp(min=_SMALLEST**2).sqrt()
