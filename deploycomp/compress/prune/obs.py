"""Optimal brain surgeon over groups of columns: what to remove next, and what the rest does about it.

For y = W h with second moment H = E[h hᵀ] and curvature G = E[g gᵀ] of the loss at y, removing the columns S and
letting the others make up for it costs

    ½ tr(G W_S (H⁻¹_SS)⁻¹ W_Sᵀ),     W ← W - W_S (H⁻¹_SS)⁻¹ H⁻¹_S:,     H⁻¹ ← H⁻¹ - H⁻¹_:S (H⁻¹_SS)⁻¹ H⁻¹_S:

(Kurtic et al. 2023, ZipLM, equations 2 to 4, here with the loss's curvature instead of the identity). The least-squares
solution of each output is independent of G, so G only decides which columns matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deploycomp.models.surgery import unit_columns

__all__ = ["Removal", "inverse", "remove", "root"]

DAMPING = 1e-2
"""Share of the mean diagonal added to H (methods.md A)."""
NOTHING = 1e-12
"""Eigenvalues of G below this share of the largest are rounding."""
CROWDED = 0.75
"""Share of columns that are left below which those that are gone are taken out of the way: copying costs time, too."""


@dataclass(frozen=True)
class Removal:
    """The order in which units go.

    Args:
        order: Units, the first to go first.
        losses: Predicted loss after removing the first k of them, [units + 1], in float64.
    """

    order: tuple[int, ...]
    losses: Tensor


def inverse(moment: Tensor, *, damping: float = DAMPING) -> Tensor:
    """Invert a damped second moment.

    Args:
        moment: H, [columns, columns].
        damping: Share of the mean diagonal that is added.

    Returns:
        [columns, columns], in the type of H; in float64 where float32 is too coarse for it.
    """
    lower, failed = torch.linalg.cholesky_ex(_damped(moment.clone(), damping))
    if failed:
        lower = torch.linalg.cholesky(_damped(moment.to(torch.float64, copy=True), damping))
    return torch.cholesky_inverse(lower)


def _damped(matrix: Tensor, damping: float) -> Tensor:
    """Add to the diagonal, in place."""
    diagonal = matrix.diagonal()
    diagonal += damping * diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    return matrix


def remove(weight: Tensor, moment: Tensor, gradients: Tensor, *, size: int, step: int = 1, down_to: int = 0) -> Removal:
    """Order the units of a projection's input by what it costs to remove them.

    Args:
        weight: W, [outputs, columns].
        moment: H, [columns, columns].
        gradients: R with RᵀR = G, [any, outputs], as `root` returns it: tr(Wᵀ G W) is |R W|².
        size: Columns of a unit: 1 for a neuron, the head's width for a head.
        step: Units removed before the scores are computed again.
        down_to: Units that stay at the end.

    Returns:
        The order of removal and the predicted losses.
    """
    h = inverse(moment)
    w = gradients.to(h.dtype) @ weight.to(h.dtype)
    units = weight.shape[1] // size
    left, alive = torch.arange(units), torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    losses = [0.0]
    while (count := min(step, units - len(order) - down_to)) > 0:
        if units - len(order) < CROWDED * len(alive):
            columns = unit_columns(alive.nonzero().flatten().tolist(), size)
            w, h = w[:, columns], h[columns][:, columns]
            left, alive = left[alive], alive[alive]
        picked = torch.topk(_scores(w, h, size).masked_fill(~alive, torch.inf), count, largest=False).indices
        columns = unit_columns(picked.tolist(), size)
        loss = max(0.0, float(_score(w, h, columns)))
        losses += [losses[-1] + loss * (number + 1) / count for number in range(count)]
        _eliminate(w, h, columns)
        alive[picked] = False
        order += left[picked].tolist()
    return Removal(tuple(order), torch.tensor(losses, dtype=torch.float64))


def root(curvature: Tensor) -> Tensor:
    """Return R with RᵀR = G, without the rows that are next to nothing.

    Args:
        curvature: G, [outputs, outputs].

    Returns:
        [outputs or fewer, outputs], in the type of G.
    """
    values, vectors = torch.linalg.eigh(curvature.double())
    seen = values > NOTHING * values[-1]
    return (values[seen].sqrt()[:, None] * vectors[:, seen].T).to(curvature.dtype)


def _scores(w: Tensor, h: Tensor, size: int) -> Tensor:
    """½ tr(W_Sᵀ G W_S (H⁻¹_SS)⁻¹) of every unit."""
    if size == 1:
        return 0.5 * w.square().sum(0) / h.diagonal().clamp(min=1e-30)
    units = w.shape[1] // size
    return torch.stack([_score(w, h, unit * size + torch.arange(size)) for unit in range(units)])


def _score(w: Tensor, h: Tensor, columns: Tensor) -> Tensor:
    removed = w[:, columns]
    return 0.5 * torch.linalg.solve(h[columns][:, columns], removed.T @ removed).diagonal().sum()


def _eliminate(w: Tensor, h: Tensor, columns: Tensor) -> None:
    """Remove columns in place: they become zero in W, and those of lone ones in H⁻¹."""
    lost, row = w[:, columns], h[columns]
    rows = torch.linalg.solve(row[:, columns], row)
    w.addmm_(lost, rows, alpha=-1)
    h.addmm_(row.T, rows, alpha=-1)
    w[:, columns] = 0
    h[columns], h[:, columns] = 0, 0
    h[columns, columns] = 1
