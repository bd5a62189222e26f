"""The brain surgeon predicts exactly what the best repair leaves: checked against constrained least squares."""

from __future__ import annotations

import pytest
import torch

from deploycomp.compress.prune.obs import DAMPING, inverse, remove, root

OUTPUTS = 7


def problem(columns: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, H and G, all correlated."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=draw, dtype=torch.float64)
    tokens = torch.randn(200, columns, generator=draw, dtype=torch.float64) @ mix
    gradients = torch.randn(5, OUTPUTS, generator=draw, dtype=torch.float64)  # fewer than outputs: G is singular
    weight = torch.randn(OUTPUTS, columns, generator=draw, dtype=torch.float64)
    return weight, tokens.T @ tokens / 200, gradients.T @ gradients


def damped(moment: torch.Tensor) -> torch.Tensor:
    return moment + DAMPING * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)


def repaired(weight: torch.Tensor, moment: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """W' with only the kept columns, nearest to W in the norm of H."""
    best = torch.zeros_like(weight)
    if kept:
        best[:, kept] = torch.linalg.solve(moment[kept][:, kept], (weight @ moment)[:, kept].T).T
    return best


def loss(weight: torch.Tensor, best: torch.Tensor, moment: torch.Tensor, curvature: torch.Tensor) -> float:
    change = best - weight
    return float(0.5 * (curvature @ change @ moment @ change.T).trace())


def columns_of(units: list[int], size: int) -> list[int]:
    return [unit * size + each for unit in units for each in range(size)]


@pytest.mark.parametrize(("units", "size"), [(12, 1), (5, 3), (4, 8)])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_predicted_losses_are_those_of_the_best_repair(units, size, step):
    weight, moment, curvature = problem(units * size)
    removal = remove(weight, moment, root(curvature), size=size, step=step)
    assert sorted(removal.order) == list(range(units))
    assert removal.losses.shape == (units + 1,)
    assert removal.losses[0] == 0
    assert (removal.losses.diff() >= 0).all()
    h = damped(moment)
    exact = {*range(0, units, step), units}  # between the steps the loss is drawn straight
    for gone in sorted(exact):
        kept = columns_of([unit for unit in range(units) if unit not in removal.order[:gone]], size)
        expected = loss(weight, repaired(weight, h, kept), h, curvature)
        assert float(removal.losses[gone]) == pytest.approx(expected, rel=1e-8, abs=1e-10), gone


def test_the_best_repair_does_not_depend_on_the_curvature():
    weight, moment, _ = problem(6)
    h, kept = damped(moment), [0, 2, 5]
    best = repaired(weight, h, kept)
    draw = torch.Generator().manual_seed(5)
    for seed in range(5):
        _, _, curvature = problem(6, seed=seed)
        other = best.clone()
        other[:, kept] += 0.1 * torch.randn(OUTPUTS, 3, generator=draw, dtype=torch.float64)
        assert loss(weight, best, h, curvature) < loss(weight, other, h, curvature)


@pytest.mark.parametrize("size", [1, 3])
def test_each_step_takes_what_costs_least(size):
    units = 6
    weight, moment, curvature = problem(units * size)
    h = damped(moment)
    order: list[int] = []
    for unit in remove(weight, moment, root(curvature), size=size).order:
        costs = {
            each: loss(
                weight,
                repaired(weight, h, columns_of([one for one in range(units) if one not in (*order, each)], size)),
                h,
                curvature,
            )
            for each in range(units)
            if each not in order
        }
        assert costs[unit] == pytest.approx(min(costs.values()), rel=1e-8)
        order.append(unit)


@pytest.mark.parametrize("size", [1, 2])
def test_units_that_give_nothing_go_first_and_cost_nothing(size):
    weight, moment, curvature = problem(8 * size)
    dead = {1, 4, 6}
    weight[:, columns_of(sorted(dead), size)] = 0
    removal = remove(weight, moment, root(curvature), size=size)
    assert set(removal.order[:3]) == dead
    assert removal.losses[:4].tolist() == [0, 0, 0, 0]
    assert removal.losses[4] > 0


def test_a_copy_of_another_unit_costs_nearly_nothing():
    weight, moment, curvature = problem(6)
    twin = [0, 1, 2, 3, 4, 4]
    h = moment[twin][:, twin]
    removal = remove(weight, h, root(curvature), size=1)
    assert removal.order[0] in (4, 5)
    assert removal.losses[1] < 0.2 * removal.losses[2]  # not nothing: the damping tells the two apart


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("left", [0, 1, 5, 9])
def test_units_that_stay(left, step):
    weight, moment, curvature = problem(9)
    removal = remove(weight, moment, root(curvature), size=1, step=step, down_to=left)
    assert len(removal.order) == len(set(removal.order)) == 9 - left
    assert len(removal.losses) == 10 - left
    whole = remove(weight, moment, root(curvature), size=1, step=step)
    assert removal.order == whole.order[: 9 - left]


def test_a_root_is_of_full_rank():
    _, _, curvature = problem(6)
    found = root(curvature)
    assert found.shape == (5, OUTPUTS)
    torch.testing.assert_close(found.T @ found, curvature)
    assert root(curvature.float()).dtype == torch.float32


def test_inputs_stay_as_they_are():
    weight, moment, curvature = (each.float() for each in problem(6))
    every = (weight, moment, root(curvature))
    before = [each.clone() for each in every]
    remove(*every, size=2)
    assert all(torch.equal(one, two) for one, two in zip(every, before, strict=True))


def test_the_inverse_is_that_of_the_damped_moment():
    _, moment, _ = problem(6)
    eye = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(inverse(moment) @ damped(moment), eye, atol=1e-9, rtol=0)
    assert inverse(moment.float()).dtype == torch.float32  # half the time, and the damping is larger than its rounding


def test_what_float32_cannot_invert_is_inverted_in_float64():
    moment = 1e4 * torch.ones(6, 6)
    found = inverse(moment, damping=1e-9)
    assert found.dtype == torch.float64
    exact = torch.linalg.inv(moment.double() + 1e-5 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)


def test_inputs_that_are_always_zero_can_be_inverted():
    weight, moment, curvature = problem(6)
    moment[2], moment[:, 2] = 0, 0
    assert remove(weight, moment, root(curvature), size=1).order[0] == 2
    assert torch.isfinite(remove(weight, torch.zeros(6, 6), root(curvature), size=1).losses).all()
    assert remove(weight, moment, root(torch.zeros(OUTPUTS, OUTPUTS)), size=1).losses.tolist() == [0.0] * 7
