"""Affine layers one after the other, with the gradient written out.

    xₖ₊₁ = f(xₖ Wₖ + bₖ)        gₖ = ∂/∂(xₖ Wₖ + bₖ) = (gₖ₊₁ Wₖ₊₁ᵀ) ⊙ f′        ∂/∂Wₖ = xₖᵀ gₖ        ∂/∂bₖ = Σ gₖ

At 16 rows a step most of the time of autograd and of an optimizer over many tensors is their own work: written out, and
with all parameters in one vector, a step takes half as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from deploycomp.models.factors import SLOPE

__all__ = ["Chain", "Function"]

Function = Literal["none", "leaky", "tanh"]
"""What follows an affine layer: nothing, a leaky ReLU or tanh."""


class Chain:
    """Affine layers, drawn as `nn.Linear` draws them.

    Args:
        widths: Of the input and of each layer.
        functions: What follows each layer.
        draw: Source of the random start.
    """

    def __init__(self, widths: Sequence[int], functions: Sequence[Function], draw: torch.Generator):
        self.functions = tuple(functions)
        shapes = [shape for pair in pairwise(widths) for shape in (pair, pair[1:])]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        self.parameters = torch.empty(sum(sizes))
        self.gradients = torch.zeros(sum(sizes))
        views = [torch.split(each, sizes) for each in (self.parameters, self.gradients)]
        tensors, slopes = ([part.view(shape) for part, shape in zip(view, shapes, strict=True)] for view in views)
        self.layers = list(zip(tensors[::2], tensors[1::2], strict=True))
        self._slopes = list(zip(slopes[::2], slopes[1::2], strict=True))
        for weight, bias in self.layers:
            for part in (weight, bias):
                part.uniform_(-(len(weight) ** -0.5), len(weight) ** -0.5, generator=draw)

    def forward(self, rows: Tensor, *, layers: int | None = None) -> list[Tensor]:
        """Run the first layers, or all.

        Args:
            rows: [rows, width].
            layers: How many.

        Returns:
            The input and what comes out of each layer.
        """
        seen = [rows]
        for (weight, bias), function in list(zip(self.layers, self.functions, strict=True))[:layers]:
            found = torch.addmm(bias, seen[-1], weight)
            if function == "leaky":
                found = torch.nn.functional.leaky_relu_(found, SLOPE)
            elif function == "tanh":
                found = found.tanh_()
            seen.append(found)
        return seen

    def backward(self, seen: Sequence[Tensor], gradient: Tensor) -> None:
        """Write the gradients of all parameters.

        Args:
            seen: What `forward` returned.
            gradient: Of the loss at what came out last.
        """
        for number in reversed(range(len(self.layers))):
            gradient = _before(gradient, seen[number + 1], self.functions[number])
            weight, bias = self._slopes[number]
            torch.mm(seen[number].T, gradient, out=weight)
            torch.sum(gradient, 0, out=bias)
            if number:
                gradient = gradient @ self.layers[number][0].T


def _before(gradient: Tensor, after: Tensor, function: Function) -> Tensor:
    """Carry a gradient back through a function; both functions' slopes follow from what came out."""
    if function == "leaky":
        return torch.where(after > 0, gradient, gradient * SLOPE)
    return gradient * (1 - after * after) if function == "tanh" else gradient
