"""Recovery by gradients, for minutes and without labels: the student learns the answers and layers of its teacher.

    learns     every vector (norms, biases)  ·  B A of rank 8 beside each linear layer of the encoder, merged afterwards
    loss       T² KL(teacher ‖ student) at temperature T  +  mean over layers of |LN(x_T) - LN(x_S)|²

Few numbers learn, so a few thousand unlabelled tokens do not overfit at once, and held-out rows choose when to stop.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune.sublayers import watch
from deploycomp.compress.refit import keep_if_better
from deploycomp.models.anatomy import Anatomy, describe
from deploycomp.models.surgery import unique_layers

__all__ = ["recover"]

TEMPERATURE = 2.0
"""Of the answers (methods.md, D5)."""
RANK = 8
"""Of the update (LoRA, Hu et al. 2022, table 6: more hardly helps)."""
RATE = 1e-4
"""AdamW's, at the start of the cosine: what pruning left is fitted already, and ten times more only shakes it."""
TOKENS = 512
"""Of a step, padding included (methods.md, D5): minutes buy more of the smaller ones."""
CHECKS = 8
"""Looks at the held-out rows along the way."""


def recover(
    answers: Answers,
    student: nn.Module,
    teacher: nn.Module,
    anatomy: Anatomy,
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    *,
    minutes: float,
    steps: int | None = None,
    rate: float = RATE,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Distil the teacher into the student, in place; it never ends further from the teacher than it was.

    Softened answers as in Hinton et al. 2015 ("Distilling the knowledge in a neural network", section 2), layer outputs
    as in TinyBERT (Jiao et al. 2020, equation 8), the update B A as in LoRA (Hu et al. 2022, equation 3) and vectors as
    in BitFit (Ben Zaken et al. 2022). Dropout stays off.

    Args:
        answers: How answers are compared.
        student: What learns; its weights end as ordinary ones without gradients, unless there was nothing to gain.
        teacher: The model as it was.
        anatomy: Of the student.
        batches: Rows to learn from.
        held_out: Rows that decide which state is kept.
        minutes: At most so long.
        steps: At most so many; what is learnt depends on their number and the seed only.
        rate: AdamW's, at the start of the cosine.
        seed: Of the order of the rows and the start of the update.
        progress: Called with a message and the share that is done.

    Returns:
        steps, seconds, held-out divergence before and after, and whether anything was kept.
    """
    began = time.perf_counter()
    recorded = [_no_gradient(answers, teacher, batch) for batch in held_out]
    distance = _Distance(answers, student, teacher, anatomy)
    done = 0

    def divergence() -> float:
        return mean_divergence(answers, student, held_out, recorded)

    def train() -> None:
        nonlocal done
        deadline, pieces = began + 60 * minutes, _pieces(batches)
        with _Learner(student, anatomy, seed) as learner:
            done = _train(learner, distance, divergence, _shuffled(pieces, seed), steps, rate, deadline, progress)

    kept, before, after = keep_if_better(student, train, divergence)
    return {"steps": done, "seconds": time.perf_counter() - began, "before": before, "after": after, "kept": kept}


class _Distance:
    """The loss: how far the student's answers and layers are from the teacher's."""

    def __init__(self, answers: Answers, student: nn.Module, teacher: nn.Module, anatomy: Anatomy):
        self.student, self.teacher = student, teacher
        self.answers = copy.copy(answers)
        self.answers.temperature = TEMPERATURE
        whole: Any = teacher
        same = len(describe(whole, whole.config).layers) == len(anatomy.layers)
        self.paths = [layer.path for layer in unique_layers(anatomy)] if same else []

    def __call__(self, batch: Batch) -> Tensor:
        """Return the mean over rows."""
        with torch.no_grad():
            wanted, targets = self._run(self.teacher, batch)
        with torch.enable_grad():
            found, layers = self._run(self.student, batch)
            loss = TEMPERATURE**2 * self.answers.divergence(wanted, found, batch).mean()
            gaps = [_gap(target, layer, batch) for target, layer in zip(targets, layers, strict=True)]
            return loss + torch.stack(gaps).mean() if gaps else loss

    def _run(self, module: nn.Module, batch: Batch) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Outputs of the task, and of every layer each time that it runs."""
        layers: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            for path in self.paths:
                stack.enter_context(watch(module, path, outputs=layers.append))
            return self.answers.of(module, batch), layers


def _gap(target: Tensor, layer: Tensor, batch: Batch) -> Tensor:
    """Squared distance of normalised tokens: the deep layers of a pre-norm model would outshout the rest."""
    width = target.shape[-1:]
    wanted, found = (nn.functional.layer_norm(each[batch.mask], width) for each in (target, layer))
    return nn.functional.mse_loss(found, wanted)


@dataclass
class _Update:
    """B A beside a linear layer."""

    linear: nn.Linear
    down: Tensor
    up: Tensor

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        return output + args[0] @ self.down.T @ self.up.T


class _Learner:
    """What learns: the student's vectors, and updates that are merged into its weights at the end of a `with`."""

    def __init__(self, student: nn.Module, anatomy: Anatomy, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.vectors = [each for each in student.parameters() if each.dim() <= 1]
        layers = [student.get_submodule(layer.path) for layer in unique_layers(anatomy)]
        linears = [each for layer in layers for each in layer.modules() if isinstance(each, nn.Linear)]
        self.updates = [_start(each, generator) for each in linears]
        self.values = [*self.vectors, *(value for each in self.updates for value in (each.down, each.up))]
        self.hooks = contextlib.ExitStack()

    def __enter__(self) -> _Learner:
        for each in self.updates:
            self.hooks.callback(each.linear.register_forward_hook(each).remove)
        for each in self.values:
            each.requires_grad_()
        return self

    def __exit__(self, *_: object) -> None:
        self.hooks.close()
        for each in self.values:
            each.requires_grad_(False)
            each.grad = None
        for each in self.updates:
            each.linear.weight += each.up @ each.down

    def snapshot(self) -> list[Tensor]:
        """Values as they are now."""
        return [each.detach().clone() for each in self.values]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Go back to values as they were."""
        with torch.no_grad():
            for each, value in zip(self.values, snapshot, strict=True):
                each.copy_(value)


def _start(linear: nn.Linear, generator: torch.Generator) -> _Update:
    rank = min(RANK, linear.in_features, linear.out_features)
    down = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
    return _Update(linear, down, torch.zeros(linear.out_features, rank))


@dataclass(frozen=True)
class _Clock:
    """How much of the training is over: by steps where their number is given, else by time."""

    began: float
    ends: float
    steps: int | None

    def share(self, done: int) -> float:
        """After so many steps; 1 is the end."""
        passed = (time.perf_counter() - self.began) / max(self.ends - self.began, 1e-9)
        if passed >= 1 or self.steps is None:
            return min(passed, 1.0)
        return done / self.steps if self.steps else 1.0


def _train(
    learner: _Learner,
    distance: _Distance,
    divergence: Callable[[], float],
    batches: Iterator[Batch],
    steps: int | None,
    rate: float,
    deadline: float,
    progress: Callable[[str, float], None] | None,
) -> int:
    """Take steps, leave the learner in its best state on held-out rows, and return how many were taken."""
    optimizer = torch.optim.AdamW(learner.values, lr=rate, weight_decay=0.0)
    began = time.perf_counter()
    best, state, done = divergence(), learner.snapshot(), 0
    now = time.perf_counter()
    clock = _Clock(now, deadline - 2 * (now - began), steps)  # two more looks follow the last step
    share = clock.share(0)
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
        optimizer.zero_grad()
        distance(next(batches)).backward()
        optimizer.step()
        done, before, share = done + 1, share, clock.share(done + 1)
        if int(share * CHECKS) > int(before * CHECKS):
            found = divergence()
            if found < best:
                best, state = found, learner.snapshot()
            if progress is not None:
                progress(f"step {done}", share)
    learner.restore(state)
    return done


def _pieces(batches: Sequence[Batch]) -> list[Batch]:
    """Batches of as many rows as a step takes."""
    found: list[Batch] = []
    for batch in batches:
        rows = max(1, TOKENS // batch.mask.shape[1])
        for begin in range(0, batch.rows, rows):
            found.append(Batch({name: values[begin : begin + rows] for name, values in batch.inputs.items()}))
    return found


def _shuffled(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]


def _no_gradient(answers: Answers, module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return answers.of(module, batch)
