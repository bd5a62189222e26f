"""Dynamic INT8: weights are stored as S8 per output channel, activations are quantized to U8 while running.

    MatMul(x, W) + b   →   DynamicQuantizeMatMul(x, Wq, s, b)                      x used once
                           MatMulIntegerToFloat(DynamicQuantizeLinear(x), Wq, s, b)  x shared, as by Q, K and V
    Gather(E, i)       →   Cast(Gather(Eq, i)) · Gather(s, i)                      one scale a row

With `ops="standard"` the same arithmetic is written in ai.onnx operators. Everything else stays in float on purpose:
the residual sum, LayerNorm, softmax and GELU are where INT8 loses accuracy (Bondarenko et al. 2021), and outputs of the
integer products are float anyway.

Source: symmetric per-channel weights, Jacob et al. 2018 (arXiv 1712.05877), equation 1 with zero point 0 for weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from deploycomp.errors import VerificationFailed
from deploycomp.onnxmodel import Facts, OnnxModel, name_nodes_once
from deploycomp.recipe import Int8

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LARGEST", "quantize", "quantize_weight"]

LARGEST = {8: 127, 7: 64}
"""Largest magnitude of a weight by bits. 64 for 7: 2·255·64 = 32640 fits the saturating int16 sum of VPMADDUBSW."""

MIN_WEIGHTS = 1024
"""Smaller matrices save less than they cost: a kilobyte against a quantization of their input (and accuracy)."""

QUANTIZABLE = ("MatMul", "Gemm", "Gather")

_CONTRIB = "com.microsoft"
Floats = npt.NDArray[np.float32]


def quantize_weight(weight: Floats, *, bits: Literal[7, 8], axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round a matrix to symmetric INT8 with one scale for each index along *axis*.

    Args:
        weight: [rows, columns], finite.
        bits: 8 for ±127, 7 for ±64.
        axis: The axis that keeps its own scales: 1 for the columns of MatMul's B, 0 for the rows of a table.

    Returns:
        The integers, shaped as *weight*, and the scales, shaped to broadcast against it.
    """
    largest = np.max(np.abs(weight), axis=1 - axis, keepdims=True)
    scale = np.where(largest > 0, largest / LARGEST[bits], 1.0).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


@dataclass
class _Work:
    """What one pass over the graph collects."""

    graph: ir.Graph
    bits: Literal[7, 8]
    fused: bool
    embeddings: bool
    weights: dict[tuple[int, bool], tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    activations: dict[int, tuple[ir.Value, ir.Value, ir.Value]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    float_nodes: list[dict[str, str]] = field(default_factory=list)
    layers: list[dict[str, object]] = field(default_factory=list)


def quantize(
    model: OnnxModel, config: Int8, *, bits: Literal[7, 8], ops: Literal["fused", "standard"]
) -> tuple[OnnxModel, Facts]:
    """Quantize every MatMul, Gemm and embedding that holds weights, in place.

    Args:
        model: An FP32 graph; its weights are replaced one by one, so that memory does not double.
        config: Whether embeddings are included.
        bits: Of the weights, decided for the target.
        ops: `fused` writes ONNX Runtime's operators, `standard` only ai.onnx ones.

    Returns:
        The model and the facts: coverage in nodes and bytes, a reason for every node left in float, and the
        relative weight error of each layer.

    Raises:
        VerificationFailed: Not one node could be quantized.
    """
    graph = model.model.graph
    work = _Work(graph, bits, ops == "fused", config.embeddings)
    handlers: dict[str, Callable[[ir.Node, _Work], str | None]] = {
        "MatMul": _linear,
        "Gemm": _linear,
        "Gather": _embedding,
    }
    for node in list(graph):
        handler = handlers.get(node.op_type)
        if handler is None or node.domain not in ("", "ai.onnx"):
            continue
        work.seen[node.op_type] = work.seen.get(node.op_type, 0) + 1
        name = node.name or node.op_type
        reason = handler(node, work)
        if reason is None:
            work.done[node.op_type] = work.done.get(node.op_type, 0) + 1
        elif reason:
            work.float_nodes.append({"node": name, "op": node.op_type, "reason": reason})
        else:
            work.seen[node.op_type] -= 1  # an index computation, not a table of weights
    if not work.done:
        reasons = "; ".join(f"{each['node']}: {each['reason']}" for each in work.float_nodes[:5])
        raise VerificationFailed(
            f"0 of {sum(work.seen.values())} nodes were quantized",
            why=reasons or f"the graph has no {', '.join(QUANTIZABLE)} with weights",
            hint="export without --int8",
        )
    _clean(model.model, work)
    return model, _facts(model.model, work)


def _linear(node: ir.Node, work: _Work) -> str | None:
    """Quantize a MatMul or Gemm; return the reason where it must stay in float."""
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None
    weight = _constant(w)
    if weight is None:
        return "both inputs are activations"
    if x.is_initializer():
        return "both inputs are constants: ONNX Runtime folds it when the session is created"
    if weight.ndim != 2:
        return f"the weight has {weight.ndim} dimensions"
    if weight.size < MIN_WEIGHTS:
        return f"{weight.size} weights are too few to pay for quantizing the input (< {MIN_WEIGHTS})"
    transposed = False
    bias: ir.Value | None = None
    out = node.outputs[0]
    if node.op_type == "Gemm":
        attributes = {name: node.attributes[name].value for name in node.attributes}
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            return "this Gemm scales or transposes its input"
        transposed = bool(attributes.get("transB", 0))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    add = None if bias is not None else _bias_add(node)
    if add is not None:
        bias = next(value for value in add.inputs if value is not None and value.is_initializer())
        out = add.outputs[0]
    assert w is not None
    quantized, scale = _weight(w, weight.T if transposed else weight, 1, node, work)
    _emit_linear(node, add, x, quantized, scale, bias, out, work)
    return None


def _emit_linear(
    node: ir.Node,
    add: ir.Node | None,
    x: ir.Value,
    weight: ir.Value,
    scale: ir.Value,
    bias: ir.Value | None,
    out: ir.Value,
    work: _Work,
) -> None:
    import onnx_ir as ir

    name = (node.name or node.op_type).rsplit("/", 1)[0]
    shared = sum(1 for user, _ in x.uses() if user.op_type in ("MatMul", "Gemm")) > 1 or id(x) in work.activations
    new: list[ir.Node] = []
    if work.fused and not shared:
        inputs = [x, weight, scale, None, bias] if bias is not None else [x, weight, scale]
        new.append(ir.node("DynamicQuantizeMatMul", inputs, domain=_CONTRIB, name=f"{name}/DynamicQuantizeMatMul"))
    else:
        xq, xs, xz, extra = _activation(x, name, work)
        new += extra
        if work.fused:
            inputs = [xq, weight, xs, scale, xz, None, bias] if bias is not None else [xq, weight, xs, scale, xz]
            new.append(ir.node("MatMulIntegerToFloat", inputs, domain=_CONTRIB, name=f"{name}/MatMulIntegerToFloat"))
        else:
            new += _standard_linear(name, xq, xs, xz, weight, scale, bias)
    result = new[-1].outputs[0]
    last = add if add is not None else node
    work.graph.insert_before(last, new)
    _take_over(out, result, work.graph)
    work.graph.remove([each for each in (add, node) if each is not None], safe=True)


def _standard_linear(
    name: str,
    xq: ir.Value,
    xs: ir.Value,
    xz: ir.Value,
    weight: ir.Value,
    scale: ir.Value,
    bias: ir.Value | None,
) -> list[ir.Node]:
    import onnx_ir as ir

    product = ir.node("MatMulInteger", [xq, weight, xz], name=f"{name}/MatMulInteger")
    cast = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{name}/Cast")
    scales = ir.node("Mul", [xs, scale], name=f"{name}/Scale")
    real = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}/Mul")
    nodes = [product, cast, scales, real]
    if bias is not None:
        nodes.append(ir.node("Add", [real.outputs[0], bias], name=f"{name}/Add"))
    return nodes


def _activation(x: ir.Value, name: str, work: _Work) -> tuple[ir.Value, ir.Value, ir.Value, list[ir.Node]]:
    """The U8 form of an activation, computed once however many products read it."""
    import onnx_ir as ir

    known = work.activations.get(id(x))
    if known is not None:
        return *known, []
    node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{name}/DynamicQuantizeLinear")
    work.activations[id(x)] = (node.outputs[0], node.outputs[1], node.outputs[2])
    return *work.activations[id(x)], [node]


def _embedding(node: ir.Node, work: _Work) -> str | None:
    """Quantize a table by row; an empty reason means that this Gather is no table of weights at all."""
    import onnx_ir as ir

    table, index = node.inputs[0], node.inputs[1]
    weight = _constant(table)
    axis = node.attributes["axis"].value if "axis" in node.attributes else 0
    if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or axis != 0 or index is None:
        return ""
    if index.is_initializer():
        return ""
    if not work.embeddings:
        return "embeddings stay in float, as asked"
    if weight.size < MIN_WEIGHTS:
        return f"{weight.size} values are too few to pay for a scale lookup (< {MIN_WEIGHTS})"
    assert table is not None
    quantized, scale = _weight(table, weight, 0, node, work)
    name = (node.name or node.op_type).rsplit("/", 1)[0]
    rows = ir.node("Gather", [quantized, index], {"axis": 0}, name=f"{name}/Gather")
    scales = ir.node("Gather", [scale, index], {"axis": 0}, name=f"{name}/GatherScale")
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT.value}, name=f"{name}/Cast")
    real = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{name}/Mul")
    work.graph.insert_before(node, [rows, scales, cast, real])
    _take_over(node.outputs[0], real.outputs[0], work.graph)
    work.graph.remove(node, safe=True)
    return None


def _weight(
    value: ir.Value, matrix: Floats, axis: Literal[0, 1], node: ir.Node, work: _Work
) -> tuple[ir.Value, ir.Value]:
    """Quantize a stored matrix once, also where several nodes share it, with scales along *axis*."""
    by_row = axis == 0
    key = (id(value), by_row)
    if key in work.weights:
        return work.weights[key]
    integers, scale = quantize_weight(matrix, bits=work.bits, axis=axis)
    error = float(np.linalg.norm(integers * scale - matrix) / max(float(np.linalg.norm(matrix)), 1e-30))
    name = (value.name or "weight").removesuffix("_t")
    suffix = "_rows" if by_row else ""
    stored = _initializer(work.graph, f"{name}{suffix}_int8", np.ascontiguousarray(integers))
    scales = _initializer(work.graph, f"{name}{suffix}_scale", scale if by_row else scale.reshape(-1))
    work.weights[key] = stored, scales
    work.layers.append(
        {
            "name": name.removesuffix(".weight"),
            "op": node.op_type,
            "bytes_before": int(matrix.nbytes),
            "bytes_after": int(integers.nbytes + scale.nbytes),
            "error": round(error, 6),
        }
    )
    return work.weights[key]


def _initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def _constant(value: ir.Value | None) -> Floats | None:
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _bias_add(node: ir.Node) -> ir.Node | None:
    """The Add that only adds a stored vector to this product, if there is one."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    user = uses[0][0]
    if user.op_type != "Add" or user.domain not in ("", "ai.onnx"):
        return None
    vectors = [_constant(value) for value in user.inputs]
    return user if sum(vector is not None and vector.ndim == 1 for vector in vectors) == 1 else None


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


def _clean(model: ir.Model, work: _Work) -> None:
    for value in list(work.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            work.graph.initializers.pop(str(value.name))
    name_nodes_once(work.graph)
    if work.fused:
        model.opset_imports.setdefault(_CONTRIB, 1)


def _facts(model: ir.Model, work: _Work) -> Facts:
    stored = {"int8": 0, "float": 0, "other": 0}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        kind = "int8" if tensor.dtype.name == "INT8" else "float" if tensor.dtype.name.startswith("FLOAT") else "other"
        stored[kind] += tensor.nbytes
    return {
        "weight_bits": work.bits,
        "nodes": {op: [work.done.get(op, 0), count] for op, count in sorted(work.seen.items()) if count},
        "bytes": stored,
        "left_in_float": work.float_nodes,
        "layers": work.layers,
    }
