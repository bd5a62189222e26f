"""Multiple-choice knapsack: one option of each group, the smallest loss whose cost stays within a budget.

min Σ loss[g][k_g]   subject to   Σ cost[g][k_g] ≤ budget         dynamic programming over a grid of costs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["solve"]

GRID = 2000
"""Steps of the budget: a step is 0.05 % of it, below what a clock can tell."""


def solve(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], budget: float, *, grid: int = GRID
) -> list[int] | None:
    """Choose one option of each group.

    Args:
        losses: Of each group's options, [options]; infinite where an option may not be taken.
        costs: Of the same options, not negative.
        budget: What the costs may sum to.
        grid: Steps that costs are rounded up to; the sum is never above the budget.

    Returns:
        The place of the option in each group, or None where nothing fits.
    """
    cheapest = sum(float(np.min(cost)) for cost in costs)
    if cheapest > budget:
        return None
    step = budget / grid or 1.0  # a budget of nothing buys what is free
    # Rounding each cost up could refuse what just fits: measured from the cheapest option the error is small.
    floors = [float(np.min(cost)) for cost in costs]
    room = int(np.floor((budget - cheapest) / step + 1e-9))
    best = np.full(room + 1, np.inf)
    best[:] = 0.0
    picks: list[np.ndarray] = []
    for loss, cost, floor in zip(losses, costs, floors, strict=True):
        steps = np.ceil((np.asarray(cost, float) - floor) / step - 1e-9).astype(int)
        table = np.full((len(steps), room + 1), np.inf)
        for option, width in enumerate(steps):
            if width <= room and np.isfinite(loss[option]):
                table[option, width:] = best[: room + 1 - width] + loss[option]
        picks.append(table.argmin(0))
        best = table.min(0)
    if not np.isfinite(best[room]):
        return None
    chosen: list[int] = []
    left = room
    for number in range(len(losses) - 1, -1, -1):
        option = int(picks[number][left])
        chosen.append(option)
        cost = np.asarray(costs[number], float)
        left -= int(np.ceil((cost[option] - floors[number]) / step - 1e-9))
    return chosen[::-1]
