"""The autoencoder of Banaei et al. 2023 ("Revisiting Offline Compression", Findings of EACL; the authors' code).

    encode    columns → 8x → 4x → x         a leaky ReLU after every layer
    decode    x → 2x → 4x → columns         a leaky ReLU between, tanh at the end; then rows get their norms back

Latents, norms and the decoder are stored. Members of a group are the rows of one training set and share the decoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deploycomp.compress.factorize.chain import Chain, Function
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.sizes import INNER, OUTER
from deploycomp.compress.factorize.training import Coder, Select, Training, train

__all__ = ["autoencoder"]

_ENCODER = (8, 4)
"""Widths of the encoder, in latents (papers.md 1.3)."""

_FUNCTIONS: tuple[Function, ...] = ("leaky", "leaky", "leaky", "leaky", "leaky", "tanh")
_NAMES = ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3")


def autoencoder(
    group: Group,
    latent: int,
    training: Training | None = None,
    *,
    seed: int = 1,
    row_weights: Tensor | None = None,
    select: Select | None = None,
    progress: Callable[[float], None] | None = None,
) -> Stored:
    """Store a group as latents, norms and a decoder.

    Args:
        group: What is stored.
        latent: x, numbers for each row (`sizes.autoencoder_latent`).
        training: How it is trained; the paper's way by default.
        seed: Of the start and of the order of rows.
        row_weights: Factor on each row's loss, [rows of the stack], in any unit; None weighs all rows the same.
        select: Called now and then; the epoch where it is lowest is kept. None takes the loss over all rows.
        progress: Called with the share that is done.

    Returns:
        Rule `autoencoder`.

    Raises:
        ValueError: There is no latent.
    """
    if latent < 1:
        raise ValueError(f"a latent of {latent} stores nothing")
    columns, inner, outer = group.shape[1], INNER * latent, OUTER * latent
    draw = torch.Generator().manual_seed(seed)
    widths = (columns, *(each * latent for each in _ENCODER), latent, inner, outer, columns)
    chain = Chain(widths, _FUNCTIONS, draw)
    sizes = {"latent": latent, "inner": inner, "outer": outer}
    coder = Coder("autoencoder", sizes, chain, encoder=len(_ENCODER) + 1, names=_NAMES)
    return train(group, coder, training or Training(), draw, row_weights=row_weights, select=select, progress=progress)
