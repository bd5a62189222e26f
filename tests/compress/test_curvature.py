"""Curvature is what autograd says it is, whatever rows share a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch
from deploycomp.compress.prune import curvature as module
from deploycomp.compress.prune.curvature import WEIGHT, Curvature, measure
from deploycomp.compress.prune.sublayers import Sublayer, sublayers
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Heads, Neurons, Plan
from deploycomp.models.surgery import apply, unique_layers
from tests import tiny
from tests.compress.test_batches import batches_of

ARCHES = list(tiny.ARCHITECTURES)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    found: dict[tuple[str, str], TorchModel] = {}

    def get(arch: str, task: str = "text-classification") -> TorchModel:
        if (arch, task) not in found:
            found[arch, task] = load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", arch, task)))
        return found[arch, task]

    return get


class Fixed(Answers):
    """A probe that follows from the row alone."""

    def _draw(self, output: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        u = (3 * output).sin()
        return u * batch.mask[..., None] if u.dim() == 3 else u


def curvature(
    model: TorchModel, batches: Sequence[Batch], *, seed: int = 0, answers: Any = None
) -> dict[str, Curvature]:
    parts = sublayers(model.module, model.anatomy)
    embeddings = [model.anatomy.embeddings["word"]]
    return measure(answers or Answers(model), model.module, embeddings, parts, batches, seed=seed)


def in_a_row(values: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """Values of real tokens, rows from short to long."""
    return torch.cat([value[batch.mask] for value, batch in zip(values, batches, strict=True)])


@pytest.fixture
def every_token(monkeypatch):
    """No token is left out for how little it matters."""
    monkeypatch.setattr(module, "WEIGHT", 1.0)


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(st.floats(0, 1e6, width=32), max_size=60), share=st.floats(0.1, 1))
def test_the_heavy_tokens_are_the_fewest_with_the_weight(weights, share):
    values = torch.tensor(weights, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WEIGHT", share)
        kept = values[module._heavy(values)]
    left, slack = float(values.sum() - kept.sum()), 1e-9 * float(values.sum())
    assert left <= (1 - share) * float(values.sum()) + slack
    if len(kept) > 1:
        assert left + float(kept.min()) >= (1 - share) * float(values.sum()) - slack
    assert len(kept) == len(values) or float(kept.min()) >= sorted(weights, reverse=True)[len(kept)]


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_tokens_that_hardly_matter_are_left_out(models, monkeypatch, arch):
    """Of a trace, which is a sum over tokens, no more is missing than their share."""
    model = models(arch)
    batches = batches_of(model)
    some = curvature(model, batches)
    monkeypatch.setattr(module, "WEIGHT", 1.0)
    every = curvature(model, batches)
    shares = [float(some[name].outputs.trace() / each.outputs.trace()) for name, each in every.items()]
    assert all(WEIGHT - 1e-5 <= share <= 1 + 1e-5 for share in shares)
    assert min(shares) < 1 - 1e-4
    for name, each in every.items():
        left = torch.linalg.eigvalsh((each.moment - some[name].moment).double())
        assert float(left[0]) > -1e-5 * float(each.moment.trace())
        torch.testing.assert_close(each.tokens, some[name].tokens)


@pytest.mark.usefixtures("every_token")
@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
@pytest.mark.parametrize("arch", ARCHES)
def test_how_rows_are_batched_does_not_matter(models, arch, task):
    model = models(arch, task)
    single, many = batches_of(model, tokens=1), batches_of(model, tokens=400)
    assert len(single) == 6 > len(many)
    one, two = (curvature(model, batches, answers=Fixed(model)) for batches in (single, many))
    assert set(one) == set(two) == {part.name for part in sublayers(model.module, model.anatomy)}
    for name, a in one.items():
        b = two[name]
        for field in ("outputs", "moment", "fisher", "energy"):
            left, right = getattr(a, field), getattr(b, field)
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4 * float(left.abs().max()), msg=field)
        assert (len(a.tokens), len(b.tokens)) == (len(single), len(many))
        left, right = in_a_row(a.tokens, single), in_a_row(b.tokens, many)
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)
        assert float(left.mean()) == pytest.approx(1, rel=1e-4)
        for tokens, batch in zip(b.tokens, many, strict=True):
            assert not tokens[~batch.mask].any()


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert"])
def test_energy_does_not_depend_on_the_draw(models, arch):
    model = models(arch)
    batches = batches_of(model)
    one, two, same = (curvature(model, batches, seed=seed) for seed in (1, 2, 1))
    for name in one:
        torch.testing.assert_close(one[name].energy, two[name].energy, rtol=1e-6, atol=0)
        assert not torch.allclose(one[name].fisher, two[name].fisher)
        assert torch.equal(one[name].fisher, same[name].fisher)
        assert torch.equal(one[name].outputs, same[name].outputs)


@contextlib.contextmanager
def masked(model: TorchModel, part: Sublayer, mask: Tensor, seen: dict[str, Tensor]) -> Iterator[None]:
    """Multiply the units of a sublayer with masks [rows, units], and keep what flows in and out of its projection."""
    projection: Any = model.module.get_submodule(part.projection)

    def before(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen["h"] = args[0].detach()
        return (args[0] * mask.repeat_interleave(part.size, 1)[:, None],)

    def after(_: Any, __: Any, out: Tensor) -> None:
        out.retain_grad()
        seen["y"] = out

    handles = [projection.register_forward_pre_hook(before), projection.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.usefixtures("every_token")
@pytest.mark.parametrize("arch", [arch for arch in ARCHES if arch != "albert"])
def test_everything_is_what_autograd_says(models, arch):
    """Masks, gradients and inputs of each sublayer taken one by one, for a batch of several rows with padding."""
    model = models(arch)
    batch = batches_of(model, 4, tokens=500, high=12)[0]
    assert batch.rows == 4
    assert not batch.mask.all()
    answers = Answers(model)
    found = curvature(model, [batch], seed=5)
    real, tokens = batch.mask, int(batch.mask.sum())
    for part in sublayers(model.module, model.anatomy):
        mask = torch.ones(4, part.units, requires_grad=True)
        seen: dict[str, Tensor] = {}
        with masked(model, part, mask, seen):
            outputs = answers.of(model.module, batch)
            probe = answers.probe(outputs, batch, torch.Generator().manual_seed(5))
            sum((o * u).sum() for o, u in zip(outputs, probe, strict=True)).backward()  # type: ignore[union-attr]
        each, gradient = found[part.name], seen["y"].grad
        assert mask.grad is not None
        assert gradient is not None
        h, g = seen["h"][real], gradient[real]
        weights = g.square().sum(1)
        size = (len(h), part.units, part.size)
        expected = {
            "fisher": mask.grad.square().mean(0),
            "outputs": g.T @ g / 4,
            "moment": (h * weights[:, None]).T @ h / weights.sum(),
            "energy": h.square().reshape(size).sum((0, 2)) / tokens,
        }
        for field, value in expected.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(getattr(each, field), value, rtol=1e-3, atol=1e-5 * scale, msg=field)
        torch.testing.assert_close(each.tokens[0][real], weights / weights.mean(), rtol=1e-3, atol=1e-5)


def test_only_the_first_token_matters_at_the_top_of_a_classifier(models):
    model = models("bert")
    batches = batches_of(model)
    found = curvature(model, batches)
    for tokens in found["1.neurons"].tokens:
        assert (tokens[:, 0] > 0).all()
        assert not tokens[:, 1:].any()
    assert all((tokens[batch.mask] > 0).all() for tokens, batch in zip(found["0.neurons"].tokens, batches, strict=True))


@pytest.mark.parametrize("arch", ["bert", "deberta", "albert"])
def test_the_model_is_left_as_it_was(models, arch):
    model = models(arch)
    shares: list[float] = []
    parts = sublayers(model.module, model.anatomy)
    embeddings = [model.anatomy.embeddings["word"]]
    batches = batches_of(model)
    measure(Answers(model), model.module, embeddings, parts, batches, seed=0, progress=shares.append)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())
    assert shares == sorted(shares)
    assert shares[-1] == 1
    with torch.no_grad():
        assert not Answers(model).of(model.module, batches[0])[0].requires_grad


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_a_model_with_sublayers_gone(tmp_path, arch):
    model = load(resolve(tiny.build(tmp_path / "m", arch, "text-classification")))
    apply(model.module, model.anatomy, Plan(), Heads(0, ()))
    apply(model.module, model.anatomy, Plan(), Neurons(1, (1, 2)))
    found = curvature(model, batches_of(model))
    assert set(found) == {"0.neurons", "1.heads", "1.neurons"}
    assert found["1.neurons"].fisher.shape == (2,)


def test_shared_layers_are_listed_once(models):
    model = models("albert")
    assert len(unique_layers(model.anatomy)) == 1 < len(model.anatomy.layers)
    assert [part.name for part in sublayers(model.module, model.anatomy)] == ["0.heads", "0.neurons"]
