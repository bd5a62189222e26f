"""Smoothing: the FP32 graph computes the same, and the error of the rounded one never grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deploycomp.onnxmodel import OnnxModel
from deploycomp.quantize.calibrate import calibrate
from deploycomp.quantize.products import inputs_of_products
from deploycomp.quantize.smooth import smooth
from tests.quantize import graphs
from tests.quantize.graphs import WIDTH, stored, tensor, weights

OUTLIER = np.where(np.arange(WIDTH) == 7, 60.0, 1.0)
"""One channel is sixty times as strong as the others."""


def attention(*, shared: bool = False) -> OnnxModel:
    """Q, K, V → MultiHeadAttention → O, with a strong channel in V, whose bias K may have too."""
    x = tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH)
    matrices = [stored(f"{name}.weight", weights(WIDTH, WIDTH, seed=i)) for i, name in enumerate("qkvo")]
    matrices[2] = stored("v.weight", weights(WIDTH, WIDTH, seed=2) * OUTLIER)
    bias = stored("v.bias", weights(WIDTH, seed=4) * OUTLIER)
    q, k, v = (ir.node("MatMul", [x, w], name=f"{n}/MatMul") for n, w in zip("qkv", matrices[:3], strict=True))
    add = ir.node("Add", [v.outputs[0], bias], name="v/Add")
    same = [ir.node("Add", [k.outputs[0], bias], name="k/Add")] if shared else []
    inputs = [q.outputs[0], same[0].outputs[0] if shared else k.outputs[0], add.outputs[0]]
    mix = ir.node("MultiHeadAttention", inputs, {"num_heads": 4}, domain="com.microsoft", name="mha")
    out = ir.node("MatMul", [mix.outputs[0], matrices[3]], name="o/MatMul")
    return graphs.onnx([x], out.outputs[0], [q, k, v, *same, add, mix, out], [*matrices, bias])


def norm(*, residual: bool) -> OnnxModel:
    """LayerNormalization with a strong channel → two products, and the residual in post-LN."""
    x = tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH)
    gamma, beta = stored("norm.weight", OUTLIER), stored("norm.bias", weights(WIDTH))
    first, second = (stored(f"{n}.weight", weights(WIDTH, WIDTH, seed=i)) for i, n in enumerate("ab"))
    normed = ir.node("LayerNormalization", [x, gamma, beta], {"axis": -1}, name="norm")
    one, two = (ir.node("MatMul", [normed.outputs[0], w], name=f"{w.name}/MatMul") for w in (first, second))
    last = ir.node("Sum", [one.outputs[0], two.outputs[0], *([normed.outputs[0]] if residual else [])], name="sum")
    return graphs.onnx([x], last.outputs[0], [normed, one, two, last], [gamma, beta, first, second])


def glu(*, split: bool) -> OnnxModel:
    """Sigmoid(gate) · up → down, with gate and up in one matrix or two."""
    x = tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH)
    gate, up = weights(WIDTH, WIDTH), weights(WIDTH, WIDTH, seed=1) * OUTLIER
    down = stored("down.weight", weights(WIDTH, WIDTH, seed=2))
    if split:
        both = stored("both.weight", np.concatenate([gate, up], axis=1))
        first = ir.node("MatMul", [x, both], name="both/MatMul")
        parts = ir.node("Split", [first.outputs[0]], {"axis": -1, "num_outputs": 2}, num_outputs=2, name="split")
        parts.outputs[0].name, parts.outputs[1].name = "gate", "up"
        nodes, matrices = [first, parts], [both]
        gated, passed = parts.outputs
    else:
        matrices = [stored("gate.weight", gate), stored("up.weight", up)]
        nodes = [ir.node("MatMul", [x, w], name=f"{w.name}/MatMul") for w in matrices]
        gated, passed = (node.outputs[0] for node in nodes)
    act = ir.node("Sigmoid", [gated], name="act")
    product = ir.node("Mul", [act.outputs[0], passed], name="mul")
    out = ir.node("MatMul", [product.outputs[0], down], name="down/MatMul")
    return graphs.onnx([x], out.outputs[0], [*nodes, act, product, out], [*matrices, down])


CASES = {
    "value": attention,
    "value, its bias stored once for two": lambda: attention(shared=True),
    "norm": lambda: norm(residual=False),
    "gate": lambda: glu(split=False),
    "gate, packed": lambda: glu(split=True),
    "explicit": lambda: norm(residual=True),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_changes_no_answer_and_tames_an_outlier(case: str, tmp_path: Path):
    model, feeds = CASES[case](), graphs.rows(30)
    path = graphs.save(model, tmp_path / "m.onnx")
    want = [graphs.answer(path, **row) for row in feeds]
    statistics = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    model, facts = smooth(model, statistics, bits=8, explicit=case == "explicit")
    assert all(each["error_after"] <= each["error_before"] for each in facts)
    strong = [each for each in facts if each["fold"] == case.split(",")[0]]
    assert len(strong) == 1
    assert strong[0]["error_after"] < 0.4 * strong[0]["error_before"]
    assert strong[0]["alpha"] > 0
    path = graphs.save(model, tmp_path / "smooth.onnx")
    for before, row in zip(want, feeds, strict=True):
        after = graphs.answer(path, **row)
        np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
    again = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    name = strong[0]["input"] + ("_smooth" if case == "explicit" else "")
    assert np.ptp(np.log(again[name].absmax)) < np.ptp(np.log(statistics[strong[0]["input"]].absmax))


def test_what_the_residual_reads_is_left_alone_unless_a_mul_is_allowed(tmp_path: Path):
    model, feeds = norm(residual=True), graphs.rows()
    path = graphs.save(model, tmp_path / "m.onnx")
    statistics = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    model, facts = smooth(model, statistics, bits=8, explicit=False)
    assert facts[0]["alpha"] == 0
    assert facts[0]["reason"] == "1/s cannot be folded, and no Mul is allowed"
    assert [node.op_type for node in model.model.graph].count("Mul") == 0


def test_a_bias_that_attention_adds_itself_prevents_folding_into_the_values(tmp_path: Path):
    model, feeds = attention(), graphs.rows()
    mix = next(node for node in model.model.graph if node.op_type == "MultiHeadAttention")
    bias = stored("inner.bias", weights(3 * WIDTH))
    model.model.graph.register_initializer(bias)
    mix.resize_inputs(4)
    mix.replace_input_with(3, bias)
    path = graphs.save(model, tmp_path / "m.onnx")
    statistics = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    _, facts = smooth(model, statistics, bits=8, explicit=False)
    assert facts[1]["layers"] == ["o"]
    assert facts[1]["reason"] == "1/s cannot be folded, and no Mul is allowed"


def test_a_mul_that_gains_little_is_not_added(tmp_path: Path):
    model, feeds = graphs.mlp(), graphs.rows()
    path = graphs.save(model, tmp_path / "m.onnx")
    statistics = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    _, facts = smooth(model, statistics, bits=8, explicit=True)
    assert [each["reason"] for each in facts if each["input"] == "x"] == ["no α gains 20%, which a Mul must"]


def test_channels_that_are_always_zero_are_left_as_they_are(tmp_path: Path):
    scale = np.where(np.arange(2 * WIDTH) < 3, 0.0, np.where(np.arange(2 * WIDTH) == 9, 50.0, 1.0))
    model, feeds = graphs.mlp(scale=scale), graphs.rows()
    path = graphs.save(model, tmp_path / "m.onnx")
    want = graphs.answer(path, **feeds[0])
    model, facts = smooth(model, calibrate(model, path, feeds, ["x", "hidden"], threads=1), bits=7, explicit=True)
    assert facts[1]["fold"] == "explicit"
    np.testing.assert_allclose(graphs.answer(graphs.save(model, tmp_path / "s.onnx"), **feeds[0]), want, atol=1e-4)
