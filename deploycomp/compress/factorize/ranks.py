"""One budget for all groups: the rank of each that loses least in total.

    min Σ_g Σ_{i > r_g} loss_g[i]   subject to   Σ_g numbers_g(r_g) ≤ budget       numbers_g(r) = r · (rows + columns)

or rows · columns and no loss where a group stays dense, which it does as soon as its factors would be no smaller. The
multiple-choice knapsack that allocates units (`prune/knapsack.py`) allocates ranks: a greedy list of losses by number
saved cannot see that the last few ranks before the break-even are worth a jump to dense, a knapsack does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from deploycomp.compress.prune.knapsack import solve

__all__ = ["MULTIPLE", "allocate", "uniform"]

MULTIPLE = 8
"""Ranks come in steps of it: products are packed in blocks of 8 or 16 columns."""
GRID = 20_000
"""Steps of the budget at most; shapes have large common divisors, so that fewer are exact nearly always."""

Shape = tuple[int, int]


def allocate(
    losses: Mapping[str, Tensor],
    shapes: Mapping[str, Shape],
    budget: int,
    *,
    multiple: int = MULTIPLE,
    minimum: int = MULTIPLE,
) -> dict[str, int | None]:
    """Choose a rank for each group.

    Args:
        losses: Added by dropping each component of a group, descending, [components].
        shapes: Rows and columns of its stack.
        budget: Numbers that may be stored in all.
        multiple: Of which every rank is one.
        minimum: The smallest rank; a group that is no larger than its factors of that rank stays dense.

    Returns:
        Group → rank, or None where it stays dense.

    Raises:
        ValueError: The smallest ranks need more than the budget.
    """
    options = {name: _options(shape, multiple, minimum) for name, shape in shapes.items()}
    costs = [np.array([_numbers(shapes[name], rank) for rank in ranks]) for name, ranks in options.items()]
    lost = [np.array([_lost(losses[name], rank) for rank in ranks]) for name, ranks in options.items()]
    least = sum(int(cost.min()) for cost in costs)
    if least > budget:
        raise ValueError(f"the smallest ranks store {least} numbers, more than {budget}")
    # Counted from the cheapest on and by their common divisor, costs lie on the knapsack's grid: it is exact.
    above = [cost - cost.min() for cost in costs]
    divisor = math.gcd(*(int(each) for cost in above for each in cost)) or 1
    steps = (budget - least) // divisor
    chosen = solve(lost, above, steps * divisor, grid=min(max(steps, 1), GRID))
    assert chosen is not None  # the cheapest fit
    return {name: ranks[place] for (name, ranks), place in zip(options.items(), chosen, strict=True)}


def uniform(shapes: Mapping[str, Shape], share: float, *, multiple: int = MULTIPLE) -> dict[str, int | None]:
    """Give each group the same share of its numbers: what an allocation is compared with.

    Args:
        shapes: Rows and columns of each group's stack.
        share: Of its numbers that a group may keep.
        multiple: Of which every rank is one.

    Returns:
        Group → the largest rank that fits, or the smallest there is; None where it stays dense.
    """
    found: dict[str, int | None] = {}
    for name, shape in shapes.items():
        options = _options(shape, multiple, multiple)
        fitting = [rank for rank in options if _numbers(shape, rank) <= share * _numbers(shape, None)]
        found[name] = fitting[-1] if fitting else options[0]
    return found


def _options(shape: Shape, multiple: int, minimum: int) -> list[int | None]:
    """Ranks whose factors are smaller than the matrix, ascending, then dense."""
    first = max(1, -(-minimum // multiple)) * multiple
    most = (shape[0] * shape[1] - 1) // (shape[0] + shape[1])
    return [*range(first, most + 1, multiple), None]


def _numbers(shape: Shape, rank: int | None) -> int:
    return shape[0] * shape[1] if rank is None else rank * (shape[0] + shape[1])


def _lost(losses: Tensor, rank: int | None) -> float:
    return 0.0 if rank is None else float(losses[rank:].sum())
