"""Reshape(Reshape(x)) → x, where the second gives back the shape of x.

Attention is written for [batch, heads, length, size], the fused operator for [batch, length, heads · size]: between the
two are four pairs of reshapes a layer, 48 nodes in 6 layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["drop_round_trips"]


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
