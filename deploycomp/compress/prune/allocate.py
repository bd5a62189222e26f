"""Which sublayer gives how much: predicted losses and costs into one number of units for each.

Losses are predicted by the brain surgeon (or by a baseline's score), in the unit of the loss itself; costs come from a
table. A knapsack takes the cheapest combination for the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from deploycomp.compress.prune import obs
from deploycomp.compress.prune.costs import Costs
from deploycomp.compress.prune.curvature import Curvature
from deploycomp.compress.prune.knapsack import solve
from deploycomp.compress.prune.sublayers import Sublayer
from deploycomp.models.surgery import linear

__all__ = ["allocate", "levels_of", "predicted_losses", "uniform"]

NEURONS = 32
"""Neurons are counted in steps of 32: products are packed in blocks of 16 columns, and odd tails cost time."""
FEW_COLUMNS = 64
"""A sublayer with no more columns than this may go whole."""
FEWEST_STEPS = 8
"""A narrow feed-forward part is cut in at least this many steps."""


def levels_of(part: Sublayer, whole: int) -> list[int]:
    """Numbers of units that a sublayer may have left, ascending, 0 and what it has now included.

    Args:
        part: The sublayer as it is now.
        whole: Units that it had before any cut.
    """
    step = 1 if part.kind == "heads" else max(1, min(NEURONS, whole // FEWEST_STEPS))
    return sorted({*range(0, part.units, step), part.units})


def predicted_losses(
    module: nn.Module,
    parts: Sequence[Sublayer],
    curvature: Mapping[str, Curvature],
    *,
    score: str = "fisher",
    floor: float = 0.0,
) -> dict[str, np.ndarray]:
    """Predict what each number of units left would cost in loss.

    Args:
        module: The model.
        parts: Its sublayers.
        curvature: Of each.
        score: `fisher` is the brain surgeon's; `mask` the diagonal Fisher of the masks, `energy`, `magnitude` and
            `random` are the baselines' (`unit_scores`).
        floor: Share of a sublayer's units that stays for now; below it the loss is infinite. A round of several needs
            no order of what it will not reach, and what is nearly gone may always go.

    Returns:
        Sublayer's name → loss with 0, 1, … units left, [units + 1].
    """
    found: dict[str, np.ndarray] = {}
    for part in parts:
        weight, curve = linear(module, part.projection).weight, curvature[part.name]
        if score == "fisher":
            least = 0 if part.units * part.size <= FEW_COLUMNS else int(floor * part.units)
            step = max(1, part.units // 48)
            removal = obs.remove(weight, curve.moment, curve.root, size=part.size, step=step, down_to=least)
            found[part.name] = np.concatenate([np.full(least, np.inf), removal.losses.numpy()[::-1]])
        else:
            ascending = np.sort(unit_scores(part, weight, curve, score).numpy())
            found[part.name] = np.concatenate([[0.0], np.cumsum(ascending)])[::-1].copy()
    return found


def unit_scores(part: Sublayer, weight: torch.Tensor, curve: Curvature, score: str) -> torch.Tensor:
    """Score units alone, as other methods do; the smallest go first."""
    norms = weight.square().reshape(weight.shape[0], part.units, part.size).sum((0, 2))
    if score == "mask":
        return 0.5 * curve.fisher
    if score == "energy":
        return curve.energy * norms
    if score == "magnitude":
        return norms
    generator = torch.Generator().manual_seed(part.layer)
    return torch.rand(part.units, generator=generator)


def allocate(
    parts: Sequence[Sublayer],
    losses: Mapping[str, np.ndarray],
    costs: Costs,
    budget: float,
    *,
    weights: Mapping[str, float] | None = None,
) -> dict[str, int] | None:
    """Choose how many units each sublayer keeps.

    Args:
        parts: Sublayers of the model as it is.
        losses: By units left.
        costs: By units left, of the whole model.
        budget: What the model may cost.
        weights: Factors of the losses, by sublayer's name.

    Returns:
        Sublayer's name → units left, or None where nothing fits.
    """
    options = [levels_of(part, len(costs.tables[part.name]) - 1) for part in parts]
    gone = sum(float(table[0]) for name, table in costs.tables.items() if name not in losses)
    picked = solve(
        [
            (weights or {}).get(part.name, 1.0) * losses[part.name][choice]
            for part, choice in zip(parts, options, strict=True)
        ],
        [costs.tables[part.name][choice] for part, choice in zip(parts, options, strict=True)],
        budget - costs.rest - gone,
    )
    if picked is None:
        return None
    return {part.name: choice[place] for part, choice, place in zip(parts, options, picked, strict=True)}


def uniform(parts: Sequence[Sublayer], costs: Costs, budget: float) -> dict[str, int] | None:
    """Keep the same share of every sublayer: the largest that fits, or None where nothing fits."""
    best: dict[str, int] | None = None
    for share in np.linspace(0, 1, 201):
        levels = {
            part.name: max(
                each
                for each in levels_of(part, len(costs.tables[part.name]) - 1)
                if each <= share * (len(costs.tables[part.name]) - 1) + 1e-9
            )
            for part in parts
        }
        if costs.total(levels) <= budget:
            best = levels
    return best
