"""Attention in INT8: both of its products on integer kernels, softmax between them in float.

    x = Attention(Q, K, V)   →   s  = MatMulIntegerToFloat(heads(Q₈), heads(K₈)ᵀ) + bias + padding     U8 · S8 → float
                                 x₈ = QLinearMatMul(QuantizeLinear(softmax(s)), heads(V₈))             U8 · S8 → U8

x₈ lies on the grid of the product that reads it, so nothing is quantized between the two. Probabilities take the levels
0, 1/255, …, 1: a row of many tokens that attends to all of them alike loses most, so answers have to be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deploycomp.onnxmodel import OnnxModel, share_array, store_array
from deploycomp.padding import MASK, add_padding, has_mask
from deploycomp.quantize.products import Product, find_product, is_standard
from deploycomp.quantize.ranges import LEVELS, choose_range
from deploycomp.quantize.rewrite import CONTRIB, Quantized, Work
from deploycomp.quantize.weights import LARGEST, UNSATURATED_BITS

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.quantize.calibrate import Statistics

__all__ = ["attentions", "inputs_of_attention", "rewrite_attention"]

_BIAS, _PAST, _TOKENS = 3, (4, 5), 6
"""Inputs of Attention behind Q, K and V."""
_KNOWN = {"q_num_heads", "kv_num_heads", "scale"}
"""The attributes that `export` writes; another one changes what is computed."""

SYMMETRIC = LARGEST[UNSATURATED_BITS]
"""K and V have no zero point: kernels are twice as slow with one."""

_BY_TOKEN = {"MatMul", "Gemm", "Add", "Mul", "Reshape"}
"""What lies between a token and its query."""


@dataclass(frozen=True)
class _Attention:
    """What is read of one Attention that can be rewritten."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    x: ir.Value
    heads: int
    scale: float
    bias: ir.Value | None
    padded: bool


def attentions(graph: ir.Graph) -> list[ir.Node]:
    """Every Attention of ai.onnx."""
    return [node for node in graph if node.op_type == "Attention" and is_standard(node)]


def inputs_of_attention(model: OnnxModel) -> list[str]:
    """Names of the activations whose ranges attention in INT8 needs beside those of the products."""
    values = [value for node in attentions(model.model.graph) for value in node.inputs[:3] if value is not None]
    return list(dict.fromkeys(str(value.name) for value in values))


def rewrite_attention(node: ir.Node, work: Work) -> str | None:
    """Quantize an Attention, before the products around it; return the reason where it must stay in float."""
    read = _read(node, work)
    if isinstance(read, str):
        return read
    statistics = [work.statistics.get(str(each.name)) for each in (read.q, read.k, read.v, read.x)]
    known = [each for each in statistics if each is not None]
    if len(known) < len(statistics):
        return "the ranges of its inputs are not known"
    work.inputs[id(read.x), "static"] = _emit(node, read, work, *known)
    work.graph.remove(node)
    return None


def _read(node: ir.Node, work: Work) -> _Attention | str:
    attributes = {name: node.attributes[name].value for name in node.attributes}
    inputs = [*node.inputs, *[None] * (_TOKENS + 1 - len(node.inputs))]
    q, k, v = inputs[:3]
    if work.kinds.get(node) == "float":
        return "stays in float, as asked"
    plain = set(attributes) == _KNOWN and attributes["q_num_heads"] == attributes["kv_num_heads"]
    more = any(inputs[place] is not None for place in _PAST) or len(node.outputs) > 1
    if not plain or more or q is None or k is None or v is None:
        return "it computes more than softmax(QKᵀ)V"
    if _first_token_only(q):
        return "one query a row is too few to pay for quantizing its keys and values"
    padded = inputs[_TOKENS] is not None
    if padded and not has_mask(work.graph):
        return f"the graph has no {MASK}"
    for user, _ in node.outputs[0].uses():
        if not isinstance(find_product(user), Product) or work.kinds.get(user) != "static":
            return "what reads it takes floats"
    heads, scale = int(attributes["q_num_heads"]), float(attributes["scale"])
    return _Attention(q, k, v, node.outputs[0], heads, scale, inputs[_BIAS], padded)


def _first_token_only(value: ir.Value) -> bool:
    """Whether it is computed from one token of a row, see `graph.tokens`."""
    node = value.producer()
    while node is not None and node.op_type in _BY_TOKEN:
        above = [each for each in node.inputs if each is not None and not each.is_initializer()]
        node = above[0].producer() if len(above) == 1 else None
    if node is None or node.op_type != "Gather" or node.inputs[1] is None:
        return False
    index, axis = node.inputs[1].const_value, node.attributes.get("axis")
    return axis is not None and axis.value == 1 and index is not None and index.size == 1


def _emit(
    node: ir.Node, read: _Attention, work: Work, q: Statistics, k: Statistics, v: Statistics, x: Statistics
) -> Quantized:
    """Write the nodes before *node*; return x₈."""
    import onnx_ir as ir

    name = (node.name or node.op_type).rsplit("/", 1)[0]
    graph, new = work.graph, list[ir.Node]()

    def add(op: str, what: str, *inputs: ir.Value | None, domain: str = "", **attributes: int | list[int]) -> ir.Value:
        new.append(ir.node(op, inputs, attributes, domain=domain, name=f"{name}/{what}"))
        return new[-1].outputs[0]

    def heads(value: ir.Value, what: str, scale: ir.Value, zero_point: ir.Value, order: list[int]) -> ir.Value:
        rounded = add("QuantizeLinear", f"Quantize{what}", value, scale, zero_point)
        return add("Transpose", f"Transpose{what}", add("Reshape", f"Split{what}", rounded, split), perm=order)

    def scalar(value: ir.Value, what: str, array: npt.NDArray[np.generic] | np.generic) -> ir.Value:
        return store_array(graph, f"{value.name}_{what}", np.asarray(array))

    split = share_array(graph, f"shape_0_0_{read.heads}_rest", np.array([0, 0, read.heads, -1], np.int64))
    zero, no_probability = (
        share_array(graph, "zero_s8", np.array(0, np.int8)),
        share_array(graph, "zero_u8", np.array(0, np.uint8)),
    )
    (q_scale, q_zero), (x_scale, x_zero) = choose_range(q, work.method), choose_range(x, work.method)
    k_scale, v_scale = _symmetric(k), _symmetric(v)
    q_zero_point = scalar(read.q, "zero_point", q_zero)
    stored = scalar(read.k, "scale", k_scale), scalar(read.v, "scale", v_scale)
    q8 = heads(read.q, "Q", scalar(read.q, "scale", q_scale), q_zero_point, [0, 2, 1, 3])
    k8 = heads(read.k, "K", stored[0], zero, [0, 2, 3, 1])
    v8 = heads(read.v, "V", stored[1], zero, [0, 2, 1, 3])
    scaled = scalar(read.q, "scale", q_scale * np.float32(read.scale))
    scores = add("MatMulIntegerToFloat", "Scores", q8, k8, scaled, stored[0], q_zero_point, domain=CONTRIB)
    if read.bias is not None:
        scores = add("Add", "AddBias", scores, read.bias)
    if read.padded:
        scores = add("Add", "AddPadding", scores, add_padding(graph))
    level = share_array(graph, "probability_scale", np.array(1 / (LEVELS - 1), np.float32))
    softmax = add("Softmax", "Softmax", scores, axis=-1)
    probabilities = add("QuantizeLinear", "QuantizeProbabilities", softmax, level, no_probability)
    grid = scalar(read.x, "scale", x_scale), scalar(read.x, "zero_point", x_zero)
    mixed = add("QLinearMatMul", "Mix", probabilities, level, no_probability, v8, stored[1], zero, *grid)
    joined = share_array(graph, "shape_0_0_rest", np.array([0, 0, -1], np.int64))
    x8 = add("Reshape", "Join", add("Transpose", "TransposeX", mixed, perm=[0, 2, 1, 3]), joined)
    graph.insert_before(node, new)
    return Quantized(x8, *grid)


def _symmetric(statistics: Statistics) -> np.float32:
    """The scale of ±127; 1 where all values are zero."""
    largest = np.float32(statistics.absmax.max())
    return largest / np.float32(SYMMETRIC) if largest > np.finfo(np.float32).tiny * SYMMETRIC else np.float32(1)
