"""Closed-form refits find the teacher's norms and head again, and change nothing where nothing is wrong."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.batches import Batch, make_batches
from deploycomp.compress.prune.rebuild import record_sums
from deploycomp.compress.prune.sublayers import sublayers
from deploycomp.compress.refit import keep_if_better, refit, refit_head, refit_norms
from deploycomp.models import resolve
from deploycomp.models.anatomy import describe
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.plan import Layers, Plan
from deploycomp.models.surgery import apply
from tests import tiny

ARCHS = ("bert", "modernbert", "distilbert", "mpnet")


@dataclass
class Case:
    """A tiny teacher, a copy of it as the student, and rows."""

    model: TorchModel
    student: Any
    batches: list[Batch]
    held_out: list[Batch]

    @property
    def answers(self) -> Answers:
        return Answers(self.model)

    def outputs(self, batches: list[Batch]) -> list[tuple[Tensor, ...]]:
        with torch.inference_mode():
            return [self.answers.of(self.model.module, batch) for batch in batches]

    def divergence(self) -> float:
        return mean_divergence(self.answers, self.student, self.held_out, self.outputs(self.held_out))

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.student.state_dict().items()}

    def noise(self, modules: list[Any], *, scale: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(7)
        for module in modules:
            for value in module.parameters():
                value.data += scale * torch.randn(value.shape, generator=generator) * value.std().clamp(min=0.1)


def make(folder: Path, arch: str, task: str, *, rows: int = 200, **config: Any) -> Case:
    model = load(resolve(str(tiny.build(folder / arch, arch, task, **config))), task)

    def batches(seed: int, count: int) -> list[Batch]:
        types = "token_type_ids" in model.inputs
        texts = tiny.texts(count, seed=seed, low=3)
        cut = [model.tokenizer(text, truncation=True, return_token_type_ids=types) for text in texts]
        feeds = [{name: np.array([row[name]], np.int64) for name in model.inputs} for row in cut]
        return make_batches(feeds, pad_token_id=model.tokenizer.pad_token_id, tokens=512)

    return Case(model, copy.deepcopy(model.module), batches(1, rows), batches(2, 40))


def norms(case: Case) -> list[Any]:
    paths = [path for layer in case.model.anatomy.layers for path in layer.norms]
    return [case.student.get_submodule(path) for path in paths]


def refitted(case: Case) -> int:
    return refit_norms(case.answers, case.student, case.model.module, case.model.anatomy, case.batches)


@pytest.mark.parametrize("arch", ARCHS)
def test_norms_of_an_unchanged_student_stay(tmp_path: Path, arch: str):
    case = make(tmp_path, arch, "text-classification")
    before = case.state()
    assert refitted(case) == len(norms(case))
    for name, value in case.state().items():
        assert torch.allclose(value, before[name], atol=1e-4), name


@pytest.mark.parametrize("arch", ARCHS)
def test_norms_are_found_again(tmp_path: Path, arch: str):
    case = make(tmp_path, arch, "token-classification")
    before = case.state()
    case.noise(norms(case))
    assert case.divergence() > 1e-3
    refitted(case)
    assert case.divergence() < 1e-6
    for name, value in case.state().items():
        assert torch.allclose(value, before[name], atol=1e-3), name


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_norms_make_up_for_damage_elsewhere(tmp_path: Path, arch: str):
    case = make(tmp_path, arch, "token-classification")
    case.noise([case.student.get_submodule(layer.ffn_out) for layer in case.model.anatomy.layers])
    kept, before, after = keep_if_better(case.student, lambda: refitted(case), case.divergence)
    assert kept
    assert after < before


def test_norms_without_all_layers_are_left_alone(tmp_path: Path):
    case = make(tmp_path, "bert", "text-classification")
    apply(case.student, case.model.anatomy, Plan(), Layers((1,)))
    before = case.state()
    anatomy = describe(case.student, case.student.config)
    assert refit_norms(case.answers, case.student, case.model.module, anatomy, case.batches) == 0
    assert all(torch.equal(value, before[name]) for name, value in case.state().items())


def test_shared_norms_are_left_alone(tmp_path: Path):
    assert refitted(make(tmp_path, "albert", "text-classification")) == 0


HEADS = [
    ("bert", "text-classification", "classifier"),
    ("modernbert", "token-classification", "classifier"),
    ("distilbert", "question-answering", "qa_outputs"),
    ("roberta", "text-classification", "classifier.out_proj"),
]


@pytest.mark.parametrize(("arch", "task", "path"), HEADS)
def test_a_head_is_found_again(tmp_path: Path, arch: str, task: str, path: str):
    case = make(tmp_path, arch, task, rows=400)
    case.noise([case.student.get_submodule(path)], scale=1.0)
    before, rest = case.divergence(), case.state()
    assert refit_head(case.answers, case.student, case.outputs(case.batches), case.batches)
    assert case.divergence() < before / 20
    changed = {name for name, value in case.state().items() if not torch.equal(value, rest[name])}
    assert changed == {f"{path}.weight", f"{path}.bias"}


@pytest.mark.parametrize(("arch", "task", "path"), HEADS)
def test_the_head_of_an_unchanged_student_stays(tmp_path: Path, arch: str, task: str, path: str):
    case = make(tmp_path, arch, task)
    before = case.state()
    assert refit_head(case.answers, case.student, case.outputs(case.batches), case.batches)
    for name, value in case.state().items():
        assert torch.allclose(value, before[name], atol=1e-4), name


def test_a_head_without_bias_keeps_none(tmp_path: Path):
    case = make(tmp_path, "bert", "text-classification", rows=400)
    for module in (case.model.module, case.student):
        module.get_submodule("classifier").register_parameter("bias", None)
    case.noise([case.student.classifier], scale=1.0)
    before = case.divergence()
    assert refit_head(case.answers, case.student, case.outputs(case.batches), case.batches)
    assert case.student.classifier.bias is None
    assert case.divergence() < before / 20


@pytest.mark.parametrize("task", ["feature-extraction", "sentence-similarity", "fill-mask"])
def test_embeddings_and_tied_words_have_no_head(tmp_path: Path, task: str):
    case = make(tmp_path, "bert", task)
    before = case.state()
    assert not refit_head(case.answers, case.student, case.outputs(case.batches), case.batches)
    assert all(torch.equal(value, before[name]) for name, value in case.state().items())


@pytest.mark.parametrize(
    ("arch", "task", "names"),
    [("bert", "token-classification", ["norms", "head"]), ("bert", "sentence-similarity", ["norms"]),
     ("albert", "text-classification", ["head"]), ("albert", "fill-mask", [])],
)  # fmt: skip
def test_what_is_known_of_the_teacher_is_not_computed_again(tmp_path: Path, arch: str, task: str, names: list[str]):
    """Sums and outputs that are given end at the same weights, and no entry tells of what there is not."""
    given, computed = make(tmp_path, arch, task), make(tmp_path / "again", arch, task)
    anatomy, parts = given.model.anatomy, sublayers(given.model.module, given.model.anatomy)
    sums, outputs = record_sums(given.answers, given.model.module, parts, given.batches)
    facts: list[list[dict[str, Any]]] = []
    for case, known in ((given, {"sums": sums, "outputs": outputs}), (computed, {})):
        case.noise([case.student.get_submodule(each.ffn_out) for each in anatomy.layers], scale=0.1)
        before = case.divergence()
        teacher: Any = case.model.module
        calls: list[Any] = []
        handle = teacher.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        facts.append(
            refit(case.answers, case.student, teacher, anatomy, case.batches, case.divergence, before=before, **known)
        )
        handle.remove()
        by_divergence = len(case.held_out) * len(names)
        assert (len(calls) > by_divergence) == (bool(names) and not known)
    assert [each["what"] for each in facts[0]] == names
    assert [each["kept"] for each in facts[0]] == [each["kept"] for each in facts[1]]
    for name, value in given.state().items():
        torch.testing.assert_close(value, computed.state()[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("losses", "kept"), [((1.0, 0.5), True), ((1.0, 1.0), False), ((1.0, 1.5), False), ((1.0, float("nan")), False)]
)
def test_only_what_is_better_is_kept(losses: tuple[float, float], kept: bool):
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    next(module.parameters()).data[0, 0] = -0.0  # its sign must come back too
    before = {name: value.numpy().tobytes() for name, value in module.state_dict().items()}

    def change() -> None:
        for value in module.state_dict().values():
            value += 1

    found = iter(losses)
    result = keep_if_better(module, change, lambda: next(found))
    assert result[:2] == (kept, 1.0)
    assert result[2] == pytest.approx(losses[1], nan_ok=True)
    after = {name: value.numpy().tobytes() for name, value in module.state_dict().items()}
    assert (after == before) == (not kept)


def test_only_what_may_change_is_put_back():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    def change() -> None:
        for value in module.state_dict().values():
            value += 1

    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert not keep_if_better(module, change, lambda: 1.0, parts=["1"])[0]
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias"}
