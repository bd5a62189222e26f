"""The knapsack is exact up to its grid, and never above the budget."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.compress.prune.knapsack import GRID, solve

numbers = st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 3))


def groups(costs: st.SearchStrategy[float]):
    option = st.tuples(numbers | st.just(float("inf")), costs)
    return st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=4)


def apart(given_groups: list[list[tuple[float, float]]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    losses = [np.array([loss for loss, _ in group]) for group in given_groups]
    return losses, [np.array([cost for _, cost in group], float) for group in given_groups]


def best(losses: list[np.ndarray], costs: list[np.ndarray], budget: float) -> float:
    """The smallest loss within a budget, by trying everything; infinite where nothing fits."""
    found = float("inf")
    for choice in product(*(range(len(loss)) for loss in losses)):
        if sum(cost[k] for cost, k in zip(costs, choice, strict=True)) <= budget:
            found = min(found, sum(float(loss[k]) for loss, k in zip(losses, choice, strict=True)))
    return found


def total(values: list[np.ndarray], choice: list[int]) -> float:
    return sum(float(value[k]) for value, k in zip(values, choice, strict=True))


@given(every=groups(st.integers(0, 12)), budget=st.integers(0, 40))
def test_whole_costs_on_a_grid_of_ones_are_exact(every, budget):
    losses, costs = apart(every)
    expected = best(losses, costs, budget)
    choice = solve(losses, costs, budget, grid=max(1, budget))
    if choice is None:
        assert expected == np.inf
    else:
        assert total(costs, choice) <= budget
        assert total(losses, choice) == pytest.approx(expected)


@given(every=groups(numbers), budget=st.floats(0.1, 300), grid=st.sampled_from([20, 300, GRID]))
def test_any_costs_are_within_the_budget_and_the_grid(every, budget, grid):
    losses, costs = apart(every)
    choice = solve(losses, costs, budget, grid=grid)
    slack = (len(every) + 1) * budget / grid  # a step for the rounding of each group, one for the room
    if choice is None:
        assert best(losses, costs, budget - slack) == np.inf
    else:
        assert total(costs, choice) <= budget * (1 + 1e-9)
        assert total(losses, choice) <= best(losses, costs, budget - slack) + 1e-9
        assert total(losses, choice) < np.inf


@given(every=groups(numbers))
def test_what_just_fits_is_found(every):
    """The cheapest combination costs no step of the grid, however coarse it is."""
    losses, costs = apart([[(0.0 if np.isinf(loss) else loss, cost) for loss, cost in group] for group in every])
    cheapest = sum(float(cost.min()) for cost in costs)
    choice = solve(losses, costs, cheapest, grid=10)
    assert choice is not None
    assert total(costs, choice) == pytest.approx(cheapest, abs=1e-6)


def test_nothing_fits():
    losses, costs = [np.array([0.0, 1.0])] * 2, [np.array([5.0, 3.0])] * 2
    assert solve(losses, costs, 5.9) is None
    assert solve(losses, costs, 6.0) == [1, 1]
    assert solve(losses, costs, 8.0) in ([0, 1], [1, 0])
    assert solve(losses, costs, 10.0) == [0, 0]
    assert solve(losses, costs, -1.0) is None


def test_nothing_may_be_all_there_is():
    assert solve([np.array([3.0, 1.0])], [np.array([0.0, 2.0])], 0.0) == [0]
    assert solve([np.array([3.0, 1.0])], [np.array([1.0, 2.0])], 0.0) is None


def test_what_may_not_be_taken_is_not():
    inf = float("inf")
    assert solve([np.array([inf, 2.0])], [np.array([1.0, 4.0])], 5.0) == [1]
    assert solve([np.array([inf, 2.0])], [np.array([1.0, 4.0])], 3.0) is None
