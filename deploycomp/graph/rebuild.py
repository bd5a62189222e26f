"""The rules of models/factors.py as terms: numpy computes a term, and the same term is written as ONNX nodes.

    low_rank      (Dᵀ Zᵀ + d) · s
    autoencoder   found · s / norm of its columns,        found = tanh(W₃ᵀ f(f(Z W₁ + b₁) W₂ + b₂)ᵀ + b₃)
    kronecker     A [b, 1, a, k] @ B [1, q, k, p]         → [b, q, a, p] → [bq, ap]
    tucker        U [a, u] @ ((C core) Vᵀ) [m, u, p]      → [m, a, p] → [m, ap];     (·) is common to all members
    INT8          Z = Cast(Zq) · sz

Weights are rebuilt as [columns, rows], which is what MatMul reads. ONNX Runtime frees no value before it has folded
them all, so each operator on a whole matrix costs as much memory as all weights together, for as long as a session is
being created: rules use as few as they can. What blocks fill beyond a weight is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "StoredGroup", "Term", "as_stored", "compute", "leaf", "leaves", "rebuilt", "scalar"]

SLOPE = 0.01
"""Of the leaky ReLU, as in models/factors.py, which this room may not import."""

SMALLEST = 1e-12
"""A decoded row of norm 0 stays 0; as in models/factors.py."""

LARGEST = 127
"""Of a factor in INT8."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StoredGroup:
    """Weights that were rebuilt from factors, and share a decoder.

    Args:
        rule: How they are rebuilt: low_rank, autoencoder, kronecker or tucker (models/factors.py).
        paths: The modules; the graph holds `<path>.weight`, or what export and INT8 made of it.
        shapes: [rows, columns] of each.
        own: The tensors of each.
        shared: The tensors that are stored once.
        bits: 8 stores tensors of two dimensions and more in INT8, see `as_stored`.
    """

    rule: str
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    own: tuple[dict[str, np.ndarray], ...]
    shared: dict[str, np.ndarray]
    bits: Literal[8, 32] = 32

    @property
    def decoder(self) -> str:
        """The path under which shared tensors are stored."""
        return f"{self.paths[0]}.decoder"


@dataclass(frozen=True, eq=False)
class Term:
    """An operator of ai.onnx over terms, or a tensor that is stored under the name *op*."""

    op: str
    inputs: tuple[Term, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    array: Array | None = None

    def then(self, op: str, *others: Term, **attributes: Any) -> Term:
        """Apply an operator to this term and others."""
        return Term(op, (self, *others), attributes)

    def reshape(self, *shape: int) -> Term:
        """Reshape, −1 for the rest."""
        return self.then("Reshape", _integers(*shape))

    def transpose(self, *order: int) -> Term:
        """Order the dimensions anew."""
        return self.then("Transpose", perm=list(order))

    def __matmul__(self, other: Term) -> Term:
        return self.then("MatMul", other)

    def __mul__(self, other: Term) -> Term:
        return self.then("Mul", other)

    def __truediv__(self, other: Term) -> Term:
        return self.then("Div", other)


Terms = Mapping[str, Term]
Shapes = Mapping[str, tuple[int, ...]]
"""Of every stored tensor by name, and of the `weight` itself."""


def leaf(name: str, array: Array) -> Term:
    """A stored tensor."""
    return Term(name, array=array)


def scalar(value: float, kind: type[np.generic] = np.float32) -> Term:
    """A stored number, one for all who need it."""
    return leaf(f"{kind.__name__}_{value:g}", np.array(value, kind))


def _integers(*values: int) -> Term:
    return leaf("int64_" + "_".join(map(str, values)), np.array(values, np.int64))


def leaves(term: Term) -> Iterator[Term]:
    """Every stored tensor under a term, as often as it is read."""
    if term.array is not None:
        yield term
    for each in term.inputs:
        yield from leaves(each)


def _gemm(a: Array, b: Array, c: Array | float = 0.0, *, transA: int = 0, transB: int = 0) -> Array:  # noqa: N803
    return (a.T if transA else a) @ (b.T if transB else b) + c


def _quantize(x: Array, scale: Array, zero: Array) -> Array:
    range_of = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / scale) + zero, range_of.min, range_of.max).astype(zero.dtype)


_NUMPY: dict[str, Callable[..., Array]] = {
    "Cast": lambda x, to: x.astype(_numpy_type(to)),
    "Clip": np.clip,
    "Div": np.divide,
    "Gemm": _gemm,
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "MatMul": np.matmul,
    "Max": np.maximum,
    "Mul": np.multiply,
    "QuantizeLinear": _quantize,
    "ReduceL2": lambda x, axes, keepdims: np.sqrt(np.square(x).sum(tuple(axes), keepdims=bool(keepdims))),
    "Reshape": lambda x, shape: x.reshape(tuple(shape)),
    "Slice": lambda x, start, end: x[tuple(map(slice, start, end))],
    "Tanh": np.tanh,
    "Transpose": lambda x, perm: x.transpose(perm),
}


def _numpy_type(number: int) -> npt.DTypeLike:
    import onnx_ir as ir

    return ir.DataType(number).numpy()


def compute(term: Term) -> Array:
    """The value of a term, by numpy."""
    if term.array is not None:
        return term.array
    return _NUMPY[term.op](*map(compute, term.inputs), **term.attributes)


def rebuilt(group: StoredGroup) -> tuple[Terms, list[Term]]:
    """The terms of a group.

    Returns:
        What its members have in common, and the weight of each, [columns, rows].
    """
    shapes = {name: array.shape for name, array in group.shared.items()}
    shared: Terms = _stored(group.decoder, group.shared, group.bits)
    if group.rule == "tucker":
        shared = _tucker_basis(shared, shapes)
    weights: list[Term] = []
    for path, shape, own in zip(group.paths, group.shapes, group.own, strict=True):
        known = {**shapes, **{name: array.shape for name, array in own.items()}, "weight": shape}
        weights.append(_RULES[group.rule](_stored(path, own, group.bits), shared, known))
    return shared, weights


def _low_rank(own: Terms, shared: Terms, shapes: Shapes) -> Term:
    shift = [shared["shift"].reshape(-1, 1)] if "shift" in shared else []
    found = shared["basis"].then("Gemm", own["latents"], *shift, transA=1, transB=1)
    return found * own["norms"] if "norms" in own else found


def _autoencoder(own: Terms, shared: Terms, shapes: Shapes) -> Term:
    found = own["latents"]
    for number in (1, 2):
        found = found.then("Gemm", shared[f"weight{number}"], shared[f"bias{number}"]).then("LeakyRelu", alpha=SLOPE)
    bias = shared["bias3"].reshape(-1, 1)
    found = shared["weight3"].then("Gemm", found, bias, transA=1, transB=1).then("Tanh")
    length = found.then("ReduceL2", _integers(0), keepdims=0).then("Max", scalar(SMALLEST))
    return found * (own["norms"] / length)


def _kronecker(own: Terms, shared: Terms, shapes: Shapes) -> Term:
    (k, a, b), (_, p, q) = shapes["left"], shapes["right"]
    left = own["left"].transpose(2, 1, 0).reshape(b, 1, a, k)
    right = shared["right"].transpose(2, 0, 1).reshape(1, q, k, p)
    return _cut((left @ right).reshape(b * q, a * p), (b * q, a * p), shapes)


def _tucker_basis(shared: Terms, shapes: Shapes) -> Terms:
    (u, v, s), (m, _) = shapes["core"], shapes["columns"]
    wide = shared["columns"] @ shared["core"].transpose(2, 0, 1).reshape(s, u * v)
    return {"basis": wide.reshape(m, u, v) @ shared["inner"].transpose(1, 0)}


def _tucker(own: Terms, shared: Terms, shapes: Shapes) -> Term:
    (a, _), (p, _), (m, _) = shapes["outer"], shapes["inner"], shapes["columns"]
    return _cut((own["outer"] @ shared["basis"]).reshape(m, a * p), (m, a * p), shapes)


def _cut(term: Term, shape: tuple[int, int], shapes: Shapes) -> Term:
    rows, columns = shapes["weight"]
    return term if shape == (columns, rows) else term.then("Slice", _integers(0, 0), _integers(columns, rows))


_RULES: dict[str, Callable[[Terms, Terms, Shapes], Term]] = {
    "low_rank": _low_rank,
    "autoencoder": _autoencoder,
    "kronecker": _kronecker,
    "tucker": _tucker,
}


def as_stored(array: np.ndarray, bits: Literal[8, 32]) -> np.ndarray:
    """What comes back of a factor: give a model these values before its export, and its file gives the same weights.

    Args:
        array: The factor, any shape.
        bits: 8 rounds two dimensions and more to INT8, with a scale (max|·| / 127) for each row: the last one's values.

    Returns:
        float32, shaped as *array*.
    """
    return compute(_stored("", {"": array}, bits)[""])


def _stored(path: str, tensors: Mapping[str, np.ndarray], bits: Literal[8, 32]) -> dict[str, Term]:
    """Name → the float values of a stored tensor."""
    import onnx_ir as ir

    found: dict[str, Term] = {}
    for key, array in tensors.items():
        name, values = f"{path}.{key}", np.ascontiguousarray(array, np.float32)
        if bits == 8 and values.ndim > 1:
            integers, scale = _rounded(values)
            restored = leaf(f"{name}_int8", integers).then("Cast", to=int(ir.DataType.FLOAT))
            found[key] = restored * leaf(f"{name}_scale", scale)
        else:
            found[key] = leaf(name, values)
    return found


def _rounded(array: Array) -> tuple[Array, Array]:
    scale = (np.abs(array).max(axis=-1, keepdims=True) / LARGEST).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0  # all values are zero, or as good as
    return np.clip(np.rint(array / scale), -LARGEST, LARGEST).astype(np.int8), scale
