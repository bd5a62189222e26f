"""How both autoencoders are trained (Banaei et al. 2023, the authors' code).

    ŵ = ‖w‖ d / ‖d‖,  d = decode(encode(w))            one row w is one sample; its norm is enforced, so only
    e = 1 - cos(d, w)                                   its direction can be wrong:  ‖ŵ - w‖² = 2 ‖w‖² e

    loss   = c₁ mean(e) + c₂ RMSE,     RMSE = √(mean(2 ‖w‖² e) / columns)
    ∂/∂dᵢ  = (cosᵢ d̂ᵢ - ŵᵢ/‖wᵢ‖) / ‖dᵢ‖ · (c₁ + c₂ ‖wᵢ‖² / (columns · RMSE)) / rows           d̂ = d / ‖d‖, u = w / ‖w‖

Adam, a rate that falls in steps, rows in a new order every epoch; the epoch that is best over all rows is kept.

A row that is right in length and wrong in direction is further from w than a shorter one: with ‖w‖ cos the distance is
‖w‖² (1 - cos²), half as far where the cosine is small (least squares). Stored this way (`norms="fitted"`), no number
is added and none is trained differently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from deploycomp.compress.factorize.chain import Chain
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.models.factors import RULES

__all__ = ["Coder", "Samples", "Select", "Training", "train"]

Select = Callable[[Stored], float]
"""What is stored after an epoch → how bad it is."""

STEPS = 20_000
"""Steps that a stack of 2,304 rows gains from: the paper's 30 epochs are 4,320, after which it loses to SVD."""

WIDE = 0.08
"""Rate times latents at most: in the FFN of a MiniLM three times that learns half as fast, six times nothing at all."""

LOOKS = 30
"""At what is stored: the paper looks after each of its 30 epochs."""

_EXACT = float(torch.finfo(torch.float32).eps)
"""A cosine is not known better than this; the RMSE's slope would be infinite at 0."""

_SMALLEST = 1e-12
"""Length below which a vector has no direction."""


@dataclass(frozen=True)
class Training:
    """Hyper-parameters; the defaults are the paper's (papers.md 1.5).

    Args:
        epochs: Passes over all rows.
        batch: Rows of a step.
        rate: Of Adam.
        decay: Factor on the rate after every `decay_every` epochs.
        decay_every: Epochs.
        cosine: c₁.
        rmse: c₂.
        norms: Length of a rebuilt row: that of its source, or the one that comes closest to it.
    """

    epochs: int = 30
    batch: int = 16
    rate: float = 1e-3
    decay: float = 0.8
    decay_every: int = 10
    cosine: float = 10 / 11
    rmse: float = 1 / 11
    norms: Literal["enforced", "fitted"] = "enforced"

    @staticmethod
    def of(rows: int, steps: int = STEPS, *, latent: int | None = None) -> Training:
        """The paper's, but as long as a stack of this size needs, in batches of 64, and with fitted norms.

        Four times the rows at four times the rate find the same directions in half the time or less. Behind a tanh
        that rate is too high for wide layers: there it falls with the width (Yang & Hu 2021, for Adam).

        Args:
            rows: Of the stack.
            steps: Of the paper's 16 rows, at least so many.
            latent: Width of the autoencoder's latents; None where nothing saturates.
        """
        paper = Training()
        epochs = max(paper.epochs, -(-steps * paper.batch // rows))
        rate = 4 * paper.rate if latent is None else min(4 * paper.rate, WIDE / latent)
        decay_every = max(1, epochs // 3)
        return replace(paper, epochs=epochs, batch=4 * paper.batch, rate=rate, decay_every=decay_every, norms="fitted")


@dataclass(frozen=True)
class Coder:
    """An encoder and a decoder, and how the decoder is stored.

    Args:
        rule: That rebuilds rows.
        sizes: Of the rule.
        chain: Layers of the encoder, then of the decoder.
        encoder: How many are the encoder's, which is not stored.
        names: Of the decoder's tensors, a weight and a bias for each layer.
    """

    rule: str
    sizes: dict[str, int]
    chain: Chain
    encoder: int
    names: tuple[str, ...]

    def store(self, group: Group, *, fitted: bool) -> tuple[Stored, Tensor]:
        """Encode a group.

        Args:
            group: What is stored.
            fitted: Whether a row is as long as comes closest to its source, rather than as long as its source.

        Returns:
            What is stored, and the directions of its rows, [rows of the stack, columns].
        """
        rows = group.stacked.float()
        latents = self.chain.forward(rows, layers=self.encoder)[-1]
        decoder = [each.clone() for layer in self.chain.layers[self.encoder :] for each in layer]
        shared = dict(zip(self.names, decoder, strict=True))
        found = RULES[self.rule].rows({"latents": latents, "norms": torch.ones(len(rows))}, shared, None)
        lengths = torch.linalg.vector_norm(found, dim=1).clamp(min=_SMALLEST)
        directions = found / lengths[:, None]
        aim = (rows * directions).sum(dim=1) if fitted else torch.linalg.vector_norm(rows, dim=1)
        norms = aim / lengths
        parts = zip(group.split(latents), group.split(norms), strict=True)
        own = tuple({"latents": each.clone(), "norms": norm.clone()} for each, norm in parts)
        return Stored(self.rule, self.sizes, own, shared), directions


@dataclass(frozen=True)
class Samples:
    """Rows to learn.

    Args:
        rows: w, [rows, columns].
        units: Their directions, [rows, columns].
        linear: c₁ times each row's weight, [rows, 1]: what a unit of e adds to the cosine's part.
        square: ‖w‖² / columns times each row's weight, [rows, 1]: half of what it adds to the square of the RMSE.
    """

    rows: Tensor
    units: Tensor
    linear: Tensor
    square: Tensor

    @classmethod
    def of(cls, rows: Tensor, weights: Tensor | None, training: Training) -> Samples:
        """Prepare a matrix.

        Args:
            rows: [rows, columns].
            weights: Of the rows, in any unit, or None.
            training: c₁.

        Returns:
            Its rows in their order.
        """
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        share = torch.ones_like(lengths) if weights is None else (weights.float() / weights.float().mean())[:, None]
        units = rows / lengths.clamp(min=_SMALLEST)
        return cls(rows, units, training.cosine * share, lengths.square() / rows.shape[1] * share)

    def batches(self, order: Tensor, size: int) -> Iterator[Samples]:
        """Cut into batches.

        Args:
            order: Of the rows.
            size: Rows of a batch; the last has what is left.

        Returns:
            All batches, one after the other.
        """
        parts = (each[order].split(size) for each in (self.rows, self.units, self.linear, self.square))
        return (Samples(*part) for part in zip(*parts, strict=True))

    def loss(self, found: Tensor, training: Training) -> float:
        """Compare with what was decoded.

        Args:
            found: d, [rows, columns].
            training: c₂.

        Returns:
            The loss.
        """
        cosines = torch.nn.functional.cosine_similarity(found, self.units, eps=_SMALLEST)[:, None]
        return float((self.linear * (1 - cosines)).mean() + training.rmse * self._rmse(cosines))

    def slope(self, found: Tensor, training: Training) -> Tensor:
        """Differentiate the loss.

        Args:
            found: d, [rows, columns].
            training: c₂.

        Returns:
            [rows, columns].
        """
        lengths = torch.linalg.vector_norm(found, dim=1, keepdim=True).clamp(min=_SMALLEST)
        units = found / lengths
        cosines = (units * self.units).sum(1, keepdim=True)
        pull = self.linear + training.rmse * self.square / self._rmse(cosines)
        return (units * cosines - self.units) * (pull / lengths / len(found))

    def _rmse(self, cosines: Tensor) -> Tensor:
        squares = 2 * self.square * (1 - cosines).clamp(min=_EXACT)
        return squares.mean().sqrt().clamp(min=_SMALLEST)


@torch.no_grad()
def train(
    group: Group,
    coder: Coder,
    training: Training,
    draw: torch.Generator,
    *,
    row_weights: Tensor | None = None,
    select: Select | None = None,
    progress: Callable[[float], None] | None = None,
) -> Stored:
    """Train a coder on the rows of a group.

    Args:
        group: What is stored.
        coder: Changed in place.
        training: How.
        draw: Source of the order of rows.
        row_weights: Factor on each row's loss, [rows of the stack], in any unit; None weighs all rows the same.
        select: Called after an epoch, `LOOKS` times or a few more, also after the last; the epoch where it is lowest is
            kept. None takes the loss over all rows.
        progress: Called with the share that is done.

    Returns:
        What is stored after the best epoch.
    """
    samples, chain = Samples.of(group.stacked.float(), row_weights, training), coder.chain
    chain.parameters.grad = chain.gradients
    optimizer = torch.optim.Adam([chain.parameters], lr=training.rate, fused=True)
    fitted = training.norms == "fitted"
    best, lowest = coder.store(group, fitted=fitted)[0], torch.inf
    for epoch in range(training.epochs):
        optimizer.param_groups[0]["lr"] = training.rate * training.decay ** (epoch // training.decay_every)
        with _one_thread():
            for batch in samples.batches(torch.randperm(len(samples.rows), generator=draw), training.batch):
                seen = chain.forward(batch.rows)
                chain.backward(seen, batch.slope(seen[-1], training))
                optimizer.step()
        if progress is not None:
            progress((epoch + 1) / training.epochs)
        if (training.epochs - 1 - epoch) % max(1, training.epochs // LOOKS):
            continue
        stored, directions = coder.store(group, fitted=fitted)
        loss = samples.loss(directions, training) if select is None else select(stored)
        if loss < lowest:
            best, lowest = stored, loss
    return best


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 16 rows are too small to share: threads that wait for each other make a step ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
