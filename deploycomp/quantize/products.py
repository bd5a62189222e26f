"""The products of an activation and a stored matrix: what INT8, smoothing and the saturation proof work on.

MatMul(x, W) [+ b]      Gemm(x, W or Wᵀ, b)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.onnxmodel import OnnxModel

__all__ = ["MIN_WEIGHTS", "Product", "constant", "find_product", "inputs_of_products", "is_standard", "products"]

MIN_WEIGHTS = 1024
"""Smaller matrices save less than they cost: a kilobyte against a quantization of their input (and accuracy)."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """One MatMul or Gemm with a stored matrix, and its bias.

    Args:
        node: The MatMul or Gemm.
        x: The activation, [..., inputs].
        weight: The stored matrix.
        transposed: Whether it is stored as [outputs, inputs].
        add: The Add that only adds the bias, where the node itself does not.
        bias: [outputs].
        out: The result, bias included.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    transposed: bool
    add: ir.Node | None
    bias: ir.Value | None
    out: ir.Value

    @property
    def name(self) -> str:
        """The layer: the weight's name without what says that it is one."""
        return layer_name(self.weight)

    @property
    def matrix(self) -> Floats:
        """The weights as [inputs, outputs]."""
        stored = constant(self.weight)
        assert stored is not None
        return stored.T if self.transposed else stored


def products(graph: ir.Graph) -> list[Product]:
    """Every product that can be quantized, in the order of the graph."""
    found = (find_product(node) for node in graph if node.op_type in ("MatMul", "Gemm") and is_standard(node))
    return [each for each in found if isinstance(each, Product)]


def inputs_of_products(model: OnnxModel) -> list[str]:
    """Names of the activations that calibration has to look at, each once."""
    return list(dict.fromkeys(str(each.x.name) for each in products(model.model.graph)))


def find_product(node: ir.Node) -> Product | str:
    """Read a MatMul or Gemm of ai.onnx; where it cannot be quantized, the reason."""
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None
    weight = constant(w)
    if w is None or weight is None:
        return "both inputs are activations"
    if x.is_initializer():
        return "both inputs are constants: ONNX Runtime folds it when the session is created"
    if weight.ndim != 2:
        return f"the weight has {weight.ndim} dimensions"
    if weight.size < MIN_WEIGHTS:
        return f"{weight.size} weights are too few to pay for quantizing the input (< {MIN_WEIGHTS})"
    transposed, bias = False, None
    if node.op_type == "Gemm":
        attributes = {name: node.attributes[name].value for name in node.attributes}
        if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
            return "this Gemm scales or transposes its input"
        transposed = bool(attributes.get("transB", 0))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    add = None if bias is not None else _bias_add(node, weight.shape[0 if transposed else 1])
    if add is None:
        return Product(node, x, w, transposed, None, bias, node.outputs[0])
    bias = next(value for value in add.inputs if value is not None and value.is_initializer())
    return Product(node, x, w, transposed, add, bias, add.outputs[0])


def layer_name(weight: ir.Value) -> str:
    """`encoder.layer.0.output.dense` for the value that holds its (transposed) weight."""
    return (weight.name or "weight").removesuffix("_t").removesuffix(".weight")


def constant(value: ir.Value | None) -> Floats | None:
    """What an initializer holds; None for any other value."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def is_standard(node: ir.Node) -> bool:
    """Whether the operator is one of ai.onnx."""
    return node.domain in ("", "ai.onnx")


def _bias_add(node: ir.Node, outputs: int) -> ir.Node | None:
    """The Add that only adds a stored vector to this product, if there is one."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    user = uses[0][0]
    if user.op_type != "Add" or not is_standard(user):
        return None
    vectors = [constant(value) for value in user.inputs]
    return user if [vector.shape for vector in vectors if vector is not None] == [(outputs,)] else None
