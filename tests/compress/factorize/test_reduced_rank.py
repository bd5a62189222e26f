"""Reduced-rank regression is least squares under drift, limited in rank, and output PCA where nothing drifted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.kfac import curvatures, kfac
from deploycomp.compress.factorize.pca import output_pca
from deploycomp.compress.factorize.reduced_rank import Drift, reduced_rank
from tests.compress.factorize.problems import (
    SHAPES,
    alternatives,
    biases,
    draw,
    group,
    identical,
    inputs,
    moments,
    outputs_error,
)


def drift(x, drifted):
    return Drift(x.T @ drifted / len(x), drifted.T @ drifted / len(x), x.mean(0), drifted.mean(0))


def disturbed(x, *, seed=3):
    """What a compressed layer below would make of it: mixed, shifted and noisy."""
    columns = x.shape[1]
    mixed = x @ (torch.eye(columns, dtype=torch.float64) + 0.3 * draw(columns, columns, seed=seed))
    return mixed + draw(columns, seed=seed + 1) + 0.3 * draw(*x.shape, seed=seed + 2)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_where_nothing_drifted_it_is_the_other_two_methods(rows, columns, members):
    of, x = group(rows, columns, members), inputs(columns)
    seen, old = [moments(x, rows, seed=9 * number) for number in range(members)], biases(of)
    for rank in (1, 3, 99):
        plain = reduced_rank(of, drift(x, x), old, rank, ridge=0)
        identical(plain, output_pca(of, seen, old, rank), of)
        weighted = reduced_rank(of, drift(x, x), old, rank, ridge=0, gradients=curvatures(seen))
        identical(weighted, kfac(of, seen, old, rank), of)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), members=st.integers(1, 3), ridge=st.floats(0, 10))
def test_a_full_rank_without_drift_is_the_identity(rows, columns, members, ridge):
    of, x = group(rows, columns, members), inputs(columns)
    old = biases(of)
    stored = reduced_rank(of, drift(x, x), old, 99, ridge=ridge)
    for w, m in zip(of.matrices, stored.rebuild(of.matrices), strict=True):
        torch.testing.assert_close(m, w, rtol=1e-3, atol=1e-3)
    for b, c in zip(old, stored.biases, strict=True):
        torch.testing.assert_close(c, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_full_rank_is_least_squares(rows, columns):
    of, x = group(rows, columns), inputs(columns)
    drifted, (bias,) = disturbed(x), biases(of)
    stored = reduced_rank(of, drift(x, drifted), [bias], 99, ridge=0)
    arriving = torch.cat([drifted, torch.ones(len(x), 1)], 1)
    exact = torch.linalg.lstsq(arriving, x @ of.stacked.double().T + bias).solution
    torch.testing.assert_close(stored.rebuild(of.matrices)[0], exact[:-1].T.float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(stored.biases[0], exact[-1].float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_low_rank_is_nearer_to_the_outputs_that_were(rows, columns, members, rank):
    of, x = group(rows, columns, members), inputs(columns)
    drifted, old = disturbed(x), biases(of)
    stored = reduced_rank(of, drift(x, drifted), old, rank, ridge=0)
    least, missing = outputs_error(of, stored, old, x, drifted)
    assert all(outputs_error(of, other, old, x, drifted)[0] > least for other in alternatives(stored))
    blind = output_pca(of, [moments(x, rows)] * members, old, rank)
    assert outputs_error(of, blind, old, x, drifted)[0] > least
    assert all(float(each.mean(0).abs().max()) < 1e-4 for each in missing)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_the_curvature_says_which_outputs_are_kept(rows, columns, rank):
    of, x = group(rows, columns), inputs(columns)
    drifted, old = disturbed(x), biases(of)
    (g,) = curvatures([moments(x, rows)])

    def loss(gradients):
        stored = reduced_rank(of, drift(x, drifted), old, rank, ridge=0, gradients=gradients)
        _, (missing,) = outputs_error(of, stored, old, x, drifted)
        return float(((missing @ g) * missing).sum())

    assert loss([g]) < loss(None)


def test_the_ridge_pulls_towards_the_weights():
    of, x = group(5, 6), inputs(6)
    distances = []
    for ridge in (0, 0.1, 10, 1e6):
        stored = reduced_rank(of, drift(x, disturbed(x)), biases(of), 99, ridge=ridge)
        distances.append(float((stored.rebuild(of.matrices)[0] - of.matrices[0]).norm()))
        made, (bias,) = stored.rebuild(of.matrices)[0], stored.biases
        torch.testing.assert_close(  # whatever the matrix is, the mean comes out right
            (made.double() @ disturbed(x).mean(0)).float() + bias,
            (of.stacked.double() @ x.mean(0)).float() + biases(of)[0],
            rtol=1e-3,
            atol=1e-3,
        )
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] < 1e-3


def test_inputs_that_are_always_zero_now():
    of, x = group(5, 6), inputs(6)
    drifted = x.clone()
    drifted[:, 2] = 0
    stored = reduced_rank(of, drift(x, drifted), [None], 3)
    assert torch.isfinite(stored.rebuild(of.matrices)[0]).all()
    assert torch.isfinite(stored.biases[0]).all()
