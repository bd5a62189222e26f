"""Small graphs written by hand, and how to run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from deploycomp.onnxmodel import OnnxModel
from deploycomp.runtime.session import open_session

WIDTH = 64
EXACT = {"session.x64quantprecision": "1"}
"""Kernels that add in 32 bits: on an x86 CPU without VNNI, 8-bit weights saturate in the default ones."""


def tensor(name: str, kind: ir.DataType, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))


def stored(name: str, array: np.ndarray) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / np.sqrt(shape[0])


def onnx(
    inputs: list[ir.Value], output: ir.Value, nodes: list[ir.Node], initializers: list[ir.Value], *, width: int = WIDTH
) -> OnnxModel:
    """A model with one output [b, s, width] named y; every tensor and node gets a name."""
    for index, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{index}"
        for value in node.outputs:
            value.name = value.name or f"t{index}"
    output.name, output.type, output.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", "s", width])
    opsets = {"": 18, "com.microsoft": 1}
    graph = ir.Graph(inputs, [output], nodes=nodes, initializers=initializers, opset_imports=opsets, name="g")
    return OnnxModel(ir.Model(graph, ir_version=10), "x", tuple(str(value.name) for value in inputs), ("y",))


def mlp(*, scale: np.ndarray | float = 1.0, seed: int = 0) -> OnnxModel:
    """y = Relu(x · W1 + b1) · W2 with the channels of the hidden layer scaled by *scale*."""
    x = tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH)
    up, down = weights(WIDTH, 2 * WIDTH, seed=seed) * scale, weights(2 * WIDTH, WIDTH, seed=seed + 1)
    w1, b1, w2 = stored("up.weight", up), stored("up.bias", weights(2 * WIDTH) * scale), stored("down.weight", down)
    product = ir.node("MatMul", [x, w1], name="up/MatMul")
    add = ir.node("Add", [product.outputs[0], b1], name="up/Add")
    relu = ir.node("Relu", [add.outputs[0]], name="act/Relu")
    relu.outputs[0].name = "hidden"
    out = ir.node("MatMul", [relu.outputs[0], w2], name="down/MatMul")
    return onnx([x], out.outputs[0], [product, add, relu, out], [w1, b1, w2])


def rows(count: int = 12, *, seed: int = 5, width: int = WIDTH) -> list[dict[str, np.ndarray]]:
    """Ragged rows of activations: 1 to 9 tokens."""
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, random.integers(1, 10), width)).astype(np.float32)} for _ in range(count)]


def save(model: OnnxModel, path: Path) -> Path:
    ir.save(model.model, path)
    return path


def answer(path: Path, **feeds: np.ndarray) -> np.ndarray:
    return np.asarray(open_session(path, threads=1, config=EXACT).run(["y"], feeds)[0])
