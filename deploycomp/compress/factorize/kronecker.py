"""Sum of Kronecker products, in closed form.

    ‖W - Σₖ Aₖ ⊗ Bₖ‖ = ‖R - Σₖ vec(Aₖ) vec(Bₖ)ᵀ‖,   R [blocks, p q]: one row for each block [p, q] of W

so the truncated SVD of R gives the nearest sum (Van Loan & Pitsianis 1993, "Approximation with Kronecker products").
Banaei et al. 2023 train the same form by gradient steps. Blocks of all members are rows of one R: B is shared.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.svd import truncate

__all__ = ["kronecker"]


def kronecker(group: Group, sizes: Mapping[str, int]) -> Stored:
    """Store a group as a sum of Kronecker products.

    Args:
        group: What is stored; members that blocks do not fill are padded with zeros.
        sizes: Terms, rows and columns of a block (`sizes.kronecker_sizes`).

    Returns:
        Rule `kronecker`.
    """
    p, q = sizes["rows"], sizes["columns"]
    blocks = [_blocks(each.double(), p, q) for each in group.matrices]
    latents, basis = truncate(torch.cat([each.flatten(0, 1) for each in blocks]), sizes["terms"])
    parts = torch.split(latents.float(), [each.shape[:2].numel() for each in blocks])
    own = tuple(
        {"left": part.T.reshape(-1, *each.shape[:2]).contiguous()} for part, each in zip(parts, blocks, strict=True)
    )
    right = basis.float().reshape(-1, p, q)
    return Stored("kronecker", {"terms": len(right), "rows": p, "columns": q}, own, {"right": right})


def _blocks(matrix: Tensor, p: int, q: int) -> Tensor:
    """[rows, columns] → [rows / p, columns / q, p q]."""
    rows, columns = matrix.shape
    full = nn.functional.pad(matrix, (0, -columns % q, 0, -rows % p))
    return full.reshape(len(full) // p, p, -1, q).transpose(1, 2).flatten(2)
