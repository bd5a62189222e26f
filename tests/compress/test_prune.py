"""Pruning as a whole: every method comes down to the budget on the same rows, and the source stays as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from deploycomp.compress.prune import prune as module
from deploycomp.compress.prune.costs import Costs, flops
from deploycomp.compress.prune.prune import Method, Pruner, prune
from deploycomp.compress.prune.sublayers import sublayers
from deploycomp.latency import copied
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from tests import tiny
from tests.compress.test_batches import batches_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", "bert", "text-classification")))


def costs_of(model: TorchModel) -> Costs:
    return flops(sublayers(model.module, model.anatomy), hidden=model.anatomy.hidden_size)


METHODS = {
    "ours": Method(),
    "uniform": Method(allocation="uniform"),
    "fisher": Method(rounds=1, score="mask", compensate=False),
    "energy": Method(score="energy"),
    "magnitude": Method(rounds=1, score="magnitude", compensate=False),
    "random": Method(score="random"),
    "heads": Method(kinds=("heads",)),
    "neurons": Method(kinds=("neurons",), compensate=False),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_down_to_the_budget(model, name):
    before = copy.deepcopy(model.module.state_dict())
    costs, batches = costs_of(model), batches_of(model, 8)
    budget = 0.75 * costs.whole
    made = prune(model, batches, batches_of(model, 4), costs, budget, method=METHODS[name])
    assert made.cost <= budget
    assert made.cost == costs.total(made.levels)
    assert made.model.parameters < model.parameters
    assert [each["round"] for each in made.trail] == list(range(1, METHODS[name].rounds + 1))
    spent = [each["cost"] for each in made.trail]
    assert spent == sorted(spent, reverse=True)
    now = {part.name: part.units for part in sublayers(made.model.module, made.model.anatomy)}
    assert {part: units for part, units in made.levels.items() if units} == now
    after = model.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(("kinds", "other"), [(("heads",), "neurons"), (("neurons",), "heads")])
def test_only_the_kinds_that_were_asked_for_are_cut(model, kinds, other):
    costs = costs_of(model)
    made = prune(model, batches_of(model, 6), [], costs, 0.8 * costs.whole, method=Method(rounds=2, kinds=kinds))
    for part in sublayers(model.module, model.anatomy):
        assert (made.levels[part.name] == part.units) or part.kind != other


def test_without_compensation_what_stays_is_as_it_was(model):
    """The weights that are left are columns of the source's."""
    costs = costs_of(model)
    method = Method(rounds=1, compensate=False)
    made = prune(model, batches_of(model, 6), [], costs, 0.6 * costs.whole, method=method)
    assert made.model.plan.cuts
    for part in sublayers(made.model.module, made.model.anatomy):
        before: Any = model.module.get_submodule(part.projection)
        after: Any = made.model.module.get_submodule(part.projection)
        columns = {tuple(column.tolist()) for column in before.weight.T}
        assert all(tuple(column.tolist()) in columns for column in after.weight.T)
        assert torch.equal(after.bias, before.bias)


def test_a_budget_that_nothing_reaches_is_refused(model):
    costs = costs_of(model)
    dear = Costs(costs.unit, costs.whole, costs.tables)
    with pytest.raises(ValueError, match="no cut reaches"):
        prune(model, batches_of(model, 4), [], dear, 0.5 * costs.whole)


def test_mutations_of_the_last_round_never_end_further_away(model, tmp_path):
    """Held-out rows choose among what is predicted best and others nearby, which are others indeed."""
    costs, batches, held_out = costs_of(model), batches_of(model, 8), batches_of(model, 8, seed=3)
    plain, mutated = (
        prune(copied(model), batches, held_out, costs, 0.6 * costs.whole, method=Method(rounds=2, mutations=count))
        for count in (0, 4)
    )
    *_, first, last = mutated.trail
    assert set(first) == {"round", "cost"}
    assert len(last["tried"]) > 1
    assert last["divergence"] == min(last["tried"])
    assert last["divergence"] <= plain.trail[-1]["divergence"] == last["tried"][0]
    again = Pruner(model, [], held_out, costs, Method(compensate=False), tmp_path)
    again.model = mutated.model
    assert again.divergence() == pytest.approx(last["divergence"])


def test_the_last_round_is_done_again_from_where_it_began(model, tmp_path):
    """To the same budget it ends where it ended; to a larger one it takes back what need not go."""
    costs, batches = costs_of(model), batches_of(model, 8)
    pruner = Pruner(model, batches, batches_of(model, 6, seed=3), costs, Method(), tmp_path)
    pruner.advance(0.8 * costs.whole, seed=1)
    began = pruner.levels()
    first = pruner.advance(0.5 * costs.whole, seed=2, last=True)
    levels = pruner.levels()
    again = pruner.redo(0.5 * costs.whole)
    assert pruner.levels() == levels
    assert again["divergence"] == pytest.approx(first["divergence"], rel=1e-5)
    larger = pruner.redo(0.7 * costs.whole)
    assert first["cost"] < larger["cost"] <= 0.7 * costs.whole
    assert all(pruner.levels()[name] <= units for name, units in began.items())
    assert all(each.inputs is None for each in pruner.seen.values())  # the largest of all there is
    assert len(pruner.parkings) == 2


def test_all_rounds_but_the_last_learn_from_half_of_the_rows(model, tmp_path, monkeypatch):
    """Short ones and long ones; what they leave is fitted to the sums of the same rows."""
    taken: list[tuple[list[int], list[int]]] = []
    lengths = lambda batches: [batch.mask.shape[1] for batch in batches]  # noqa: E731
    scored, rebuilt = module.measure, module.rebuild

    def measure(answers, student, embeddings, parts, batches, **options):
        taken.append((lengths(batches), []))
        return scored(answers, student, embeddings, parts, batches, **options)

    def rebuild(answers, student, anatomy, plan, batches, targets, *rest, **options):
        for each in targets.values():
            assert all(target.shape[:2] == batch.mask.shape for target, batch in zip(each, batches, strict=False))
        taken[-1][1].extend(lengths(batches))
        return rebuilt(answers, student, anatomy, plan, batches, targets, *rest, **options)

    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "rebuild", rebuild)
    costs, batches = costs_of(model), batches_of(model, 9, tokens=1)
    pruner = Pruner(model, batches, batches_of(model, 2), costs, Method(mutations=0), tmp_path)
    pruner.advance(0.8 * costs.whole, seed=1)
    pruner.advance(0.7 * costs.whole, seed=2, last=True)
    pruner.redo(0.75 * costs.whole)
    (first, first_cut), (last, last_cut) = taken
    assert len(batches) == 9
    assert first == first_cut == lengths(batches)[::2]
    assert last == lengths(pruner.batches)
    assert last_cut == 2 * last
    assert sorted(last) == lengths(batches)


def test_a_student_shares_no_weight_that_it_changes(model):
    costs = costs_of(model)
    made = prune(model, batches_of(model, 6), batches_of(model, 2), costs, 0.7 * costs.whole, method=Method(rounds=1))
    own = {id(each) for each in made.model.module.parameters()}
    assert not own & {id(each) for each in model.module.parameters()}


def test_labels_change_which_units_score(model, tmp_path):
    """The curvature of a row with a label is the empirical Fisher: it is that label's, not the probe's."""
    plain = batches_of(model, 12)
    right = [replace(batch, labels=torch.zeros(batch.rows, dtype=torch.long)) for batch in plain]
    wrong = [replace(batch, labels=torch.ones(batch.rows, dtype=torch.long)) for batch in plain]
    found = [
        Pruner(model, batches, [], costs_of(model), Method(score="mask"), tmp_path).curvature(seed=1)
        for batches in (plain, right, wrong)
    ]
    for part in found[0]:
        one, two, three = (each[part].fisher for each in found)
        assert not torch.allclose(one, two)
        assert not torch.allclose(two, three)
