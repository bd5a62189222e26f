"""Drop whole layers, the one that is missed least first.

    round     every layer that is left ─ leave it out ─ divergence of the answers on held-out rows ─ drop the cheapest

A layer's effect depends on which others are gone, so each round tries all that are left anew.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.batches import Batch
from deploycomp.errors import InputRefused
from deploycomp.models.anatomy import Anatomy, describe
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Layers, Plan
from deploycomp.models.surgery import apply

__all__ = ["drop_layers"]


def drop_layers(
    answers: Answers,
    model: TorchModel,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    count: int,
    *,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[TorchModel, list[dict[str, Any]]]:
    """Drop layers greedily by what their absence does to the answers.

    Greedy by output divergence as in Sajjad et al. 2023 ("On the effect of dropping layers of pre-trained transformer
    models", which finds no fixed pattern best for every model); without retraining a measured choice is the only guard.

    Args:
        answers: How the model is compared.
        model: What is cut; it stays as it is.
        batches: Calibration rows; nothing is fitted here, so they are not read.
        held_out: Rows that judge.
        count: How many layers go.
        progress: Called with a message and the share that is done.

    Returns:
        The cut model, a copy, and for each round which layer of *model* was dropped, the divergence without it, and the
        divergences without each of the others that were tried.

    Raises:
        InputRefused: No layer would be left, or the layers are not known.
    """
    layers = len(model.anatomy.layers)
    if not 0 < count < layers:
        known = "one at least goes and one at least stays" if layers else f"{model.anatomy.model_type} is not known"
        raise InputRefused(f"{count} of {layers} layers cannot be dropped", where=model.source.name, why=known)
    module: Any = copy.deepcopy(model.module)
    with torch.inference_mode():
        teacher = [answers.of(module, batch) for batch in held_out]
    left, trail = list(range(layers)), list[dict[str, Any]]()
    for number in range(count):
        losses: dict[int, float] = {}
        tried = left[-1:] if model.anatomy.shared_layers else left  # shared layers are all the same
        for layer in tried:
            with _without(module, model.anatomy, [each for each in left if each != layer]):
                losses[layer] = mean_divergence(answers, module, held_out, teacher)
            if progress is not None:
                progress(f"layer {number + 1} of {count}", (number + len(losses) / len(tried)) / count)
        dropped = min(losses, key=losses.__getitem__)
        left.remove(dropped)
        others = {str(layer): loss for layer, loss in losses.items() if layer != dropped}
        trail.append({"dropped": dropped, "divergence": losses[dropped], "others": others})
    plan = apply(module, model.anatomy, model.plan, Layers(tuple(left)))
    anatomy = describe(module, module.config)
    return replace(model, module=module, config=module.config, anatomy=anatomy, plan=plan), trail


@contextlib.contextmanager
def _without(module: Any, anatomy: Anatomy, kept: Sequence[int]) -> Iterator[None]:
    """Keep only these layers for a while; the layers themselves are neither copied nor changed."""
    path = anatomy.layers[0].path.rpartition(".")[0]
    owner, name = module.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
    whole: nn.Module = getattr(owner, name)
    before = apply(module, anatomy, Plan(), Layers(tuple(kept))).base
    try:
        yield
    finally:
        setattr(owner, name, whole)
        for key, value in before.items():
            setattr(module.config, key, value)
