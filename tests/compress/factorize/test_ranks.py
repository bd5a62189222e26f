"""Ranks lose as little as trying everything would, within the budget."""

from __future__ import annotations

import time
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.ranks import allocate, uniform

sizes = st.integers(1, 12)
groups = st.lists(st.tuples(sizes, sizes, st.integers(0, 1000)), min_size=1, max_size=4)


def problem(given_groups):
    """Descending losses of seeded random size, and shapes."""
    losses, shapes = {}, {}
    for number, (rows, columns, seed) in enumerate(given_groups):
        generator = torch.Generator().manual_seed(seed)
        values = torch.rand(min(rows, columns), generator=generator, dtype=torch.float64) ** 4
        losses[f"g{number}"] = values.sort(descending=True).values
        shapes[f"g{number}"] = (rows, columns)
    return losses, shapes


def numbers(shapes, ranks):
    return sum(
        rows * columns if ranks[name] is None else ranks[name] * (rows + columns)
        for name, (rows, columns) in shapes.items()
    )


def lost(losses, ranks):
    return sum(float(losses[name][rank:].sum()) for name, rank in ranks.items() if rank is not None)


def everything(losses, shapes, budget, multiple, minimum):
    """The smallest loss by trying all ranks, those larger than dense included; infinite where nothing fits."""
    options = [
        [None, *(r for r in range(max(minimum, 1), max(shape) + 1) if r % multiple == 0)] for shape in shapes.values()
    ]
    found = float("inf")
    for choice in product(*options):
        ranks = dict(zip(shapes, choice, strict=True))
        if numbers(shapes, ranks) <= budget:
            found = min(found, lost(losses, ranks))
    return found


@settings(deadline=None)
@given(every=groups, share=st.floats(0, 1.2), multiple=st.integers(1, 3), minimum=st.integers(0, 4))
def test_nothing_loses_less(every, share, multiple, minimum):
    losses, shapes = problem(every)
    budget = int(share * sum(rows * columns for rows, columns in shapes.values()))
    expected = everything(losses, shapes, budget, multiple, minimum)
    try:
        ranks = allocate(losses, shapes, budget, multiple=multiple, minimum=minimum)
    except ValueError:
        assert expected == float("inf")
        return
    assert list(ranks) == list(shapes)
    assert numbers(shapes, ranks) <= budget
    assert lost(losses, ranks) == pytest.approx(expected, abs=1e-12)
    for name, rank in ranks.items():
        rows, columns = shapes[name]
        if rank is not None:
            assert rank % multiple == 0
            assert rank >= max(1, minimum)
            assert rank * (rows + columns) < rows * columns


def test_the_break_even_is_a_jump_to_dense():
    """Rank 4 of 8 × 8 stores as much as dense: 16 numbers more than rank 3 buy all that is left."""
    losses = {"a": torch.tensor([9.0, 8, 7, 1, 1, 1, 1, 1]), "b": torch.tensor([9.0, 3, 2, 1, 0.5, 0.5, 0.5, 0.5])}
    shapes = {"a": (8, 8), "b": (8, 8)}
    assert allocate(losses, shapes, 128, multiple=1, minimum=1) == {"a": None, "b": None}
    assert allocate(losses, shapes, 127, multiple=1, minimum=1) == {"a": None, "b": 3}
    assert allocate(losses, shapes, 80, multiple=1, minimum=1) == {"a": None, "b": 1}  # not 3 and 2
    assert allocate(losses, shapes, 79, multiple=1, minimum=1) == {"a": 3, "b": 1}
    assert allocate(losses, shapes, 32, multiple=1, minimum=1) == {"a": 1, "b": 1}
    nothing = {"a": torch.zeros(8)}  # a rank that stores as much as dense is no choice, even if nothing is lost
    assert allocate(nothing, {"a": (8, 8)}, 64, multiple=1, minimum=4) == {"a": None}
    assert allocate(nothing, {"a": (8, 8)}, 64, multiple=1, minimum=3) == {"a": 3}
    with pytest.raises(ValueError, match="32 numbers, more than 31"):
        allocate(losses, shapes, 31, multiple=1, minimum=1)


def encoder(layers, hidden, intermediate):
    shapes = {}
    for layer in range(layers):
        shapes |= {f"{layer}.{kind}": (hidden, hidden) for kind in "qkvo"}
        shapes |= {f"{layer}.in": (intermediate, hidden), f"{layer}.out": (hidden, intermediate)}
    generator = torch.Generator().manual_seed(0)
    losses = {
        name: float(torch.rand(1, generator=generator)) * 0.99 ** torch.arange(hidden, dtype=torch.float64)
        for name in shapes
    }
    return losses, shapes


@pytest.mark.parametrize(("hidden", "intermediate"), [(768, 3072), (509, 1999)])
def test_a_whole_encoder_takes_no_time(hidden, intermediate):
    """Also where shapes have no common divisor, so that the grid is not exact."""
    losses, shapes = encoder(12, hidden, intermediate)
    whole = numbers(shapes, dict.fromkeys(shapes))
    began = time.process_time()
    ranks = allocate(losses, shapes, int(0.6 * whole))
    assert time.process_time() - began < 5
    assert 0.59 * whole < numbers(shapes, ranks) <= 0.6 * whole
    assert lost(losses, ranks) < 0.9 * lost(losses, uniform(shapes, 0.6))
    assert lost(losses, allocate(losses, shapes, int(0.7 * whole))) < lost(losses, ranks)
    assert len(set(ranks.values())) > 5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 1.0])
def test_uniform_shares(share):
    shapes = {"a": (64, 64), "b": (64, 256), "c": (4, 4)}
    ranks = uniform(shapes, share)
    assert ranks["c"] is None  # no factors of rank 8 are smaller
    assert uniform(shapes, 1.0) == dict.fromkeys(shapes)
    for name in ("a", "b"):
        rows, columns = shapes[name]
        rank = ranks[name]
        if share == 1:
            assert rank is None
            continue
        assert rank is not None
        assert rank % 8 == 0
        assert rank == 8 or rank * (rows + columns) <= share * rows * columns
        larger = (rank + 8) * (rows + columns)
        assert larger > share * rows * columns or larger >= rows * columns
