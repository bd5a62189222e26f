"""Moments are what autograd says row by row, padding left out, whatever rows share a batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from deploycomp.compress.answers import Answers
from deploycomp.compress.factorize.moments import measure_moments
from deploycomp.compress.prune.sublayers import watch
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.surgery import unique_layers
from tests import tiny
from tests.compress.test_batches import batches_of
from tests.compress.test_curvature import Fixed

ARCHES = ["bert", "albert", "modernbert", "deberta"]
FIELDS = ("inputs", "mean", "gradients", "fisher")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    found = {}

    def get(arch, task="text-classification"):
        if (arch, task) not in found:
            found[arch, task] = load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", arch, task)))
        return found[arch, task]

    return get


def paths_of(model):
    return [
        path
        for layer in unique_layers(model.anatomy)
        for path in (layer.q, layer.k, layer.v, layer.qkv, layer.o, layer.ffn_in, layer.ffn_out)
        if path is not None
    ]


def measured(model, batches, *, seed=0, answers=None, **options):
    word = model.anatomy.embeddings["word"]
    return measure_moments(answers or Fixed(model), model.module, word, paths_of(model), batches, seed=seed, **options)


def same(one, two, *, rtol=1e-3):
    for field in FIELDS:
        left, right = getattr(one, field), getattr(two, field)
        scale = max(float(left.abs().max()), 1e-12)
        torch.testing.assert_close(left, right, rtol=rtol, atol=1e-4 * scale, msg=field)
    assert one.tokens == two.tokens


def row_of(batch, row):
    """One row alone, without its padding."""
    length = int(batch.mask[row].sum())
    return type(batch)({name: value[row : row + 1, :length] for name, value in batch.inputs.items()})


def by_row(model, path, batch):
    """x and g of every use [tokens, ·], and the gradient of the weight, by autograd, for a single row."""
    weight = model.module.get_submodule(path).weight
    xs, ys = [], []
    answers = Fixed(model)
    weight.requires_grad_()
    try:
        with torch.enable_grad(), watch(model.module, path, inputs=xs.append, outputs=ys.append):
            outputs = answers.of(model.module, batch)
            probe = answers.probe(outputs, batch, torch.Generator())
            total = sum((output * u).sum() for output, u in zip(outputs, probe, strict=True))
            grads = torch.autograd.grad(total, [weight, *ys])
    finally:
        weight.requires_grad_(False)
    g = torch.cat([each[0] for each in grads[1:]]).double()
    return torch.cat([x[0] for x in xs]).detach(), g, grads[0].double()


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize("arch", ARCHES)
def test_everything_is_what_autograd_says(models, arch, task):
    """ALBERT's shared layer runs twice: its gradient is the sum over both."""
    model = models(arch, task)
    batches = [*batches_of(model, 3, tokens=500, high=7), *batches_of(model, 1, seed=1, high=7)]
    assert [batch.rows for batch in batches] == [3, 1]
    assert not batches[0].mask.all()
    found = measured(model, batches)
    rows = [row_of(batch, row) for batch in batches for row in range(batch.rows)]
    word = model.anatomy.embeddings["word"]
    assert set(found) == {word, *paths_of(model)}
    for path, each in found.items():
        seen = [by_row(model, path, row) for row in rows]
        g, x = torch.cat([g for _, g, _ in seen]), torch.cat([x for x, _, _ in seen])
        assert each.tokens == len(x)
        if path == word:
            x = torch.nn.functional.one_hot(x, len(each.frequency))
        x = x.double()
        second = x.T @ x / len(x)
        expected = {
            "inputs": second.diagonal() if path == word else second,
            "mean": x.mean(0),
            "gradients": g.T @ g / len(rows),
            "fisher": torch.stack([d.square().sum(1) for _, _, d in seen]).mean(0),
        }
        for field, value in expected.items():
            assert getattr(each, field).dtype == torch.float64
            scale = max(float(value.abs().max()), 1e-12)
            torch.testing.assert_close(getattr(each, field), value, rtol=1e-3, atol=1e-4 * scale, msg=f"{path} {field}")


@pytest.mark.parametrize("arch", ["bert", "albert"])
def test_how_rows_are_batched_does_not_matter(models, arch):
    model = models(arch)
    single, many = batches_of(model, tokens=1), batches_of(model, tokens=400)
    assert len(single) == 6 > len(many)
    for even in (1.0, 0.2):
        one, two = (measured(model, batches, even=even) for batches in (single, many))
        for path in one:
            same(one[path], two[path])


def test_frequencies_are_counts(models):
    model = models("bert")
    batches = batches_of(model)
    each = measured(model, batches)[model.anatomy.embeddings["word"]]
    counts = Counter(int(token) for batch in batches for token in batch.inputs["input_ids"][batch.mask])
    assert each.embedding
    assert each.tokens == sum(counts.values())
    assert {place: round(float(share) * each.tokens) for place, share in enumerate(each.frequency) if share} == counts
    assert float(each.frequency[model.tokenizer.pad_token_id]) == 0
    assert torch.equal(each.inputs, each.mean)


@pytest.mark.parametrize("arch", ["bert", "albert"])
def test_tokens_that_matter_may_count_more(models, arch):
    model = models(arch)
    batches = batches_of(model)
    even, uneven, mixed = (measured(model, batches, even=share) for share in (1.0, 0.0, 0.3))
    for path in even:
        for field in ("inputs", "mean"):
            blend = 0.3 * getattr(even[path], field) + 0.7 * getattr(uneven[path], field)
            torch.testing.assert_close(getattr(mixed[path], field), blend)
        assert not torch.allclose(even[path].inputs, uneven[path].inputs)
        assert torch.equal(even[path].gradients, uneven[path].gradients)


def test_at_the_top_of_a_classifier_only_the_first_token_counts(models):
    model = models("bert")
    batches = batches_of(model)
    path = model.anatomy.layers[-1].ffn_in
    xs = []
    with watch(model.module, path, inputs=lambda x: xs.append(x[:, 0])):
        for batch in batches:
            Answers(model).of(model.module, batch)
    each = measured(model, batches, even=0.0)[path]
    vectors = torch.cat(xs).double()
    directions = torch.linalg.qr(vectors.T).Q
    torch.testing.assert_close(directions @ (directions.T @ each.inputs), each.inputs, rtol=1e-3, atol=1e-4)
    whole = measured(model, batches)[path].inputs
    assert (directions @ (directions.T @ whole) - whole).norm() > 0.1 * whole.norm()


class Loud(Answers):
    """A probe that does not know of padding."""

    def _draw(self, output, batch, generator):
        return torch.ones_like(output)


def test_gradients_at_padding_do_not_count(models):
    model = models("bert", "token-classification")
    (batch,) = batches_of(model, 4, tokens=500)
    path, real = model.anatomy.layers[-1].ffn_out, batch.mask
    xs, ys = [], []
    with watch(model.module, path, inputs=xs.append, outputs=lambda y: ys.append(y.requires_grad_())):
        (output,) = Loud(model).of(model.module, batch)
    (g,) = torch.autograd.grad(output.sum(), ys)
    assert g[~real].any()
    each = measured(model, [batch], answers=Loud(model), even=0.2)[path]
    torch.testing.assert_close(each.gradients, (g[real].T @ g[real]).double() / 4, rtol=1e-3, atol=1e-4)
    by_weight = torch.einsum("bto,bti,bt->boi", g, xs[0], real.float()).square().sum(2).mean(0)
    torch.testing.assert_close(each.fisher, by_weight.double(), rtol=1e-3, atol=1e-4)


class Silent(Answers):
    def _draw(self, output, batch, generator):
        return torch.zeros_like(output)


def test_a_loss_that_looks_at_nothing(models):
    model = models("bert")
    batches = batches_of(model)
    silent, plain = measured(model, batches, answers=Silent(model), even=0.2), measured(model, batches)
    for path, each in silent.items():
        assert not each.gradients.any()
        assert not each.fisher.any()
        torch.testing.assert_close(each.inputs, plain[path].inputs)


def test_the_seed_is_that_of_the_probe(models):
    model = models("bert")
    batches = batches_of(model)
    one, two, again = (measured(model, batches, answers=Answers(model), seed=seed) for seed in (1, 2, 1))
    for path in one:
        assert torch.equal(one[path].inputs, two[path].inputs)
        assert not torch.allclose(one[path].gradients, two[path].gradients)
        assert torch.equal(one[path].gradients, again[path].gradients)
        assert torch.equal(one[path].fisher, again[path].fisher)


@pytest.mark.parametrize("arch", ["bert", "albert"])
def test_the_model_is_left_as_it_was(models, arch):
    model = models(arch)
    shares = []
    batches = batches_of(model)
    measured(model, batches, progress=shares.append)
    assert not any(each.requires_grad or each.grad is not None for each in model.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with torch.no_grad():
        assert not Answers(model).of(model.module, batches[0])[0].requires_grad


def test_centred_moments(models):
    model = models("bert")
    batches = batches_of(model)
    path = model.anatomy.layers[0].ffn_out
    xs = []
    with watch(model.module, path, inputs=xs.append):
        for batch in batches:
            Answers(model).of(model.module, batch)
            xs[-1] = xs[-1][batch.mask]
    each, x = measured(model, batches)[path], torch.cat(xs).double()
    torch.testing.assert_close(each.centred, torch.cov(x.T, correction=0), rtol=1e-3, atol=1e-4)
    assert not each.embedding
