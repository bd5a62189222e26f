"""Stored factors: the same answers from a smaller file, nothing left to rebuild, and nothing wrong stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from deploycomp.export.torch_export import export
from deploycomp.graph import rebuild
from deploycomp.graph.store import OFF_BY_ONE, StoredGroup, as_stored, store
from deploycomp.models import factors, resolve
from deploycomp.models.factors import RULES
from deploycomp.models.load import load
from deploycomp.onnxmodel import OnnxModel, save_graph
from deploycomp.quantize.int8 import quantize
from deploycomp.recipe import Export, Int8
from tests import tiny

ROWS, COLUMNS = (96, 160), 64
PATHS = ("layer.0.fc", "layer.1.fc")
SIZES: dict[str, dict[str, int]] = {
    "low_rank": {"rank": 4, "norms": 1, "shift": 1},
    "autoencoder": {"latent": 5, "inner": 9, "outer": 12},
    "kronecker": {"terms": 3, "rows": 7, "columns": 5},
    "tucker": {"rank1": 6, "rank2": 5, "rank3": 8, "rows": 7},
}
"""Blocks of 7 × 5 fill neither 96 nor 160 rows, nor 64 columns."""

INITIALIZER_HEAD = 100
"""Bytes of a protobuf besides a tensor's values."""

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return random.standard_normal(shape, dtype=np.float32)


def few_bits(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Products and sums of these are exact in whatever order."""
    return random.integers(-4, 5, shape).astype(np.float32) / 8


def seven_bits(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exact, and exactly the values that INT8 stores: the largest of each slice is 127/128."""
    values = random.integers(-127, 128, shape)
    values.reshape(-1, shape[-1])[0] = 127
    return values.astype(np.float32) / 128


def group_of(rule: str, *, bits: Literal[8, 32] = 32, draw: Draw = normal, rows: tuple[int, ...] = ROWS) -> StoredGroup:
    random = np.random.default_rng(0)

    def drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {name: draw(random, shape) for name, shape in shapes.items()}

    shapes = [RULES[rule].shapes(SIZES[rule], count, COLUMNS) for count in rows]
    own, shared = tuple(drawn(each) for each, _ in shapes), drawn(shapes[0][1])
    return StoredGroup(rule, PATHS[: len(rows)], tuple((count, COLUMNS) for count in rows), own, shared, bits)


def weights_of(group: StoredGroup, bits: Literal[8, 32] | None = None) -> list[np.ndarray]:
    """[rows, columns] of each member, by the rule in torch from what *bits* leave of the factors."""

    def kept(tensors: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(as_stored(array, bits or group.bits)) for name, array in tensors.items()}

    dense = [RULES[group.rule].rows(kept(own), kept(group.shared), None).numpy() for own in group.own]
    return [weight[:rows, :columns] for weight, (rows, columns) in zip(dense, group.shapes, strict=True)]


def model_of(weights: Mapping[str, np.ndarray], *, opset: int = 18) -> OnnxModel:
    """y<n> = x<n> · weight, for each initializer; `.weight_t` is [columns, rows] as export writes it."""
    inputs: list[ir.Value] = []
    nodes: list[ir.Node] = []
    stored: list[ir.Value] = []
    for number, (name, array) in enumerate(weights.items()):
        shapes = {"x": ("b", "s", array.shape[0]), "y": ("b", "s", array.shape[1])}
        kind_of = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        x, y = (ir.Value(name=f"{kind}{number}", type=kind_of, shape=ir.Shape(shape)) for kind, shape in shapes.items())
        weight = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
        node = ir.node("MatMul", [x, weight], outputs=[y], name=f"{name.rsplit('.', 1)[0]}/MatMul")
        inputs.append(x)
        nodes.append(node)
        stored.append(weight)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=stored, opset_imports={"": opset}, name="g")
    names = tuple(str(value.name) for value in inputs), tuple(str(value.name) for value in outputs)
    return OnnxModel(ir.Model(graph, ir_version=10), "x", *names)


def linears(weights: list[np.ndarray], *, opset: int = 18) -> OnnxModel:
    return model_of({f"{path}.weight_t": each.T for path, each in zip(PATHS, weights, strict=False)}, opset=opset)


def in_int8(weights: list[np.ndarray], *, bits: Literal[7, 8] = 7, ops: Any = "fused") -> OnnxModel:
    return quantize(linears(weights), Int8(), bits=bits, ops=ops)[0]


def save(model: OnnxModel, path: Path) -> Path:
    save_graph(model.model, path, external_data_bytes=1 << 30, size=model.nbytes)
    onnx.checker.check_model(path)
    return path


def answers(path: Path) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    feeds: dict[str, np.ndarray] = {}
    for each in session.get_inputs():
        kind = np.float16 if "16" in each.type else np.float32
        feeds[each.name] = random.standard_normal((2, 5, each.shape[-1])).astype(kind)
    return [np.asarray(each) for each in session.run(None, feeds)]


def folded(path: Path) -> onnx.ModelProto:
    """What a session holds once it is created."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".folded"))
    options.log_severity_level = 3  # it warns that such a file fits this machine only
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in folded(path).graph.node)


@pytest.mark.parametrize("opset", [18, 26])
@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("rule", RULES)
def test_answers_stay_and_the_file_is_small(rule: str, bits: Literal[8, 32], opset: int, tmp_path: Path):
    group = group_of(rule, bits=bits)
    first, second = weights_of(group)
    model = model_of({"layer.0.fc.weight_t": first.T, "layer.1.fc.weight": second}, opset=opset)
    dense = save(model, tmp_path / "dense.onnx")
    facts = store(model, [group])
    stored = save(model, tmp_path / "stored.onnx")

    (about,) = facts["groups"]
    assert about["rebuilt"] == ["layer.0.fc.weight_t", "layer.1.fc.weight"]
    assert (about["dense"], about["absent"]) == ([], [])
    for before, after in zip(answers(dense), answers(stored), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    assert operators(stored) == operators(dense) == {"MatMul": 2}

    tensors = [*group.shared.values(), *(each for own in group.own for each in own.values())]
    values = sum(each.size * (1 if bits == 8 and each.ndim > 1 else 4) for each in tensors)
    scales = sum(each.size // each.shape[-1] * 4 for each in tensors if bits == 8 and each.ndim > 1)
    assert values + scales <= model.nbytes == facts["bytes"]["after"] == about["bytes"]["after"]
    assert model.nbytes <= values + scales + 200  # shapes and constants
    overhead = INITIALIZER_HEAD * (len(model.model.graph) + len(model.model.graph.initializers))
    assert stored.stat().st_size <= model.nbytes + overhead
    assert model.nbytes < facts["bytes"]["before"] / 2


@pytest.mark.parametrize("rule", RULES)
def test_a_decoder_is_stored_and_computed_once(rule: str):
    group = group_of(rule, bits=8)
    model = linears(weights_of(group))
    store(model, [group])
    names = list(model.model.graph.initializers)
    for name, array in group.shared.items():
        holders = [each for each in names if each.split("_")[0].endswith(f".{name}")]
        ending = ["_int8", "_scale"] if array.ndim > 1 else [""]
        assert holders == [f"layer.0.fc.decoder.{name}{each}" for each in ending]
    readers = Counter(str(value.name) for node in model.model.graph for value in node.inputs if value is not None)
    decoders = [name for name in names if ".decoder." in name and "_int8" in name]
    assert decoders
    assert all(readers[name] == 1 for name in decoders)  # one Cast, whatever the number of members


@pytest.mark.parametrize("ops", ["fused", "standard"])
@pytest.mark.parametrize("weight_bits", [7, 8])
@pytest.mark.parametrize(
    ("rule", "bits", "draw"),
    [
        ("low_rank", 32, few_bits),
        ("low_rank", 8, seven_bits),
        ("kronecker", 32, few_bits),
        ("kronecker", 8, seven_bits),
        ("tucker", 32, few_bits),
    ],
)
def test_int8_is_the_same_bit_by_bit(rule: str, bits: Any, draw: Draw, weight_bits: Any, ops: str, tmp_path: Path):
    group = group_of(rule, bits=bits, draw=draw)
    model = in_int8(weights_of(group), bits=weight_bits, ops=ops)
    dense = save(model, tmp_path / "dense.onnx")
    facts = store(model, [group])
    (about,) = facts["groups"]
    stored = save(model, tmp_path / "stored.onnx")
    assert about["rebuilt"] == [f"{path}.weight_int8" for path in PATHS]
    assert about["off_by_one"] == 0
    saved, saved_by_group = (each["bytes"]["before"] - each["bytes"]["after"] for each in (facts, about))
    assert saved == saved_by_group
    for before, after in zip(answers(dense), answers(stored), strict=True):
        assert np.array_equal(after, before)
    assert operators(stored) == operators(dense)
    assert stored.stat().st_size < dense.stat().st_size


def test_weights_beyond_the_range_are_clipped_as_they_were():
    group = group_of("low_rank", draw=few_bits, rows=(96,))
    weights = weights_of(group)
    model, _ = quantize(linears(weights), Int8(), bits=7, ops="fused", clip="mse")
    scale = model.model.graph.initializers[f"{PATHS[0]}.weight_scale"].const_value
    assert scale is not None
    assert np.abs(weights[0].T / scale.numpy()).max() > 64.5  # unclipped, 65
    (about,) = store(model, [group])["groups"]
    assert about["rebuilt"] == [f"{PATHS[0]}.weight_int8"]
    assert about["off_by_one"] == 0


@pytest.mark.parametrize("bits", [8, 32])
def test_integers_that_tanh_gives_are_the_same_but_for_the_middle_of_a_step(bits: Any, tmp_path: Path):
    group = group_of("autoencoder", bits=bits)
    model = in_int8(weights_of(group))
    names = [f"{path}.weight_int8" for path in PATHS]
    before = {name: model.model.graph.initializers[name].const_value.numpy() for name in names}  # type: ignore
    (about,) = store(model, [group])["groups"]
    assert about["rebuilt"] == names
    held = {
        each.name: onnx.numpy_helper.to_array(each) for each in folded(save(model, tmp_path / "m")).graph.initializer
    }
    for name in names:
        apart = np.abs(held[name].astype(int) - before[name])
        assert held[name].dtype == np.int8
        assert apart.max() <= 1
        assert np.mean(apart) <= OFF_BY_ONE


def test_rows_of_an_int8_table(tmp_path: Path):
    group = group_of("low_rank", draw=few_bits, rows=(160,))
    name = f"{PATHS[0]}.weight"
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b"]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["b", COLUMNS]))
    table = ir.Value(name=name, const_value=ir.tensor(weights_of(group)[0], name=name))
    node = ir.node("Gather", [table, ids], {"axis": 0}, outputs=[y], name="table/Gather")
    graph = ir.Graph([ids], [y], nodes=[node], initializers=[table], opset_imports={"": 18}, name="g")
    model, _ = quantize(OnnxModel(ir.Model(graph, ir_version=10), "x", ("ids",), ("y",)), Int8(), bits=8, ops="fused")
    feeds = {"ids": np.arange(160)}
    before = ort.InferenceSession(save(model, tmp_path / "dense.onnx")).run(None, feeds)[0]
    (about,) = store(model, [group])["groups"]
    after = ort.InferenceSession(save(model, tmp_path / "stored.onnx")).run(None, feeds)[0]
    assert about["rebuilt"] == [f"{PATHS[0]}.weight_rows_int8"]
    assert np.array_equal(after, before)


def test_a_half_float_weight(tmp_path: Path):
    group = group_of("low_rank")
    above = np.float16(np.inf)  # torch may round to the neighbour
    model = linears([np.nextafter(each.astype(np.float16), above) for each in weights_of(group)])
    before = answers(save(model, tmp_path / "dense.onnx"))
    (about,) = store(model, [group])["groups"]
    assert about["rebuilt"] == [f"{path}.weight_t" for path in PATHS]
    for old, new in zip(before, answers(save(model, tmp_path / "stored.onnx")), strict=True):
        assert new.dtype == np.float16
        np.testing.assert_allclose(new, old, atol=2e-3 * np.abs(old).max())


def test_all_who_read_a_weight_read_the_rebuilt_one(tmp_path: Path):
    group = group_of("low_rank", rows=(96,))
    model = linears(weights_of(group))
    graph = model.model.graph
    again = ir.node("MatMul", [graph.inputs[0], graph.initializers[f"{PATHS[0]}.weight_t"]], name="again")
    both = ir.node("Add", [again.outputs[0], graph.outputs[0]], name="both")
    graph.extend([again, both])
    y = both.outputs[0]
    y.name, y.type, y.shape = "both", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", "s", 96])
    graph.outputs.append(y)
    outputs, dense = [value.name for value in graph.outputs], graph.initializers[f"{PATHS[0]}.weight_t"]
    before = answers(save(model, tmp_path / "dense.onnx"))
    store(model, [group])
    after = answers(save(model, tmp_path / "stored.onnx"))
    assert f"{PATHS[0]}.weight_t" not in graph.initializers
    assert not dense.uses()
    assert [value.name for value in graph.outputs] == outputs
    np.testing.assert_allclose(after[1], before[1], atol=1e-4)
    np.testing.assert_allclose(after[1], 2 * after[0], rtol=1e-6)


def test_names_of_nodes_stay_and_new_ones_are_unique():
    group = group_of("tucker")
    model = linears(weights_of(group))
    old = [node.name for node in model.model.graph]
    store(model, [group])
    names = [node.name for node in model.model.graph]
    assert names[-len(old) :] == old
    assert len(set(names)) == len(names)
    prefixes = ("layer.0.fc.decoder/", "layer.0.fc.weight_t/", "layer.1.fc.weight_t/")
    new = [next((each for each in prefixes if str(name).startswith(each)), name) for name in names[: -len(old)]]
    assert tuple(dict.fromkeys(new)) == prefixes  # first what all have in common, then each


@pytest.mark.parametrize("smoothed", [0, 1])
def test_a_smoothed_weight_stays_dense_with_its_reason(smoothed: int, tmp_path: Path):
    group = group_of("low_rank", draw=few_bits)
    weights = weights_of(group)
    weights[smoothed] = weights[smoothed] * np.linspace(0.5, 2, COLUMNS, dtype=np.float32)
    model = in_int8(weights)
    before = answers(save(model, tmp_path / "dense.onnx"))
    (about,) = store(model, [group])["groups"]
    kept, rebuilt = f"{PATHS[smoothed]}.weight_int8", f"{PATHS[1 - smoothed]}.weight_int8"
    assert about["rebuilt"] == [rebuilt]
    (why,) = about["dense"]
    assert why["name"] == kept
    assert "of its integers differ" in why["reason"]
    assert kept in model.model.graph.initializers
    assert not any(name.startswith(f"{PATHS[smoothed]}.latents") for name in model.model.graph.initializers)
    assert all(map(np.array_equal, answers(save(model, tmp_path / "stored.onnx")), before))


@pytest.mark.parametrize(("count", "stays"), [(1, False), (400, True)])
def test_few_integers_may_round_the_other_way(count: int, stays: bool):
    group = group_of("low_rank", draw=few_bits, rows=(96,))
    model = in_int8(weights_of(group))
    dense = model.model.graph.initializers[f"{PATHS[0]}.weight_int8"]
    assert dense.const_value is not None
    integers = dense.const_value.numpy().copy()
    flat = integers.reshape(-1)
    places = np.flatnonzero(np.abs(flat) < 60)[:count]
    flat[places] += 1
    dense.const_value = ir.tensor(integers, name=dense.name)
    (about,) = store(model, [group])["groups"]
    assert bool(about["dense"]) == stays
    assert about["off_by_one"] == (0 if stays else count)


def test_one_integer_that_is_two_off_stays_dense():
    group = group_of("low_rank", draw=few_bits, rows=(96,))
    model = in_int8(weights_of(group))
    dense = model.model.graph.initializers[f"{PATHS[0]}.weight_int8"]
    assert dense.const_value is not None
    integers = dense.const_value.numpy().copy()
    integers[3, 5] += 2 if integers[3, 5] < 0 else -2
    dense.const_value = ir.tensor(integers, name=dense.name)
    (about,) = store(model, [group])["groups"]
    assert "by up to 2" in about["dense"][0]["reason"]


def test_a_weight_of_unrounded_factors_is_not_stored_as_if_of_rounded_ones():
    group = group_of("autoencoder", bits=8)
    model = linears(weights_of(group, bits=32))
    names = set(model.model.graph.initializers)
    (about,) = store(model, [group])["groups"]
    assert about["rebuilt"] == []
    assert all("it was changed after it was rebuilt" in each["reason"] for each in about["dense"])
    assert set(model.model.graph.initializers) == names
    assert len(model.model.graph) == 2


def test_what_the_graph_does_not_hold_is_reported():
    group = group_of("kronecker")
    model = linears(weights_of(group)[:1])
    (about,) = store(model, [group])["groups"]
    assert about["rebuilt"] == [f"{PATHS[0]}.weight_t"]
    assert about["absent"] == [PATHS[1]]


def test_factors_that_are_no_smaller_are_not_stored():
    group = group_of("low_rank", draw=few_bits, rows=(96,))
    bulky = replace(
        group,
        own=({"latents": np.tile(group.own[0]["latents"], 16) / 16, "norms": group.own[0]["norms"]},),
        shared={"basis": np.tile(group.shared["basis"], (16, 1)), "shift": group.shared["shift"]},
    )
    model = linears(weights_of(group))
    facts = store(model, [bulky])
    assert "no smaller" in facts["groups"][0]["dense"][0]["reason"]
    assert facts["bytes"]["after"] == facts["bytes"]["before"] == model.nbytes
    assert len(model.model.graph) == 1


@pytest.mark.parametrize("int8", [False, True])
def test_a_weight_of_another_shape_stays_dense(int8: bool):
    group = group_of("low_rank")
    wrong = replace(group, shapes=group.shapes[::-1], own=group.own[::-1])
    weights = weights_of(group)
    model = in_int8(weights) if int8 else linears(weights)
    (about,) = store(model, [wrong])["groups"]
    assert [each["reason"] for each in about["dense"]] == [
        "its factors give [64, 160], the graph holds [64, 96]",
        "its factors give [64, 96], the graph holds [64, 160]",
    ]


def test_a_weight_that_is_an_output_stays_dense():
    group = group_of("low_rank")
    model = linears(weights_of(group))
    weight = model.model.graph.initializers[f"{PATHS[0]}.weight_t"]
    model.model.graph.outputs.append(weight)
    (about,) = store(model, [group])["groups"]
    assert about["dense"] == [{"name": weight.name, "reason": "it is an output of the graph"}]
    assert about["rebuilt"] == [f"{PATHS[1]}.weight_t"]


def test_a_name_that_is_taken_is_refused():
    group = group_of("low_rank")
    weights = weights_of(group)
    model = model_of({"layer.0.fc.weight_t": weights[0].T, "layer.0.fc.latents": weights[1]})
    with pytest.raises(ValueError, match=r"layer\.0\.fc\.latents"):
        store(model, [group])


def test_two_groups_and_the_sum_of_their_bytes():
    first, second = group_of("autoencoder", rows=(96,)), group_of("kronecker", rows=(160,))
    second = replace(second, paths=(PATHS[1],))
    model = linears([*weights_of(first), *weights_of(second)])
    facts = store(model, [first, second])
    for when in ("before", "after"):
        constants = facts["bytes"][when] - sum(each["bytes"][when] for each in facts["groups"])
        assert -200 <= constants <= 0  # shapes that both need


def test_names_are_those_of_a_real_export(tmp_path: Path):
    task = "text-classification"
    model = load(resolve(str(tiny.build(tmp_path / "model", "bert", task))), task)
    layers = {path: each for path, each in model.module.named_modules() if path.endswith(("query", "key", "value"))}
    random = np.random.default_rng(0)
    own = tuple({"latents": few_bits(random, (32, 3))} for _ in layers)
    shared = {"basis": few_bits(random, (3, 32))}
    group = StoredGroup("low_rank", tuple(layers), ((32, 32),) * len(layers), own, shared)
    for layer, weight in zip(layers.values(), weights_of(group), strict=True):
        layer.weight.data.copy_(torch.from_numpy(weight))  # type: ignore
    exported, _ = export(model, Export(), opset=18)
    onnx_model, _ = quantize(exported, Int8(), bits=7, ops="fused")
    feeds = {name: np.ones((2, 7), np.int64) for name in onnx_model.inputs}
    before = ort.InferenceSession(save(onnx_model, tmp_path / "dense.onnx")).run(None, feeds)
    (about,) = store(onnx_model, [group])["groups"]
    after = ort.InferenceSession(save(onnx_model, tmp_path / "stored.onnx")).run(None, feeds)
    assert about["rebuilt"] == [f"{path}.weight_int8" for path in layers]
    assert about["off_by_one"] == 0
    assert all(map(np.array_equal, before, after))


def test_constants_are_those_of_the_rules():
    assert (rebuild.SLOPE, rebuild.SMALLEST) == (factors.SLOPE, factors._SMALLEST)


def test_int8_factors_are_within_half_a_step():
    array = normal(np.random.default_rng(0), (3, 5, 7)) * np.array([1, 10, 0, 0.1, 5], np.float32)[:, None]
    kept = as_stored(array, 8)
    steps = np.abs(array).max(-1, keepdims=True) / 127
    assert np.all(np.abs(kept - array) <= steps * 0.5001)
    np.testing.assert_allclose(as_stored(kept, 8), kept, rtol=1e-6)
    assert np.array_equal(as_stored(array, 32), array)
    assert np.array_equal(as_stored(array[0, 0], 8), array[0, 0])  # one dimension stays
