"""Reduced-rank regression: a low rank that also mends what the matrices below it broke.

    M, b' = argmin E|G^½ (W x + b - M x~ - b')|² + λ |G^½ (M - W)|²    x: the teacher's input, x~: what arrives instead
    M_ls = W + W (C_xx~ - C_x~x~) (C_x~x~ + λ I)⁻¹                     without the limit on its rank, moments centred
    M = the best rank r of M_ls in the metric G, C_x~x~ + λ I          b' = b + W μ - M μ~

(Izenman 1975; the ridge pulls towards W, as in `prune/rebuild.py`.) Where nothing drifted M_ls is W, M `output_pca`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.pca import INPUT_DAMPING
from deploycomp.compress.factorize.weighted import damped, decompose, low_rank

__all__ = ["RIDGE", "Drift", "reduced_rank"]

RIDGE = 3e-2
"""λ as a share of the mean diagonal: between 1e-2 (7 % more loss on held-out rows of two models) and 0.1 (1 % more)."""


@dataclass(frozen=True)
class Drift:
    """What should arrive at a layer and what does, over real tokens.

    Args:
        cross: E[x x~ᵀ], [columns, columns].
        inputs: E[x~ x~ᵀ], [columns, columns].
        mean: E[x], [columns].
        drifted: E[x~], [columns].
    """

    cross: Tensor
    inputs: Tensor
    mean: Tensor
    drifted: Tensor


def reduced_rank(
    group: Group,
    drift: Drift,
    biases: Sequence[Tensor | None],
    rank: int,
    *,
    ridge: float = RIDGE,
    gradients: Sequence[Tensor] | None = None,
) -> Stored:
    """Fit a low rank on inputs that drifted to the outputs that were.

    Args:
        group: Linear layers that read one input.
        drift: Of that input.
        biases: Of each member, [rows], None where it has none.
        rank: Of what is kept, or all where there are fewer components.
        ridge: λ as a share of the mean diagonal.
        gradients: G of each member, invertible; none: all outputs are alike.

    Returns:
        Latents, basis and new biases.
    """
    w = group.stacked.double()
    cross = drift.cross - torch.outer(drift.mean, drift.drifted)
    inputs = drift.inputs - torch.outer(drift.drifted, drift.drifted)
    metric = damped(inputs, INPUT_DAMPING + ridge)
    fitted = w + torch.linalg.solve(metric, (w @ (cross - inputs)).T).T
    blocks = [torch.ones(len(each)) for each in group.matrices] if gradients is None else gradients
    components = decompose(fitted, blocks, metric)
    offsets = w @ drift.mean - components.latents[:, :rank] @ (components.basis[:rank] @ drift.drifted)
    new = tuple(
        (offset if bias is None else bias.double() + offset).float()
        for bias, offset in zip(biases, group.split(offsets), strict=True)
    )
    return low_rank(group, components, rank, biases=new)
