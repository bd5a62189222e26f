"""K-FAC's low rank loses least in its own quadratic form, and what it predicts is that form's value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.group import Group
from deploycomp.compress.factorize.kfac import GRADIENT_DAMPING, components, curvatures, kfac
from deploycomp.compress.factorize.moments import Moments
from deploycomp.compress.factorize.pca import INPUT_DAMPING, frequencies, output_pca
from tests.compress.factorize.problems import (
    SHAPES,
    alternatives,
    biases,
    draw,
    embedding_moments,
    group,
    identical,
    inputs,
    moments,
)
from tests.compress.factorize.test_pca import COUNTS, embedding_error


def eye(size):
    return torch.eye(size, dtype=torch.float64)


def loss(of, stored, seen):
    """½ Σ tr(G Δ C Δᵀ), written down anew."""
    each_input = [each.inputs - torch.outer(each.mean, each.mean) for each in seen]
    c = torch.stack(each_input).mean(0)
    c = c + INPUT_DAMPING * c.diagonal().mean() * eye(len(c))
    total = 0.0
    for w, m, each in zip(of.matrices, stored.rebuild(of.matrices), seen, strict=True):
        g = each.gradients + GRADIENT_DAMPING * each.gradients.diagonal().mean() * eye(len(w))
        change = (w - m).double()
        total += float(0.5 * (g @ change @ c @ change.T).trace())
    return total


def seen_by(of, *, own_inputs=False):
    rows, columns = of.matrices[0].shape
    return [
        moments(inputs(columns, seed=number if own_inputs else 0), rows, seed=9 * number)
        for number in range(len(of.matrices))
    ]


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), members=st.integers(1, 3))
def test_a_full_rank_is_the_identity(rows, columns, members):
    of = group(rows, columns, members)
    old = biases(of)
    stored = kfac(of, seen_by(of), old, 99)
    for w, m in zip(of.matrices, stored.rebuild(of.matrices), strict=True):
        torch.testing.assert_close(m, w, rtol=1e-3, atol=1e-3)
    for b, c in zip(old, stored.biases, strict=True):
        torch.testing.assert_close(c, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("own_inputs", [False, True])
def test_predicted_losses_are_the_quadratic_form(rows, columns, members, own_inputs):
    of = group(rows, columns, members)
    seen = seen_by(of, own_inputs=own_inputs)
    predicted = components(of, seen)
    assert predicted.dtype == torch.float64
    assert predicted.shape == (min(rows * members, columns),)
    assert (predicted.diff() <= 0).all()
    for rank in range(1, len(predicted)):
        expected = float(predicted[rank:].sum())
        assert loss(of, kfac(of, seen, biases(of), rank), seen) == pytest.approx(expected, rel=1e-3), rank


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_low_rank_loses_less(rows, columns, members, rank):
    of = group(rows, columns, members)
    seen = seen_by(of)
    stored = kfac(of, seen, biases(of), rank)
    least = loss(of, stored, seen)
    assert all(loss(of, other, seen) > least for other in alternatives(stored))
    assert loss(of, output_pca(of, seen, biases(of), rank), seen) > least


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_without_curvature_it_is_output_pca(rows, columns, members):
    of = group(rows, columns, members)
    seen = [replace(each, gradients=3 * eye(rows)) for each in seen_by(of, own_inputs=True)]
    for rank in (1, 3):
        identical(kfac(of, seen, biases(of), rank), output_pca(of, seen, biases(of), rank), of)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_without_any_metric_it_is_the_svd(rows, columns):
    of = group(rows, columns)
    plain = Moments(eye(columns), torch.zeros(columns, dtype=torch.float64), eye(rows), torch.ones(rows), 1)
    u, s, v = torch.linalg.svd(of.stacked, full_matrices=False)
    for rank in (1, 3):
        stored = kfac(of, [plain], biases(of), rank)
        torch.testing.assert_close(stored.rebuild(of.matrices)[0], (u[:, :rank] * s[:rank]) @ v[:rank])
        torch.testing.assert_close(list(stored.biases), biases(of))
    torch.testing.assert_close(components(of, [plain]).float(), s.square() / 2, rtol=2 * GRADIENT_DAMPING, atol=0)


def test_outputs_that_do_not_matter_are_let_go():
    of, x = group(8, 6), inputs(6)
    g = torch.zeros(8, 8, dtype=torch.float64)
    g[:2, :2] = eye(2)
    seen = [replace(moments(x, 8), gradients=g)]
    missing = (of.matrices[0] - kfac(of, seen, [None], 2).rebuild(of.matrices)[0]).double()
    spread = (x - x.mean(0)) @ missing.T
    assert float(spread[:, :2].square().mean()) < 1e-3 * float(spread[:, 2:].square().mean())


@pytest.mark.parametrize("columns", [4, 11, 16])
def test_the_embedding_is_weighted_on_both_sides(columns):
    of, seen = group(len(COUNTS), columns), embedding_moments(COUNTS, columns)
    metric, weights = curvatures([seen])[0], frequencies(seen)
    predicted = components(of, [seen])
    for rank in (1, 3):
        stored = kfac(of, [seen], [], rank)
        least = embedding_error(of, stored, weights, metric)
        assert least / 2 == pytest.approx(float(predicted[rank:].sum()), rel=1e-3)
        assert all(embedding_error(of, other, weights, metric) > least for other in alternatives(stored))
        assert embedding_error(of, output_pca(of, [seen], [], rank), weights, metric) > least
    flat = replace(seen, gradients=eye(columns))
    identical(kfac(of, [flat], [], 2), output_pca(of, [flat], [], 2), of)
    whole = kfac(of, [seen], [], columns).rebuild(of.matrices)[0]
    torch.testing.assert_close(whole, of.matrices[0], rtol=1e-3, atol=1e-3)


def test_a_large_vocabulary_needs_no_square():
    """Its square would be 320 GB."""
    matrix = draw(200_000, 4, seed=0).float()
    of, seen = Group(("word",), (matrix,)), embedding_moments([3] + [0] * 199_999, 4)
    assert kfac(of, [seen], [], 2).own[0]["latents"].shape == (200_000, 2)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_loss_that_looks_nowhere_predicts_nothing(rows, columns):
    of, x = group(rows, columns), inputs(columns)
    seen = [replace(moments(x, rows), gradients=torch.zeros(rows, rows))]
    assert float(components(of, seen).sum()) < 1e-30
    assert torch.isfinite(kfac(of, seen, [None], 2).rebuild(of.matrices)[0]).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_factors_fit_half_precision_whatever_the_gradients_scale(scale):
    of = group(6, 9)
    seen = [replace(each, gradients=scale * each.gradients) for each in seen_by(of)]
    stored = kfac(of, seen, biases(of), 3)
    half = [each.half().float() for each in (stored.own[0]["latents"], stored.shared["basis"])]
    torch.testing.assert_close(half[0] @ half[1], stored.rebuild(of.matrices)[0], rtol=0.01, atol=0.01)
