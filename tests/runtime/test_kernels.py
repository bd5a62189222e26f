"""What a session really runs: an operator without a kernel is found, and attention gives way to another form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploycomp.recipe import Export, Int8, Recipe
from deploycomp.runtime import kernels
from deploycomp.runtime.kernels import expanded, kernels_run
from deploycomp.runtime.session import open_session
from tests import tiny
from tests.export.test_export import build, run_steps


@pytest.mark.parametrize(
    ("written", "run", "found"),
    [
        ({"Attention": 6}, {"Attention": 6}, {}),
        ({"Attention": 6}, {"MatMul": 12, "Softmax": 6}, {"Attention": 6}),
        ({"Attention": 6}, {"Attention": 4, "MatMul": 4}, {"Attention": 2}),
        ({"Attention": 6}, {"MultiHeadAttention": 6}, {"Attention": 6}),
        ({"Gelu": 6}, {"BiasGelu": 6}, {}),
        ({"Gelu": 6, "FastGelu": 1}, {"FastGelu": 7}, {"Gelu": 6}),
        ({"MatMul": 6}, {}, {}),
    ],
)
def test_expanded(written: dict[str, int], run: dict[str, int], found: dict[str, int]):
    assert expanded(written, run) == found


def test_the_profile_of_one_call(tmp_path: Path):
    model = build(tmp_path)
    _, _, context = run_steps(model, Recipe(), tmp_path / "work")
    assert context.reference is not None
    session = open_session(context.path("export"), profile=tmp_path)
    run = kernels_run(session, context.reference.probes[0].feeds)
    assert run["Attention"] == tiny.LAYERS
    assert run["MatMul"] >= 6 * tiny.LAYERS - 1
    assert list(tmp_path.glob("profile*")) == []


def lacking(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """A runtime without kernels for some operators: it runs others in their place."""

    def run(session: Any, feeds: Mapping[str, Any]) -> Counter[str]:
        return Counter({name: n for name, n in kernels_run(session, feeds).items() if name not in missing})

    monkeypatch.setattr(kernels, "kernels_run", run)


@pytest.mark.parametrize("steps", [(Export(),), (Export(), Int8())], ids=["fp32", "int8"])
def test_attention_without_a_kernel_gives_way(steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "Attention")
    onnx, facts, context = run_steps(build(tmp_path), Recipe(steps=steps), tmp_path / "work")
    assert (onnx.operators["Attention"], onnx.operators["MultiHeadAttention"]) == (0, tiny.LAYERS)
    assert facts[-1]["attention"] == {"form": "mask", "nodes": tiny.LAYERS}
    assert len(context.warnings) == 1
    assert f"has no kernel for {tiny.LAYERS} nodes Attention" in context.warnings[0]
    assert "attention was written as 'mask' instead" in context.warnings[0]
    assert context.needs["padding"] == "any"
    assert [each["stage"] for each in context.parity] == [step.step for step in steps]


def test_nothing_fused_leaves_plain_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "Attention", "MultiHeadAttention")
    onnx, _, context = run_steps(build(tmp_path), Recipe(), tmp_path / "work")
    assert onnx.operators["Softmax"] == tiny.LAYERS
    assert [("'mask'" in each, "'plain'" in each) for each in context.warnings] == [(True, False), (False, True)]


def test_what_cannot_be_helped_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "BiasGelu", "Gelu")
    onnx, _, context = run_steps(build(tmp_path), Recipe(), tmp_path / "work")
    assert onnx.operators["Attention"] == tiny.LAYERS
    assert len(context.warnings) == 1
    assert "nodes Gelu and runs many small ones in their place: it will be slow there" in context.warnings[0]


def test_a_graph_for_gpus_is_not_judged_by_a_session_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lacking(monkeypatch, "MultiHeadAttention")
    recipe = Recipe(steps=(Export(dtype="fp16"),), target="cuda")
    onnx, _, context = run_steps(build(tmp_path), recipe, tmp_path / "work")
    assert onnx.operators["MultiHeadAttention"] == tiny.LAYERS
    assert context.warnings == []
