"""W → rebuild(factors): weights are stored as the factors that they were rebuilt from.

    MatMul(x, W)          →   MatMul(x, rebuild(Z; D))                                         D once for a group
    Integer…(x, Wq, s)    →   Integer…(x, Clip(QuantizeLinear(rebuild(Z; D) / s)), s)         the same integers

What rebuilds reads initializers only: ONNX Runtime runs it once, when a session is created, and then holds what it
held before. So the file is small, and latency stays. (Cast and Mul are folded so; DequantizeLinear is not.)

A weight that was changed after it was rebuilt (smoothed, rounded by GPTQ) is found by rebuilding it, and stays dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploycomp.graph.rebuild import Array, StoredGroup, Term, as_stored, compute, leaf, leaves, rebuilt, scalar
from deploycomp.onnxmodel import Facts, OnnxModel, name_nodes_once

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StoredGroup", "as_stored", "store"]

TOLERANCE = 1e-5
"""Of the largest weight: numpy's sums in another order than torch's differ by 1e-6."""

OFF_BY_ONE = 1e-3
"""Share of integers that may round the other way: 1 in 100,000 lies that close to the middle of a step."""

_CHANGED = "it was changed after it was rebuilt"

_TRANSPOSED = {"weight": False, "weight_t": True, "weight_int8": True, "weight_rows_int8": False}
"""Name of an initializer behind its path → whether it is [columns, rows]."""


@dataclass
class _Candidate:
    """A dense initializer, the term that may stand for it, and why it may not."""

    dense: ir.Value
    term: Term
    shape: tuple[int, ...]
    reason: str | None = None
    off_by_one: int = 0

    @property
    def name(self) -> str:
        return str(self.dense.name)

    @property
    def array(self) -> Array:
        assert self.dense.const_value is not None
        return self.dense.const_value.numpy()


def store(model: OnnxModel, groups: Sequence[StoredGroup]) -> Facts:
    """Store factors instead of the weights that were rebuilt from them, in place.

    Args:
        model: A graph with dense weights, in float or INT8.
        groups: Their factors, with the values from which these weights were rebuilt.

    Returns:
        The facts: for each group the initializers that are rebuilt now, those that stay dense with the reason, paths
        that the graph does not hold, how many integers round the other way, and bytes before and after; bytes of all.

    Raises:
        ValueError: The graph holds another tensor under a factor's name.
    """
    before = model.nbytes
    writer = _Writer(model.model.graph)
    facts = [_store_group(group, writer) for group in groups]
    name_nodes_once(model.model.graph)
    return {"groups": facts, "bytes": {"before": before, "after": model.nbytes}}


def _store_group(group: StoredGroup, writer: _Writer) -> Facts:
    shared, weights = rebuilt(group)
    members = zip(group.paths, weights, group.shapes, strict=True)
    found = {path: _candidates(path, weight, shape, writer.graph) for path, weight, shape in members}
    candidates = [each for several in found.values() for each in several]
    for each in candidates:
        _check(each)
    good = [each for each in candidates if each.reason is None]
    dense, stored = sum(each.array.nbytes for each in good), _stored_bytes(good)
    if stored >= dense:
        for each in good:
            each.reason = f"its factors are no smaller: {stored} bytes for {dense} of its group"
        good, stored = [], 0
    for each in shared.values() if good else ():
        writer.write(each, group.decoder)
    for each in good:
        writer.replace(each)
    kept = [each for each in candidates if each.reason is not None]
    return {
        "rule": group.rule,
        "bits": group.bits,
        "rebuilt": [each.name for each in good],
        "dense": [{"name": each.name, "reason": each.reason} for each in kept],
        "absent": [path for path, several in found.items() if not several],
        "off_by_one": sum(each.off_by_one for each in good),
        "bytes": {
            "before": sum(each.array.nbytes for each in candidates),
            "after": stored + sum(each.array.nbytes for each in kept),
        },
    }


def _candidates(path: str, weight: Term, shape: tuple[int, int], graph: ir.Graph) -> list[_Candidate]:
    """Every form in which the graph holds a weight, with the term that gives this form."""
    import onnx_ir as ir

    found: list[_Candidate] = []
    for suffix, transposed in _TRANSPOSED.items():
        dense = graph.initializers.get(f"{path}.{suffix}")
        if dense is None or dense.const_value is None:
            continue
        term, dtype = weight, dense.const_value.dtype
        if dtype == ir.DataType.INT8:
            term = _in_int8(term, dense.const_value.numpy(), _scale_of(dense), graph)
        elif dtype != ir.DataType.FLOAT:
            term = term.then("Cast", to=int(dtype))
        if not transposed:
            term = term.transpose(1, 0)
        found.append(_Candidate(dense, term, shape[::-1] if transposed else shape))
    return found


def _in_int8(weight: Term, wanted: Array, scale: str, graph: ir.Graph) -> Term:
    """The integers, with the arithmetic of `quantize_weight`."""
    stored = graph.initializers[scale].const_value
    assert stored is not None
    scales = leaf(scale, stored.numpy())
    if len(stored.shape) > 1:
        scales = scales.reshape(-1)  # a table's are [rows, 1]
    largest = int(np.abs(wanted.astype(np.int16)).max())
    # ONNX Runtime's QuantizeLinear with scales along the last dimension takes a hundred times as long as these two.
    term = (weight / scales).then("QuantizeLinear", scalar(1), scalar(0, np.int8))
    return term.then("Clip", scalar(-largest, np.int8), scalar(largest, np.int8))


def _scale_of(dense: ir.Value) -> str:
    """`<path>.weight_scale`, as INT8 names it."""
    return str(dense.name).removesuffix("_int8") + "_scale"


def _check(candidate: _Candidate) -> None:
    """Rebuild a weight, and say why it is not the one that the graph holds."""
    wanted = candidate.array
    if candidate.dense.is_graph_output():
        candidate.reason = "it is an output of the graph"
        return
    if candidate.shape != wanted.shape:
        candidate.reason = f"its factors give {list(candidate.shape)}, the graph holds {list(wanted.shape)}"
        return
    found = compute(candidate.term)
    if wanted.dtype == np.int8:
        apart = np.abs(found.astype(np.int16) - wanted)
        candidate.off_by_one = int((apart > 0).sum())
        if apart.max() > 1 or candidate.off_by_one > OFF_BY_ONE * wanted.size:
            share = candidate.off_by_one / wanted.size
            candidate.reason = f"{share:.2%} of its integers differ, by up to {apart.max()}: {_CHANGED}"
    else:
        apart, largest = np.abs(found.astype(np.float32) - wanted).max(), np.abs(wanted).max()
        if not apart <= largest * max(TOLERANCE, np.finfo(wanted.dtype).eps):  # NaN is not
            candidate.reason = f"it differs by up to {apart:.1e}, its largest weight is {largest:.1e}: {_CHANGED}"


def _stored_bytes(candidates: Sequence[_Candidate]) -> int:
    """Bytes of the tensors under some terms, each once; scales of dense integers are in the graph in any case."""
    arrays = {each.op: each.array for candidate in candidates for each in leaves(candidate.term)}
    scales = {_scale_of(candidate.dense) for candidate in candidates}
    return sum(array.nbytes for name, array in arrays.items() if array is not None and name not in scales)


class _Writer:
    """Writes terms as nodes in front of a graph, each term once."""

    def __init__(self, graph: ir.Graph):
        self.graph, self.first = graph, graph[0]
        self.values: dict[Term, ir.Value] = {}

    def replace(self, candidate: _Candidate) -> None:
        """Let the term stand wherever the initializer stood, under its name."""
        import onnx_ir as ir

        dense, name = candidate.dense, candidate.name
        new = self.write(candidate.term, name)
        ir.convenience.replace_all_uses_with(dense, new)
        self.graph.initializers.pop(name)
        new.name, new.shape, new.type = name, dense.shape, dense.type

    def write(self, term: Term, name: str) -> ir.Value:
        """The value of a term; its nodes are named `<name>/<operator>`."""
        import onnx_ir as ir

        if term not in self.values:
            if term.array is not None:
                self.values[term] = self._initializer(term.op, term.array)
            else:
                inputs = [self.write(each, name) for each in term.inputs]
                node = ir.node(term.op, inputs, term.attributes, name=f"{name}/{term.op}")
                node.outputs[0].name = f"{name}/{len(self.values)}"
                self.graph.insert_before(self.first, node)
                self.values[term] = node.outputs[0]
        return self.values[term]

    def _initializer(self, name: str, array: Array) -> ir.Value:
        import onnx_ir as ir

        known = self.graph.initializers.get(name)
        if known is not None and known.const_value is not None and np.array_equal(known.const_value.numpy(), array):
            return known
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)  # refuses a name that is taken
        return value
