"""Output PCA leaves the smallest error on the inputs it saw, whitening says the same, a full rank changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.moments import Moments
from deploycomp.compress.factorize.pca import INPUT_DAMPING, frequencies, output_pca
from deploycomp.compress.factorize.weighted import decompose, low_rank
from deploycomp.compress.factorize.whitened import whitened
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
    outputs_error,
)


def plain_svd(of, rank):
    w = of.stacked
    return low_rank(of, decompose(w, [torch.ones(len(w))], torch.eye(w.shape[1])), rank)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    members=st.integers(1, 3),
    centred=st.booleans(),
    method=st.sampled_from([output_pca, whitened]),
)
def test_a_full_rank_is_the_identity(rows, columns, members, centred, method):
    of = group(rows, columns, members)
    seen = [moments(inputs(columns, seed=number), rows) for number in range(members)]
    old = biases(of)
    stored = method(of, seen, old, columns, centred=centred)
    for w, m in zip(of.matrices, stored.rebuild(of.matrices), strict=True):
        torch.testing.assert_close(m, w, rtol=1e-3, atol=1e-3)
    assert len(stored.biases) == (members if centred else 0)
    for b, c in zip(old, stored.biases, strict=False):
        torch.testing.assert_close(c, b, rtol=1e-3, atol=1e-3)
    assert stored.sizes == {"rank": min(rows * members, columns), "norms": 0, "shift": 0}
    assert stored.numbers == stored.sizes["rank"] * (rows * members + columns)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_low_rank_has_a_smaller_error(rows, columns, members, rank):
    of, x = group(rows, columns, members), inputs(columns)
    old = biases(of)
    stored = output_pca(of, [moments(x, rows)] * members, old, rank)
    least, missing = outputs_error(of, stored, old, x)
    others = [*alternatives(stored), plain_svd(of, rank)]
    assert len(others) == 51
    assert all(outputs_error(of, other, old, x)[0] > least for other in others)
    assert all(float(each.mean(0).abs().max()) < 1e-4 for each in missing)  # the bias took the mean


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("centred", [True, False])
def test_the_error_is_the_sum_of_the_dropped_eigenvalues(rows, columns, centred):
    of, x = group(rows, columns), inputs(columns)
    seen = moments(x, rows)
    w = of.stacked.double()
    values = torch.linalg.eigvalsh(w @ (seen.centred if centred else seen.inputs) @ w.T)
    found = []
    for rank in (1, 2, 4):
        error, _ = outputs_error(of, output_pca(of, [seen], [None], rank, centred=centred), [None], x)
        assert error == pytest.approx(float(values[: rows - rank].clamp(min=0).sum()), rel=1e-3)
        found.append(error)
    assert all(one > two for one, two in pairwise(found))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), shape=st.sampled_from(SHAPES), rank=st.integers(1, 4))
def test_taking_the_mean_out_is_never_worse(seed, shape, rank):
    of, x = group(*shape, seed=seed), inputs(shape[1], seed=seed)
    errors = [
        outputs_error(of, output_pca(of, [moments(x, shape[0])], [None], rank, centred=centred), [None], x)[0]
        for centred in (True, False)
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_whitening_says_the_same(rows, columns, members, centred):
    """Also where members have inputs of their own."""
    of = group(rows, columns, members)
    seen = [moments(inputs(columns, seed=7 * number), rows) for number in range(members)]
    for rank in (1, 3):
        made = [method(of, seen, biases(of), rank, centred=centred) for method in (output_pca, whitened)]
        identical(*made, of)


def test_members_share_the_row_space_that_is_best_for_all():
    """Eckart and Young for the stack, in the mean of the members' moments."""
    of = group(4, 6, 3)
    seen = [moments(inputs(6, seed=7 * number), 4) for number in range(3)]
    stored = output_pca(of, seen, [None] * 3, 2)
    mean = torch.stack([each.inputs - torch.outer(each.mean, each.mean) for each in seen]).mean(0)
    root = torch.linalg.cholesky(mean)
    missing = (of.stacked.double() - torch.cat(stored.rebuild(of.matrices)).double()) @ root
    sizes = torch.linalg.svdvals(of.stacked.double() @ root)
    assert float(missing.square().sum()) == pytest.approx(float(sizes[2:].square().sum()), rel=1e-4)
    for w, m, each, bias in zip(of.matrices, stored.rebuild(of.matrices), seen, stored.biases, strict=True):
        torch.testing.assert_close(bias, ((w - m).double() @ each.mean).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_inputs_of_fewer_directions_than_columns(rows, columns):
    of = group(rows, columns)
    x = inputs(2) @ draw(2, columns, seed=4)
    error, _ = outputs_error(of, output_pca(of, [moments(x, rows)], [None], 2), [None], x)
    assert error < 1e-5  # two components are all there is
    whole = output_pca(of, [moments(x, rows)], [None], 99)
    torch.testing.assert_close(whole.rebuild(of.matrices)[0], of.matrices[0], rtol=1e-3, atol=1e-3)
    assert INPUT_DAMPING < 1e-4


def test_nothing_at_all():
    of = group(3, 4)
    nothing = Moments(torch.zeros(4, 4), torch.zeros(4), torch.zeros(3, 3), torch.zeros(3), 0)
    stored = output_pca(of, [nothing], [None], 3)
    torch.testing.assert_close(stored.rebuild(of.matrices)[0], of.matrices[0], rtol=1e-3, atol=1e-3)
    assert all(torch.isfinite(each["latents"]).all() for each in stored.own)


COUNTS = [40, 25, 9, 0, 3, 0, 1, 0, 0, 12, 0]


def embedding_error(of, stored, weights, metric=None):
    missing = of.matrices[0].double() - stored.rebuild(of.matrices)[0].double()
    metric = torch.eye(missing.shape[1], dtype=torch.float64) if metric is None else metric
    return float((weights * ((missing @ metric) * missing).sum(1)).sum())


@pytest.mark.parametrize("columns", [4, 11, 16])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_frequent_pieces_of_an_embedding_come_back_best(columns, rank):
    of, seen = group(len(COUNTS), columns), embedding_moments(COUNTS, columns)
    stored = output_pca(of, [seen], [], rank)
    assert stored.sizes == {"rank": rank, "norms": 0, "shift": 1}
    assert stored.biases == ()
    weights = frequencies(seen)
    least = embedding_error(of, stored, weights)
    assert all(embedding_error(of, other, weights) > least for other in alternatives(stored))
    assert embedding_error(of, plain_svd(of, rank), weights) > least
    assert embedding_error(of, output_pca(of, [seen], [], rank, centred=False), weights) > least
    whole = output_pca(of, [seen], [], columns).rebuild(of.matrices)[0]
    torch.testing.assert_close(whole, of.matrices[0], rtol=1e-4, atol=1e-4)


def test_pieces_that_never_occurred_have_a_say():
    """One direction is theirs alone: without the floor nothing of it would stay."""
    matrix = draw(200, 6, seed=1)
    matrix[:, 5] = 0
    matrix[100:, 5] = 10 * draw(100, seed=2)
    of = group(200, 6)
    of = type(of)(of.paths, (matrix.float(),))
    seen = embedding_moments([50] * 100 + [0] * 100, 6)
    assert float(frequencies(seen).sum()) == pytest.approx(1)
    assert float(frequencies(seen)[150]) > 0
    made = output_pca(of, [seen], [], 3).rebuild(of.matrices)[0]
    lost = (made - of.matrices[0])[100:, 5].square().sum() / of.matrices[0][100:, 5].square().sum()
    assert lost < 0.05
