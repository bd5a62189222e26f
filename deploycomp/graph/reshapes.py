"""Reshape(Reshape(x)) → x, where the second gives back the shape of x; Reshape(x, computed) → Reshape(x, [0, 0, 384]).

Attention is written for [batch, heads, length, size], the fused operator for [batch, length, heads · size]: between the
two are four pairs of reshapes a layer, 48 nodes in 6 layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploycomp.onnxmodel import share_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["drop_round_trips", "settle_shapes"]


def drop_round_trips(graph: ir.Graph) -> int:
    """Drop pairs of reshapes that undo one another, in place.

    Args:
        graph: Its values have shapes, with symbols for dynamic dimensions.

    Returns:
        How many pairs were dropped.
    """
    import onnx_ir as ir

    dropped = 0
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[0] is None or node.outputs[0].is_graph_output():
            continue
        first = node.inputs[0].producer()
        if first is None or first.op_type != "Reshape":
            continue
        origin, result = first.inputs[0], node.outputs[0]
        if origin is None or origin.shape is None or result.shape is None or origin.shape != result.shape:
            continue
        ir.convenience.replace_all_uses_with(result, origin)
        dropped += 1
    return dropped


def settle_shapes(graph: ir.Graph) -> int:
    """Write target shapes as constants where only dimensions of the input are dynamic in them, in place.

    A computed target takes two or three nodes, and its dimensions are unknown to ONNX Runtime, which then infers a
    wrong output of Attention.

    Args:
        graph: Its values have shapes.

    Returns:
        How many targets are constants now.
    """
    import numpy as np

    settled = 0
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].is_initializer():
            continue
        target = _target(node)
        if target is None:
            continue
        name = "shape_" + "_".join(map(str, target)).replace("-1", "rest")
        node.replace_input_with(1, share_array(graph, name, np.array(target, np.int64)))
        node.attributes.pop("allowzero", None)  # torch writes it always; here 0 means "as in the input"
        settled += 1
    return settled


def _target(node: ir.Node) -> list[int] | None:
    """The constant target: 0 for a dimension of the input, −1 for at most one that is not known."""
    origin, result = node.inputs[0], node.outputs[0]
    if origin is None or origin.shape is None or result.shape is None:
        return None
    target: list[int] = []
    for place, dim in enumerate(result.shape):
        if isinstance(dim, int):
            target.append(dim)
        else:
            same = place < len(origin.shape) and dim.value is not None and origin.shape[place] == dim
            target.append(0 if same else -1)
    return target if target.count(-1) <= 1 else None
