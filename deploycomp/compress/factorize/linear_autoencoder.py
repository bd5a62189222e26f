"""The linear autoencoder: a low rank that is right about directions rather than distances (Banaei et al. 2023).

    W_i = s_i (L_i D + d),   s_i = ‖w_i‖ / ‖L_i D + d‖, or that times the cosine of both

Rows get lengths of their own, so it is trained, with the loss of the other autoencoder, for the cosine of each row; SVD
is better in the distance of the whole matrix at the same rank, and nothing linear without such lengths can beat it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from deploycomp.compress.factorize.chain import Chain
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.svd import truncate
from deploycomp.compress.factorize.training import Coder, Select, Training, train

__all__ = ["linear_autoencoder"]


def linear_autoencoder(
    group: Group,
    latent: int,
    training: Training | None = None,
    *,
    start: Literal["random", "svd"] = "random",
    seed: int = 1,
    row_weights: Tensor | None = None,
    select: Select | None = None,
    progress: Callable[[float], None] | None = None,
) -> Stored:
    """Store a group as latents and norms of its own and a basis and a shift they share.

    Args:
        group: What is stored.
        latent: Numbers for each row (`sizes.linear_latent`), at most the rank of the stack for a start from its SVD.
        training: How it is trained; the paper's way by default.
        start: The paper's random start, or the truncated SVD.
        seed: Of the start and of the order of rows.
        row_weights: Factor on each row's loss, [rows of the stack], in any unit; None weighs all rows the same.
        select: Called now and then; the epoch where it is lowest is kept. None takes the loss over all rows.
        progress: Called with the share that is done.

    Returns:
        Rule `low_rank`, with norms and shift.

    Raises:
        ValueError: There is no latent.
    """
    if latent < 1:
        raise ValueError(f"a latent of {latent} stores nothing")
    draw = torch.Generator().manual_seed(seed)
    chain = Chain((group.shape[1], latent, group.shape[1]), ("none", "none"), draw)
    if start == "svd":
        _start(chain, group, latent)
    coder = Coder("low_rank", {"rank": latent, "norms": 1, "shift": 1}, chain, encoder=1, names=("basis", "shift"))
    return train(group, coder, training or Training(), draw, row_weights=row_weights, select=select, progress=progress)


def _start(chain: Chain, group: Group, latent: int) -> None:
    """Project on the leading right singular vectors."""
    _, basis = truncate(group.stacked, latent)
    chain.parameters.zero_()
    (encode, _), (decode, _) = chain.layers
    encode[:, : len(basis)] = basis.T
    decode[: len(basis)] = basis
