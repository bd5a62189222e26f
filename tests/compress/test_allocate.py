"""A budget is divided among sublayers: never overrun, and as cheaply in loss as the table allows."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploycomp.compress.answers import Answers
from deploycomp.compress.prune.allocate import allocate, levels_of, predicted_losses, uniform, unit_scores
from deploycomp.compress.prune.costs import Costs, flops, parameters
from deploycomp.compress.prune.curvature import measure
from deploycomp.compress.prune.sublayers import Sublayer, sublayers
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Plan
from deploycomp.models.surgery import apply
from tests import tiny
from tests.compress.test_batches import batches_of


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", "bert", "text-classification")))


@pytest.fixture(scope="module")
def parts(bert: TorchModel) -> list[Sublayer]:
    return sublayers(bert.module, bert.anatomy)


def losses_of(parts: list[Sublayer], seed: int) -> dict[str, np.ndarray]:
    """Falling from something at no unit to nothing at all units."""
    draw = np.random.default_rng(seed)
    return {part.name: np.append(np.cumsum(draw.random(part.units))[::-1], 0.0) for part in parts}


def costs_of(parts: list[Sublayer], seed: int) -> Costs:
    draw = np.random.default_rng(seed)
    tables = {part.name: np.cumsum(draw.random(part.units + 1)) for part in parts}
    return Costs("ms", 3.0, tables)


# --------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("kind", "units", "whole", "expected"),
    [
        ("heads", 4, 4, [0, 1, 2, 3, 4]),
        ("heads", 2, 12, [0, 1, 2]),
        ("neurons", 256, 256, [*range(0, 257, 32)]),
        ("neurons", 100, 256, [0, 32, 64, 96, 100]),
        ("neurons", 64, 64, [*range(0, 65, 8)]),
        ("neurons", 5, 5, [0, 1, 2, 3, 4, 5]),
        ("neurons", 1, 3072, [0, 1]),
        ("neurons", 3072, 3072, [*range(0, 3073, 32)]),
    ],
)
def test_levels(parts, kind, units, whole, expected):
    part = replace(parts[0 if kind == "heads" else 1], units=units)
    assert levels_of(part, whole) == expected


# ---------------------------------------------------------------------------------------------------------- allocations


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), share=st.floats(0.01, 1.05))
def test_no_allocation_is_above_the_budget(parts, seed, share):
    costs, losses = costs_of(parts, seed), losses_of(parts, seed + 1)
    budget = share * costs.whole
    least = costs.total(dict.fromkeys(losses, 0))
    for levels in (allocate(parts, losses, costs, budget), uniform(parts, costs, budget)):
        if levels is None:
            assert budget < least + 1e-9
            continue
        assert costs.total(levels) <= budget * (1 + 1e-9)
        for part in parts:
            assert levels[part.name] in levels_of(part, part.units)


def test_an_allocation_is_the_best_there_is(parts):
    few = [replace(part, units=4) for part in parts]
    for seed in range(5):
        losses, costs = losses_of(few, seed), costs_of(few, seed + 100)
        costs = Costs("ms", 3.0, {name: np.round(table * 10) for name, table in costs.tables.items()})
        budget = 3.0 + 2000 / 20
        levels = allocate(few, losses, costs, budget)
        assert levels is not None
        every = [dict(zip(losses, choice, strict=True)) for choice in product(range(5), repeat=4)]
        best = min(
            sum(float(losses[name][level]) for name, level in each.items())
            for each in every
            if costs.total(each) <= budget
        )
        got = sum(float(losses[name][level]) for name, level in levels.items())
        assert got == pytest.approx(best)


def test_a_budget_for_everything_keeps_everything(parts):
    costs, losses = costs_of(parts, 0), losses_of(parts, 0)
    whole = {part.name: part.units for part in parts}
    assert allocate(parts, losses, costs, 1.005 * costs.whole) == whole  # the grid may round a step a sublayer up
    assert uniform(parts, costs, costs.whole) == whole


def test_a_budget_for_nothing_keeps_nothing(parts):
    costs = parameters(parts, hidden=tiny.HIDDEN, total=30_000)
    nothing = {part.name: 0 for part in parts}
    assert allocate(parts, losses_of(parts, 0), costs, costs.rest) == nothing
    assert uniform(parts, costs, costs.rest) == nothing
    assert allocate(parts, losses_of(parts, 0), costs, costs.rest - 1) is None
    assert uniform(parts, costs, costs.rest - 1) is None


def test_uniform_keeps_the_same_share(parts):
    costs = parameters(parts, hidden=tiny.HIDDEN, total=30_000)
    inside = costs.whole - costs.rest
    assert uniform(parts, costs, costs.rest + 0.5 * inside) == {
        "0.heads": 2, "0.neurons": 32, "1.heads": 2, "1.neurons": 32,
    }  # fmt: skip
    levels = uniform(parts, costs, costs.rest + 0.49 * inside)
    assert levels is not None
    assert max(levels["0.heads"] / 4, levels["0.neurons"] / 64) < 0.5


def test_weights_of_losses_move_units(parts):
    costs = parameters(parts, hidden=tiny.HIDDEN, total=30_000)
    losses = {part.name: np.linspace(1, 0, part.units + 1) for part in parts}
    budget = costs.rest + 0.5 * (costs.whole - costs.rest)
    for name in losses:
        levels = allocate(parts, losses, costs, budget, weights={name: 100.0})
        assert levels is not None
        assert levels[name] == {part.name: part.units for part in parts}[name]


def test_sublayers_that_are_gone_cost_what_nothing_costs(parts):
    costs, losses = costs_of(parts, 3), losses_of(parts, 3)
    left, gone = parts[1:], parts[0].name
    losses.pop(gone)
    levels = allocate(left, losses, costs, 0.6 * costs.whole)
    assert levels is not None
    assert gone not in levels
    assert costs.total({gone: 0} | levels) <= 0.6 * costs.whole
    every = {part.name: part.units for part in left}
    assert allocate(left, losses, costs, 1.005 * costs.total({gone: 0} | every)) == every


def test_a_cut_sublayer_never_grows(parts):
    costs, losses = costs_of(parts, 4), losses_of(parts, 4)
    now = [replace(part, units=part.units // 4) for part in parts]
    shorter = {part.name: losses[part.name][-part.units - 1 :] for part in now}
    for levels in (allocate(now, shorter, costs, costs.whole), uniform(now, costs, costs.whole)):
        assert levels == {part.name: part.units for part in now}


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("score", ["fisher", "mask", "energy", "magnitude", "random"])
def test_losses_fall_with_units_left(bert, parts, score):
    batches = batches_of(bert)
    curve = measure(Answers(bert), bert.module, [bert.anatomy.embeddings["word"]], parts, batches, seed=0)
    losses = predicted_losses(bert.module, parts, curve, score=score)
    assert set(losses) == {part.name for part in parts}
    for part in parts:
        loss = losses[part.name]
        assert loss.shape == (part.units + 1,)
        assert loss[-1] == 0
        assert (np.diff(loss) <= 0).all()
        assert loss[0] > 0
        if score != "fisher":
            weight: Any = bert.module.get_submodule(part.projection).weight
            scores = unit_scores(part, weight, curve[part.name], score)
            assert scores.shape == (part.units,)
            assert loss[-2] == pytest.approx(float(scores.min()))
            assert loss[0] == pytest.approx(float(scores.sum()), rel=1e-5)


def test_scores_of_units_by_hand(bert, parts):
    part = parts[0]
    weight: Any = bert.module.get_submodule(part.projection).weight
    curve: Any = type("Curve", (), {"fisher": torch.arange(4.0), "energy": torch.tensor([0.0, 1.0, 2.0, 3.0])})
    norms = torch.stack([weight[:, 8 * head : 8 * head + 8].square().sum() for head in range(4)])
    torch.testing.assert_close(unit_scores(part, weight, curve, "magnitude"), norms)
    torch.testing.assert_close(unit_scores(part, weight, curve, "energy"), norms * torch.arange(4.0))
    torch.testing.assert_close(unit_scores(part, weight, curve, "mask"), torch.tensor([0.0, 0.5, 1.0, 1.5]))
    same, other = (unit_scores(each, weight, curve, "random") for each in (part, replace(part, layer=1)))
    assert torch.equal(same, unit_scores(part, weight, curve, "random"))
    assert not torch.equal(same, other)


# --------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
def test_counted_parameters_are_those_that_go(tmp_path: Path, arch: str):
    """All but the biases of rows: a bias for each row of Q, K, V or FFN in that goes."""
    model = load(resolve(tiny.build(tmp_path / "m", arch, "text-classification")))
    parts = sublayers(model.module, model.anatomy)
    costs = parameters(parts, hidden=tiny.HIDDEN, total=model.parameters)
    assert costs.whole == model.parameters
    assert parameters(parts, hidden=tiny.HIDDEN, total=model.parameters, unit="bytes").whole == model.fp32_bytes
    for part in parts:
        before = {name: each.numel() for name, each in model.module.named_parameters() if each.ndim > 1}
        apply(model.module, model.anatomy, Plan(), part.cut(range(part.units // 2)))
        after = {name: each.numel() for name, each in model.module.named_parameters() if each.ndim > 1}
        table = costs.tables[part.name]
        assert sum(before.values()) - sum(after.values()) == table[part.units] - table[part.units // 2], part.name


def test_flops_of_a_layer(parts):
    """2 a weight and token, and Q Kᵀ and P V of each head."""
    tokens, hidden = 128, tiny.HIDDEN
    costs = flops(parts, hidden=hidden)
    attention = 2 * tokens * 4 * hidden * hidden + 2 * (2 * tokens * tokens * hidden)
    assert costs.tables["0.heads"][-1] == attention
    assert costs.tables["0.neurons"][-1] == 2 * tokens * 2 * hidden * tiny.INTERMEDIATE
    assert costs.tables["0.heads"][2] == attention / 2
    assert flops(parts, hidden=hidden, uses=12).whole == 12 * costs.whole
    assert costs.total({"0.heads": 0, "1.heads": 0}) == costs.whole - 2 * attention
