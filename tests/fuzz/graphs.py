"""Change an ONNX graph where it hurts: where weights lie, what operators read, which version they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import onnx

from tests.fuzz.mangle import mangle

__all__ = ["change"]

DOUBLED = 5
"""Levels whose graph stands twice: each doubles the file."""


def change(path: Path, draw: Random, *, canary: str) -> str:
    """Change one thing of a graph.

    Args:
        path: The file; it is written anew.
        draw: Every choice follows from it.
        canary: A file beside the artifact that no graph may open.
    """
    model = onnx.load(path, load_external_data=False)
    name, way = draw.choice(list(_WAYS.items()))
    way(model, draw, canary)
    data = model.SerializeToString()
    path.write_bytes(mangle(data, draw) if draw.random() < 0.1 else data)
    return name


def _tensor(model: onnx.ModelProto, draw: Random) -> Any:
    return draw.choice(list(model.graph.initializer))


def _location(model: onnx.ModelProto, draw: Random, canary: str) -> None:
    tensor = _tensor(model, draw)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    places = [
        f"../{canary}",
        f"a/../../{canary}",
        "/etc/hostname",
        "C:\\x",
        "..\\x",
        "model.onnx",
        "\0",
        "",
        ".",
        "x" * 300,
    ]
    where = draw.choice(places)
    offset, length = draw.choice(
        [("0", "4"), ("-1", "4"), ("0", str(2**62)), (str(2**62), "4"), ("x", "y"), ("0", "0")]
    )
    del tensor.external_data[:]
    for key, value in (("location", where), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)


def _dims(model: onnx.ModelProto, draw: Random, _: str) -> None:
    tensor = _tensor(model, draw)
    tensor.dims[:] = draw.choice([[], [0], [-1], [2**40, 2**40], [2**62], [1] * 100, [*tensor.dims, 2]])


def _type(model: onnx.ModelProto, draw: Random, _: str) -> None:
    _tensor(model, draw).data_type = draw.choice([0, 2, 7, 10, 11, 16, 99])


def _node(model: onnx.ModelProto, draw: Random, _: str) -> None:
    nodes = model.graph.node
    at = draw.randrange(len(nodes))
    node = nodes[at]
    way = draw.choice(["drop", "twice", "type", "domain", "input", "output", "swap", "loop"])
    if way == "drop":
        del nodes[at]
    elif way == "twice":
        nodes.append(node)
    elif way == "type":
        node.op_type = draw.choice(["Relu", "Evil", "", "If", "Loop", "MatMul", "ConstantOfShape", "Identity"])
    elif way == "domain":
        node.domain = draw.choice(["com.microsoft", "evil", "ai.onnx.ml", "ai.onnx"])
    elif way == "input" and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice(["", "nothing", model.graph.initializer[0].name])
    elif way == "output" and node.output:
        node.output[0] = draw.choice(["", model.graph.output[0].name, "x"])
    elif way == "swap" and len(node.input) > 1:
        node.input[0], node.input[1] = node.input[1], node.input[0]
    elif node.input and node.output:
        node.input[0] = node.output[0]


def _attribute(model: onnx.ModelProto, draw: Random, _: str) -> None:
    node = draw.choice([node for node in model.graph.node if node.attribute])
    attribute = draw.choice(list(node.attribute))
    if attribute.type == onnx.AttributeProto.INT:
        attribute.i = draw.choice([-1, 0, 2, 10**9, 2**62])
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = draw.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = draw.choice([b"", b"\xff", b"x" * 1000])
    else:
        attribute.name = "evil"


def _versions(model: onnx.ModelProto, draw: Random, _: str) -> None:
    model.ir_version = draw.choice([model.ir_version, 0, 1, 99, 2**31])
    opset = draw.choice(list(model.opset_import))
    opset.version = draw.choice([0, 1, 11, 17, 27, 99, 2**31])


def _ends(model: onnx.ModelProto, draw: Random, _: str) -> None:
    ends = draw.choice([model.graph.input, model.graph.output])
    value = draw.choice(list(ends))
    way = draw.choice(["name", "type", "shape", "drop"])
    if way == "name":
        value.name = draw.choice(["", "evil", "input_ids"])
    elif way == "type":
        value.type.tensor_type.elem_type = draw.choice([0, 1, 8, 99])
    elif way == "shape":
        value.type.tensor_type.shape.dim.add(dim_value=draw.choice([-1, 0, 2**62]))
    else:
        ends.remove(value)


def _nested(model: onnx.ModelProto, draw: Random, _: str) -> None:
    """Subgraphs in subgraphs: parsers follow them by recursion."""
    graph = onnx.helper.make_graph([], "inner", [], [])
    for level in range(draw.choice([5, 30])):
        branches = {"then_branch": graph} | ({"else_branch": graph} if level < DOUBLED else {})
        graph = onnx.helper.make_graph([onnx.helper.make_node("If", ["x"], ["y"], **branches)], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph))


def _huge(model: onnx.ModelProto, draw: Random, _: str) -> None:
    """A constant that a runtime would unfold to gigabytes when it opens the graph."""
    size = draw.choice([10**9, 10**12])
    model.graph.initializer.append(onnx.helper.make_tensor("huge-shape", 7, [1], [size]))
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["huge-shape"], ["huge"]))


_WAYS: dict[str, Callable[[onnx.ModelProto, Random, str], None]] = {
    "where a weight lies": _location,
    "the shape of a weight": _dims,
    "the type of a weight": _type,
    "a node": _node,
    "an attribute": _attribute,
    "versions": _versions,
    "inputs and outputs": _ends,
    "nested graphs": _nested,
    "a huge constant": _huge,
}
