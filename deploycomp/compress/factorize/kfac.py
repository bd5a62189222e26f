"""Low rank that keeps the loss: the SVD in the metric of K-FAC, inputs on one side and gradients on the other.

    G^½ W C^½ = U S Vᵀ        M = G^-½ U_r U_rᵀ G^½ W        ½ S_i² is what dropping component i costs in loss

to second order, with C = E[(x-μ)(x-μ)ᵀ] and G = E[Σ_t g gᵀ] taken as independent (Martens & Grosse 2015; FWSVD, Hsu et
al. 2022, has a diagonal metric of the rows alone). The losses of all matrices have one unit, so one list of them says
where ranks should go (`ranks`). Of a joint group G has a block for each member; of an embedding, which reads one-hot x,
the rows are weighted by their frequency and the columns by G at its output.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.moments import Moments
from deploycomp.compress.factorize.pca import principal, store
from deploycomp.compress.factorize.weighted import damped

__all__ = ["GRADIENT_DAMPING", "components", "curvatures", "kfac"]

GRADIENT_DAMPING = 1e-3
"""Share of its mean diagonal added to G (methods.md B)."""


def kfac(group: Group, moments: Sequence[Moments], biases: Sequence[Tensor | None], rank: int) -> Stored:
    """Keep the components whose loss is largest.

    Args:
        group: Linear layers, or one embedding.
        moments: Of each member.
        biases: Of each member, [rows], None where it has none.
        rank: Of what is kept, or all where there are fewer components.

    Returns:
        Latents and basis, with new biases or, for an embedding, a shift.
    """
    return store(group, moments, biases, principal(group, moments, gradients=curvatures(moments)), rank)


def components(group: Group, moments: Sequence[Moments]) -> Tensor:
    """Predict what each component of a group is worth.

    Args:
        group: Linear layers, or one embedding.
        moments: Of each member.

    Returns:
        The loss of a row, added by dropping each component, descending, [components] in float64.
    """
    return principal(group, moments, gradients=curvatures(moments)).energies / 2


def curvatures(moments: Sequence[Moments]) -> list[Tensor]:
    """G of each member, damped, [outputs, outputs]."""
    return [damped(each.gradients, GRADIENT_DAMPING) for each in moments]
