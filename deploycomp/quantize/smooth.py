"""SmoothQuant: move the spread between channels of an activation into the weights before both are rounded.

    x · W   =   (x / s) · (diag(s) W)        s_j = max|x_j|^α / max|W_j|^(1−α)

All products that read one activation share one s. α is searched for each activation by the error of the outputs on
calibration tokens, with both sides rounded. 1/s costs nothing where it can be folded into what makes x:

    value   W_v[:, j] / s_j, b_v / s     x is attention's output, linear in its values channel by channel
    norm    γ / s, β / s                 x is a LayerNormalization that only these products read (pre-LN)
    gate    W_up[:, j] / s_j, b_up / s   x = act(gate) · up

Everywhere else, in post-LN models above all, where the residual reads x too, it takes a Mul of its own.

Source: Xiao et al. 2023 (arXiv 2211.10438), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from deploycomp.onnxmodel import Facts, OnnxModel, name_nodes_once, store_array
from deploycomp.quantize.products import Product, constant, find_product, is_standard, products
from deploycomp.quantize.ranges import LEVELS, grid
from deploycomp.quantize.weights import quantize_weight

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.quantize.calibrate import Statistics

__all__ = ["ALPHAS", "smooth"]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Tried besides leaving the activation alone; the paper uses 0.5 for OPT and 0.8 for Llama."""

LARGEST_SCALE = 1e4
"""Channels are at most this much stronger or weaker afterwards: 1/s and s·W stay far from float32's ends."""

EXPLICIT_GAIN = 0.8
"""A Mul of its own must bring the squared error of the outputs below this share: it costs about 1 % of the time."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Fold:
    """Where 1/s goes: into the last axis of *values*, from *first* on."""

    how: Literal["value", "norm", "gate"]
    values: tuple[tuple[ir.Value, int], ...]
    """Initializer and the axis of the channels."""
    first: int = 0


def smooth(
    model: OnnxModel, statistics: Mapping[str, Statistics], *, bits: Literal[7, 8], explicit: bool
) -> tuple[OnnxModel, list[Facts]]:
    """Smooth every activation that gains from it, in place, before quantization.

    Args:
        model: An FP32 graph; it computes the same afterwards, up to rounding of float32.
        statistics: Name of an activation → its figures, see `calibrate`. Afterwards those of smoothed activations are
            no longer true: calibrate again.
        bits: Of the weights.
        explicit: Whether a Mul may be added where 1/s cannot be folded and the gain is large (`EXPLICIT_GAIN`).

    Returns:
        The model, and for each activation: its name, the layers that read it, α (0 for left alone), the relative
        squared error of the outputs before and after, how it was folded and, where it was left alone, why.
    """
    _separate_vectors(model.model.graph)
    groups: dict[ir.Value, list[Product]] = {}
    for product in products(model.model.graph):
        groups.setdefault(product.x, []).append(product)
    facts: list[Facts] = []
    for x, group in groups.items():
        known = statistics.get(str(x.name))
        if known is not None:
            about = {"input": x.name, "layers": [each.name for each in group]}
            facts.append({**about, **_smooth(x, group, known, model.model.graph, bits, explicit)})
    name_nodes_once(model.model.graph)
    return model, facts


def _separate_vectors(graph: ir.Graph) -> None:
    """Give every reader of a bias or norm its own: export stores equal ones once, and folding changes one of them."""
    for value in list(graph.initializers.values()):
        array = constant(value)
        if array is None or array.ndim != 1 or array.dtype != np.float32:
            continue
        for node, place in list(value.uses())[1:]:
            node.replace_input_with(place, store_array(graph, str(value.name), array))


def _smooth(
    x: ir.Value,
    group: Sequence[Product],
    statistics: Statistics,
    graph: ir.Graph,
    bits: Literal[7, 8],
    explicit: bool,  # noqa: FBT001
) -> Facts:
    error = _errors(group, statistics, bits)
    before = error(np.ones(len(statistics.lows), dtype=np.float32))
    alone = {"alpha": 0.0, "error_before": before, "error_after": before, "fold": None}
    if any(len(each.weight.uses()) > 1 for each in group):
        return {**alone, "reason": "a weight is shared with another product"}
    fold = _find_fold(x, group)
    if fold is None and not explicit:
        return {**alone, "reason": "1/s cannot be folded, and no Mul is allowed"}
    largest = np.max([np.abs(each.matrix).max(axis=1) for each in group], axis=0)
    tried = {alpha: _scales(statistics.absmax, largest, alpha) for alpha in ALPHAS}
    errors = {alpha: error(scale) for alpha, scale in tried.items()}
    alpha = min(errors, key=lambda each: errors[each])
    if errors[alpha] >= before * (1.0 if fold else EXPLICIT_GAIN):
        return {**alone, "reason": "no α gains" if fold else f"no α gains {1 - EXPLICIT_GAIN:.0%}, which a Mul must"}
    for product in group:
        _multiply(product.weight, tried[alpha], axis=1 if product.transposed else 0)
    inverse = np.reciprocal(tried[alpha])
    if fold is None:
        _add_mul(x, group, inverse, graph)
    else:
        for value, axis in fold.values:
            _multiply(value, inverse, axis=axis, first=fold.first)
    how = fold.how if fold else "explicit"
    return {"alpha": alpha, "error_before": before, "error_after": errors[alpha], "fold": how, "reason": None}


def _scales(activation: Floats, weight: Floats, alpha: float) -> Floats:
    """Equation 4, with 1 for channels that are always zero on one side and a geometric mean of 1."""
    alive = (activation > 0) & (weight > 0)
    logs = np.zeros(len(activation))
    logs[alive] = alpha * np.log(activation[alive]) - (1 - alpha) * np.log(weight[alive])
    if alive.any():  # a factor common to all channels changes nothing but the size of the numbers
        logs[alive] -= logs[alive].mean()
    return np.clip(np.exp(logs), 1 / LARGEST_SCALE, LARGEST_SCALE).astype(np.float32)


def _errors(group: Sequence[Product], statistics: Statistics, bits: Literal[7, 8]) -> Callable[[Floats], float]:
    """A function from s to ‖ŷ − y‖² / ‖y‖² over the sampled tokens and all products of the group."""
    x = statistics.sample
    exact = [x @ each.matrix for each in group]
    total = max(float(sum(np.square(y, dtype=np.float64).sum() for y in exact)), 1e-30)

    def error(scale: Floats) -> float:
        step, zero_point = grid(float((statistics.lows / scale).min()), float((statistics.highs / scale).max()))
        levels = np.clip(np.rint(x / (scale * step)) + int(zero_point), 0, LEVELS - 1) - int(zero_point)
        rounded = (levels * step).astype(np.float32)
        missed = 0.0
        for each, y in zip(group, exact, strict=True):
            integers, scales = quantize_weight(each.matrix * scale[:, None], bits=bits, axis=1)
            missed += float(np.square((rounded @ integers.astype(np.float32)) * scales - y, dtype=np.float64).sum())
        return missed / total

    return error


def _find_fold(x: ir.Value, group: Sequence[Product]) -> _Fold | None:
    """The weights of what makes *x*, where nothing else reads them or it."""
    node = x.producer()
    readers = {each.node for each in group}
    if node is None or x.is_graph_output() or any(user not in readers for user, _ in x.uses()):
        return None
    if node.op_type in ("LayerNormalization", "RMSNormalization") and is_standard(node):
        return _initializers("norm", [(value, 0) for value in node.inputs[1:]])
    if node.op_type == "Mul" and is_standard(node):
        folds = (_columns("gate", value, x) for value in node.inputs if value is not None)
        return next((fold for fold in folds if fold is not None), None)
    value = _attention_value(x)
    return None if value is None else _columns("value", value, x)


_NOT_SCALED = {"MultiHeadAttention": (3, 6, 7), "Attention": (4, 5)}
"""Inputs that hold values, or a bias of them, which folding into the projection would not reach."""


def _attention_value(x: ir.Value) -> ir.Value | None:
    """What attention mixes into *x*, with its channels in the same order."""
    out = _through(x, {"Reshape"})
    node = out.producer()
    if node is None or node.op_type not in _NOT_SCALED or (out is not x and not _alone(out)):
        return None
    if node.op_type == "Attention" and not is_standard(node):
        return None  # com.microsoft's takes one packed matrix
    heads = {node.attributes[name].value for name in ("q_num_heads", "kv_num_heads") if name in node.attributes}
    others = [node.inputs[index] for index in _NOT_SCALED[node.op_type] if index < len(node.inputs)]
    cached = any(value.uses() or value.is_graph_output() for value in node.outputs[1:])
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if len(heads) > 1 or any(other is not None for other in others) or cached or value is None or not _alone(value):
        return None
    return _through(value, {"Reshape"})


def _columns(how: Literal["value", "gate"], value: ir.Value, x: ir.Value) -> _Fold | None:
    """The weights and bias of the product whose result *value* is, or whose even part it is."""
    if not _alone(value):
        return None
    node, part, parts = value.producer(), 0, 1
    if node is not None and node.op_type == "Split" and (whole := node.inputs[0]) is not None:
        sizes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        if not _alone(whole) or (sizes is not None and len(set(sizes.tolist())) > 1):
            return None
        part, parts, node = list(node.outputs).index(value), len(node.outputs), whole.producer()
    product = _product_of(node)
    if product is None:
        return None
    channels, rest = divmod(product.matrix.shape[1], parts)
    bias = constant(product.bias)
    # The width also proves that a Split was along the last axis: along any other, x would be as wide as the product.
    if rest or _width(x) != channels or (product.bias is not None and (bias is None or bias.ndim != 1)):
        return None
    values = [(product.weight, 0 if product.transposed else 1)]
    values += [] if product.bias is None else [(product.bias, 0)]
    return _initializers(how, values, part * channels)


def _product_of(node: ir.Node | None) -> Product | None:
    """The product that ends with *node*, its Add or itself."""
    if node is not None and node.op_type == "Add":
        producers = (value.producer() for value in node.inputs if value is not None)
        node = next((each for each in producers if each is not None and each.op_type == "MatMul"), None)
        product = find_product(node) if node is not None and is_standard(node) else None
        return product if isinstance(product, Product) and product.add is not None else None
    if node is None or node.op_type not in ("MatMul", "Gemm") or not is_standard(node):
        return None
    product = find_product(node)
    return product if isinstance(product, Product) and product.add is None else None


def _initializers(
    how: Literal["value", "norm", "gate"], values: Sequence[tuple[ir.Value | None, int]], first: int = 0
) -> _Fold | None:
    """A fold into stored values, each of them read once."""
    present = [(value, axis) for value, axis in values if value is not None]
    if any(constant(value) is None or len(value.uses()) > 1 for value, _ in present):
        return None
    return _Fold(how, tuple(present), first)


def _width(x: ir.Value) -> int | None:
    """The channels of an activation, from the matrix that reads it."""
    user = next(iter(x.uses()))[0]
    product = find_product(user)
    return product.matrix.shape[0] if isinstance(product, Product) else None


def _alone(value: ir.Value) -> bool:
    """Whether one node reads it, and nobody outside."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _through(value: ir.Value, kinds: set[str]) -> ir.Value:
    """The value before a chain of operators of these kinds that nobody else reads."""
    node = value.producer()
    while node is not None and node.op_type in kinds and node.inputs[0] is not None:
        if not _alone(node.inputs[0]):
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def _multiply(value: ir.Value, factors: Floats, *, axis: int, first: int = 0) -> None:
    """Multiply a stored array along *axis*, from index *first* on."""
    import onnx_ir as ir

    array = constant(value)
    assert array is not None
    array = array.copy()
    part = (slice(None),) * axis + (slice(first, first + len(factors)),)
    array[part] *= factors.reshape([-1] + [1] * (array.ndim - axis - 1))
    value.const_value = ir.tensor(array, name=value.name)


def _add_mul(x: ir.Value, group: Sequence[Product], factors: Floats, graph: ir.Graph) -> None:
    """Let the group read x · factors."""
    import onnx_ir as ir

    name = f"{x.name}_smooth"
    stored = store_array(graph, f"{name}_scale", factors)
    first = group[0].node
    node = ir.node("Mul", [x, stored], name=f"{(first.name or first.op_type).rsplit('/', 1)[0]}/Smooth")
    node.outputs[0].name = name
    graph.insert_before(first, [node])
    for product in group:
        product.node.replace_input_with(0, node.outputs[0])
