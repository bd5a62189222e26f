"""INT8: weights are stored as S8 per output channel, activations are quantized to U8, while running or calibrated.

Static needs no pass over an activation for its range, and an answer does not depend on batch mates; dynamic needs no
data. The rewrites are drawn in `rewrite.py` and `attention.py`. Everything but products and embeddings stays in float
on purpose: the residual sum, LayerNorm, softmax and GELU are where INT8 loses accuracy (Bondarenko et al. 2021, arXiv
2109.12948), and outputs of the integer products are float anyway.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.onnxmodel import Facts, OnnxModel, name_nodes_once
from deploycomp.quantize.attention import attentions, rewrite_attention
from deploycomp.quantize.products import is_standard, layer_name
from deploycomp.quantize.rewrite import CONTRIB, Activations, Work, rewrite_embedding, rewrite_product
from deploycomp.quantize.weights import UNSATURATED_BITS
from deploycomp.recipe import Int8

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.quantize.calibrate import Statistics
    from deploycomp.quantize.ranges import Method
    from deploycomp.quantize.weights import Clip

__all__ = ["quantize"]

_REWRITES: dict[str, Callable[[ir.Node, Work], str | None]] = {
    "MatMul": rewrite_product,
    "Gemm": rewrite_product,
    "Gather": rewrite_embedding,
    "Attention": rewrite_attention,
}

_WEIGHT = {"MatMul": 1, "Gemm": 1, "Gather": 0}
"""Which input holds the weights."""

CLOSE = 0.3
"""difflib's cutoff: layers have long names of which people remember the end."""


def quantize(
    model: OnnxModel,
    config: Int8,
    *,
    bits: Literal[7, 8],
    ops: Literal["fused", "standard"],
    statistics: Mapping[str, Statistics] | None = None,
    activations: Literal["dynamic", "static"] | Mapping[str, Activations] = "dynamic",
    method: Method = "minmax",
    clip: Clip = "max",
    keep_float: Sequence[str] = (),
    split: bool = False,
    attention: bool = False,
) -> tuple[OnnxModel, Facts]:
    """Quantize every MatMul, Gemm and embedding that holds weights, in place, and attention where that is asked for.

    Args:
        model: An FP32 graph; its weights are replaced one by one, so that memory does not double.
        config: Whether embeddings are included.
        bits: Of the weights, decided for the target.
        ops: `fused` writes ONNX Runtime's operators, `standard` only ai.onnx ones.
        statistics: Name of an activation → its figures, see `calibrate`. With them clipping counts an error by how
            large the input is, and biases are corrected.
        activations: One kind for all, or patterns over names of nodes and layers → kind: the first that fits decides,
            and what none fits is static. Without statistics of its input a product is dynamic.
        method: How static ranges are chosen.
        clip: See `quantize_weight`.
        keep_float: Patterns over names of nodes and layers that stay in float, whatever *activations* says.
        split: Write DynamicQuantizeLinear and MatMulIntegerToFloat also where an input is used once.
        attention: Quantize the products of attention too, where statistics know its inputs and what reads it is static.
            With 7 bits it stays in float, as keys and values have 8 and would saturate where weights do.

    Returns:
        The model and the facts: coverage in nodes and bytes, a reason for every node left in float, and for each
        layer its kind of activations, clipping, relative weight error and whether its bias was corrected.

    Raises:
        UsageError: A pattern fits nothing, or static is asked for without statistics.
        VerificationFailed: Not one node could be quantized.
    """
    if statistics is None and (activations != "dynamic" or attention):
        raise UsageError("static ranges need calibration", where="int8", hint="give the step data to calibrate on")
    graph = model.model.graph
    first = attentions(graph) if attention and bits == UNSATURATED_BITS else []
    work = Work(
        graph=graph,
        bits=bits,
        fused=ops == "fused",
        split=split,
        embeddings=config.embeddings,
        clip=clip,
        method=method,
        statistics=statistics or {},
        kinds=_kinds(graph, activations, keep_float),
    )
    seen: dict[str, list[int]] = {}
    reasons: list[dict[str, str]] = []
    for node in [*first, *(node for node in graph if node.op_type in _WEIGHT and is_standard(node))]:
        name, reason = node.name or node.op_type, _REWRITES[node.op_type](node, work)
        if reason == "":
            continue  # an index computation, not a table of weights
        count = seen.setdefault(node.op_type, [0, 0])
        count[0] += reason is None
        count[1] += 1
        if reason is not None:
            reasons.append({"node": name, "op": node.op_type, "reason": reason})
    if not any(done for done, _ in seen.values()):
        said = "; ".join(f"{each['node']}: {each['reason']}" for each in reasons[:5])
        raise VerificationFailed(
            f"0 of {sum(count for _, count in seen.values())} nodes were quantized",
            why=said or f"the graph has no {', '.join(_REWRITES)} with weights",
            hint="export without --int8",
        )
    _clean(model.model, fused=work.fused)
    return model, {
        "weight_bits": bits,
        "nodes": dict(sorted(seen.items())),
        "bytes": _bytes(graph),
        "left_in_float": reasons,
        "layers": work.layers,
    }


def _kinds(
    graph: ir.Graph, activations: Literal["dynamic", "static"] | Mapping[str, Activations], keep_float: Sequence[str]
) -> dict[ir.Node, Activations]:
    """Node with weights, or Attention → its kind."""
    default: Activations = activations if isinstance(activations, str) else "static"
    patterns: list[tuple[str, Activations]] = [(pattern, "float") for pattern in keep_float]
    patterns += [] if isinstance(activations, str) else activations.items()
    nodes = {node: [str(node.name), layer] for node in graph if (layer := _layer(node)) is not None}
    nodes |= {node: [str(node.name)] for node in attentions(graph)}
    names = list(dict.fromkeys(name for known in nodes.values() for name in known))
    for pattern, _ in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, cutoff=CLOSE)
            raise UsageError(
                f"no layer is named {pattern!r}",
                where="int8",
                hint=f"{'close' if close else 'for example'}: {', '.join(close or names[:3])}",
            )

    def kind(known: list[str]) -> Activations:
        for pattern, wanted in patterns:
            if any(fnmatchcase(name, pattern) for name in known):
                return wanted
        return default

    return {node: kind(known) for node, known in nodes.items()}


def _layer(node: ir.Node) -> str | None:
    """The layer of a node that holds weights."""
    if node.op_type not in _WEIGHT or not is_standard(node):
        return None
    weight = node.inputs[_WEIGHT[node.op_type]]
    return layer_name(weight) if weight is not None and weight.is_initializer() else None


def _clean(model: ir.Model, *, fused: bool) -> None:
    """Drop the float weights, and name every node once."""
    for value in list(model.graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            model.graph.initializers.pop(str(value.name))
    name_nodes_once(model.graph)
    if fused:
        model.opset_imports.setdefault(CONTRIB, 1)


def _bytes(graph: ir.Graph) -> dict[str, int]:
    """Bytes of the stored tensors by kind."""
    stored = {"int8": 0, "float": 0, "other": 0}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            continue
        kind = "int8" if tensor.dtype.name == "INT8" else "float" if tensor.dtype.name.startswith("FLOAT") else "other"
        stored[kind] += tensor.nbytes
    return stored
