"""Recovery brings a damaged student nearer to its teacher, and leaves an ordinary model behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deploycomp.compress.recover import recover
from deploycomp.models.anatomy import describe
from deploycomp.models.plan import Layers, Plan
from deploycomp.models.surgery import apply
from tests.compress.test_refit import Case, make

STEPS = 24
RATE = 1e-3  # tiny models, damaged badly


def damaged(folder: Path, arch: str, task: str) -> Case:
    case = make(folder, arch, task, rows=100)
    case.noise([case.student.get_submodule(layer.path) for layer in case.model.anatomy.layers])
    return case


def run(case: Case, *, minutes: float = 2.0, steps: int | None = STEPS, **options: Any) -> dict[str, Any]:
    anatomy = describe(case.student, case.student.config)
    return recover(
        case.answers, case.student, case.model.module, anatomy, case.batches, case.held_out,
        minutes=minutes, steps=steps, rate=RATE, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "task"),
    [
        ("bert", "text-classification"),
        ("modernbert", "token-classification"),
        ("distilbert", "question-answering"),
        ("albert", "sentence-similarity"),
        ("deberta", "text-classification"),
    ],
)
def test_a_damaged_student_recovers(tmp_path: Path, arch: str, task: str):
    case = damaged(tmp_path, arch, task)
    shapes = {name: value.shape for name, value in case.student.state_dict().items()}
    kinds = [type(each) for each in case.student.modules()]
    shares: list[float] = []
    facts = run(case, progress=lambda _, share: shares.append(share))
    assert facts["kept"]
    assert facts["steps"] == STEPS
    assert facts["after"] < 0.8 * facts["before"]
    assert case.divergence() == pytest.approx(facts["after"], abs=1e-6)
    assert {name: value.shape for name, value in case.student.state_dict().items()} == shapes
    assert [type(each) for each in case.student.modules()] == kinds
    assert not any(each._forward_hooks for each in case.student.modules())
    assert all(not each.requires_grad and each.grad is None for each in case.student.parameters())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_same_steps_learn_the_same(tmp_path: Path):
    first, second = (damaged(tmp_path / name, "bert", "text-classification") for name in "ab")
    assert run(first, steps=6)["after"] == run(second, steps=6)["after"]
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_with_nothing_to_gain_nothing_changes(tmp_path: Path, arch: str):
    case = make(tmp_path, arch, "text-classification", rows=100)
    before = {name: value.numpy().tobytes() for name, value in case.student.state_dict().items()}
    facts = run(case, steps=8)
    assert not facts["kept"]
    assert {name: value.numpy().tobytes() for name, value in case.student.state_dict().items()} == before
    assert all(not each.requires_grad for each in case.student.parameters())


def test_a_student_with_fewer_layers_learns_the_answers(tmp_path: Path):
    case = make(tmp_path, "bert", "text-classification", rows=100)
    apply(case.student, case.model.anatomy, Plan(), Layers((0,)))
    facts = run(case)
    assert facts["kept"]
    assert facts["after"] < facts["before"]


def test_minutes_bound_the_steps(tmp_path: Path):
    case = damaged(tmp_path, "distilbert", "text-classification")
    assert run(case, minutes=0.0)["steps"] == 0
    facts = run(case, minutes=0.1, steps=None)
    assert facts["steps"] > 1
    assert facts["seconds"] < 15
