"""Sums of Kronecker products and Tucker: structure is found again, and nothing fits better."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.group import Group
from deploycomp.compress.factorize.kronecker import kronecker
from deploycomp.compress.factorize.sizes import budget, kronecker_sizes, numbers, tucker_sizes
from deploycomp.compress.factorize.tucker import tucker
from deploycomp.models.factors import RULES
from tests.compress.factorize.matrices import error, group, random, rebuilt

MEMBERS = st.lists(st.integers(1, 40), min_size=1, max_size=4)
COLUMNS = st.integers(1, 40)
RATIOS = st.floats(1, 20)


def terms(count: int, p: int, q: int) -> dict[str, int]:
    return {"terms": count, "rows": p, "columns": q}


def ranks(one: int, two: int, three: int, p: int) -> dict[str, int]:
    return {"rank1": one, "rank2": two, "rank3": three, "rows": p}


def of(matrix: torch.Tensor, *members: int) -> Group:
    return Group(tuple(str(rows) for rows in members), torch.split(matrix, members))


@pytest.mark.parametrize("count", [1, 3])
def test_sums_of_kronecker_products_are_found_again(count):
    left, right = random(count, 6, 5), random(count, 4, 3, seed=1)
    matrices = of(sum(torch.kron(a, b) for a, b in zip(left, right, strict=True)), 8, 16)
    assert error(matrices, kronecker(matrices, terms(count, 4, 3))) < 1e-6
    assert count == 1 or error(matrices, kronecker(matrices, terms(count - 1, 4, 3))) > 0.05


def test_the_sum_is_the_nearest_of_its_terms():
    """Van Loan and Pitsianis: what is lost are the discarded singular values of the rearranged matrix."""
    matrix, p, q = random(12, 10), 3, 2
    rows = [matrix[i : i + p, j : j + q].flatten() for i in range(0, 12, p) for j in range(0, 10, q)]
    values = torch.linalg.svdvals(torch.stack(rows).double())
    for count in (1, 2, 5):
        lost = rebuilt(of(matrix, 12), kronecker(of(matrix, 12), terms(count, p, q))) - matrix
        assert float(lost.norm()) == pytest.approx(float(values[count:].norm()), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(MEMBERS, COLUMNS, st.integers(1, 6), st.integers(1, 6))
def test_all_terms_are_the_identity(members, columns, p, q):
    matrices = group(members, columns)
    stored = kronecker(matrices, terms(p * q + 2, p, q))
    assert stored.sizes["terms"] <= p * q
    assert error(matrices, stored) < 1e-6


def tucker_made(core: tuple[int, int, int], sides: tuple[int, int, int]) -> torch.Tensor:
    """A tensor of these ranks, its blocks one under the other."""
    tensor = random(*core)
    for side, (rank, length) in enumerate(zip(core, sides, strict=True)):
        factor = random(length, rank, seed=side + 1)
        tensor = torch.tensordot(tensor, factor, dims=([side], [1])).movedim(-1, side)
    return tensor.flatten(0, 1)


def test_tucker_structure_is_found_again():
    matrices = of(tucker_made((2, 3, 4), (6, 5, 9)), 10, 20)
    assert error(matrices, tucker(matrices, ranks(2, 3, 4, 5))) < 1e-6
    for less in ((1, 3, 4), (2, 2, 4), (2, 3, 3)):
        assert error(matrices, tucker(matrices, ranks(*less, 5))) > 0.02


@settings(deadline=None, max_examples=50)
@given(MEMBERS, COLUMNS, st.integers(1, 9))
def test_full_ranks_are_the_identity(members, columns, p):
    matrices = group(members, columns)
    assert error(matrices, tucker(matrices, ranks(999, 999, 999, p))) < 1e-5


def test_sweeps_only_improve():
    matrices = group([32, 16], 14)
    errors = [error(matrices, tucker(matrices, ranks(4, 3, 6, 8), sweeps=sweeps)) for sweeps in range(5)]
    assert errors[3] < 0.999 * errors[0]
    assert all(later <= before + 1e-7 for before, later in pairwise(errors))


def test_a_tucker_of_two_sides_is_the_svd():
    matrices = group([18], 11)
    best = torch.linalg.svdvals(matrices.stacked.double())[4:].norm()
    lost = rebuilt(matrices, tucker(matrices, ranks(4, 1, 4, 1))) - matrices.stacked
    assert float(lost.norm()) == pytest.approx(float(best), rel=1e-5)


METHODS = pytest.mark.parametrize(("method", "sizes"), [(kronecker, kronecker_sizes), (tucker, tucker_sizes)])


@METHODS
@settings(deadline=None, max_examples=50)
@given(members=MEMBERS, columns=COLUMNS, ratio=RATIOS)
def test_what_is_stored_fits_the_budget_and_has_the_shapes_of_its_rule(method, sizes, members, columns, ratio):
    matrices, made = group(members, columns), sizes(members, columns, ratio)
    if min(made.values()) < 1:
        return  # nothing fits
    stored = method(matrices, made)
    assert stored.numbers <= numbers(stored.rule, made, members, columns) <= budget(*matrices.shape, ratio)
    for own, rows in zip(stored.own, members, strict=True):
        shapes = RULES[stored.rule].shapes(stored.sizes, rows, columns)
        assert [{name: tuple(each.shape) for name, each in part.items()} for part in (own, stored.shared)] == list(
            shapes
        )
    assert [each.shape for each in stored.rebuild(matrices.matrices)] == [each.shape for each in matrices.matrices]


@pytest.mark.parametrize(("method", "sizes"), [(kronecker, terms(3, 4, 3)), (tucker, ranks(3, 3, 5, 4))])
def test_a_stack_whose_blocks_are_whole_is_stored_as_one_matrix(method, sizes):
    matrices = group([8, 16], 9)
    whole = Group(("whole",), (matrices.stacked,))
    torch.testing.assert_close(rebuilt(matrices, method(matrices, sizes)), rebuilt(whole, method(whole, sizes)))


@pytest.mark.parametrize(("method", "sizes"), [(kronecker, terms(0, 2, 2)), (tucker, ranks(1, 0, 1, 2))])
def test_nothing_is_refused(method, sizes):
    with pytest.raises(ValueError, match="nothing"):
        method(group([4], 4), sizes)
