"""The order of the rewrites, and what they need: the shapes that tracing knew, which are dropped at the end."""

from __future__ import annotations

from deploycomp.graph.reshapes import drop_round_trips, settle_shapes
from deploycomp.graph.sums import keep_sums_apart
from deploycomp.graph.tokens import compute_first_token_only
from deploycomp.onnxmodel import Facts, OnnxModel

__all__ = ["rewrite"]


def rewrite(model: OnnxModel, *, gpu: bool = False) -> Facts:
    """Rewrite a freshly traced graph in place; the answers stay the same to the rounding of FP32.

    Args:
        model: A graph whose values still have the shapes that tracing gave them.
        gpu: Whether it is for one: what ONNX Runtime fuses there is faster fused.

    Returns:
        The facts: how often each rewrite applied.
    """
    import onnx_ir.passes.common as common

    graph = model.model.graph
    facts = {"reshapes_dropped": drop_round_trips(graph), "shapes_settled": settle_shapes(graph)}
    common.RemoveUnusedNodesPass()(model.model)  # a dead reader would count as one that needs every token
    facts["first_token_only"] = compute_first_token_only(graph)
    if not gpu:
        facts["sums_kept_apart"] = keep_sums_apart(graph)
    _forget_shapes(model)
    return facts


def _forget_shapes(model: OnnxModel) -> None:
    """Drop shapes of intermediate values: later steps change them, and a stale one makes other tools refuse a graph."""
    outputs = {id(value) for value in model.model.graph.outputs}
    for node in model.model.graph:
        for value in node.outputs:
            if id(value) not in outputs:
                value.shape, value.type = None, None
