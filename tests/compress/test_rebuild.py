"""Walking layer by layer is running the model, and what is left after a cut mends what the cut broke."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune.curvature import Curvature, measure
from deploycomp.compress.prune.rebuild import EVEN, RIDGE, Walk, choose, rebuild, record_sums
from deploycomp.compress.prune.sublayers import Sublayer, sublayers, watch, watch_sum
from deploycomp.models import resolve
from deploycomp.models.checkpoint import save
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Bias, Heads, Neurons, Plan
from deploycomp.models.surgery import apply
from tests import tiny
from tests.compress.test_batches import batches_of

ARCHES = list(tiny.ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """`models(arch)`: a loaded model of its own."""
    found: dict[str, TorchModel] = {}

    def get(arch: str) -> TorchModel:
        if arch not in found:
            found[arch] = load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", arch, "token-classification")))
        module: Any = copy.deepcopy(found[arch].module)
        return replace(found[arch], module=module, config=module.config)

    return get


def in_full(model: TorchModel, part: Sublayer, batch: Batch) -> tuple[Tensor, Tensor]:
    """Inputs of a sublayer's projection and its sum, the first time it runs in a whole forward pass."""
    inputs: list[Tensor] = []
    found: list[Tensor] = []
    with (
        torch.no_grad(),
        watch(model.module, part.projection, inputs=inputs.append),
        watch_sum(model.module, part, found.append),
    ):
        Answers(model).of(model.module, batch)
    return inputs[0], found[0]


def check_walk(model: TorchModel, walk: Walk, part: Sublayer, batches: Sequence[Batch]) -> None:
    seen = list(walk.sums(part))
    assert len(seen) == len(batches)
    for (inputs, total), batch in zip(seen, batches, strict=True):
        expected = in_full(model, part, batch)
        torch.testing.assert_close(inputs.clone()[batch.mask], expected[0][batch.mask], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(total.clone()[batch.mask], expected[1][batch.mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("tokens", [1, 90])
def test_a_walk_sees_what_a_full_pass_computes(models, arch, tokens):
    """Batches of one row, of two and of more: a layer that is passed by must return what its encoder unpacks."""
    model = models(arch)
    batches = batches_of(model, 5, tokens=tokens)
    walk = Walk(Answers(model), model.module, model.anatomy, batches)
    for part in sublayers(model.module, model.anatomy):
        check_walk(model, walk, part, batches)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert not any("forward" in vars(part) for part in model.module.modules())


@pytest.mark.parametrize("arch", [*ARCHES, "three"])
def test_a_walk_goes_on_above_what_was_cut(models, tmp_path, arch):
    if arch == "three":
        model = load(resolve(tiny.build(tmp_path / "m", "deberta-v2", "token-classification", num_hidden_layers=3)))
    else:
        model = models(arch)
    batches = batches_of(model, 4)
    walk = Walk(Answers(model), model.module, model.anatomy, batches)
    for part in sublayers(model.module, model.anatomy):
        check_walk(model, walk, part, batches)
        kept = range(0, part.units, 2)
        apply(model.module, model.anatomy, Plan(), part.cut(kept))
        check_walk(model, walk, replace(part, units=len(kept)), batches)


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, projections: Sequence[Any]) -> Iterator[list[int]]:
    """How often each of these linear layers really computes."""
    counts, forward = [0] * len(projections), torch.nn.Linear.forward

    def count(self: torch.nn.Linear, x: Tensor) -> Tensor:
        for place, each in enumerate(projections):
            counts[place] += each is self
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", count)
        yield counts


@pytest.mark.parametrize("arch", [arch for arch in ARCHES if arch != "albert"])
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_activations_are_not_computed_again(models, monkeypatch, arch, kept):
    """Cut or not, whatever comes behind them sees what a full pass computes."""
    model = models(arch)
    batches = batches_of(model, 4)
    walk = Walk(Answers(model), model.module, model.anatomy, batches)
    whole = sublayers(model.module, model.anatomy)
    for part, behind in itertools.pairwise(whole):
        check_walk(model, walk, part, batches)
        units = range(0, part.units, kept)
        apply(model.module, model.anatomy, Plan(), part.cut(units))
        walk.cut(part, units)
        projection: Any = model.module.get_submodule(part.projection)
        projection.weight.data *= 1.1  # as a fit would
        sources = [model.module.get_submodule(path) for path in part.sources]
        with counted(monkeypatch, [*sources, projection]) as counts:
            list(walk.sums(behind))
        assert counts == [0] * len(sources) + [len(batches)], part.name
        check_walk(model, walk, behind, batches)


def test_a_sublayer_that_is_gone_has_none(models):
    model = models("bert")
    batches = batches_of(model, 4)
    walk = Walk(Answers(model), model.module, model.anatomy, batches)
    first, second, third, _ = sublayers(model.module, model.anatomy)
    for part in (first, second):
        check_walk(model, walk, part, batches)
        apply(model.module, model.anatomy, Plan(), part.cut(()))
        walk.cut(part, ())
    check_walk(model, walk, third, batches)


@pytest.mark.parametrize("arch", ARCHES)
def test_recorded_sums_are_those_of_each_sublayer(models, arch):
    model = models(arch)
    batches, parts = batches_of(model, 4), sublayers(model.module, model.anatomy)
    sums, outputs = record_sums(Answers(model), model.module, parts, batches)
    for found, expected in zip(outputs, Answers(model).record(model.module, batches), strict=True):
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert list(sums) == [part.name for part in parts]
    for part in parts:
        assert [value.dtype for value in sums[part.name]] == [torch.float16] * len(batches)
        for value, batch in zip(sums[part.name], batches, strict=True):
            torch.testing.assert_close(value, in_full(model, part, batch)[1].half(), rtol=1e-3, atol=1e-3)


# -------------------------------------------------------------------------------------------------------------- rebuild


class Case:
    """A model, its rows and what was measured of it."""

    def __init__(self, model: TorchModel, count: int = 30):
        self.model, self.answers = model, Answers(model)
        self.batches = batches_of(model, count, tokens=200)
        self.parts = sublayers(model.module, model.anatomy)
        word = [model.anatomy.embeddings["word"]]
        self.curvature = measure(self.answers, model.module, word, self.parts, self.batches, seed=0)
        self.targets, _ = record_sums(self.answers, model.module, self.parts, self.batches)

    def levels(self, **cut: int) -> dict[str, int]:
        return {part.name: cut.get(f"{part.kind}{part.layer}", part.units) for part in self.parts}

    def rebuilt(self, levels: dict[str, int], **options: Any) -> TorchModel:
        module: Any = copy.deepcopy(self.model.module)
        plan = rebuild(
            self.answers, module, self.model.anatomy, Plan(), self.batches, self.targets, self.curvature, levels,
            **options,
        )  # fmt: skip
        return replace(self.model, module=module, config=module.config, plan=plan)

    def weights(self, part: Sublayer) -> Tensor:
        tokens = self.curvature[part.name].tokens
        real = torch.cat([each[batch.mask] for each, batch in zip(tokens, self.batches, strict=True)])
        return EVEN + (1 - EVEN) * real

    def error(self, model: TorchModel, part: Sublayer) -> float:
        """How far a student's sum is from the teacher's, weighted as the fit weighs it."""
        off = [
            (in_full(model, part, batch)[1] - target.float()).square().sum(-1)[batch.mask]
            for batch, target in zip(self.batches, self.targets[part.name], strict=True)
        ]
        return float((self.weights(part) * torch.cat(off)).mean())


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arch", ["bert", "modernbert", "albert", "deberta-v2"])
def test_nothing_changes_where_nothing_is_cut(models, arch):
    case = Case(models(arch), 6)
    model = case.rebuilt(case.levels())
    assert same(model.module, case.model.module)
    assert not model.plan


def test_nothing_changes_below_the_first_cut(models):
    case = Case(models("bert"), 6)
    model = case.rebuilt(case.levels(heads1=2))
    for number, layer in enumerate(case.model.anatomy.layers):
        for path in (layer.o, layer.ffn_in, layer.ffn_out):
            before, after = case.model.module.get_submodule(path), model.module.get_submodule(path)
            fitted = number == 1 and path != layer.ffn_in
            assert same(before, after) != fitted, path


@pytest.mark.parametrize("arch", [arch for arch in ARCHES if arch != "albert"])
def test_compensation_brings_the_sums_nearer(models, arch):
    case = Case(models(arch))
    levels = case.levels(heads0=2, neurons0=24, neurons1=16)
    fitted, plain = case.rebuilt(levels), case.rebuilt(levels, compensate=False)
    for part in case.parts:
        assert case.error(fitted, part) < 0.9 * case.error(plain, part), part.name
    assert {part.name: part.units for part in sublayers(fitted.module, fitted.anatomy)} == levels
    assert {part.name: part.units for part in sublayers(plain.module, plain.anatomy)} == levels
    assert all(isinstance(cut, (Heads, Neurons)) for cut in plain.plan.cuts)


def test_the_fit_is_the_weighted_ridge_solution(models):
    """At the solution the objective's gradient is zero: Σ v (sum - target) [h, 1] + λ ΔW = 0."""
    case = Case(models("bert"))
    model = case.rebuilt(case.levels(neurons1=20))
    part = case.parts[-1]
    (cut,) = model.plan.cuts
    assert isinstance(cut, Neurons)
    seen = [in_full(model, part, batch) for batch in case.batches]
    h = torch.cat([inputs[batch.mask] for (inputs, _), batch in zip(seen, case.batches, strict=True)]).double()
    pairs = zip(seen, case.targets[part.name], case.batches, strict=True)
    off = torch.cat([(total - target.float())[batch.mask] for (_, total), target, batch in pairs]).double()
    v = case.weights(part).double()[:, None]
    before: Any = case.model.module.get_submodule(part.projection)
    after: Any = model.module.get_submodule(part.projection)
    change = (after.weight - before.weight[:, list(cut.kept)]).double()
    ridge = RIDGE * (v * h.square()).sum(0).mean()
    gradient = (v * off).T @ h + ridge * change
    scale = float(((v * off).T @ h).abs().max())
    assert scale > 0
    assert float(gradient.abs().max()) < 1e-3 * scale
    assert float((v * off).sum(0).abs().max()) < 1e-4 * float((v * off.abs()).sum(0).max())


def test_a_projection_without_bias_gets_one_and_loads_again(models, tmp_path):
    case = Case(models("modernbert"))
    model = case.rebuilt(case.levels(heads0=2, neurons1=0))
    layers = model.anatomy.layers
    assert [cut.module for cut in model.plan.cuts if isinstance(cut, Bias)] == [
        layers[0].o, layers[0].ffn_out, layers[1].o,
    ]  # fmt: skip
    save(model, tmp_path)
    again = load(resolve(tmp_path))
    for batch in case.batches:
        with torch.no_grad():
            expected, got = (Answers(each).of(each.module, batch)[0] for each in (model, again))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["bert", "mpnet", "deberta-v2"])
def test_what_is_gone_whole_leaves_a_fitted_bias(models, arch):
    case = Case(models(arch))
    levels = case.levels(heads0=0, neurons1=0)
    fitted, plain = case.rebuilt(levels), case.rebuilt(levels, compensate=False)
    for part in (case.parts[0], case.parts[-1]):
        projection: Any = fitted.module.get_submodule(part.projection)
        assert projection.in_features == 0
        assert not torch.equal(projection.bias, plain.module.get_submodule(part.projection).bias)  # type: ignore[arg-type]


def test_shared_layers_are_cut_and_not_fitted(models):
    case = Case(models("albert"), 6)
    levels = case.levels(heads0=2, neurons0=30)
    model, plain = case.rebuilt(levels), case.rebuilt(levels, compensate=False)
    assert same(model.module, plain.module)
    assert {part.name: part.units for part in sublayers(model.module, model.anatomy)} == levels


def test_only_sublayers_that_are_named_are_touched(models):
    case = Case(models("bert"), 6)
    model = case.rebuilt({"0.heads": 2})
    before, after = case.model.module.state_dict(), model.module.state_dict()
    changed = {
        name for name in before if before[name].shape != after[name].shape or not before[name].equal(after[name])
    }
    assert changed == {name for name in before if ".layer.0.attention." in name and "LayerNorm" not in name}


def test_a_chooser_says_which_units_stay(models):
    case = Case(models("bert"), 6)
    asked: list[tuple[str, int]] = []

    def last(part: Sublayer, weight: Tensor, moment: Tensor, curve: Curvature, kept: int) -> list[int]:
        asked.append((part.name, kept))
        assert weight.shape[1] == len(moment) == part.units * part.size
        assert curve is case.curvature[part.name]
        return list(range(part.units - kept, part.units))

    model = case.rebuilt(case.levels(heads0=1, neurons1=2), chooser=last)
    assert asked == [("0.heads", 1), ("1.neurons", 2)]
    assert model.plan.cuts == (Heads(0, (3,)), Neurons(1, (62, 63)))


def test_the_brain_surgeon_keeps_what_carries_weight(models):
    case = Case(models("bert"), 6)
    part = case.parts[1]
    weight = case.model.module.get_submodule(part.projection).weight.clone()  # type: ignore[operator,union-attr]
    weight[:, 10:] = 0
    curve = case.curvature[part.name]
    assert choose(part, weight, curve.moment, curve, 10) == list(range(10))  # type: ignore[arg-type]
    assert set(choose(part, weight, curve.moment, curve, 4)) < set(range(10))  # type: ignore[arg-type]


def test_progress_ends_at_one(models):
    case = Case(models("bert"), 6)
    shares: list[float] = []
    case.rebuilt(case.levels(neurons0=8), progress=shares.append)
    assert shares == [0.5, 0.75, 1.0]
