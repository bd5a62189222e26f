"""Bottom-up: cut each sublayer on what really reaches it, then fit what is left to the teacher's sum.

    ΔW, Δb = argmin Σ_t v_t |x_S + W h_S + b + ΔW h_S + Δb - s_T|² + λ |ΔW|²      s_T: the teacher's residual sum

The target holds the teacher's whole sum, so a sublayer also mends what those below it broke (K-prune, Park et al. 2024,
equation 9); written as a correction, the ridge pulls towards the weights as they are, and units that were not cut
change nothing where nothing drifted. λ is a share of the mean diagonal. Columns are chosen by `obs` on drifted inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.grams import Gram
from deploycomp.compress.prune import obs
from deploycomp.compress.prune.curvature import Curvature
from deploycomp.compress.prune.sublayers import Sublayer, sublayers, watch, watch_sum
from deploycomp.models.anatomy import Anatomy
from deploycomp.models.plan import Bias, Plan
from deploycomp.models.surgery import apply, linear, unit_columns

__all__ = ["Chooser", "Walk", "choose", "rebuild", "record_sums"]

RIDGE = 1e-2
"""λ as a share of the mean diagonal (methods.md, recommendation A)."""
EVEN = 0.2
"""Share of a token's weight that does not depend on its gradient: tokens that hardly matter still steady the fit."""

Chooser = Callable[[Sublayer, Tensor, Tensor, Curvature, int], list[int]]
"""Sublayer, W, H on drifted inputs, curvature, how many stay → the units that stay."""


def choose(part: Sublayer, weight: Tensor, moment: Tensor, curvature: Curvature, kept: int) -> list[int]:
    """Keep the units that the brain surgeon leaves."""
    step = max(1, part.units // 64)
    removal = obs.remove(weight, moment, curvature.root, size=part.size, step=step, down_to=kept)
    gone = set(removal.order)
    return [unit for unit in range(part.units) if unit not in gone]


def rebuild(
    answers: Answers,
    module: nn.Module,
    anatomy: Anatomy,
    plan: Plan,
    batches: Sequence[Batch],
    targets: Mapping[str, Sequence[Tensor]],
    curvature: Mapping[str, Curvature],
    levels: Mapping[str, int],
    *,
    chooser: Chooser = choose,
    compensate: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Plan:
    """Cut every sublayer to its level, in the order they run, and make up for it.

    Args:
        answers: How the model is run.
        module: The student; its modules are changed in place, its parameters replaced.
        anatomy: Its anatomy.
        plan: What was cut before.
        batches: Calibration rows.
        targets: The teacher's sums by sublayer's name, as `record_sums` returns them, of these batches and maybe more;
            none are needed where nothing is fitted.
        curvature: Of each sublayer's outputs, by name.
        levels: Units that stay, by sublayer's name.
        chooser: Which of them.
        compensate: Whether what is left is fitted.
        progress: Called with the share that is done.

    Returns:
        The plan with the cuts.
    """
    walk = Walk(answers, module, anatomy, batches)
    parts = [part for part in sublayers(module, anatomy) if part.name in levels]
    first = next((place for place, part in enumerate(parts) if levels[part.name] < part.units), len(parts))
    compensate = compensate and not anatomy.shared_layers  # one fit cannot serve every use of a shared layer
    for number, part in enumerate(parts):
        cut = levels[part.name] < part.units
        if number < first or not (cut or compensate):
            continue  # nothing has drifted yet
        seen = _observe(walk, part, targets[part.name] if compensate else None, curvature[part.name])
        if cut:
            weight = linear(module, part.projection).weight
            kept = chooser(part, weight, seen.moment, curvature[part.name], levels[part.name])
            plan, seen = _cut(module, anatomy, plan, part, kept, seen)
            walk.cut(part, kept)
        if compensate:
            plan = _fit(module, anatomy, plan, part, seen)
        if progress is not None:
            progress((number + 1) / len(parts))
    return plan


def record_sums(
    answers: Answers, module: nn.Module, parts: Sequence[Sublayer], batches: Sequence[Batch]
) -> tuple[dict[str, list[Tensor]], list[tuple[Tensor, ...]]]:
    """Record the residual sums of a model, in half precision, and its outputs.

    Args:
        answers: How the model is run.
        module: The teacher.
        parts: Its sublayers.
        batches: Calibration rows.

    Returns:
        Sublayer's name → [rows, tokens, hidden] for each batch, and the outputs for each batch.
    """
    found: dict[str, list[Tensor]] = {part.name: [] for part in parts}
    outputs: list[tuple[Tensor, ...]] = []
    for batch in batches:
        now: dict[str, Tensor] = {}
        with contextlib.ExitStack() as stack, torch.inference_mode():
            for part in parts:
                stack.enter_context(watch_sum(module, part, partial(now.setdefault, part.name)))
            outputs.append(answers.of(module, batch))
        for name, value in now.items():
            found[name].append(value.half())
    return found, outputs


_BESIDE: dict[str, tuple[None, ...]] = {"MPNetLayer": (), "DebertaLayer": (None,), "DebertaV2Layer": (None,)}
"""Layers that return a tuple, and what stands in it beside the hidden states: attentions, if they were asked for."""


class _Stop(Exception):
    """Ends a forward pass once what was asked for has been seen."""


class Walk:
    """A model run from one layer to the next: those below are not computed again, what the next is called with is kept.

    Within a layer, activations of units are kept, too, once they were looked at. So what computes them may change only
    until then, but for a cut that the walk is told; projections and norms behind them may change any time.

    Args:
        answers: How the model is run.
        module: The model; layers may be cut while it is walked through.
        anatomy: Its layers.
        batches: Rows.
    """

    def __init__(self, answers: Answers, module: nn.Module, anatomy: Anatomy, batches: Sequence[Batch]):
        self.answers, self.module, self.batches = answers, module, batches
        self.layers = [module.get_submodule(layer.path) for layer in anatomy.layers]
        self.shared = anatomy.shared_layers
        self.at = -1
        self.calls: list[_Call] = [((), {})] * len(batches)
        self.activations: dict[Sublayer, list[Tensor]] = {}
        """What goes into projections of the layer where the walk is, for each batch."""

    def sums(self, part: Sublayer) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs of a sublayer's projection and its sum, for each batch."""
        self._climb(part.layer)
        for each in [each for each in self.activations if part.kind in ("heads", each.kind)]:
            del self.activations[each]  # its own, and what comes behind it
        seen: list[Tensor] = []
        for place in range(len(self.batches)):
            inputs: list[Tensor] = []
            found: list[Tensor] = []

            def stop(value: Tensor, found: list[Tensor] = found) -> None:
                found.append(value)
                raise _Stop

            with contextlib.ExitStack() as stack:
                stack.enter_context(watch(self.module, part.projection, inputs=inputs.append))
                stack.enter_context(watch_sum(self.module, part, stop))
                self._run(place)
            if not self.shared:  # such a layer runs several times, on something else each time
                seen.append(inputs[-1])
            yield inputs[-1], found[0]
        if seen:
            self.activations[part] = seen

    def cut(self, part: Sublayer, kept: Sequence[int]) -> None:
        """Take note that of a sublayer's units, which were looked at, only these are left."""
        seen = self.activations.pop(part, None)
        if kept and seen is not None:
            columns = unit_columns(kept, part.size)
            self.activations[part] = [inputs[..., columns] for inputs in seen]

    def inputs(self, layer: int, path: str) -> Iterator[Tensor]:
        """Yield what goes into a submodule of a layer, for each batch."""
        self._climb(layer)
        for place in range(len(self.batches)):
            with _until(self.module.get_submodule(path)) as calls:
                self._run(place)
            yield _hidden(*calls[0])

    def _climb(self, layer: int) -> None:
        """Move what is kept up to the call of *layer*; a layer that is called again and again is run with the rest."""
        while self.at < layer and not self.shared:
            above = self.layers[self.at + 1]
            for place in range(len(self.batches)):
                self.calls[place] = self._call_of(above, place)
            self.at += 1
            self.activations = {}

    def _call_of(self, above: nn.Module, place: int) -> _Call:
        """What the model calls the next layer with: some do things of their own between two."""
        with contextlib.ExitStack() as stack, torch.inference_mode():
            calls = stack.enter_context(_until(above))
            stack.enter_context(self._known(place))
            if self.at >= 0:
                for layer in self.layers[: self.at]:
                    stack.enter_context(_passing(layer))
                stack.enter_context(_feeding(self.layers[self.at], _hidden(*self.calls[place])))
            self.answers.of(self.module, self.batches[place])
        return calls[0]

    def _run(self, place: int) -> None:
        """Run one batch through the layer where the walk is."""
        with torch.inference_mode(), contextlib.suppress(_Stop), self._known(place):
            if self.shared:
                self.answers.of(self.module, self.batches[place])
            else:
                args, kwargs = self.calls[place]
                self.layers[self.at](*args, **kwargs)

    @contextlib.contextmanager
    def _known(self, place: int) -> Iterator[None]:
        """Give projections the activations that are known, and do not compute them again."""
        with contextlib.ExitStack() as stack:
            for part, seen in self.activations.items():
                for path in part.sources:
                    stack.enter_context(_zeros(self.module.get_submodule(path)))
                stack.enter_context(_feeding(self.module.get_submodule(part.projection), seen[place]))
            yield


_Call = tuple[tuple[Any, ...], dict[str, Any]]


@contextlib.contextmanager
def _until(part: nn.Module) -> Iterator[list[_Call]]:
    """End what is run within where a submodule is called, and keep what it is called with."""
    found: list[_Call] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise _Stop

    handle = part.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with contextlib.suppress(_Stop):
            yield found
    finally:
        handle.remove()


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _as_returned(layer: str, hidden: Tensor) -> Any:
    """What a layer of this class returns: most return the hidden states alone."""
    if layer.startswith("MPNet"):
        return (hidden,)
    return (hidden, None) if layer.startswith("Deberta") else hidden


@contextlib.contextmanager
def _computing(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _passing(layer: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Let a layer hand its input on."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)
        beside = _BESIDE.get(type(layer).__name__)
        return hidden if beside is None else (hidden, *beside)

    return _computing(layer, forward)


def _zeros(projection: Any) -> contextlib.AbstractContextManager[None]:
    """Let a projection answer zeros, which nobody reads."""

    def forward(x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], projection.out_features)

    return _computing(projection, forward)


@contextlib.contextmanager
def _feeding(layer: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Give a layer this input."""

    def feed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    handle = layer.register_forward_pre_hook(feed, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@dataclass
class _Seen:
    """Weighted sums over tokens, of the inputs [h, 1] and of what is missing at the sum."""

    gram: Tensor
    missing: Tensor

    @property
    def moment(self) -> Tensor:
        return self.gram[:-1, :-1]


def _observe(walk: Walk, part: Sublayer, targets: Sequence[Tensor] | None, curve: Curvature) -> _Seen:
    """Run the student up to a sublayer's sum and gather what least squares needs; no targets: nothing is missing."""
    columns = part.units * part.size
    gram, missing = Gram(columns + 1), torch.zeros(columns + 1, curve.root.shape[1])
    for (inputs, student), target, tokens, batch in zip(
        walk.sums(part), targets or repeat(None), curve.tokens, walk.batches, strict=False
    ):
        real = batch.mask
        roots = (EVEN + (1 - EVEN) * tokens[real]).sqrt()[:, None]
        weighted = torch.cat([inputs[real] * roots, roots], 1)
        gram.add(weighted)
        if target is not None:
            missing.addmm_(weighted.T, (target.float() - student)[real] * roots)
    return _Seen(gram.full(), missing)


def _cut(
    module: nn.Module, anatomy: Anatomy, plan: Plan, part: Sublayer, kept: list[int], seen: _Seen
) -> tuple[Plan, _Seen]:
    """Cut, and carry what the cut units gave over to what is missing now."""
    weight = linear(module, part.projection).weight
    gone = [unit for unit in range(part.units) if unit not in set(kept)]
    columns = unit_columns(kept, part.size)
    lost = unit_columns(gone, part.size)
    last = seen.gram.shape[0] - 1
    rows = torch.cat([columns, torch.tensor([last])])
    missing = seen.missing + seen.gram[:, lost].double() @ weight[:, lost].double().T
    plan = apply(module, anatomy, plan, part.cut(kept))
    return plan, _Seen(seen.gram[rows[:, None], rows], missing[rows])


def _fit(module: nn.Module, anatomy: Anatomy, plan: Plan, part: Sublayer, seen: _Seen) -> Plan:
    """Add the ridge solution of what is missing to the projection; the sums are used up."""
    gram = seen.gram.double().mT  # symmetric, and in the order of LAPACK, so that it is factored in place
    seen.gram = torch.empty(0)
    count = gram.shape[0] - 1
    if count:
        gram.diagonal()[:count] += RIDGE * gram.diagonal()[:count].mean()
    solution = torch.cholesky_solve(seen.missing.double(), torch.linalg.cholesky(gram, out=gram))
    projection: Any = linear(module, part.projection)
    unbiased = projection.bias is None
    if unbiased:
        plan = apply(module, anatomy, plan, Bias(part.projection))
    if count:  # parameters are replaced, not changed: others may share them
        projection.weight = _constant(projection.weight + solution[:count].T.float())
    projection.bias = _constant(projection.bias + solution[count].float())
    return plan


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach(), requires_grad=False)
