"""What a model answers, and how far another's answers are from it: the loss of every choice, without labels.

    classes (row, token, masked token, span)   KL(teacher ‖ student) of the softmax
    several labels a row                        the sum of the KLs of their Bernoullis
    scores                                      squared distance
    embeddings                                  squared distance, relative to the variance of the teacher's

The Hessian of each at equality is a Fisher matrix F = A Aᵀ. `probe` draws u = A ε with ε ~ N(0, 1), so that one
backward pass of ⟨u, outputs⟩ gives gradients whose second moment is the curvature of that loss (Martens 2020, "New
insights and perspectives on the natural gradient method", section 5): all classes at once, no labels. Where a batch has
labels, u is the gradient of the task's own loss instead, and its second moment the empirical Fisher (section 11).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deploycomp.compress.batches import Batch
from deploycomp.models.model import TorchModel, forward_module

__all__ = ["Answers", "mean_divergence"]

_SMALLEST = 1e-6


class Answers:
    """Outputs of a task, compared and probed.

    Args:
        model: Its task says how outputs are read.
        temperature: Softens classes: a confident teacher would else say nothing about most directions.
    """

    def __init__(self, model: TorchModel, *, temperature: float = 1.0):
        self.task, self.problem, self.names = model.task, model.problem_type, model.outputs
        self.inputs, self.temperature = model.inputs, temperature
        self._model = model
        single = model.problem_type == "single_label_classification"
        self._classes = model.task in ("token-classification", "fill-mask", "question-answering") or single

    def of(self, module: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Run *module* on a batch and return the outputs that count."""
        forward = forward_module(_with(self._model, module))
        outputs = forward(*(batch.inputs[name] for name in self.inputs))
        if self.task == "sentence-similarity":
            return outputs[-1:]
        return tuple(outputs)

    def record(self, module: nn.Module, batches: Sequence[Batch]) -> list[tuple[Tensor, ...]]:
        """Return the outputs of every batch."""
        with torch.inference_mode():
            return [self.of(module, batch) for batch in batches]

    def divergence(self, teacher: Sequence[Tensor], student: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss of each row, [rows]."""
        parts = [self._one(t, s, batch) for t, s in zip(teacher, student, strict=True)]
        return torch.stack(parts).mean(0)

    def _one(self, teacher: Tensor, student: Tensor, batch: Batch) -> Tensor:
        if self._classes:
            before, after = self._log(teacher, batch), self._log(student, batch)
            divergence = (before.exp() * (before - after).clamp(min=-1e4, max=1e4)).sum(-1)
            return self._by_row(divergence, batch)
        if self.problem == "multi_label_classification":
            p, q = teacher.sigmoid(), student.sigmoid()
            return nn.functional.binary_cross_entropy(q, p, reduction="none").sum(-1) - (
                nn.functional.binary_cross_entropy(p, p, reduction="none").sum(-1)
            )
        distance = (teacher - student).square().mean(-1)
        return self._by_row(distance, batch) / self._spread(teacher, batch)

    def probe(self, outputs: Sequence[Tensor], batch: Batch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return u for each output: its second moment is the curvature of `divergence` of a row at *outputs*."""
        return tuple(self._draw(each.detach(), batch, generator) / len(outputs) ** 0.5 for each in outputs)

    def _draw(self, output: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        if batch.labels is not None:
            return self._wrong(output, batch, batch.labels)
        noise = torch.randn(output.shape, generator=generator)
        if self._classes:
            p = self._log(output, batch).exp()
            root = p.sqrt() * noise
            u = (root - p * (p.sqrt() * noise).sum(-1, keepdim=True)) / self.temperature
        elif self.problem == "multi_label_classification":
            p = output.sigmoid()
            u = (p * (1 - p)).sqrt() * noise
        else:
            u = noise * (2 / self._spread(output, batch) / output.shape[-1]).sqrt()
        if u.dim() == 3:
            counts = batch.mask.sum(1).clamp(min=1).sqrt()
            u = u * batch.mask[..., None] / counts[:, None, None]
        return u

    def _wrong(self, output: Tensor, batch: Batch, labels: Tensor) -> Tensor:
        """Gradient of a row's loss: cross-entropy of a class, of several labels, or the squared distance."""
        if self._classes:
            return (self._log(output, batch).exp() - nn.functional.one_hot(labels, output.shape[-1])) / self.temperature
        if self.problem == "multi_label_classification":
            return output.sigmoid() - labels
        return 2 * (output - labels) / output.shape[-1]

    def _spread(self, teacher: Tensor, batch: Batch) -> Tensor:
        """Variance of an embedding's values, padding left out; 1 for scores, of which a batch may hold a single one."""
        if self.problem is not None:
            return torch.ones(())
        values = teacher[batch.mask] if teacher.dim() == 3 else teacher
        return values.var().clamp(min=_SMALLEST)

    def _log(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.task == "question-answering":
            logits = logits.masked_fill(~batch.mask, torch.finfo(logits.dtype).min / 4)
        return torch.log_softmax(logits / self.temperature, -1)

    def _by_row(self, values: Tensor, batch: Batch) -> Tensor:
        """Mean over the real tokens of a row, where there is a value a token."""
        if values.dim() == 1:
            return values
        return (values * batch.mask).sum(1) / batch.mask.sum(1).clamp(min=1)


def _with(model: TorchModel, module: nn.Module) -> TorchModel:
    from dataclasses import replace

    return replace(model, module=module)


def mean_divergence(
    answers: Answers,
    module: nn.Module,
    batches: Sequence[Batch],
    teacher: Sequence[Sequence[Tensor]],
    *,
    progress: Callable[[float], None] | None = None,
) -> float:
    """Return the mean loss of a row against recorded answers.

    Args:
        answers: How to compare.
        module: The student.
        batches: Rows.
        teacher: The teacher's outputs for each batch.
        progress: Called with the share that is done.
    """
    total, rows = 0.0, 0
    with torch.inference_mode():
        for number, (batch, before) in enumerate(zip(batches, teacher, strict=True)):
            total += float(answers.divergence(before, answers.of(module, batch), batch).sum())
            rows += batch.rows
            if progress is not None:
                progress((number + 1) / len(batches))
    return total / max(rows, 1)
