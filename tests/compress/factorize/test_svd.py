"""The truncated SVD is the best of its rank, and the weighted one where rows are not worth the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.sizes import budget, svd_rank
from deploycomp.compress.factorize.svd import svd, truncate
from tests.compress.factorize.matrices import error, flat, group, random, rebuilt

SIDES = st.integers(1, 24)
SHAPES = [(30, 12), (12, 30), (16, 16)]


@given(st.lists(SIDES, min_size=1, max_size=4), SIDES, st.integers(0, 30))
@settings(deadline=None)
def test_full_rank_is_the_identity(members, columns, more):
    matrices = group(members, columns)
    full = min(matrices.shape)
    stored = svd(matrices, full + more)
    assert stored.sizes == {"rank": full, "norms": 0, "shift": 0}
    assert error(matrices, stored) < 1e-6
    assert [each.shape for each in stored.rebuild(matrices.matrices)] == [(rows, columns) for rows in members]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 5, 11])
def test_the_error_is_that_of_the_discarded_singular_values(shape, rank):
    matrices = group([shape[0]], shape[1])
    values = torch.linalg.svdvals(matrices.stacked.double())
    lost = float((rebuilt(matrices, svd(matrices, rank)).double() - matrices.stacked).norm())
    assert lost == pytest.approx(float(values[rank:].norm()), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_components_come_in_order_on_an_orthonormal_basis(shape):
    latents, basis = truncate(random(*shape), 7)
    torch.testing.assert_close(basis @ basis.T, torch.eye(7, dtype=torch.float64), atol=1e-9, rtol=0)
    lengths = latents.norm(dim=0)
    torch.testing.assert_close(lengths, torch.linalg.svdvals(random(*shape).double())[:7])
    assert (lengths.diff() <= 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_less_than_full_rank_is_found_again(shape):
    matrices = group([1], 1)
    matrices = type(matrices)(("one",), (flat(shape[0], 3, shape[1]),))
    assert error(matrices, svd(matrices, 3)) < 1e-6
    assert error(matrices, svd(matrices, 2)) > 1e-2
    assert torch.isfinite(rebuilt(matrices, svd(matrices, 10))).all()


def test_a_matrix_of_zeros_stays_one():
    for shape in SHAPES:
        latents, basis = truncate(torch.zeros(shape), 4)
        assert not (latents @ basis).any()


def test_a_stack_is_stored_as_one_matrix_whose_rows_are_the_members():
    matrices, rank = group([5, 9, 2], 11), 4
    stored = svd(matrices, rank)
    assert [each["latents"].shape for each in stored.own] == [(5, rank), (9, rank), (2, rank)]
    whole = svd(group([16], 11), rank)
    torch.testing.assert_close(rebuilt(matrices, stored), rebuilt(group([16], 11), whole))


@given(st.lists(SIDES, min_size=1, max_size=4), SIDES, st.floats(1, 20))
@settings(deadline=None)
def test_what_is_stored_fits_the_budget(members, columns, ratio):
    matrices = group(members, columns)
    rank = svd_rank(*matrices.shape, ratio)
    if rank:
        assert svd(matrices, rank).numbers <= budget(*matrices.shape, ratio)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight", [1e-6, 1.0, 300.0])
def test_equal_weights_change_nothing(shape, weight):
    matrices = group([shape[0]], shape[1])
    weighted = svd(matrices, 5, row_weights=torch.full((shape[0],), weight))
    torch.testing.assert_close(rebuilt(matrices, weighted), rebuilt(matrices, svd(matrices, 5)))


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_give_the_best_of_the_weighted_distance(shape):
    matrices, rank = group([shape[0]], shape[1]), 4
    c = random(shape[0], seed=3).abs() + 0.1
    lost = rebuilt(matrices, svd(matrices, rank, row_weights=c)) - matrices.stacked
    best = torch.linalg.svdvals(c[:, None].double() * matrices.stacked.double())[rank:].norm()
    assert float((c[:, None] * lost).norm()) == pytest.approx(float(best), rel=1e-4)
    plain = rebuilt(matrices, svd(matrices, rank)) - matrices.stacked
    assert (c[:, None] * plain).norm() > 1.001 * best


def test_a_row_without_weight_is_given_up_but_stays_finite():
    matrices = group([20], 10)
    c = torch.ones(20)
    c[[3, 7]] = 0
    found = rebuilt(matrices, svd(matrices, 4, row_weights=c))
    assert torch.isfinite(found).all()
    rest = [row for row in range(20) if row not in (3, 7)]
    best = torch.linalg.svdvals(matrices.stacked[rest].double())[4:].norm()
    assert float((found - matrices.stacked)[rest].norm()) == pytest.approx(float(best), rel=1e-4)


def test_inputs_stay_as_they_are():
    matrices, c = group([6, 4], 5), torch.ones(10)
    before = matrices.stacked.clone()
    stored = svd(matrices, 5, row_weights=c)
    assert torch.equal(matrices.stacked, before)
    assert all(each.dtype == torch.float32 for part in (*stored.own, stored.shared) for each in part.values())


@pytest.mark.parametrize("rank", [0, -3])
def test_nothing_is_refused(rank):
    with pytest.raises(ValueError, match="stores nothing"):
        svd(group([4], 4), rank)
