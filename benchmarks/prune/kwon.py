"""Pruning masks as Kwon et al. 2022 do it: diagonal Fisher, a latency budget, then one scale for each unit that stays.

    min Σ_t |Σ_u (1 + δ_u) W_u h_tu + x_t + b - s_t|² + λ |δ|²       scales folded into the columns of W, bottom-up

Differences to the paper, on purpose: the Fisher is by sample and without labels, the budget is a knapsack over the same
measured table as ours, scales are ridged relative to the mean diagonal, and no layer ends the tuning of those above it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune.costs import Costs
from deploycomp.compress.prune.prune import Method, prune
from deploycomp.compress.prune.rebuild import Walk, record_sums
from deploycomp.compress.prune.sublayers import Sublayer, sublayers
from deploycomp.models.model import TorchModel
from deploycomp.models.surgery import linear

__all__ = ["prune_masks"]

RIDGE = 1e-2
LARGEST = 10.0
"""Scales beyond this are not trusted, as in the reference code."""


def prune_masks(
    model: TorchModel, batches: Sequence[Batch], held_out: Sequence[Batch], costs: Costs, budget: float
) -> TorchModel:
    """Prune by Fisher masks in one shot, then tune a scale for every unit that stays."""
    method = Method(rounds=1, score="mask", compensate=False)
    made = prune(model, batches, held_out, costs, budget, method=method).model
    made = replace(made, module=copy.deepcopy(made.module))
    answers = Answers(model)
    targets, _ = record_sums(answers, model.module, sublayers(model.module, model.anatomy), batches)
    walk = Walk(answers, made.module, made.anatomy, batches)
    parts = sublayers(made.module, made.anatomy)
    first_only = model.task == "text-classification"
    for part in parts[1:]:  # the paper leaves the first attention as it is
        last = first_only and part is parts[-1]
        _tune(walk, part, targets[part.name], made, first_only=last)
    return made


def _tune(walk: Walk, part: Sublayer, targets: Sequence[torch.Tensor], model: TorchModel, *, first_only: bool) -> None:
    weight = linear(model.module, part.projection).weight
    columns = part.units * part.size
    gram, cross = torch.zeros(columns, columns), torch.zeros(weight.shape[0], columns)
    for (inputs, student), target, batch in zip(walk.sums(part), targets, walk.batches, strict=True):
        real = batch.mask.clone()
        if first_only:
            real[:, 1:] = False
        h = inputs[real]
        gram += h.T @ h
        cross += (target.float() - student)[real].T @ h
    blocks = (part.units, part.size)
    normal = (gram * (weight.T @ weight)).reshape(*blocks, *blocks).sum((1, 3)).double()
    right = (weight * cross).sum(0).reshape(blocks).sum(1).double()
    normal.diagonal().add_(RIDGE * normal.diagonal().mean())
    scales = 1 + torch.linalg.solve(normal, right)
    if scales.abs().max() <= LARGEST:
        with torch.no_grad():
            weight *= scales.float().repeat_interleave(part.size)
