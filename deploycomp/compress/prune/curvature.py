"""The curvature of the loss at every sublayer: which output directions, which tokens and which units matter.

One backward pass of a random probe (`Answers.probe`) gives each token's gradient g at the output y = W h of every
sublayer. E[g gᵀ] is the loss's curvature there (K-FAC's output factor), |g|² says how much a token matters (of a [CLS]
head's last layer only the first does), and Σ_t g_tᵀ W_u h_tu is the gradient of the mask of unit u for one sample,
whose mean square is its Fisher score (Kwon et al. 2022, equation 9; here without labels and by sample).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.grams import Gram
from deploycomp.compress.prune import obs
from deploycomp.compress.prune.sublayers import Sublayer, watch
from deploycomp.models.surgery import linear
from deploycomp.runtime.session import trim_memory

__all__ = ["Curvature", "measure"]

WEIGHT = 0.99
"""Share of a batch's weight that second moments come from: a quarter to a half of the tokens has it."""


@dataclass
class Curvature:
    """Sums over calibration rows for one sublayer.

    Args:
        inputs: Σ w h hᵀ over tokens that matter; let go of where only the rest is needed, it is as large as the model.
        fisher: Mean squared gradient of each unit's mask, [units].
        energy: E[h²] of each unit's columns, [units]; both are zero where they were not wanted.
        root: R with RᵀR = E[g gᵀ], which is summed over the tokens of a row that matter, [any, hidden].
        tokens: How much each token matters, mean 1, [rows, tokens] for each batch.
    """

    inputs: Gram | None
    fisher: Tensor
    energy: Tensor
    root: Tensor
    tokens: list[Tensor] = field(default_factory=list[Tensor])
    weight: float = 0.0

    @property
    def moment(self) -> Tensor:
        """E[w h hᵀ] with weights of mean 1, [columns, columns]."""
        assert self.inputs is not None
        return self.inputs.full().div_(max(self.weight, 1e-30))

    @property
    def outputs(self) -> Tensor:
        """E[g gᵀ], [hidden, hidden]."""
        return self.root.T @ self.root


class _Tap:
    """Keeps one batch's inputs of a projection, and the gradient at its output."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def take(self, outputs: Tensor) -> None:
        place = len(self.inputs) - 1

        def keep(gradient: Tensor) -> None:
            self.gradients[place] = gradient.detach()

        self.gradients.append(torch.zeros(()).expand(outputs.shape))  # what it is where nothing downstream reads it
        outputs.register_hook(keep)


def measure(
    answers: Answers,
    module: nn.Module,
    anatomy_embeddings: Sequence[str],
    parts: Sequence[Sublayer],
    batches: Sequence[Batch],
    *,
    seed: int,
    scores: bool = True,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Curvature]:
    """Measure every sublayer in one pass forward and back.

    Args:
        answers: Whose loss.
        module: The model as it is.
        anatomy_embeddings: Path of the word embedding, where the gradient's path begins.
        parts: Sublayers to look at.
        batches: Calibration rows.
        seed: Of the probe.
        scores: Whether `fisher` and `energy` are wanted, by which only baselines score.
        progress: Called with the share that is done.

    Returns:
        Sublayer's name → its curvature.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Curvature] = {}
    gradients: dict[str, Gram] = {}
    rows = sum(batch.rows for batch in batches)
    for number, batch in enumerate(batches):
        taps = {part.name: _Tap() for part in parts}
        with contextlib.ExitStack() as stack:
            stack.enter_context(watch(module, anatomy_embeddings[0], outputs=lambda out: _track(out)))
            for part in parts:
                tap = taps[part.name]
                stack.enter_context(
                    watch(
                        module,
                        part.projection,
                        inputs=lambda h, tap=tap: tap.inputs.append(h.detach()),
                        outputs=tap.take,
                    )
                )
            with torch.enable_grad():
                outputs = answers.of(module, batch)
                probe = answers.probe(outputs, batch, generator)
                sum((output * u).sum() for output, u in zip(outputs, probe, strict=True)).backward()  # type: ignore[union-attr]
        for part in parts:
            weight = linear(module, part.projection).weight if scores else None
            for h, g in zip(taps[part.name].inputs, taps[part.name].gradients, strict=True):
                _add(found, gradients, part, weight, h, g, batch, number)
        trim_memory()  # what a batch left behind is too small for a longer one
        if progress is not None:
            progress((number + 1) / len(batches))
    tokens = sum(int(batch.mask.sum()) for batch in batches)
    for name, each in found.items():
        each.root = obs.root(gradients.pop(name).full() / rows)
        each.tokens = [weights * tokens / max(each.weight, 1e-30) for weights in each.tokens]
        each.fisher /= rows
        each.energy /= tokens
    return found


def _track(out: Tensor) -> None:
    out.requires_grad_()


def _add(
    found: dict[str, Curvature],
    gradients: dict[str, Gram],
    part: Sublayer,
    weight: Tensor | None,
    h: Tensor,
    g: Tensor,
    batch: Batch,
    number: int,
) -> None:
    real = batch.mask
    units = part.units
    hs, gs = h[real], g[real]
    weights = gs.square().sum(1)
    each = found.get(part.name)
    if each is None:
        gradients[part.name] = Gram(g.shape[-1])
        each = found[part.name] = Curvature(
            Gram(h.shape[-1]), torch.zeros(units), torch.zeros(units), torch.zeros(0, g.shape[-1])
        )
    if len(each.tokens) == number:
        each.tokens.append(torch.zeros(real.shape))
    each.tokens[number] += g.square().sum(-1) * real  # layers that share weights come several times
    heavy = _heavy(weights)
    gradients[part.name].add(gs[heavy])
    assert each.inputs is not None
    each.inputs.add(hs[heavy] * weights[heavy, None].sqrt())
    each.weight += float(weights.sum())
    if weight is not None:
        masked = (torch.einsum("btd,dc->btc", g, weight) * h * real[..., None]).sum(1)
        each.fisher += masked.reshape(len(h), units, part.size).sum(-1).square().sum(0)
        each.energy += hs.square().reshape(len(hs), units, part.size).sum((0, 2))


def _heavy(weights: Tensor) -> Tensor:
    """The fewest tokens that have `WEIGHT` of the weight; of a [CLS] head's last layer only the first do."""
    values, tokens = weights.sort(descending=True)
    return tokens[: int((values.cumsum(0) < WEIGHT * values.sum()).sum()) + 1]
