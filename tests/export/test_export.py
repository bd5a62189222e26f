"""Every architecture, in every task it has, becomes a graph that answers as it does; fused where it can be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from deploycomp.context import Context
from deploycomp.errors import InputRefused, UsageError, VerificationFailed
from deploycomp.export import export
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.onnxmodel import OnnxModel
from deploycomp.recipe import Export, Fixed, Int8, Recipe
from deploycomp.runtime.session import open_session
from deploycomp.steps import STEPS
from tests import tiny

CELLS = [(arch, task) for arch in tiny.ARCHITECTURES for task in tiny.tasks_of(arch)]
UNFUSED = {"mpnet", "deberta", "deberta-v2", "deberta-v3"}


def run_steps(model: Any, recipe: Recipe, work: Path) -> tuple[OnnxModel, list[dict[str, Any]], Context]:
    """Walk the steps as the pipeline does."""
    work.mkdir()
    context = Context(recipe, recipe.target, work)
    value, facts = model, []
    for config in recipe.steps:
        step = STEPS[type(config)]
        step.require(config, context)
        value, fact = step.apply(config, value, context)
        step.ensure(config, value, fact, context)
        facts.append(fact)
    return value, facts, context


def build(folder: Path, arch: str = "bert", task: str = "text-classification", **kwargs: Any) -> Any:
    return load(resolve(str(tiny.build(folder / "model", arch, task, **kwargs))), task)


@pytest.mark.parametrize(("arch", "task"), CELLS)
def test_every_architecture_and_task(arch: str, task: str, tmp_path: Path):
    model = build(tmp_path, arch, task)
    recipe = Recipe(steps=(Export(), Int8()))
    onnx, (exported, int8), context = run_steps(model, recipe, tmp_path / "work")
    assert [each["stage"] for each in context.parity] == ["export", "int8"]
    assert set(context.parity[0]["outputs"]) == set(model.outputs)
    layers = len(model.anatomy.layers)
    if arch in UNFUSED:
        assert exported["unfused_attention"] == layers
        assert "does not go through transformers' attention interface" in exported["notes"][0]
    else:
        assert exported["fused"]["Attention"] == layers
        assert exported["unfused_attention"] == 0
        assert exported["notes"] == []
    assert exported["fused"].get("Gelu", 0) + exported["fused"].get("FastGelu", 0) >= layers
    done, seen = int8["nodes"]["MatMul"]
    assert 0 < done <= seen
    left = [each for each in int8["left_in_float"] if each["op"] == "MatMul"]
    assert len(left) == seen - done
    assert all(each["reason"] for each in left)
    assert len({node.name for node in onnx.model.graph}) == len(list(onnx.model.graph))


def test_parity_covers_shapes_export_never_saw(tmp_path: Path):
    model = build(tmp_path)
    _, _, context = run_steps(model, Recipe(), tmp_path / "work")
    assert context.reference is not None
    probes = context.reference.probes
    assert {probe.shape[0] for probe in probes} == {1, 3}
    assert {probe.shape[1] for probe in probes} == {1, 7, 64, model.max_length}
    assert {probe.padded for probe in probes} == {False, True}
    assert {probe.segments for probe in probes} == {1, 2}
    padded = [probe for probe in probes if probe.padded]
    assert all((probe.feeds["attention_mask"] == 0).any() for probe in padded)
    assert all((probe.feeds["attention_mask"] == 1).any(axis=1).all() for probe in probes)


def test_a_wrong_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import deploycomp.export.torch_export as torch_export

    tidy = torch_export._tidy

    def spoil(graph_model: ir.Model, *rest: Any) -> None:
        tidy(graph_model, *rest)
        value = graph_model.graph.initializers["bert.encoder.layer.1.output.LayerNorm.bias"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() + np.float32(0.01), name=value.name)

    monkeypatch.setattr(torch_export, "_tidy", spoil)
    with pytest.raises(VerificationFailed, match="does not compute what the source model computes") as caught:
        run_steps(build(tmp_path), Recipe(), tmp_path / "work")
    assert "logits" in str(caught.value.where)
    assert "allowed is 0.0001" in str(caught.value.why)


def test_swapped_outputs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import deploycomp.export.torch_export as torch_export

    tidy = torch_export._tidy

    def swap(graph_model: ir.Model, *rest: Any) -> None:
        outputs = graph_model.graph.outputs
        outputs[0], outputs[1] = outputs[1], outputs[0]
        tidy(graph_model, *rest)

    monkeypatch.setattr(torch_export, "_tidy", swap)
    with pytest.raises(VerificationFailed, match="does not compute"):
        run_steps(build(tmp_path, task="question-answering"), Recipe(), tmp_path / "work")


@pytest.mark.parametrize("arch", ["bert", "modernbert", "deberta-v3"])
def test_standard_writes_only_ai_onnx(arch: str, tmp_path: Path):
    model = build(tmp_path, arch)
    onnx, (exported, _), _ = run_steps(model, Recipe(steps=(Export(ops="standard"), Int8())), tmp_path / "work")
    assert {node.domain for node in onnx.model.graph} == {""}
    assert set(onnx.model.opset_imports) == {""}
    assert exported["fused"] == {}
    assert "as asked (--ops standard)" in exported["notes"][0]


@pytest.mark.parametrize("opset", [20, 23, 25])
def test_newer_opsets(opset: int, tmp_path: Path):
    onnx, _, _ = run_steps(build(tmp_path), Recipe(steps=(Export(opset=opset), Int8())), tmp_path / "work")
    assert onnx.model.opset_imports[""] == opset


@pytest.mark.parametrize(
    ("fixed", "dims"),
    [
        (Fixed(batch=1, sequence=16), [1, 16]),
        (Fixed(batch=2), [2, "sequence"]),
        (Fixed(sequence=16), ["batch", 16]),
    ],
)
def test_fixed_dimensions_are_really_fixed(fixed: Fixed, dims: list[int | str], tmp_path: Path):
    model = build(tmp_path)
    onnx, _, context = run_steps(model, Recipe(steps=(Export(fixed=fixed), Int8())), tmp_path / "work")
    signature = onnx.signature()
    assert all(shape == dims for shape in signature["inputs"].values())
    assert signature["outputs"]["logits"][0] == dims[0]
    session = open_session(context.path("int8"))
    wrong = np.ones((3, 17), np.int64)
    with pytest.raises(Exception, match="Got invalid dimensions"):
        session.run(None, dict.fromkeys(model.inputs, wrong))


def test_a_fixed_sequence_beyond_the_model_is_refused(tmp_path: Path):
    recipe = Recipe(steps=(Export(fixed=Fixed(sequence=999)),))
    with pytest.raises(InputRefused, match="999 is longer than the model's 128 positions"):
        run_steps(build(tmp_path), recipe, tmp_path / "work")


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_fp16_keeps_float_outputs_and_halves_the_weights(arch: str, tmp_path: Path):
    model = build(tmp_path, arch)
    recipe = Recipe(steps=(Export(dtype="fp16"),), target="cuda")
    onnx, (facts,), context = run_steps(model, recipe, tmp_path / "work")
    assert facts["dtype"] == "fp16"
    assert context.parity[0]["precision"] == "fp16"
    kinds = Counter(value.const_value.dtype.name for value in onnx.model.graph.initializers.values())  # type: ignore[union-attr]
    assert kinds["FLOAT16"] > kinds["FLOAT"]
    assert onnx.model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert all(parameter.dtype.is_floating_point for parameter in model.module.parameters())
    assert {str(parameter.dtype) for parameter in model.module.parameters()} == {"torch.float32"}


def test_fp16_for_a_cpu_is_refused(tmp_path: Path):
    recipe = Recipe(steps=(Export(dtype="fp16"),), target="x86-vnni")
    with pytest.raises(UsageError, match="FP16 artifacts are for GPUs"):
        run_steps(None, recipe, tmp_path / "work")


def test_int8_for_a_gpu_is_refused(tmp_path: Path):
    recipe = Recipe(steps=(Export(), Int8()), target="cuda")
    with pytest.raises(UsageError, match="INT8 is for CPUs"):
        STEPS[Int8].require(Int8(), Context(recipe, "cuda", tmp_path))


def test_an_unknown_architecture_exports_with_what_cannot_be_done_named(tmp_path: Path):
    from transformers import ErnieConfig, ErnieForSequenceClassification

    folder = tiny.build(tmp_path / "base", "bert", "text-classification")
    config = ErnieConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
    )
    ErnieForSequenceClassification(config).save_pretrained(tmp_path / "ernie")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "ernie" / name).write_bytes((folder / name).read_bytes())
    model = load(resolve(str(tmp_path / "ernie")), "text-classification")
    assert not model.anatomy.known
    assert any("ernie" in note for note in model.notes)
    _, (facts,), context = run_steps(model, Recipe(), tmp_path / "work")
    assert facts["unfused_attention"] == 2
    assert context.parity[0]["checks"] > 0


def test_the_source_model_is_left_as_it_was(tmp_path: Path):
    model = build(tmp_path)
    feeds = dict.fromkeys(model.inputs, np.ones((2, 5), np.int64))
    before = model.run(feeds, model.outputs)
    implementation = model.config._attn_implementation
    export(model, Export(), opset=Recipe().opset)
    assert model.config._attn_implementation == implementation
    assert np.array_equal(before[0], model.run(feeds, model.outputs)[0])


def test_nothing_of_this_machine_is_in_the_graph(tmp_path: Path):
    _, _, context = run_steps(build(tmp_path), Recipe(), tmp_path / "work")
    content = context.path("export").read_bytes()
    for trace in (b"/work/", b"site-packages", b"stack_trace", b".py", str(tmp_path).encode()):
        assert trace not in content
