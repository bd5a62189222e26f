"""SVD of the whitened matrix, as SVD-LLM does it (Wang et al. 2025): another way to the optimum of `output_pca`.

C = S Sᵀ (Cholesky)      W S = U Σ Vᵀ      M = (U_r Σ_r^½) (Σ_r^½ V_rᵀ S⁻¹)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.moments import Moments
from deploycomp.compress.factorize.pca import input_moment, store
from deploycomp.compress.factorize.weighted import Components

__all__ = ["whitened"]


def whitened(
    group: Group, moments: Sequence[Moments], biases: Sequence[Tensor | None], rank: int, *, centred: bool = False
) -> Stored:
    """Keep the largest singular values of W S.

    Args:
        group: Linear layers.
        moments: Of each member.
        biases: Of each member, [rows], None where it has none.
        rank: Of what is kept.
        centred: Whether the mean goes to the bias; SVD-LLM's does not.

    Returns:
        Latents and basis, with new biases where means are taken out.
    """
    s = torch.linalg.cholesky(input_moment(moments, centred=centred))
    u, sizes, v = torch.linalg.svd(group.stacked.double() @ s, full_matrices=False)
    root = sizes.sqrt()
    basis = torch.linalg.solve_triangular(s, root[:, None] * v, upper=False, left=False)
    return store(group, moments, biases, Components(u * root, basis, sizes.square()), rank, centred=centred)
