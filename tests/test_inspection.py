"""inspect counts what is really there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deploycomp.errors import InputRefused
from deploycomp.inspection import SEQUENCE, inspect_path
from deploycomp.models import resolve
from deploycomp.models.load import load
from tests import tiny


@pytest.mark.parametrize("arch", list(tiny.ARCHITECTURES))
def test_parts_add_up_and_flops_follow_the_matrices(arch: str, tmp_path: Path):
    folder = tiny.build(tmp_path / "m", arch, "text-classification")
    found = inspect_path(str(folder))
    model = load(resolve(str(folder)))
    assert found["kind"] == "model"
    assert sum(found["parts"].values()) == found["parameters"] == model.parameters
    assert min(found["parts"][part] for part in ("embeddings", "attention", "ffn", "norms")) > 0
    once = found["parts"]["attention"] + found["parts"]["ffn"]
    scores = found["layers"] * 4 * SEQUENCE**2 * found["heads"] * found["head_dim"]
    products = (found["flops"]["total"] - scores) / (2 * SEQUENCE)
    repeats = found["layers"] if found["shared_layers"] else 1
    relative = sum(len(layer.relative) for layer in model.anatomy.layers) * found["hidden_size"] ** 2
    assert products + relative == pytest.approx(once * repeats, rel=0.08)  # biases are parameters, but no products


def test_bert_flops_by_hand(tmp_path: Path):
    found = inspect_path(str(tiny.build(tmp_path / "m", "bert", "text-classification")))
    width, inner, layers = found["hidden_size"], found["intermediate_size"], found["layers"]
    products = 2 * SEQUENCE * (4 * width * width + 2 * width * inner)
    attention = 4 * SEQUENCE**2 * width
    assert found["flops"]["total"] == layers * (products + attention)


def test_a_graph_is_counted(tmp_path: Path):
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["b", 4]))
    w = ir.Value(name="w", const_value=ir.tensor(np.ones((4, 3), np.float32), name="w"))
    product = ir.node("MatMul", [x, w], name="m")
    product.outputs[0].type, product.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", 3])
    graph = ir.Graph([x], product.outputs, nodes=[product], initializers=[w], opset_imports={"": 18}, name="g")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "m.onnx")
    found = inspect_path(str(tmp_path / "m.onnx"))
    assert found["kind"] == "onnx"
    assert found["operators"] == {"MatMul": 1}
    assert found["coverage"] == {"integer_products": 0, "float_products": 1}
    assert found["weight_bytes"] == {"float": 48}
    assert found["bytes"] == (tmp_path / "m.onnx").stat().st_size


def test_refusals(tmp_path: Path):
    with pytest.raises(InputRefused, match="there is no such file"):
        inspect_path(str(tmp_path / "missing.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(InputRefused, match="this is not an ONNX file"):
        inspect_path(str(tmp_path / "bad.onnx"))
