"""`OnnxModel`: the value that flows from export through graph and quantize to the seal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

__all__ = [
    "DATA_SUFFIX",
    "Facts",
    "OnnxModel",
    "file_bytes",
    "name_nodes_once",
    "save_graph",
    "share_array",
    "store_array",
]

Facts = dict[str, Any]
"""What a step did: plain numbers and reasons, the same on every run of the same recipe."""

DATA_SUFFIX = ".data"
"""External weights of `model.onnx` lie in `model.onnx.data` beside it."""


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX graph with its task and signature."""

    model: ir.Model
    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        values = self.model.graph.initializers.values()
        return sum(value.const_value.nbytes for value in values if value.const_value is not None)

    @property
    def operators(self) -> Counter[str]:
        """How many nodes of each operator there are."""
        return Counter(node.op_type for node in self.model.graph)

    def signature(self) -> dict[str, dict[str, list[int | str]]]:
        """Names and dimensions of inputs and outputs, symbols as strings."""

        def dims(value: ir.Value) -> list[int | str]:
            return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape or ()]

        graph = self.model.graph
        return {
            "inputs": {str(value.name): dims(value) for value in graph.inputs},
            "outputs": {str(value.name): dims(value) for value in graph.outputs},
        }


def save_graph(model: ir.Model, path: Path, *, external_data_bytes: int, size: int) -> None:
    """Write a graph into a folder that holds no file of that name yet.

    Args:
        model: The graph.
        path: `….onnx`; weights go to `….onnx.data` beside it when they are large.
        external_data_bytes: The size from which they do.
        size: Bytes of all weights.
    """
    import onnx_ir as ir

    if size > external_data_bytes:
        ir.save(model, path, external_data=path.name + DATA_SUFFIX)
        return
    _stream(model, path)


_LENGTH_DELIMITED = 2
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Field numbers of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data (onnx.proto)."""


def _stream(model: ir.Model, path: Path) -> None:
    """Write one file tensor by tensor: a protobuf of all weights would hold them in memory three times.

    The graph is serialized without its weights; each weight follows as one more field of the graph, which protobuf
    allows in any order, its bytes copied straight from where they lie.
    """
    import onnx
    import onnx_ir as ir

    values = list(model.graph.initializers.values())
    model.graph.initializers.clear()
    try:
        proto = ir.to_proto(model)
    finally:
        for value in values:
            model.graph.initializers.add(value)
    tensors: list[Any] = [value.const_value for value in values]
    heads: list[bytes] = []
    for value, tensor in zip(values, tensors, strict=True):
        about = onnx.TensorProto(name=value.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
        body = about.SerializeToString(deterministic=True) + _field(_RAW_DATA, tensor.nbytes)
        heads.append(_field(_INITIALIZER, len(body) + tensor.nbytes) + body)
    rest = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    weights = sum(len(head) + tensor.nbytes for head, tensor in zip(heads, tensors, strict=True))
    with path.open("wb") as file:
        file.write(proto.SerializeToString(deterministic=True))
        file.write(_field(_GRAPH, len(rest) + weights) + rest)
        for head, tensor in zip(heads, tensors, strict=True):
            file.write(head)
            tensor.tofile(file)


def _field(number: int, length: int) -> bytes:
    """The head of a length-delimited protobuf field: tag and length, both as varints."""
    out = bytearray()
    for value in (number << 3 | _LENGTH_DELIMITED, length):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def store_array(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Store an array in a graph under *name*, or the next free one."""
    import onnx_ir as ir

    free, number = name, 1
    while free in graph.initializers:
        number += 1
        free = f"{name}_{number}"
    value = ir.Value(name=free, const_value=ir.tensor(array, name=free))
    graph.register_initializer(value)
    return value


def share_array(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """What a graph has stored under *name*, or *array*, stored there for all who ask again."""
    return graph.initializers[name] if name in graph.initializers else store_array(graph, name, array)


def name_nodes_once(graph: ir.Graph) -> None:
    """Number nodes that have a name in common: ONNX Runtime refuses a graph with two of one name."""
    taken = {node.name for node in graph if node.name}
    kept: set[str] = set()
    last: Counter[str] = Counter()
    for node in graph:
        if node.name and node.name not in kept:
            kept.add(node.name)  # the first of a name keeps it
            continue
        base = name = node.name or node.op_type
        while name in taken:
            last[base] += 1
            name = f"{base}_{last[base] + 1}"
        node.name = name
        taken.add(name)
        kept.add(name)


def file_bytes(model: Path) -> int:
    """Bytes of an ONNX file with its external data."""
    data = model.with_name(model.name + DATA_SUFFIX)
    return model.stat().st_size + (data.stat().st_size if data.exists() else 0)
