"""The autoencoders keep norms, learn directions, and come out the same from the same seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.compress.factorize.autoencoder import autoencoder
from deploycomp.compress.factorize.chain import Chain
from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.linear_autoencoder import linear_autoencoder
from deploycomp.compress.factorize.sizes import autoencoder_latent, budget, linear_latent
from deploycomp.compress.factorize.svd import svd
from deploycomp.compress.factorize.training import Samples, Training
from deploycomp.models.factors import RULES, low_rank_of
from tests.compress.factorize.matrices import cosines, flat, group, random, rebuilt, same

BOTH = pytest.mark.parametrize("method", [autoencoder, linear_autoencoder])
SHORT = Training(epochs=2)


def easy(*, seed: int = 0) -> Group:
    """Three dimensions, two members, norms that differ."""
    rows = 0.05 * flat(96, 3, 16, seed=seed)
    return Group(("one", "two"), (rows[:32], rows[32:]))


@BOTH
def test_rows_get_their_norms_back(method):
    matrices = group([20, 7, 13], 12)
    matrices.matrices[1][3] = 0  # a padding token
    found = rebuilt(matrices, method(matrices, 3, SHORT))
    torch.testing.assert_close(found.norm(dim=1), matrices.stacked.norm(dim=1))
    assert not torch.allclose(found, matrices.stacked, atol=0.1)


@BOTH
def test_fitted_norms_come_closest(method):
    matrices = group([20, 7, 13], 12)
    matrices.matrices[1][3] = 0
    enforced, fitted = (method(matrices, 3, replace(SHORT, norms=norms)) for norms in ("enforced", "fitted"))
    assert fitted.own[0]["latents"].equal(enforced.own[0]["latents"])  # nothing else differs
    found = rebuilt(matrices, fitted)
    left = matrices.stacked - found
    torch.testing.assert_close((left * found).sum(1), torch.zeros(40), atol=1e-4, rtol=0)  # nothing left along the row
    assert (left.norm(dim=1) <= (matrices.stacked - rebuilt(matrices, enforced)).norm(dim=1) + 1e-5).all()
    assert float(left.norm()) < 0.95 * float((matrices.stacked - rebuilt(matrices, enforced)).norm())


@BOTH
def test_an_easy_matrix_is_learned(method):
    matrices = easy()
    stored = method(matrices, 4, Training(epochs=40, rate=0.02))
    assert cosines(matrices, stored).mean() > 0.97
    untrained = method(matrices, 4, Training(epochs=0))
    assert cosines(matrices, untrained).mean() < 0.5


def test_curved_rows_need_a_decoder_that_is_not_linear():
    angle = torch.linspace(0, 6.28, 128)
    rows = torch.stack([torch.sin(k * angle) for k in (1, 2, 3)] + [torch.cos(k * angle) for k in (1, 2, 3)], 1)
    curve = Group(("curve",), (rows,))  # 1 dimension along a curve that fills 6
    training = Training(epochs=60, rate=0.01)
    assert cosines(curve, autoencoder(curve, 4, training)).mean() > 0.98
    assert cosines(curve, linear_autoencoder(curve, 4, training)).mean() < 0.9


def test_the_linear_one_is_a_low_rank_and_one_more():
    matrices = group([9, 14], 10)
    stored = linear_autoencoder(matrices, 3, SHORT)
    own, shared = low_rank_of(stored.own, stored.shared)
    plain = Stored("low_rank", {"rank": 4, "norms": 0, "shift": 0}, tuple(own), shared)
    torch.testing.assert_close(rebuilt(matrices, plain), rebuilt(matrices, stored))
    assert torch.linalg.matrix_rank(rebuilt(matrices, stored)) == 4


def test_a_start_from_the_svd_has_its_directions():
    matrices = group([30, 20], 12)
    stored = linear_autoencoder(matrices, 5, Training(epochs=0), start="svd")
    torch.testing.assert_close(cosines(matrices, stored), cosines(matrices, svd(matrices, 5)))
    trained = linear_autoencoder(matrices, 5, Training(epochs=20), start="svd")
    assert cosines(matrices, trained).mean() > cosines(matrices, stored).mean()


def test_a_start_from_the_svd_may_have_more_latents_than_there_are_components():
    matrices = group([30], 6)
    stored = linear_autoencoder(matrices, 9, Training(epochs=0), start="svd")
    torch.testing.assert_close(rebuilt(matrices, stored), matrices.stacked)


@BOTH
def test_the_seed_decides_every_byte(method):
    matrices = group([17, 8], 9)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    one = method(matrices, 2, SHORT, seed=3)
    torch.manual_seed(6)
    assert same(one, method(matrices, 2, SHORT, seed=3))
    assert not same(one, method(matrices, 2, SHORT, seed=4))
    torch.set_rng_state(state)


@BOTH
def test_nothing_else_changes(method):
    matrices, weights = group([17, 8], 9), torch.rand(25)
    torch.set_num_threads(2)
    before, state = matrices.stacked.clone(), torch.get_rng_state()
    stored = method(matrices, 2, SHORT, row_weights=weights)
    assert torch.equal(matrices.stacked, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    assert not any(each.requires_grad for part in (*stored.own, stored.shared) for each in part.values())


@BOTH
def test_a_group_is_one_training_set(method):
    matrices = group([17, 8], 9)
    whole = Group(("whole",), (matrices.stacked,))
    torch.testing.assert_close(
        rebuilt(matrices, method(matrices, 2, SHORT)), rebuilt(whole, method(whole, 2, SHORT)), atol=1e-6, rtol=1e-5
    )


@BOTH
def test_the_best_epoch_is_kept(method):
    matrices, seen, shares = easy(), [], []

    def select(stored: Stored) -> float:
        seen.append(stored)
        return [3.0, 1.0, 2.0, 1.0][len(seen) - 1]

    best = method(matrices, 2, Training(epochs=4), select=select, progress=shares.append)
    assert same(best, seen[1])
    assert not same(best, seen[3])
    assert shares == [0.25, 0.5, 0.75, 1]


@BOTH
def test_without_a_judge_it_is_the_loss_over_all_rows(method):
    matrices, seen = group([40], 8), []
    wild = Training(epochs=8, rate=0.1, batch=1)  # the loss goes down and up
    method(matrices, 2, wild, select=lambda stored: seen.append(stored) or 0.0)
    samples = Samples.of(matrices.stacked, None, wild)
    losses = [samples.loss(rebuilt(matrices, each), wild) for each in seen]
    best = min(range(wild.epochs), key=losses.__getitem__)
    assert losses[best] < max(losses)  # which epoch it is depends on the CPU's arithmetic
    assert sorted(losses) != losses[::-1], "a loss that only falls would choose the last epoch in any case"
    assert same(method(matrices, 2, wild), seen[best])


@BOTH
def test_heavier_rows_are_learned_better(method):
    matrices = group([64], 24)
    weights = torch.where(torch.arange(64) < 16, 1.0, 0.01)
    training = Training(epochs=20, rate=0.02)
    heavy = cosines(matrices, method(matrices, 4, training, row_weights=weights))[:16].mean()
    plain = cosines(matrices, method(matrices, 4, training))[:16].mean()
    assert heavy > plain + 0.05


@BOTH
def test_equal_weights_change_nothing(method):
    matrices = group([20], 8)
    equal = method(matrices, 2, SHORT, row_weights=torch.full((20,), 8.0))
    assert same(equal, method(matrices, 2, SHORT))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(4, 60), min_size=1, max_size=3), st.integers(4, 40), st.floats(1, 4))
def test_what_is_stored_fits_the_budget(members, columns, ratio):
    matrices, start = group(members, columns), Training(epochs=0)
    limit = budget(*matrices.shape, ratio)
    latent, x = linear_latent(*matrices.shape, ratio), autoencoder_latent(*matrices.shape, ratio)
    assert not latent or linear_autoencoder(matrices, latent, start).numbers <= limit
    assert not x or autoencoder(matrices, x, start).numbers <= limit


@BOTH
def test_what_is_stored_has_the_shapes_of_its_rule(method):
    matrices = group([5, 9], 7)
    stored = method(matrices, 3, Training(epochs=1))
    for own, rows in zip(stored.own, (5, 9), strict=True):
        shapes = RULES[stored.rule].shapes(stored.sizes, rows, 7)
        found = [{name: tuple(each.shape) for name, each in part.items()} for part in (own, stored.shared)]
        assert found == list(shapes)


@BOTH
def test_no_latent_is_refused(method):
    with pytest.raises(ValueError, match="stores nothing"):
        method(group([4], 4), 0)


def test_the_rate_falls_in_steps():
    matrices = easy()
    frozen = Training(epochs=3, decay=0.0, decay_every=2)  # nothing moves after the second epoch
    seen: list[Stored] = []
    autoencoder(matrices, 2, frozen, select=lambda stored: seen.append(stored) or 0.0)
    assert not same(seen[0], seen[1])
    assert same(seen[1], seen[2])


@pytest.mark.parametrize(("latent", "rate"), [(None, 4e-3), (1, 4e-3), (20, 4e-3), (80, 1e-3)])
def test_the_rate_falls_with_the_width(latent, rate):
    assert Training.of(2_304, latent=latent).rate == pytest.approx(rate)


@pytest.mark.parametrize(("rows", "epochs"), [(384, 834), (2_304, 139), (30_522, 30)])
def test_a_stack_is_seen_as_often_as_it_needs(rows, epochs):
    training = Training.of(rows)
    assert (training.epochs, training.batch, training.decay_every) == (epochs, 64, epochs // 3)
    assert training.norms == "fitted"


def test_the_paper_is_the_default():
    paper = Training()
    assert (paper.epochs, paper.batch, paper.rate, paper.decay, paper.decay_every) == (30, 16, 1e-3, 0.8, 10)
    assert (round(paper.cosine, 4), round(paper.rmse, 4)) == (0.9091, 0.0909)
    assert paper.norms == "enforced"


# The gradient, written out


def papers_loss(found: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor, training: Training) -> torch.Tensor:
    """As the paper writes it: enforce the norm, then compare."""
    enforced = found / found.norm(dim=1, keepdim=True) * rows.norm(dim=1, keepdim=True)
    shares = weights / weights.mean()
    cosine = (shares * (1 - torch.nn.functional.cosine_similarity(enforced, rows))).mean()
    return training.cosine * cosine + training.rmse * (shares[:, None] * (enforced - rows) ** 2).mean().sqrt()


@pytest.mark.parametrize("functions", [["leaky", "leaky", "tanh"], ["none", "leaky", "none"]])
def test_the_gradient_is_that_of_the_papers_loss(functions):
    training = replace(Training(), rmse=0.7)
    chain = Chain((6, 5, 3, 6), functions, torch.Generator().manual_seed(0))
    rows, weights = random(8, 6), random(8, seed=1).abs()
    samples = Samples.of(rows, weights, training)
    with torch.no_grad():
        seen = chain.forward(rows)
        chain.backward(seen, samples.slope(seen[-1], training))

    layers = [[each.clone().requires_grad_() for each in layer] for layer in chain.layers]
    found = rows
    known = {"leaky": lambda x: torch.nn.functional.leaky_relu(x, 0.01), "tanh": torch.tanh, "none": lambda x: x}
    for (weight, bias), function in zip(layers, functions, strict=True):
        found = known[function](found @ weight + bias)
    torch.testing.assert_close(seen[-1], found)
    loss = papers_loss(found, rows, weights, training)
    assert samples.loss(seen[-1], training) == pytest.approx(float(loss.detach()), rel=1e-5)
    loss.backward()
    expected = torch.cat([each.grad.flatten() for layer in layers for each in layer])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(chain.gradients, expected, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_finite_where_there_is_no_direction_or_nothing_is_wrong():
    rows = random(4, 6)
    rows[0] = 0
    found = rows.clone()
    found[1] = 0
    samples = Samples.of(rows, None, Training())
    assert torch.isfinite(samples.slope(found, Training())).all()
    zeros = Samples.of(torch.zeros(4, 6), None, Training())
    assert torch.isfinite(zeros.slope(found, Training())).all()
    exact = Samples.of(rows[2:], None, Training())
    assert exact.slope(rows[2:], Training()).abs().max() < 1e-2


def test_a_chain_starts_as_linear_layers_do():
    chain = Chain((400, 300, 20), ("none", "none"), torch.Generator().manual_seed(0))
    for (weight, bias), inputs in zip(chain.layers, (400, 300), strict=True):
        for part in (weight, bias):
            assert 0.8 * inputs**-0.5 < part.abs().max() <= inputs**-0.5
    assert chain.parameters.numel() == 400 * 300 + 300 + 300 * 20 + 20
