"""What calibration rows say about a matrix y = W x + b: which inputs occur, and which outputs the loss looks at.

    C = E[x xᵀ]      μ = E[x]                          over real tokens, or over tokens weighted by |g|²
    G = E[Σ_t g gᵀ]                                    over rows, t their tokens
    fisher_i = E[Σ_j (dL/dW)²_ij]                      over rows, dL/dW = Σ_t g_t x_tᵀ that of one row

g is the gradient at y of a random probe (`Answers.probe`), one backward pass a batch: G is K-FAC's output factor
(Martens & Grosse 2015) and fisher the row weight of FWSVD (Hsu et al. 2022), here without labels. |dL/dW|² needs no
dL/dW: its row i is Σ_ts g_ti g_si ⟨x_t, x_s⟩. An embedding reads one-hot x: its C is a diagonal, the numbers of its μ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune.sublayers import watch

__all__ = ["Moments", "measure_moments"]


@dataclass(frozen=True)
class Moments:
    """Of one matrix, in float64.

    Args:
        inputs: C, [columns, columns]; of an embedding its diagonal, [vocabulary].
        mean: μ, [columns]; of an embedding the share of each piece, [vocabulary].
        gradients: G, [outputs, outputs].
        fisher: Mean squared gradient of each row of the matrix, [rows].
        tokens: Real tokens that were seen; a module that runs several times sees each as often.
    """

    inputs: Tensor
    mean: Tensor
    gradients: Tensor
    fisher: Tensor
    tokens: int

    @property
    def embedding(self) -> bool:
        """Whether x is one-hot."""
        return self.inputs.dim() == 1

    @property
    def frequency(self) -> Tensor:
        """Share of each piece, of an embedding, [vocabulary]."""
        return self.mean

    @property
    def centred(self) -> Tensor:
        """C - μ μᵀ of a linear layer, [columns, columns]."""
        return self.inputs - torch.outer(self.mean, self.mean)


class _Tap:
    """Keeps one batch's inputs of a module, and the gradients at its output, a pair each time it runs."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def take_input(self, inputs: Tensor) -> None:
        self.inputs.append(inputs.detach())

    def take(self, outputs: Tensor) -> None:
        if not outputs.requires_grad:  # no token went in: DeBERTa-v3 projects its positions with the same matrices
            self.inputs.pop()
            return
        place = len(self.gradients)
        self.gradients.append(torch.zeros(outputs.shape))  # stays where nothing downstream reads it

        def keep(gradient: Tensor) -> None:
            self.gradients[place] = gradient.detach()

        outputs.register_hook(keep)


class _Sums:
    """Sums over tokens: of x xᵀ and x, plain and weighted by |g|², and of what gradients tell."""

    def __init__(self, module: Any, even: float):
        rows, columns = (int(size) for size in module.weight.shape)
        self.embedding, self.even = isinstance(module, nn.Embedding), even
        inputs, outputs = (rows, columns) if self.embedding else (columns, rows)
        square = (inputs,) if self.embedding else (inputs, inputs)
        kinds = range(1 if even == 1 else 2)
        self.inputs = [torch.zeros(square) for _ in kinds]
        self.means = [torch.zeros(inputs) for _ in kinds]
        self.gradients, self.fisher = torch.zeros(outputs, outputs), torch.zeros(rows)
        self.weight, self.tokens = 0.0, 0

    def add(self, x: Tensor, g: Tensor, real: Tensor) -> None:
        """Add x [rows, tokens, columns], or ids [rows, tokens], with g [rows, tokens, outputs]."""
        g = g * real[..., None]
        weights = g.square().sum(-1)
        for inputs, mean, weight in zip(self.inputs, self.means, (real.float(), weights), strict=False):
            if self.embedding:
                inputs.index_add_(0, x.flatten(), weight.flatten())
                mean.copy_(inputs)
            else:
                weighted = x[real] * weight[real][:, None]
                inputs += x[real].T @ weighted
                mean += weighted.sum(0)
        self.gradients += g[real].T @ g[real]
        if self.embedding:
            same = (x[:, :, None] == x[:, None, :]).float()
            self.fisher.index_add_(0, x.flatten(), ((same @ g) * g).sum(-1).flatten())
        else:
            self.fisher += ((x @ x.transpose(1, 2) @ g) * g).sum((0, 1))  # g is 0 where x is padding
        self.weight += float(weights.sum())
        self.tokens += int(real.sum())

    def moments(self, rows: int) -> Moments:
        even = self.even if self.weight else 1.0  # the loss may look at no token
        shares = (even / max(self.tokens, 1), (1 - even) / (self.weight or 1.0))
        inputs, mean = (
            torch.stack([each.double() * share for each, share in zip(pair, shares, strict=False)]).sum(0)
            for pair in (self.inputs, self.means)
        )
        return Moments(inputs, mean, self.gradients.double() / rows, self.fisher.double() / rows, self.tokens)


def measure_moments(
    answers: Answers,
    module: nn.Module,
    embedding_path: str,
    paths: Sequence[str],
    batches: Sequence[Batch],
    *,
    seed: int,
    even: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Moments]:
    """Measure matrices in one pass forward and back.

    Args:
        answers: Whose loss.
        module: The model as it is.
        embedding_path: Of the word embedding, where the gradient's path begins; it is measured, too.
        paths: Of linear layers, whose inputs are [rows, tokens, columns].
        batches: Calibration rows.
        seed: Of the probe.
        even: Share of a token's weight in C and μ that does not depend on its gradient; 1: all real tokens are alike.
        progress: Called with the share that is done.

    Returns:
        Path → its moments.
    """
    generator = torch.Generator().manual_seed(seed)
    every = list(dict.fromkeys((embedding_path, *paths)))
    sums = {path: _Sums(module.get_submodule(path), even) for path in every}
    for number, batch in enumerate(batches):
        taps = {path: _Tap() for path in every}
        with contextlib.ExitStack() as stack, torch.enable_grad():
            stack.enter_context(watch(module, embedding_path, outputs=lambda out: out.requires_grad_()))
            for path, tap in taps.items():
                stack.enter_context(watch(module, path, inputs=tap.take_input, outputs=tap.take))
            outputs = answers.of(module, batch)
            probe = answers.probe(outputs, batch, generator)
            torch.autograd.backward(outputs, probe)
        for path, tap in taps.items():
            uses = len(tap.inputs)  # of a shared layer: one row's gradient is the sum over all of them
            if uses:
                sums[path].add(torch.cat(tap.inputs, 1), torch.cat(tap.gradients, 1), batch.mask.repeat(1, uses))
        if progress is not None:
            progress((number + 1) / len(batches))
    rows = sum(batch.rows for batch in batches)
    return {path: sums.pop(path).moments(rows) for path in every}
