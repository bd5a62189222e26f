"""Candidates that are slower than an artifact by a known share.

    burnt    the graph with k matrix products more, times zero, added to its first output: the same answers, later
    sleepy   any graph, in a process where each `InferenceSession.run` on it takes a share longer: see `sleepy/`

Each product of `burnt` reads the one before, the first reads the input: nothing can be folded away or skipped.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["burnt", "copied", "sleepy"]

ROWS, WIDTH = 16, 64
"""A product of 16×64 by 64×64 takes about a microsecond: fine steps."""
SIDE_FILES = ("config.json", "tokenizer_config.json")
HOOK = Path(__file__).with_name("sleepy")


def copied(artifact: Path, out: Path) -> Path:
    """The artifact's graph as a plain .onnx file with its config beside it."""
    return burnt(artifact, out, 0)


def burnt(artifact: Path, out: Path, products: int) -> Path:
    """The artifact's graph with *products* matrix products more, as a plain .onnx file with its config beside it."""
    import onnx_ir as ir

    manifest = json.loads((artifact / "deploycomp.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    for name in SIDE_FILES:
        shutil.copyfile(artifact / name, out / name)
    model = ir.load(artifact / manifest["model"])
    if products:
        _burn(model.graph, products)
    ir.save(model, out / "model.onnx")
    return out / "model.onnx"


def _burn(graph: Any, products: int) -> None:
    import onnx_ir as ir

    def constant(name: str, array: Any) -> ir.Value:
        value = ir.Value(name=f"burn_{name}", const_value=ir.tensor(array, name=f"burn_{name}"))
        graph.register_initializer(value)
        return value

    def node(op: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        made = ir.node(op, inputs, attributes or None, name=f"burn/{len(graph)}")
        made.outputs[0].name = f"burn_{len(graph)}"
        graph.append(made)
        return made.outputs[0]

    first = node("ReduceMax", [node("Cast", [graph.inputs[0]], to=ir.DataType.FLOAT.value)], keepdims=0)
    x = node("Mul", [first, constant("ones", np.full((ROWS, WIDTH), 1e-6, np.float32))])
    weight = constant("weight", np.eye(WIDTH, dtype=np.float32))
    for _ in range(products):
        x = node("MatMul", [x, weight])
    nothing = node("Mul", [node("ReduceMax", [x], keepdims=0), constant("zero", np.array(0, np.float32))])
    output = graph.outputs[0]
    name, output.name = output.name, f"{output.name}_before"
    total = node("Add", [output, nothing])
    total.name, total.type, total.shape = name, output.type, output.shape
    graph.outputs[0] = total


def sleepy(model: Path, percent: float) -> dict[str, str]:
    """The environment in which sessions of *model* answer so many percent later, and all others as always."""
    path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "BENCH_SLEEPY_MODEL": str(model.resolve()), "BENCH_SLEEPY_PERCENT": f"{percent:g}"}
