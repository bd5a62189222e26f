"""Divergence is zero between equals, blind to padding, and has the curvature that the probe draws."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.batches import Batch
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from tests import tiny
from tests.compress.test_batches import batches_of

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "single label": ("text-classification", {}),
    "multi label": ("text-classification", {"problem_type": "multi_label_classification"}),
    "regression": ("text-classification", {"problem_type": "regression"}),
    "tokens": ("token-classification", {}),
    "words": ("fill-mask", {}),
    "span": ("question-answering", {}),
    "states": ("feature-extraction", {}),
    "sentence": ("sentence-similarity", {}),
}
DRAWS = 40_000
SPREAD = 0.04
"""Of the largest entry: a second moment of normal draws is off by √(2 / draws) = 0.7 %; this is over five times it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """`models(cell)`: a tiny BERT and the same one disturbed."""
    found: dict[str, tuple[TorchModel, torch.nn.Module]] = {}

    def get(cell: str) -> tuple[TorchModel, torch.nn.Module]:
        if cell not in found:
            task, options = CELLS[cell]
            model = load(resolve(tiny.build(tmp_path_factory.mktemp("m") / "m", "bert", task, **options)))
            other = copy.deepcopy(model.module)
            draw = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in other.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
            found[cell] = model, other
        return found[cell]

    return get


def longer(batch: Batch, columns: int, pad: int) -> Batch:
    """The same rows with more padding."""
    wide = {
        name: torch.nn.functional.pad(value, (0, columns), value=pad if name == "input_ids" else 0)
        for name, value in batch.inputs.items()
    }
    return Batch(wide)


@pytest.mark.parametrize("cell", CELLS)
def test_equal_answers_are_no_distance_apart(models, cell):
    model, other = models(cell)
    answers = Answers(model)
    for batch in batches_of(model):
        with torch.no_grad():
            before, after = answers.of(model.module, batch), answers.of(other, batch)
        same = answers.divergence(before, before, batch)
        apart = answers.divergence(before, after, batch)
        assert same.shape == apart.shape == (batch.rows,)
        assert same.abs().max() < 1e-6
        assert (apart > 1e-5).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_padding_does_not_matter(models, cell, temperature):
    model, other = models(cell)
    answers = Answers(model, temperature=temperature)
    for batch in batches_of(model):
        wide = longer(batch, 5, model.tokenizer.pad_token_id)
        found: list[Tensor] = []
        for each in (batch, wide):
            with torch.no_grad():
                found.append(answers.divergence(answers.of(model.module, each), answers.of(other, each), each))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell not in ("states", "sentence")])
def test_a_row_has_its_loss_whatever_stands_beside_it(models, cell):
    model, other = models(cell)
    answers = Answers(model)
    many, single = batches_of(model), batches_of(model, tokens=1)
    assert max(batch.rows for batch in single) == 1 < max(batch.rows for batch in many)
    found: list[Tensor] = []
    for batches in (many, single):
        with torch.no_grad():
            rows = [answers.divergence(answers.of(model.module, b), answers.of(other, b), b) for b in batches]
        found.append(torch.cat(rows))
    assert torch.isfinite(found[1]).all()
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_padding_of_a_probe_is_zero(models):
    for cell in ("tokens", "span", "states"):
        model, _ = models(cell)
        answers = Answers(model)
        batch = longer(batches_of(model)[-1], 3, model.tokenizer.pad_token_id)
        with torch.no_grad():
            probe = answers.probe(answers.of(model.module, batch), batch, torch.Generator().manual_seed(0))
        assert len(probe) == len(model.outputs)
        for each in probe:
            assert not each[~batch.mask].any()
            assert each[batch.mask].any()


def test_the_mean_is_over_rows(models):
    model, other = models("single label")
    answers, batches = Answers(model), batches_of(model, 7)
    shares: list[float] = []
    with torch.no_grad():
        teacher = [answers.of(model.module, batch) for batch in batches]
        rows = torch.cat(
            [answers.divergence(t, answers.of(other, b), b) for t, b in zip(teacher, batches, strict=True)]
        )
    assert len({batch.rows for batch in batches}) > 1
    got = mean_divergence(answers, other, batches, teacher, progress=shares.append)
    assert got == pytest.approx(float(rows.mean()), rel=1e-5)
    assert shares[-1] == 1
    assert mean_divergence(answers, model.module, batches, teacher) == pytest.approx(0, abs=1e-6)


def test_divergences_by_hand():
    batch = Batch({"attention_mask": torch.tensor([[1, 1]])})
    one, two = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    p = torch.tensor([1.0, 0.0]).softmax(0)
    kl = (0.5 * (0.5 / p).log()).sum()
    torch.testing.assert_close(stub("single label").divergence((one,), (two,), batch), kl[None])
    q = torch.tensor(1.0).sigmoid()
    bernoulli = 0.5 * (0.5 / q).log() + 0.5 * (0.5 / (1 - q)).log()
    torch.testing.assert_close(stub("multi label").divergence((one,), (two,), batch), bernoulli[None])
    torch.testing.assert_close(stub("regression").divergence((one,), (two,), batch), torch.tensor([0.5]))
    torch.testing.assert_close(stub("sentence").divergence((two,), (one,), batch), torch.tensor([1.0]))


def stub(cell: str, *, temperature: float = 1.0) -> Answers:
    """Answers of a task, without a model."""
    task, options = CELLS[cell]
    problem = options.get("problem_type", "single_label_classification") if task == "text-classification" else None
    model: Any = SimpleNamespace(task=task, problem_type=problem, outputs=(), inputs=())
    return Answers(model, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("cell", "shapes"),
    [
        ("single label", [(4,)]),
        ("multi label", [(4,)]),
        ("regression", [(1,)]),
        ("regression", [(3,)]),
        ("tokens", [(3, 3)]),
        ("span", [(4,), (4,)]),
        ("states", [(3, 2)]),
        ("sentence", [(5,)]),
    ],
)
def test_the_probe_draws_the_curvature_of_the_divergence(cell, shapes, temperature):
    """E[u uᵀ] against the Hessian of the divergence at equality, of a row among copies of it, with padding."""
    answers = stub(cell, temperature=temperature)
    draw = torch.Generator().manual_seed(3)
    rows = [1.5 * torch.randn(shape, generator=draw) for shape in shapes]
    length = shapes[0][0] if cell in ("tokens", "span", "states") else 2
    mask = torch.ones(DRAWS, length, dtype=torch.int64)
    mask[:, -1] = 0
    batch = Batch({"attention_mask": mask})
    outputs = [row.expand(DRAWS, *row.shape) for row in rows]
    probe = torch.cat([each.flatten(1) for each in answers.probe(outputs, batch, draw)], 1)
    moment = probe.T @ probe / DRAWS
    few = Batch({"attention_mask": mask[:500]})
    teacher = [each[:500] for each in outputs]

    def divergence(flat: Tensor) -> Tensor:
        parts = flat.split([row.numel() for row in rows])
        first = [part.reshape(row.shape)[None] for part, row in zip(parts, rows, strict=True)]
        return answers.divergence(teacher, [torch.cat([f, t[1:]]) for f, t in zip(first, teacher, strict=True)], few)[0]

    hessian = torch.autograd.functional.hessian(divergence, torch.cat([row.flatten() for row in rows]))
    assert isinstance(hessian, Tensor)
    assert hessian.abs().max() > 1e-3
    torch.testing.assert_close(moment, hessian, rtol=0, atol=SPREAD * float(hessian.abs().max()))
