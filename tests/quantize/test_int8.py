"""INT8: the arithmetic of rounding, coverage with reasons, and graphs that a session opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.errors import VerificationFailed
from deploycomp.onnxmodel import OnnxModel
from deploycomp.quantize.int8 import quantize
from deploycomp.quantize.products import MIN_WEIGHTS
from deploycomp.quantize.weights import LARGEST, quantize_weight
from deploycomp.recipe import Int8
from deploycomp.runtime.session import open_session
from tests.quantize.graphs import EXACT

WEIGHTS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-100, 100, width=32)
)


@given(weight=WEIGHTS, bits=st.sampled_from([7, 8]), axis=st.sampled_from([0, 1]))
def test_rounding_is_within_half_a_step(weight: np.ndarray, bits: Any, axis: int):
    integers, scale = quantize_weight(weight, bits=bits, axis=axis)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= LARGEST[bits]
    assert np.all(np.abs(integers * scale - weight) <= scale * (0.5 + 1e-3))
    assert scale.shape == ((weight.shape[0], 1) if axis == 0 else (1, weight.shape[1]))
    assert np.all(scale > 0)


@given(weight=WEIGHTS, bits=st.sampled_from([7, 8]))
def test_what_is_on_the_grid_is_exact(weight: np.ndarray, bits: Any):
    integers, scale = quantize_weight(weight, bits=bits, axis=1)
    again, _ = quantize_weight((integers * scale).astype(np.float32), bits=bits, axis=1)
    assert np.array_equal(integers, again)


@given(weight=WEIGHTS)
def test_rows_are_columns_of_the_transpose(weight: np.ndarray):
    rows, _ = quantize_weight(weight, bits=8, axis=0)
    columns, _ = quantize_weight(np.ascontiguousarray(weight.T), bits=8, axis=1)
    assert np.array_equal(rows, columns.T)


def test_seven_bits_cannot_saturate_a_pair_of_products():
    assert 2 * 255 * LARGEST[7] <= np.iinfo(np.int16).max < 2 * 255 * LARGEST[8]


RNG = np.random.default_rng(0)


def initializer(name: str, *shape: int) -> ir.Value:
    array = RNG.normal(size=shape).astype(np.float32)
    return ir.Value(name=name, const_value=ir.tensor(array, name=name))


def tensor(name: str, kind: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))


def model(inputs: list[ir.Value], output: ir.Node, nodes: list[ir.Node], weights: list[ir.Value]) -> OnnxModel:
    out = output.outputs[0]
    out.name, out.type, out.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", "s", "n"])
    for node in nodes:
        node.name = node.name or f"layer/{node.op_type}"
    graph = ir.Graph(inputs, [out], nodes=nodes, initializers=weights, opset_imports={"": 18}, name="g")
    return OnnxModel(ir.Model(graph, ir_version=10), "x", tuple(str(v.name) for v in inputs), ("y",))


def linear(*, bias: bool = True, shape: tuple[int, int] = (64, 32)) -> OnnxModel:
    x, w = tensor("x", ir.DataType.FLOAT, "b", "s", shape[0]), initializer("fc.weight", *shape)
    product = ir.node("MatMul", [x, w], name="fc/MatMul")
    if not bias:
        return model([x], product, [product], [w])
    b = initializer("fc.bias", shape[1])
    add = ir.node("Add", [product.outputs[0], b], name="fc/Add")
    return model([x], add, [product, add], [w, b])


def save_and_run(onnx: OnnxModel, path: Path, **feeds: np.ndarray) -> np.ndarray:
    ir.save(onnx.model, path)
    return open_session(path, threads=1, config=EXACT).run(["y"], feeds)[0]


@pytest.mark.parametrize("ops", ["fused", "standard"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [7, 8])
def test_linear_matches_float_within_its_steps(tmp_path: Path, ops: Any, bias: bool, bits: Any):
    x = RNG.normal(size=(2, 5, 64)).astype(np.float32)
    onnx = linear(bias=bias)
    want = save_and_run(onnx, tmp_path / "fp32.onnx", x=x)
    onnx, facts = quantize(onnx, Int8(), bits=bits, ops=ops)
    got = save_and_run(onnx, tmp_path / "int8.onnx", x=x)
    step = (x.max() - x.min()) / 255
    bound = 64 * (step / 2 * 4 + np.abs(x).max() * 4 / LARGEST[bits] / 2)  # |w| < 4: both roundings, all 64 terms
    assert np.abs(got - want).max() < bound
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < (0.015 if bits == 8 else 0.025)
    assert facts["nodes"] == {"MatMul": [1, 1]}
    assert facts["left_in_float"] == []
    ops_found = {node.op_type for node in onnx.model.graph}
    assert ops_found == ({"DynamicQuantizeMatMul"} if ops == "fused" else ops_found)
    assert ("MatMulInteger" in ops_found) == (ops == "standard")
    assert not any(str(name).endswith(".weight") for name in onnx.model.graph.initializers)


def test_fused_and_standard_compute_the_same(tmp_path: Path):
    x = RNG.normal(size=(1, 7, 64)).astype(np.float32)
    weight = linear()
    ir.save(weight.model, tmp_path / "w.onnx")
    answers = []
    for ops in ("fused", "standard"):
        onnx = OnnxModel(ir.load(tmp_path / "w.onnx"), "x", ("x",), ("y",))
        onnx, _ = quantize(onnx, Int8(), bits=8, ops=ops)  # type: ignore[arg-type]
        answers.append(save_and_run(onnx, tmp_path / f"{ops}.onnx", x=x))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_a_shared_input_is_quantized_once(tmp_path: Path):
    x, weights = tensor("x", ir.DataType.FLOAT, "b", "s", 64), [initializer(f"{n}.weight", 64, 32) for n in "qkv"]
    products = [ir.node("MatMul", [x, w], name=f"{n}/MatMul") for n, w in zip("qkv", weights, strict=True)]
    total = ir.node("Sum", [product.outputs[0] for product in products], name="Sum")
    onnx = model([x], total, [*products, total], weights)
    onnx, facts = quantize(onnx, Int8(), bits=8, ops="fused")
    kinds = [node.op_type for node in onnx.model.graph]
    assert kinds.count("DynamicQuantizeLinear") == 1
    assert kinds.count("MatMulIntegerToFloat") == 3
    assert facts["nodes"]["MatMul"] == [3, 3]
    save_and_run(onnx, tmp_path / "m.onnx", x=np.ones((1, 2, 64), np.float32))


@pytest.mark.parametrize("trans", [0, 1])
def test_gemm_with_and_without_transpose(tmp_path: Path, trans: int):
    x, w = tensor("x", ir.DataType.FLOAT, "b", 64), initializer("fc.weight", *((32, 64) if trans else (64, 32)))
    b = initializer("fc.bias", 32)
    gemm = ir.node("Gemm", [x, w, b], {"transB": trans}, name="fc/Gemm")
    onnx = model([x], gemm, [gemm], [w, b])
    onnx.model.graph.outputs[0].shape = ir.Shape(["b", 32])
    feed = RNG.normal(size=(3, 64)).astype(np.float32)
    want = save_and_run(onnx, tmp_path / "a.onnx", x=feed)
    onnx, facts = quantize(onnx, Int8(), bits=8, ops="fused")
    got = save_and_run(onnx, tmp_path / "b.onnx", x=feed)
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.015
    assert facts["nodes"]["Gemm"] == [1, 1]


def embedding(rows: int = 64) -> OnnxModel:
    ids, table = tensor("ids", ir.DataType.INT64, "b", "s"), initializer("word.weight", rows, 32)
    gather = ir.node("Gather", [table, ids], {"axis": 0}, name="word/Gather")
    return model([ids], gather, [gather], [table])


def test_embeddings_keep_a_scale_a_row(tmp_path: Path):
    onnx = embedding()
    ids = RNG.integers(0, 64, (2, 5))
    want = save_and_run(onnx, tmp_path / "a.onnx", ids=ids)
    onnx, facts = quantize(onnx, Int8(), bits=8, ops="standard")
    got = save_and_run(onnx, tmp_path / "b.onnx", ids=ids)
    scale = np.abs(want).max(axis=-1, keepdims=True) / 127
    assert np.all(np.abs(got - want) <= scale * 0.501)
    assert facts["layers"][0]["bytes_after"] == 64 * 32 + 64 * 4
    assert facts["bytes"]["int8"] == 64 * 32


def test_the_reason_is_given_for_every_node_left_in_float():
    x = tensor("x", ir.DataType.FLOAT, "b", 64, 64)
    w, small, cube, stored = (
        initializer("w", 64, 64), initializer("small", 64, 2), initializer("cube", 2, 64, 64), initializer("c", 64, 64),
    )  # fmt: skip
    nodes = [
        ir.node("MatMul", [x, w], name="good"),
        ir.node("MatMul", [x, x], name="activations"),
        ir.node("MatMul", [x, small], name="small"),
        ir.node("MatMul", [x, cube], name="cube"),
        ir.node("MatMul", [stored, w], name="constants"),
    ]
    onnx = model([x], nodes[0], nodes, [w, small, cube, stored])
    _, facts = quantize(onnx, Int8(), bits=8, ops="fused")
    reasons = {each["node"]: each["reason"] for each in facts["left_in_float"]}
    assert facts["nodes"]["MatMul"] == [1, 5]
    assert reasons["activations"] == "both inputs are activations"
    assert f"128 weights are too few to pay for quantizing the input (< {MIN_WEIGHTS})" in reasons["small"]
    assert reasons["cube"] == "the weight has 3 dimensions"
    assert "both inputs are constants" in reasons["constants"]


def test_embeddings_can_stay_in_float():
    ids, table = tensor("ids", ir.DataType.INT64, "b", "s"), initializer("word.weight", 64, 64)
    w = initializer("fc.weight", 64, 32)
    gather = ir.node("Gather", [table, ids], {"axis": 0}, name="word/Gather")
    product = ir.node("MatMul", [gather.outputs[0], w], name="fc/MatMul")
    onnx = model([ids], product, [gather, product], [table, w])
    _, facts = quantize(onnx, Int8(embeddings=False), bits=8, ops="fused")
    assert facts["nodes"] == {"Gather": [0, 1], "MatMul": [1, 1]}
    assert facts["left_in_float"] == [
        {"node": "word/Gather", "op": "Gather", "reason": "embeddings stay in float, as asked"}
    ]


def test_zero_quantized_nodes_is_an_error_with_the_reasons():
    with pytest.raises(VerificationFailed, match="0 of 1 nodes were quantized") as caught:
        quantize(linear(shape=(4, 4)), Int8(), bits=8, ops="fused")
    assert "too few to pay" in str(caught.value.why)
    assert caught.value.exit_code == 4


def test_a_shared_weight_is_stored_once():
    x, w = tensor("x", ir.DataType.FLOAT, "b", "s", 64), initializer("shared.weight", 64, 64)
    first = ir.node("MatMul", [x, w], name="one/MatMul")
    second = ir.node("MatMul", [first.outputs[0], w], name="one/MatMul")
    onnx = model([x], second, [first, second], [w])
    onnx, facts = quantize(onnx, Int8(), bits=8, ops="fused")
    assert facts["bytes"]["int8"] == 64 * 64
    assert len(facts["layers"]) == 1
    assert [node.name for node in onnx.model.graph] == ["one/DynamicQuantizeMatMul", "one/DynamicQuantizeMatMul_2"]


def test_zero_columns_do_not_divide_by_zero():
    integers, scale = quantize_weight(np.zeros((4, 3), np.float32), bits=8, axis=1)
    assert not integers.any()
    assert np.all(scale == 1)
