"""Closed-form recovery after compression: norms and the head are fitted to the teacher's, without one gradient.

    norm   γ', β' = argmin Σ_t (γ x_t + β - y_t)²            x: the student's normalised value, y: the teacher's output
    head   ΔW, Δb = argmin Σ_t |ΔW h_t + Δb - (z_T - z_S)_t|² + λ |ΔW|²      h: the head's inputs, z: logits

Each is a least-squares problem with one minimum, so the same rows give the same weights. It is the minimum on
calibration rows: `keep_if_better` lets held-out rows decide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune.rebuild import RIDGE, Walk
from deploycomp.compress.prune.sublayers import Sublayer, watch
from deploycomp.models.anatomy import Anatomy, describe

__all__ = ["keep_if_better", "refit", "refit_head", "refit_norms"]

SMALLEST_GAIN = 1e-6
"""A mean divergence that falls by less has not fallen: FP32 sums of a row's terms are not finer."""
NORM_BATCHES = 2
"""Norms are fitted on each second batch: they have two numbers a channel, and rows say enough of those."""
_FLAT = 1e-6
"""A normalised value, of variance 1 over channels, that varies less over tokens tells nothing about its slope."""


def refit(
    answers: Answers,
    student: nn.Module,
    teacher: nn.Module,
    anatomy: Anatomy,
    batches: Sequence[Batch],
    divergence: Callable[[], float],
    *,
    before: float | None = None,
    sums: Mapping[str, Sequence[Tensor]] | None = None,
    outputs: Sequence[tuple[Tensor, ...]] | None = None,
) -> list[dict[str, Any]]:
    """Refit norms, then the head, each kept only where held-out rows gain from it.

    Args:
        answers: How a model is run.
        student: What is fitted, in place.
        teacher: The model as it was.
        anatomy: Of the teacher.
        batches: Calibration rows.
        divergence: How far the student is from the teacher on held-out rows.
        before: That, where it is known.
        sums, outputs: The teacher's on the calibration rows, as `record_sums` returns them; what is not given is
            computed.

    Returns:
        For each that there is: what it is, whether it was kept, and the divergence before and after it.
    """
    head = _find_head(answers, student, batches[0])
    wanted = outputs if head is None or outputs is not None else answers.record(teacher, batches)
    found: list[dict[str, Any]] = []
    for name, parts, change in (
        (
            "norms",
            [path for _, path in _norms(teacher, anatomy)],
            lambda: refit_norms(answers, student, teacher, anatomy, batches, sums),
        ),
        ("head", [head] if head else [], lambda: refit_head(answers, student, wanted or (), batches)),
    ):
        if not parts:
            continue
        kept, before, after = keep_if_better(student, change, divergence, before=before, parts=parts)
        found.append({"what": name, "kept": kept, "before": before, "after": after})
        before = after if kept else before
    return found


def refit_norms(
    answers: Answers,
    student: nn.Module,
    teacher: nn.Module,
    anatomy: Anatomy,
    batches: Sequence[Batch],
    sums: Mapping[str, Sequence[Tensor]] | None = None,
) -> int:
    """Fit scale and shift of every norm in the layers to the teacher's norm outputs, bottom-up.

    A line for each channel over real tokens: what tuning norms alone learns (Frankle et al. 2021, "Training BatchNorm
    and only BatchNorm"), in closed form and with the teacher's outputs as targets. A norm without a bias keeps none:
    its line goes through the origin. Norms outside of the layers stay.

    Args:
        answers: How a model is run.
        student: What is fitted, in place.
        teacher: The model as it was.
        anatomy: Of the student.
        batches: Calibration rows.
        sums: The teacher's, by sublayer's name; without them the teacher is run beside the student.

    Returns:
        How many norms were fitted; none where layers share their weights, or the student has not all of the teacher's.
    """
    some = slice(None, None, NORM_BATCHES)
    ahead, behind = (Walk(answers, module, anatomy, batches[some]) for module in (teacher, student))
    norms = _norms(teacher, anatomy)
    for part, path in norms:
        known = None if sums is None else sums.get(part.name)
        wanted = (total for _, total in ahead.sums(part)) if known is None else iter(known[some])
        _fit_norm(student.get_submodule(path), teacher.get_submodule(path), wanted, behind, part)
    return len(norms)


def _norms(teacher: Any, anatomy: Anatomy) -> list[tuple[Sublayer, str]]:
    """Norms that can be fitted, none where layers share their weights, or the student has not all of the teacher's."""
    same = [each.path for each in anatomy.layers] == [each.path for each in describe(teacher, teacher.config).layers]
    return list(_behind_sums(anatomy)) if same and not anatomy.shared_layers else []


def _behind_sums(anatomy: Anatomy) -> Iterator[tuple[Sublayer, str]]:
    """Each norm with the sublayer whose sum is its input, but a first layer's that normalises the embeddings."""
    layers = anatomy.layers
    for number, parts in enumerate(layers):
        heads = Sublayer("heads", number, parts, parts.o, 0, 0, anatomy.pre_norm)
        neurons = Sublayer("neurons", number, parts, parts.ffn_out, 0, 0, anatomy.pre_norm)
        if not anatomy.pre_norm:
            yield heads, parts.norms[0]
            yield neurons, parts.norms[-1]
            continue
        yield heads, parts.norms[-1]
        if number + 1 < len(layers) and len(layers[number + 1].norms) > 1:
            yield neurons, layers[number + 1].norms[0]


def _fit_norm(norm: Any, target: Any, sums: Iterator[Tensor], behind: Walk, part: Sublayer) -> None:
    """Least squares of *target*'s outputs, given the teacher's sums, where *behind* walks through the student."""
    count, totals = 0, torch.zeros(4, len(norm.weight), dtype=torch.float64)
    for wanted, (_, found), batch in zip(sums, behind.sums(part), behind.batches, strict=True):
        real = batch.mask
        with torch.inference_mode():
            x, y = _normalised(norm, found[real]).double(), target(wanted[real].float()).double()
            totals += torch.stack([x.sum(0), y.sum(0), x.square().sum(0), (x * y).sum(0)])
            count += len(x)
    x, y, xx, xy = totals / count
    bias = getattr(norm, "bias", None)
    if bias is not None:
        xx, xy = xx - x.square(), xy - x * y
    slope = torch.where(xx > _FLAT, xy / xx.clamp(min=_FLAT), norm.weight.double())
    with torch.no_grad():
        norm.weight.copy_(slope)
        if bias is not None:
            bias.copy_(y - slope * x)


def _normalised(norm: Any, values: Tensor) -> Tensor:
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon  # DeBERTa has its own class
    return nn.functional.layer_norm(values, values.shape[-1:], eps=epsilon)


def refit_head(
    answers: Answers, student: nn.Module, teacher_answers: Sequence[tuple[Tensor, ...]], batches: Sequence[Batch]
) -> bool:
    """Fit the last linear layer to the teacher's logits by ridge regression, as a correction of what it is.

    The penalty (Hoerl and Kennard 1970, "Ridge regression") pulls towards the head as it is, so that a few hundred rows
    do not make up directions that they do not show. λ is the share of the mean diagonal that `rebuild` uses.

    Args:
        answers: How a model is run.
        student: What is fitted, in place.
        teacher_answers: The teacher's outputs for each batch.
        batches: Calibration rows.

    Returns:
        Whether there was a head: embeddings have none, and one that is tied to the word embedding stays.
    """
    path = _find_head(answers, student, batches[0])
    if path is None:
        return False
    head: Any = student.get_submodule(path)
    gram, missing = torch.zeros(()), torch.zeros(())
    for batch, wanted in zip(batches, teacher_answers, strict=True):
        seen: list[Tensor] = []
        with watch(student, path, inputs=seen.append), torch.inference_mode():
            gap = _as_one(wanted) - _as_one(answers.of(student, batch))
        h = seen[-1]
        if h.dim() == 3:
            h, gap = h[batch.mask], gap[batch.mask]
        if head.bias is not None:
            h = torch.cat([h, torch.ones(len(h), 1)], 1)
        gram, missing = gram + h.T.double() @ h.double(), missing + h.T.double() @ gap.double()
    columns = head.in_features
    gram.diagonal()[:columns] += RIDGE * gram.diagonal()[:columns].mean()
    solution = torch.linalg.solve(gram, missing).float()
    with torch.no_grad():
        head.weight += solution[:columns].T
        if head.bias is not None:
            head.bias += solution[columns]
    return True


def _find_head(answers: Answers, module: nn.Module, batch: Batch) -> str | None:
    """Path of the linear layer whose output is the task's, unless another module owns its weight too."""
    outputs: dict[str, Tensor] = {}
    paths = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)]
    row = Batch({name: values[:1] for name, values in batch.inputs.items()})
    with contextlib.ExitStack() as stack, torch.inference_mode():
        for path in paths:
            stack.enter_context(watch(module, path, outputs=lambda out, path=path: outputs.update({path: out})))
        wanted = _as_one(answers.of(module, row))
    head = next((path for path, output in outputs.items() if torch.equal(output, wanted)), None)
    if head is None:
        return None
    weight: Any = module.get_submodule(head).weight
    tied = sum(getattr(part, "weight", None) is weight for part in module.modules()) > 1
    return None if tied else head


def _as_one(outputs: Sequence[Tensor]) -> Tensor:
    """The outputs as the head gives them: start and end of an answer are its two columns."""
    return outputs[0] if len(outputs) == 1 else torch.stack(list(outputs), -1)


def keep_if_better(
    student: nn.Module,
    change: Callable[[], Any],
    divergence: Callable[[], float],
    *,
    before: float | None = None,
    parts: Collection[str] | None = None,
) -> tuple[bool, float, float]:
    """Make a change and keep it only if held-out rows gain from it; else every value is as it was.

    Args:
        student: What is changed.
        change: Changes values of the student in place, no shapes.
        divergence: How far the student is from the teacher on rows that *change* does not see.
        before: That, where it is known.
        parts: Paths of the modules whose values *change* changes, where it is not all of them: they are kept twice.

    Returns:
        Whether the change was kept, and the divergence before and after it.
    """
    before = divergence() if before is None else before
    state = student.state_dict()
    values = {name: state[name].clone() for name in state if parts is None or name.rpartition(".")[0] in parts}
    change()
    after = divergence()
    kept = after < before - SMALLEST_GAIN  # NaN is not less
    if not kept:
        student.load_state_dict(values, strict=False)
    return kept, before, after
