"""What a product costs in float and in INT8: measured once for each shape, in ONNX Runtime, on this machine.

tokens, (K, N), kind  ─►  milliseconds      the best of many runs: other work on the machine only ever adds time
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploycomp.artifact import scratch
from deploycomp.onnxmodel import OnnxModel
from deploycomp.quantize.calibrate import Statistics
from deploycomp.quantize.int8 import quantize
from deploycomp.recipe import Int8
from deploycomp.runtime.session import open_session

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Costs", "Kind"]

Kind = Literal["float", "dynamic", "static"]

BLOCKS = 20
BLOCK_SECONDS = 0.005
"""Twenty blocks of 5 ms: a core that is taken away for one leaves the others."""


class Costs:
    """Milliseconds of single products, measured when they are first asked for.

    Args:
        tokens: Rows of the activation, that is batch size times sequence length.
        threads: By default what affinity and cgroup quota allow.
    """

    def __init__(self, tokens: int, *, threads: int | None = None) -> None:
        self.tokens = tokens
        self.threads = threads
        self._known: dict[tuple[int, int, Kind], float] = {}

    def __call__(self, inputs: int, outputs: int, kind: Kind) -> float:
        """Milliseconds of x [tokens, inputs] · W [inputs, outputs] + b."""
        key = inputs, outputs, kind
        if key not in self._known:
            self._known[key] = self._measure(*key)
        return self._known[key]

    def gain(self, inputs: int, outputs: int, kind: Literal["dynamic", "static"]) -> float:
        """Milliseconds that INT8 saves; negative where it costs some."""
        return self(inputs, outputs, "float") - self(inputs, outputs, kind)

    def _measure(self, inputs: int, outputs: int, kind: Kind) -> float:
        import onnx_ir as ir

        random = np.random.default_rng(0)
        x = random.normal(size=(self.tokens, inputs)).astype(np.float32)
        model = _product(inputs, outputs, random)
        if kind != "float":
            statistics = Statistics(inputs)
            statistics.add(x)
            model, _ = quantize(model, Int8(), bits=8, ops="fused", statistics={"x": statistics}, activations=kind)
        with scratch() as folder:
            path = folder / "product.onnx"
            ir.save(model.model, path)
            return _milliseconds(open_session(path, threads=self.threads), {"x": x})


def _product(inputs: int, outputs: int, random: np.random.Generator) -> OnnxModel:
    import onnx_ir as ir

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["tokens", inputs]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["tokens", outputs]))
    arrays = {"weight": random.normal(size=(inputs, outputs)), "bias": random.normal(size=outputs)}
    weight, bias = (
        ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))
        for name, array in arrays.items()
    )
    product = ir.node("MatMul", [x, weight], name="product/MatMul")
    add = ir.Node("", "Add", [product.outputs[0], bias], outputs=[y], name="product/Add")
    graph = ir.Graph(
        [x], [y], nodes=[product, add], initializers=[weight, bias], opset_imports={"": 18}, name="product"
    )
    return OnnxModel(ir.Model(graph, ir_version=10), "product", ("x",), ("y",))


def _milliseconds(session: onnxruntime.InferenceSession, feeds: dict[str, Any]) -> float:
    """The time of a run in the best block."""
    session.run(None, feeds)
    best = np.inf
    for _ in range(BLOCKS):
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < BLOCK_SECONDS or runs == 0:
            session.run(None, feeds)
            runs += 1
        best = min(best, (time.perf_counter() - start) / runs)
    return float(best) * 1000
