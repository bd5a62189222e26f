"""Gather(f(x), 0) → f(Gather(x, 0)): what only the first token's answer needs is computed for that token only.

    Q K V ─ Attention ─ MatMul ─ Add ─ LayerNorm ─ FFN … ─ Gather 0        a [CLS] head behind the last layer
    Q₀ K V ─ Attention ─ MatMul ─ Add₀ ─ LayerNorm ─ FFN … ─ Gather 0      keys and values still of every token

Exact: every operator on the way treats tokens apart, and attention's queries are independent of one another. It saves
query, output projection and FFN of the last layer: 10 of its 12 matrices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from deploycomp.onnxmodel import share_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["compute_first_token_only"]

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Neg", "Sqrt", "Cast", "Identity", "Erf", "Tanh", "Relu", "Sigmoid"}
_BY_TOKEN = _ELEMENTWISE | {"MatMul", "LayerNormalization", "RMSNormalization", "Gelu", "FastGelu", "QuickGelu"}
"""Operators that compute each token of [batch, tokens, …] from the same token of their inputs."""

_ATTENTION = {"Attention": 3, "MultiHeadAttention": 5}
"""Input that holds a bias [.., tokens, tokens]: with one, queries have places and cannot be cut."""

_TOKENS, _RANK = 1, 3
"""Activations are [batch, tokens, width]."""


def compute_first_token_only(graph: ir.Graph) -> int:
    """Cut to the first token whatever no other token's answer needs, in place.

    Args:
        graph: Its values have shapes.

    Returns:
        How many nodes compute less now.
    """
    thin = _thin_values(graph)
    cut: dict[int, ir.Value] = {}
    nodes = [node for node in graph if id(node.outputs[0]) in thin]
    for node in nodes:
        for place in _token_inputs(node):
            value = node.inputs[place]
            assert value is not None
            if id(value) not in thin:
                node.replace_input_with(place, _first_token(graph, node, value, cut))
    return len(nodes)


def _thin_values(graph: ir.Graph) -> set[int]:
    """Values of which only the first token is needed, and that can be computed for it alone."""
    whole = {id(value) for value in graph.outputs}
    first: set[int] = set()
    thin: set[int] = set()
    for node in reversed(list(graph)):
        out = node.outputs[0]
        places = _token_inputs(node)
        if id(out) in first and not any(id(value) in whole for value in node.outputs) and places:
            thin.add(id(out))
        elif _takes_first_token(node):
            places = [0]
        else:
            places = []
        first |= {id(node.inputs[place]) for place in places}
        whole |= {id(value) for place, value in enumerate(node.inputs) if value is not None and place not in places}
    return thin - whole


def _takes_first_token(node: ir.Node) -> bool:
    """Gather(x, 0) along the tokens of [batch, tokens, width]."""
    if node.op_type != "Gather" or not _by_tokens(node.inputs[0]):
        return False
    axis, index = node.attributes.get("axis"), node.inputs[1]
    if axis is None or axis.value != _TOKENS or index is None or index.const_value is None:
        return False
    return not index.const_value.numpy().any()


def _token_inputs(node: ir.Node) -> list[int]:
    """Inputs to cut so that *node* computes the first token only; none where it needs the others."""
    if node.op_type in _ATTENTION:
        bias = _ATTENTION[node.op_type]
        return [0] if len(node.inputs) <= bias or node.inputs[bias] is None else []
    if node.op_type not in _BY_TOKEN or len(node.outputs) != 1 or not _by_tokens(node.outputs[0]):
        return []
    inputs = [(place, value) for place, value in enumerate(node.inputs) if value is not None]
    if node.op_type == "MatMul":
        return [0] if node.inputs[1] is not None and node.inputs[1].is_initializer() else []
    activations = [(place, value) for place, value in inputs if not _broadcasts(value)]
    return [place for place, _ in activations] if _all_by_tokens(value for _, value in activations) else []


def _all_by_tokens(values: Iterable[ir.Value]) -> bool:
    return all(_by_tokens(value) for value in values)


def _by_tokens(value: ir.Value | None) -> bool:
    """[batch, tokens, width] with more than one token, as far as the shape tells."""
    return value is not None and value.shape is not None and len(value.shape) == _RANK and value.shape[_TOKENS] != 1


def _broadcasts(value: ir.Value) -> bool:
    """The same for every token: a weight vector or a scalar."""
    return value.shape is not None and (
        len(value.shape) < _RANK - 1 or (len(value.shape) == _RANK and value.shape[1] == 1)
    )


def _first_token(graph: ir.Graph, node: ir.Node, value: ir.Value, cut: dict[int, ir.Value]) -> ir.Value:
    """*value* cut to [batch, 1, width], once however many nodes need it."""
    import numpy as np
    import onnx_ir as ir

    if id(value) not in cut:
        index = share_array(graph, "first_token", np.zeros(1, np.int64))
        gather = ir.node("Gather", [value, index], {"axis": _TOKENS}, name=f"{value.name}/FirstToken")
        graph.insert_before(node, gather)
        cut[id(value)] = gather.outputs[0]
    return cut[id(value)]
