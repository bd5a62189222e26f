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

__all__ = ["Removal", "inverse", "remove"]

DAMPING = 1e-2
"""Share of the mean diagonal added to H (methods.md A)."""


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
        [columns, columns], float64.
    """
    matrix = moment.double()
    mean = matrix.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    matrix = matrix + damping * mean * torch.eye(len(matrix), dtype=torch.float64)
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


def remove(weight: Tensor, moment: Tensor, curvature: Tensor, *, size: int, step: int = 1, down_to: int = 0) -> Removal:
    """Order the units of a projection's input by what it costs to remove them.

    Args:
        weight: W, [outputs, columns].
        moment: H, [columns, columns].
        curvature: G, [outputs, outputs].
        size: Columns of a unit: 1 for a neuron, the head's width for a head.
        step: Units removed before the scores are computed again.
        down_to: Units that stay at the end.

    Returns:
        The order of removal and the predicted losses.
    """
    w, g, h = weight.double().clone(), curvature.double(), inverse(moment)
    units = weight.shape[1] // size
    alive = torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    losses = [0.0]
    while units - len(order) > down_to:
        scores = _scores(w, h, g, size)
        scores[~alive] = torch.inf
        count = min(step, units - len(order) - down_to)
        picked = torch.topk(scores, count, largest=False).indices
        columns = (picked[:, None] * size + torch.arange(size)).flatten()
        loss = max(0.0, float(_score(w, h, g, columns)))
        losses += [losses[-1] + loss * (number + 1) / count for number in range(count)]
        _eliminate(w, h, columns)
        alive[picked] = False
        order += picked.tolist()
    return Removal(tuple(order), torch.tensor(losses, dtype=torch.float64))


def _scores(w: Tensor, h: Tensor, g: Tensor, size: int) -> Tensor:
    """½ tr(W_Sᵀ G W_S (H⁻¹_SS)⁻¹) of every unit."""
    if size == 1:
        return 0.5 * (w * (g @ w)).sum(0) / h.diagonal().clamp(min=1e-30)
    units = w.shape[1] // size
    return torch.stack([_score(w, h, g, unit * size + torch.arange(size)) for unit in range(units)])


def _score(w: Tensor, h: Tensor, g: Tensor, columns: Tensor) -> Tensor:
    removed = w[:, columns]
    inner = removed.T @ (g @ removed)
    return 0.5 * torch.linalg.solve(h[columns][:, columns], inner).diagonal().sum()


def _eliminate(w: Tensor, h: Tensor, columns: Tensor) -> None:
    """Remove columns in place: they become zero in W, and those of lone ones in H⁻¹."""
    rows = torch.linalg.solve(h[columns][:, columns], h[columns])
    w -= w[:, columns] @ rows
    h -= h[:, columns] @ rows
    w[:, columns] = 0
    h[columns], h[:, columns] = 0, 0
    h[columns, columns] = 1
