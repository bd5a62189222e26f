"""The rewrites of INT8, node by node.

    dynamic   MatMul(x, W) + b   →   DynamicQuantizeMatMul(x, Wq, s, b)                             x used once
                                     MatMulIntegerToFloat(DynamicQuantizeLinear(x), Wq, s, b)       x shared (Q, K, V)
    static    MatMul(x, W) + b   →   MatMulIntegerToFloat(QuantizeLinear(x, sx, zx), Wq, s, b)      calibrated range
              Gather(E, i)       →   Cast(Gather(Eq, i)) · Gather(s, i)                             one scale a row

With `fused=False` the same arithmetic is written in ai.onnx operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from deploycomp.onnxmodel import Facts, store_array
from deploycomp.quantize.products import MIN_WEIGHTS, Product, constant, find_product, layer_name
from deploycomp.quantize.ranges import Method, choose_range
from deploycomp.quantize.weights import Clip, corrected_bias, quantize_weight

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.quantize.calibrate import Statistics

__all__ = ["CONTRIB", "Activations", "Quantized", "Work", "rewrite_embedding", "rewrite_product"]

CONTRIB = "com.microsoft"

Activations = Literal["dynamic", "static", "float"]
"""How a product takes its input: range found while running, range calibrated, or not quantized at all."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quantized:
    """An activation in U8 with its scale and zero point."""

    x: ir.Value
    scale: ir.Value
    zero_point: ir.Value


@dataclass(frozen=True)
class _Weight:
    """A matrix in S8 with its scales, and the same as arrays."""

    stored: ir.Value
    scales: ir.Value
    integers: npt.NDArray[np.int8]
    scale: Floats


@dataclass
class Work:
    """What one pass over the graph is told, and what it collects."""

    graph: ir.Graph
    bits: Literal[7, 8]
    fused: bool
    split: bool
    embeddings: bool
    clip: Clip
    method: Method
    statistics: Mapping[str, Statistics]
    kinds: Mapping[ir.Node, Activations]
    """Node with weights, or Attention → how it takes its input."""
    weights: dict[tuple[int, bool], _Weight] = field(default_factory=dict)
    inputs: dict[tuple[int, str], Quantized] = field(default_factory=dict)
    layers: list[Facts] = field(default_factory=list)


def rewrite_product(node: ir.Node, work: Work) -> str | None:
    """Quantize a MatMul or Gemm; return the reason where it must stay in float."""
    product = find_product(node)
    if isinstance(product, str):
        return product
    kind = work.kinds[node]
    if kind == "float":
        return "stays in float, as asked"
    statistics = work.statistics.get(str(product.x.name))
    if statistics is None:
        kind = "dynamic"
    first = len(work.layers)
    weight = _weight(product.weight, product.matrix, 1, node, work, statistics)
    bias, corrected = _bias(product, weight, statistics, work)
    for layer in work.layers[first:]:  # none where another product has stored this weight already
        layer.update(activations=kind, bias_corrected=corrected)
    _emit(product, weight, bias, kind, work)
    return None


def rewrite_embedding(node: ir.Node, work: Work) -> str | None:
    """Quantize a table by row; an empty reason means that this Gather is no table of weights at all."""
    import onnx_ir as ir

    table, index = node.inputs[0], node.inputs[1]
    weight = constant(table)
    axis = node.attributes["axis"].value if "axis" in node.attributes else 0
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or axis != 0 or index is None:
        return ""
    if index.is_initializer():
        return ""
    if not work.embeddings:
        return "embeddings stay in float, as asked"
    if weight.size < MIN_WEIGHTS:
        return f"{weight.size} values are too few to pay for a scale lookup (< {MIN_WEIGHTS})"
    if work.kinds[node] == "float":
        return "stays in float, as asked"
    assert table is not None
    stored = _weight(table, weight, 0, node, work, None)
    name = (node.name or node.op_type).rsplit("/", 1)[0]
    rows = ir.node("Gather", [stored.stored, index], {"axis": 0}, name=f"{name}/Gather")
    scales = ir.node("Gather", [stored.scales, index], {"axis": 0}, name=f"{name}/GatherScale")
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{name}/Cast")
    real = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}/Mul")
    work.graph.insert_before(node, [rows, scales, cast, real])
    _take_over(node.outputs[0], real.outputs[0], work.graph)
    work.graph.remove(node, safe=True)
    return None


def _emit(product: Product, weight: _Weight, bias: ir.Value | None, kind: Activations, work: Work) -> None:
    """Put the quantized product in the place of the float one."""
    import onnx_ir as ir

    node, x = product.node, product.x
    name = (node.name or node.op_type).rsplit("/", 1)[0]
    shared = sum(1 for user, _ in x.uses() if user.op_type in ("MatMul", "Gemm")) > 1 or (id(x), kind) in work.inputs
    new: list[ir.Node] = []
    last = [None, bias] if bias is not None else []
    if kind == "dynamic" and work.fused and not shared and not work.split:
        inputs = [x, weight.stored, weight.scales, *last]
        new.append(ir.node("DynamicQuantizeMatMul", inputs, domain=CONTRIB, name=f"{name}/DynamicQuantizeMatMul"))
    else:
        xq, extra = _input(x, name, kind, work)
        new += extra
        if work.fused:
            inputs = [xq.x, weight.stored, xq.scale, weight.scales, xq.zero_point, *last]
            new.append(ir.node("MatMulIntegerToFloat", inputs, domain=CONTRIB, name=f"{name}/MatMulIntegerToFloat"))
        else:
            new += _standard(name, xq, weight, bias)
    result = new[-1].outputs[0]
    work.graph.insert_before(product.add or node, new)
    _take_over(product.out, result, work.graph)
    work.graph.remove([each for each in (product.add, node) if each is not None], safe=True)


def _standard(name: str, x: Quantized, weight: _Weight, bias: ir.Value | None) -> list[ir.Node]:
    import onnx_ir as ir

    product = ir.node("MatMulInteger", [x.x, weight.stored, x.zero_point], name=f"{name}/MatMulInteger")
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{name}/Cast")
    scales = ir.node("Mul", [x.scale, weight.scales], name=f"{name}/Scale")
    real = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}/Mul")
    nodes = [product, cast, scales, real]
    if bias is not None:
        nodes.append(ir.node("Add", [real.outputs[0], bias], name=f"{name}/Add"))
    return nodes


def _input(x: ir.Value, name: str, kind: Activations, work: Work) -> tuple[Quantized, list[ir.Node]]:
    """The U8 form of an activation, computed once however many products read it."""
    import onnx_ir as ir

    known = work.inputs.get((id(x), kind))
    if known is not None:
        return known, []
    if kind == "dynamic":
        node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{name}/DynamicQuantizeLinear")
        made = Quantized(node.outputs[0], node.outputs[1], node.outputs[2])
    else:
        scale, zero_point = choose_range(work.statistics[str(x.name)], work.method)
        scales = store_array(work.graph, f"{x.name}_scale", np.asarray(scale))
        zero_points = store_array(work.graph, f"{x.name}_zero_point", np.asarray(zero_point))
        node = ir.node("QuantizeLinear", [x, scales, zero_points], name=f"{name}/QuantizeLinear")
        made = Quantized(node.outputs[0], scales, zero_points)
    work.inputs[id(x), kind] = made
    return made, [node]


def _weight(
    value: ir.Value,
    matrix: Floats,
    axis: Literal[0, 1],
    node: ir.Node,
    work: Work,
    statistics: Statistics | None,
) -> _Weight:
    """Quantize a stored matrix once, also where several nodes share it, with scales along *axis*.

    A shared one is clipped for the input of the first node.
    """
    by_row = axis == 0
    key = (id(value), by_row)
    if key in work.weights:
        return work.weights[key]
    importance = None if statistics is None else statistics.mean_square
    integers, scale = quantize_weight(matrix, bits=work.bits, axis=axis, clip=work.clip, importance=importance)
    error = float(np.linalg.norm(integers * scale - matrix) / max(float(np.linalg.norm(matrix)), 1e-30))
    name = (value.name or "weight").removesuffix("_t")
    suffix = "_rows" if by_row else ""
    stored = store_array(work.graph, f"{name}{suffix}_int8", np.ascontiguousarray(integers))
    scales = store_array(work.graph, f"{name}{suffix}_scale", scale if by_row else scale.reshape(-1))
    work.weights[key] = _Weight(stored, scales, integers, scale)
    work.layers.append(
        {
            "name": layer_name(value),
            "op": node.op_type,
            "bytes_before": int(matrix.nbytes),
            "bytes_after": int(integers.nbytes + scale.nbytes),
            "error": round(error, 6),
            "clip": work.clip,
        }
    )
    return work.weights[key]


def _bias(product: Product, weight: _Weight, statistics: Statistics | None, work: Work) -> tuple[ir.Value | None, bool]:
    """The bias, corrected where the mean of the input is known and the bias is a stored vector or none."""
    old = constant(product.bias)
    outputs = weight.scale.shape[1]
    if statistics is None or (product.bias is not None and (old is None or old.shape != (outputs,))):
        return product.bias, False
    array = corrected_bias(product.matrix, weight.integers, weight.scale, statistics.mean, old)
    # Named after the node: products that share a weight have different inputs, so different corrections.
    name = str(product.bias.name) if product.bias is not None else f"{product.node.name or product.name}.bias"
    return store_array(work.graph, f"{name}_corrected", array), True


def _take_over(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
    """Let *new* stand wherever *old* stood, also as a graph output."""
    import onnx_ir as ir

    if old.is_graph_output():
        new.shape, new.type = old.shape, old.type
        new.name, old.name = old.name, None
        for position, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[position] = new
    ir.convenience.replace_all_uses_with(old, new)
