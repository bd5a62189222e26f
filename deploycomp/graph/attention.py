"""Attention in another form: for a runtime where the traced one is wrong, not fused, or slower.

    tokens   Attention(Q, K, V, bias, …, tokens of each row)          ai.onnx 24, padding on the right only
    mask     com.microsoft.MultiHeadAttention(Q, K, V, …, mask, bias) wrong for padding before ONNX Runtime 1.22
    plain    softmax(Q Kᵀ · s + padding + bias) V of ai.onnx 13       right and read everywhere

Answers are the same to rounding. A form is written last, so that calibration and INT8 see what was traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from deploycomp.onnxmodel import OnnxModel, share_array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FORMS", "Form", "form_of", "write_attention"]

Form = Literal["tokens", "mask", "plain"]
FORMS: tuple[Form, ...] = get_args(Form)

_CONTRIB = "com.microsoft"
_OPERATORS: dict[tuple[str, str], Form] = {("", "Attention"): "tokens", (_CONTRIB, "MultiHeadAttention"): "mask"}
_HEADS: dict[Form, str] = {"tokens": "q_num_heads", "mask": "num_heads"}
_BIAS: dict[Form, int] = {"tokens": 3, "mask": 5}
_PADDING: dict[Form, int] = {"tokens": 6, "mask": 4}
"""Which attribute and inputs of each operator hold the same thing."""

_FP16 = "FLOAT16"


@dataclass(frozen=True)
class _Parts:
    """One attention, whatever form it has."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    bias: ir.Value | None
    padded: bool
    heads: int
    scale: float


def form_of(model: OnnxModel) -> Form | None:
    """Return the form of a graph's fused attention; None where there is none."""
    return next((form for node in model.model.graph if (form := _form(node))), None)


def write_attention(model: OnnxModel, form: Form) -> int:
    """Write every fused attention that has another form in *form*, in place.

    Args:
        model: A graph as `export` and `quantize` leave it.
        form: `mask` or `plain`; `tokens` is what was traced, and cannot be got back.

    Returns:
        How many were written anew.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as common

    graph = model.model.graph
    found: list[tuple[ir.Node, Form]] = [
        (node, each) for node in graph if (each := _form(node)) is not None and each != form
    ]
    if form == "tokens" or not found:
        return 0
    half = any(
        value.const_value is not None and value.const_value.dtype.name == _FP16 for value in graph.initializers.values()
    )
    for node, old in found:
        parts = _read(node, old)
        new = _mask(node, parts, graph) if form == "mask" else _plain(node, parts, graph, half=half)
        graph.insert_before(node, new)
        result = new[-1].outputs[0]
        result.name = node.outputs[0].name
        ir.convenience.replace_all_uses_with(node.outputs[0], result)
        graph.remove(node, safe=True)
    if form == "mask":
        model.model.opset_imports.setdefault(_CONTRIB, 1)
    common.RemoveUnusedNodesPass()(model.model)  # what counted the tokens
    return len(found)


def _form(node: ir.Node) -> Form | None:
    return _OPERATORS.get((node.domain, node.op_type))


def _read(node: ir.Node, form: Form) -> _Parts:
    inputs = [*node.inputs, *[None] * (max(_BIAS[form], _PADDING[form]) + 1 - len(node.inputs))]
    q, k, v = inputs[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    return _Parts(
        q,
        k,
        v,
        inputs[_BIAS[form]],
        inputs[_PADDING[form]] is not None,
        int(node.attributes[_HEADS[form]].value),
        float(node.attributes["scale"].value),
    )


def _mask(node: ir.Node, parts: _Parts, graph: ir.Graph) -> list[ir.Node]:
    import onnx_ir as ir

    padding = _int_mask(graph) if parts.padded else None
    inputs = [parts.q, parts.k, parts.v, None, padding, parts.bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"num_heads": parts.heads, "scale": parts.scale}
    return [ir.node("MultiHeadAttention", inputs, attributes, domain=_CONTRIB, name=_name(node, "MultiHeadAttention"))]


def _int_mask(graph: ir.Graph) -> ir.Value:
    """The mask in the type that MultiHeadAttention takes, once for all layers."""
    import onnx_ir as ir

    from deploycomp.padding import MASK

    name = "padding/CastMask"
    for each in graph:
        if each.name == name:
            return each.outputs[0]
    mask = next(value for value in graph.inputs if value.name == MASK)
    cast = ir.node("Cast", [mask], {"to": ir.DataType.INT32.value}, name=name)
    graph.insert_before(graph[0], cast)
    return cast.outputs[0]


def _plain(node: ir.Node, parts: _Parts, graph: ir.Graph, *, half: bool) -> list[ir.Node]:
    import numpy as np
    import onnx_ir as ir

    from deploycomp.padding import add_padding

    kind = np.float16 if half else np.float32
    new: list[ir.Node] = []

    def add(op: str, what: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        new.append(ir.node(op, inputs, attributes, name=_name(node, what)))
        return new[-1].outputs[0]

    def heads(value: ir.Value, what: str, order: list[int]) -> ir.Value:
        return add("Transpose", f"Transpose{what}", add("Reshape", f"Split{what}", value, split), perm=order)

    split = share_array(graph, f"shape_0_0_{parts.heads}_rest", np.array([0, 0, parts.heads, -1], np.int64))
    scale = share_array(graph, f"attention_scale_{parts.scale:.6g}", np.array(parts.scale, kind))
    scaled = add("Mul", "Scale", parts.q, scale)
    scores = add("MatMul", "Scores", heads(scaled, "Q", [0, 2, 1, 3]), heads(parts.k, "K", [0, 2, 3, 1]))
    if parts.bias is not None:
        scores = add("Add", "AddBias", scores, parts.bias)
    if parts.padded:
        scores = add("Add", "AddPadding", scores, add_padding(graph, kind))
    mixed = add("MatMul", "Mix", add("Softmax", "Softmax", scores, axis=-1), heads(parts.v, "V", [0, 2, 1, 3]))
    joined = share_array(graph, "shape_0_0_rest", np.array([0, 0, -1], np.int64))
    add("Reshape", "Join", add("Transpose", "TransposeX", mixed, perm=[0, 2, 1, 3]), joined)
    return new


def _name(node: ir.Node, what: str) -> str:
    """`encoder.layer.0.attention.self/Softmax`."""
    return f"{(node.name or node.op_type).rsplit('/', 1)[0]}/{what}"
