"""Attention in INT8: what it computes, that padding does not matter, and when it stays in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import UsageError
from deploycomp.onnxmodel import Facts, OnnxModel
from deploycomp.quantize.attention import inputs_of_attention
from deploycomp.quantize.calibrate import Statistics, calibrate
from deploycomp.quantize.int8 import quantize
from deploycomp.quantize.products import inputs_of_products
from deploycomp.quantize.weights import LARGEST
from deploycomp.recipe import Int8
from tests.quantize import graphs
from tests.quantize.graphs import WIDTH, stored, tensor, weights

HEADS = 4
TOKENS = 9
"""Of the rows of a graph with a bias, which fixes them."""
Feeds = dict[str, np.ndarray]
Change = Callable[[ir.Node], None]


def attending(
    *, change: Change | None = None, padded: bool = True, bias: bool = False, first: bool = False, mask: str = ""
) -> OnnxModel:
    """y = Attention(x·Q, x·K, x·V) · O with padding told by `attention_mask`, or for the first token of a row only."""
    x = tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH)
    real = tensor(mask or "attention_mask", ir.DataType.INT64, "b", "s")
    nodes, initializers, projected = list[ir.Node](), list[ir.Value](), list[ir.Value]()
    for seed, name in enumerate("qkv"):
        matrix, vector = stored(f"{name}.weight", weights(WIDTH, WIDTH, seed=seed)), stored(f"{name}.bias", B[seed])
        source = x
        if first and name == "q":
            index = ir.Value(name="first_token", const_value=ir.tensor(np.zeros(1, np.int64), name="first_token"))
            initializers.append(index)
            nodes.append(ir.node("Gather", [x, index], {"axis": 1}, name="x/FirstToken"))
            source = nodes[-1].outputs[0]
        nodes.append(ir.node("MatMul", [source, matrix], name=f"{name}/MatMul"))
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], vector], name=f"{name}/Add"))
        initializers += [matrix, vector]
        projected.append(nodes[-1].outputs[0])
    more: list[ir.Value | None] = [None] * 4
    if padded:
        axes = ir.Value(name="axes", const_value=ir.tensor(np.ones(1, np.int64), name="axes"))
        initializers.append(axes)
        nodes.append(ir.node("ReduceSum", [real, axes], {"keepdims": 0}, name="tokens/ReduceSum"))
        more[3] = nodes[-1].outputs[0]
    if bias:
        more[0] = stored("bias", BIAS)
        initializers.append(more[0])
    attributes = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "scale": (WIDTH // HEADS) ** -0.5}
    attention = ir.node("Attention", [*projected, *more], attributes, name="self/Attention")
    if change:
        change(attention)
    out = stored("o.weight", weights(WIDTH, WIDTH, seed=9))
    product = ir.node("MatMul", [attention.outputs[0], out], name="o/MatMul")
    made = graphs.onnx([x, real], product.outputs[0], [*nodes, attention, product], [*initializers, out])
    made.model.opset_imports[""] = 24
    return made


B = np.random.default_rng(3).normal(size=(3, WIDTH)).astype(np.float32)
BIAS = np.random.default_rng(4).normal(size=(1, HEADS, TOKENS, TOKENS))


def rows(count: int = 40, *, tokens: int | None = None) -> list[Feeds]:
    """Rows of 1 to 9 real tokens."""
    found = [each["x"] for each in graphs.rows(count)] if tokens is None else [row(tokens, s) for s in range(count)]
    return [{"x": x, "attention_mask": np.ones(x.shape[:2], np.int64)} for x in found]


def row(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, tokens, WIDTH)).astype(np.float32)


def calibrated(model: OnnxModel, folder: Path, feeds: list[Feeds]) -> dict[str, Statistics]:
    path = graphs.save(model, folder / "float.onnx")
    names = dict.fromkeys([*inputs_of_products(model), *inputs_of_attention(model)])
    return calibrate(model, path, feeds, list(names), threads=1)


def integer(
    model: OnnxModel, folder: Path, feeds: list[Feeds] | None = None, **options: Any
) -> tuple[Path, OnnxModel, Facts]:
    statistics = calibrated(model, folder, feeds or rows())
    asked = {"activations": "static", "attention": True, "bits": 8, **options}
    done, facts = quantize(model, Int8(), ops="fused", statistics=statistics, **asked)
    return graphs.save(done, folder / "int8.onnx"), done, facts


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def reason(facts: Facts) -> str:
    return next(each["reason"] for each in facts["left_in_float"] if each["op"] == "Attention")


@pytest.mark.parametrize("bias", [False, True])
def test_it_matches_float(bias: bool, tmp_path: Path):
    feeds = rows(20, tokens=TOKENS)
    path, done, facts = integer(attending(bias=bias), tmp_path, feeds)
    got, want = (
        np.concatenate([graphs.answer(each, **feed) for feed in feeds]) for each in (path, tmp_path / "float.onnx")
    )
    assert 1e-4 < relative(got, want) < 0.03
    kinds = [node.op_type for node in done.model.graph]
    assert facts["nodes"] == {"Attention": [1, 1], "MatMul": [4, 4]}
    assert "Attention" not in kinds
    assert kinds.count("QLinearMatMul") == kinds.count("Softmax") == 1
    assert kinds.count("QuantizeLinear") == 5, "x, Q, K, V and the probabilities; what o reads comes as integers"


def test_a_bias_counts(tmp_path: Path):
    feeds = rows(20, tokens=TOKENS)
    answers = []
    for bias in (False, True):
        (tmp_path / str(bias)).mkdir()
        answers.append(graphs.answer(integer(attending(bias=bias), tmp_path / str(bias), feeds)[0], **feeds[0]))
    assert relative(*answers) > 0.05


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_changes_no_answer(left: bool, tmp_path: Path):
    """The float graph takes a count of tokens, so padding must lie on the right there; here the mask itself is read."""
    path, _, _ = integer(attending(), tmp_path)
    short, whole = row(4, 1), row(9, 2)
    place = slice(5, 9) if left else slice(0, 4)
    together, mask = np.concatenate([np.full((1, 9, WIDTH), 3, np.float32), whole]), np.ones((2, 9), np.int64)
    together[0, place], mask[0] = short[0], 0
    mask[0, place] = 1
    alone = graphs.answer(path, x=short, attention_mask=np.ones((1, 4), np.int64))
    got = graphs.answer(path, x=together, attention_mask=mask)
    np.testing.assert_allclose(got[0, place], alone[0], atol=1e-6)


def test_two_layers_share_what_is_constant(tmp_path: Path):
    """Names of stored arrays are taken once, whichever attention comes first."""
    model = attending()
    graph = model.model.graph
    first, product = list(graph)[-2:]
    attributes = list(first.attributes.values())
    second = ir.Node("", "Attention", [product.outputs[0], *first.inputs[1:]], attributes, name="again/Attention")
    second.outputs[0].name = "again"
    last = ir.node("MatMul", [second.outputs[0], product.inputs[1]], name="again/MatMul")
    last.outputs[0].name, product.outputs[0].name = "y", "between"
    last.outputs[0].type, last.outputs[0].shape = product.outputs[0].type, product.outputs[0].shape
    graph.extend([second, last])
    graph.outputs[0] = last.outputs[0]
    _, done, facts = integer(model, tmp_path)
    assert facts["nodes"] == {"Attention": [2, 2], "MatMul": [5, 5]}
    names = list(done.model.graph.initializers)
    assert sorted(names) == sorted(set(names))
    assert sum(node.name == "padding/Cast" for node in done.model.graph) == 1
    assert {"padding", "probability_scale", "zero_s8"} <= set(names)
    assert not [name for name in names if name.startswith(("padding_", "probability_scale_", "zero_s8_"))]


def test_keys_and_values_of_zero_have_a_scale(tmp_path: Path):
    feeds = rows(4)
    for each in feeds:
        each["x"][:] = 0
    model = attending()
    for name in "kv":
        model.model.graph.initializers[f"{name}.bias"].const_value = ir.tensor(np.zeros(WIDTH, np.float32))
    path, _, _ = integer(model, tmp_path, feeds)
    assert not graphs.answer(path, **feeds[0]).any()


def more_queries(node: ir.Node) -> None:
    node.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", HEADS // 2)


def causal(node: ir.Node) -> None:
    node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)


def past(node: ir.Node) -> None:
    node.replace_input_with(4, node.inputs[1])
    node.replace_input_with(5, node.inputs[2])


MORE = "it computes more than softmax(QKᵀ)V"


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ({}, {"keep_float": ["self/*"]}, "stays in float, as asked"),
        ({"change": causal}, {}, MORE),
        ({"change": more_queries}, {}, MORE),
        ({"change": past}, {}, MORE),
        ({"first": True}, {}, "one query a row is too few to pay for quantizing its keys and values"),
        ({"mask": "mask"}, {}, "the graph has no attention_mask"),
        ({}, {"keep_float": ["o"]}, "what reads it takes floats"),
        ({}, {"activations": {"o": "dynamic"}}, "what reads it takes floats"),
    ],
)
def test_the_reason_why_it_stays_in_float(model: dict[str, Any], options: dict[str, Any], why: str, tmp_path: Path):
    made = attending(**model)
    known = calibrated(attending(), tmp_path, rows())
    asked = {"activations": "static", "attention": True, "bits": 8, **options}
    done, facts = quantize(made, Int8(), ops="fused", statistics=known, **asked)
    assert reason(facts) == why
    assert facts["nodes"]["Attention"] == [0, 1]
    assert "Attention" in [node.op_type for node in done.model.graph]


@pytest.mark.parametrize("tensor", ["q", "k", "v", "x"])
def test_without_a_range_it_stays_in_float(tensor: str, tmp_path: Path):
    model = attending()
    statistics = calibrated(model, tmp_path, rows())
    attention = next(node for node in model.model.graph if node.op_type == "Attention")
    values = dict(zip("qkvx", [*attention.inputs[:3], attention.outputs[0]], strict=True))
    del statistics[str(values[tensor].name)]
    _, facts = quantize(model, Int8(), bits=8, ops="fused", statistics=statistics, activations="static", attention=True)
    assert reason(facts) == "the ranges of its inputs are not known"


def test_beside_weights_of_seven_bits_it_stays_in_float(tmp_path: Path):
    _, done, facts = integer(attending(), tmp_path, bits=7)
    assert "Attention" in [node.op_type for node in done.model.graph]
    assert facts["nodes"] == {"MatMul": [4, 4]}


def test_it_needs_calibration():
    with pytest.raises(UsageError, match="need calibration"):
        quantize(attending(), Int8(), bits=8, ops="fused", attention=True)


@given(first=st.floats(0, 1), share=st.floats(0, 1))
def test_two_probabilities_times_two_values_fit_int16(first: float, share: float):
    """Even VPMADDUBSW's saturating sum of two products holds them: probabilities of a row add up to one."""
    second = share * (1 - first)
    levels = np.rint(255 * first) + np.rint(255 * second)
    assert levels * LARGEST[8] <= np.iinfo(np.int16).max
