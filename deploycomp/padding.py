"""Padding as what is added to attention's scores: 0 for a real token, very small for padding, once for all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploycomp.onnxmodel import share_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MASK", "add_padding", "has_mask"]

MASK = "attention_mask"

_MASKED: dict[type[np.floating], float] = {np.float32: -3e38, np.float16: -6e4}
"""Added to the scores of padding: exp of it is 0, and no sum with a score is infinite (FP16 ends at 65504)."""

_LAST = "padding/Unsqueeze"


def has_mask(graph: ir.Graph) -> bool:
    """Whether the graph is told which tokens are real."""
    return any(value.name == MASK for value in graph.inputs)


def add_padding(graph: ir.Graph, dtype: type[np.floating] = np.float32) -> ir.Value:
    """Return [batch, 1, 1, tokens], computed at the start of *graph* from its mask, once however often it is asked for.

    Args:
        graph: It has the input `attention_mask`.
        dtype: The type of the scores.
    """
    import onnx_ir as ir

    for each in graph:
        if each.name == _LAST:
            return each.outputs[0]
    mask = next(value for value in graph.inputs if value.name == MASK)
    real = ir.node("Cast", [mask], {"to": ir.DataType.BOOL.value}, name="padding/Cast")
    levels: tuple[npt.NDArray[np.floating], ...] = np.array(0, dtype), np.array(_MASKED[dtype], dtype)
    stored = [share_array(graph, name, each) for name, each in zip(("real_token", "padding"), levels, strict=True)]
    bias = ir.node("Where", [real.outputs[0], *stored], name="padding/Where")
    axes = share_array(graph, "axes_1_2", np.array([1, 2], np.int64))
    wide = ir.node("Unsqueeze", [bias.outputs[0], axes], name=_LAST)
    graph.insert_before(graph[0], [real, bias, wide])
    return wide.outputs[0]
