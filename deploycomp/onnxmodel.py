"""`OnnxModel`: the value that flows from export through graph and quantize to the seal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["DATA_SUFFIX", "Facts", "OnnxModel", "file_bytes", "name_nodes_once", "save_graph"]

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
    ir.external_data.load_to_model(model)  # what an earlier step left on disk comes along
    ir.save(model, path)


def name_nodes_once(graph: ir.Graph) -> None:
    """Number nodes that have a name in common: ONNX Runtime refuses a graph with two of one name."""
    seen: Counter[str] = Counter()
    for node in graph:
        name = node.name or node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def file_bytes(model: Path) -> int:
    """Bytes of an ONNX file with its external data."""
    data = model.with_name(model.name + DATA_SUFFIX)
    return model.stat().st_size + (data.stat().st_size if data.exists() else 0)
