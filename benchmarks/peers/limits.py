"""What limits a cell: the operators of both sides, and what the integer products alone take.

    .venv/bin/python benchmarks/peers/limits.py minilm-l6-wnut17 [--shape 8x128] [--threads 1] [--ours ARTIFACT]

Ours is what `run.py` exported last, or ARTIFACT, the peer its OpenVINO INT8. Times are medians of single nodes,
profiling included, so they add up to a little more than a call. `products alone` runs each matrix product of ours as a
bare MatMulInteger (int32 out: no scales, no bias, no quantization), `ceiling` is the largest rate that any reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CALLS, WARM_CALLS = 30, 10
KINDS = {
    "products": ("MatMul", "Gemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FullyConnected"),
    "quantization": ("QuantizeLinear", "DynamicQuantizeLinear"),
    "attention": ("Attention", "MultiHeadAttention", "Subgraph", "ScaledDotProductAttention", "Transpose"),
    "GELU": ("Gelu",),
    "LayerNorm": ("LayerNormalization", "MVN", "MulAdd"),
    "sums and scalings": ("Add", "Mul", "Multiply"),
}
"""What the two sides call the same work. OpenVINO's GELU is part of its products, its attention is a subgraph."""

OF_ATTENTION = re.compile(
    r"/(Add(Bias|Padding)|Join|Mix|Quantize([QKV]|Probabilities)|Scores|Softmax|(Split|Transpose)[QKVX])_kernel_time$"
)
"""Nodes that `deploycomp.quantize.attention` writes."""

Feeds = dict[str, np.ndarray]
Times = dict[str, float]


def feeds_for(names: list[str], batch: int, tokens: int) -> Feeds:
    """A full batch of random tokens."""
    ids = np.random.default_rng(0).integers(0, 30_000, (batch, tokens))
    every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: every[name] for name in names}


def profile_ours(model: Path, threads: int, batch: int, tokens: int) -> Times:
    """Operator → microseconds of a call, from ONNX Runtime's own profile."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling, options.log_severity_level = threads, True, 3
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/p"
        session = ort.InferenceSession(str(model), options)
        feeds = feeds_for([each.name for each in session.get_inputs()], batch, tokens)
        for _ in range(WARM_CALLS + CALLS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = "Attention" if OF_ATTENTION.search(event["name"]) else event["args"]["op_name"]
            nodes[operator, event["name"]].append(event["dur"])
    return _by_operator({key: values[WARM_CALLS:] for key, values in nodes.items()})


def profile_openvino(model: Path, threads: int, batch: int, tokens: int) -> Times:
    """The same from OpenVINO's performance counters."""
    import openvino as ov  # pyright: ignore[reportMissingImports]

    core = ov.Core()
    read = core.read_model(model)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
    request = core.compile_model(read, "CPU", options).create_infer_request()
    feeds = feeds_for([each.any_name for each in read.inputs], batch, tokens)
    nodes: dict[tuple[str, str], list[float]] = defaultdict(list)
    for call in range(WARM_CALLS + CALLS):
        request.infer(feeds)
        if call >= WARM_CALLS:
            for each in request.get_profiling_info():
                nodes[each.node_type, each.node_name].append(each.real_time.total_seconds() * 1e6)
    return _by_operator(nodes)


def _by_operator(nodes: dict[tuple[str, str], list[float]]) -> Times:
    found: Times = defaultdict(float)
    for (operator, _), values in nodes.items():
        found[operator] += median(values)
    return dict(found)


def products(model: Path, threads: int, batch: int, tokens: int) -> tuple[float, float]:
    """Microseconds of all products as bare MatMulInteger, and the largest rate among them in operations a second."""
    import onnx

    graph = onnx.load(model).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    first = {out for node in graph.node if node.name.endswith("/FirstToken") for out in node.output}
    total, best, known = 0.0, 0.0, dict[tuple[int, int, int], float]()
    thin = set(first)
    for node in graph.node:
        if any(each in thin for each in node.input) and node.op_type != "Gather":
            thin.update(node.output)
        if node.op_type not in ("MatMulIntegerToFloat", "DynamicQuantizeMatMul") or node.input[1] not in shapes:
            continue
        inputs, outputs = shapes[node.input[1]]
        rows = batch * (1 if node.input[0] in thin else tokens)
        key = rows, inputs, outputs
        if key not in known:
            known[key] = _bare(*key, threads)
        total += known[key]
        best = max(best, 2e6 * rows * inputs * outputs / known[key])
    return total, best


def _bare(rows: int, inputs: int, outputs: int, threads: int) -> float:
    """Microseconds of one MatMulInteger."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    weight = draw.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, outputs])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options)
    feeds = {"x": draw.integers(0, 256, (rows, inputs)).astype(np.uint8)}
    times: list[float] = []
    for _ in range(WARM_CALLS + CALLS):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(1e6 * (time.perf_counter() - start))
    return median(times[WARM_CALLS:])


def table(sides: dict[str, Times]) -> str:
    """Draw both profiles, grouped by what the work is."""
    lines = ["| milliseconds | " + " | ".join(sides) + " |", "|---|" + "---:|" * len(sides)]
    left = {name: dict(times) for name, times in sides.items()}
    for kind, operators in KINDS.items():
        fields = [
            sum(times.pop(each) for each in list(times) if each.startswith(operators) and _is(each, operators))
            for times in left.values()
        ]
        lines.append(f"| {kind} | " + " | ".join(f"{field / 1e3:.2f}" for field in fields) + " |")
    lines.append("| rest | " + " | ".join(f"{sum(times.values()) / 1e3:.2f}" for times in left.values()) + " |")
    lines.append("| **sum** | " + " | ".join(f"**{sum(t.values()) / 1e3:.2f}**" for t in sides.values()) + " |")
    return "\n".join(lines)


def _is(operator: str, operators: tuple[str, ...]) -> bool:
    return operator in operators or operator.startswith("FullyConnected")


def main() -> None:
    """Print both profiles of one cell and the arithmetic of the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its name, as run.py knows it")
    parser.add_argument("--shape", default="8x128", help="batch x tokens; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours", type=Path, metavar="ARTIFACT", help="instead of what run.py exported last")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks"
    parser.add_argument(
        "--work", type=Path, default=cache, help="where run.py keeps what it made; default: %(default)s"
    )
    parser.add_argument("--side", choices=("ours", "openvino"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    batch, tokens = (int(each) for each in asked.shape.split("x"))
    graph = (asked.ours or asked.work / "deploycomp" / asked.model) / "model.onnx"
    peer = asked.work / "openvino" / asked.model / "int8.xml"
    os.sched_setaffinity(0, range(asked.threads))
    if asked.side == "openvino":
        print(json.dumps(profile_openvino(peer, asked.threads, batch, tokens)))
        return
    if asked.side == "ours":
        print(json.dumps(profile_ours(graph, asked.threads, batch, tokens)))
        return
    from venvs import OPENVINO, OWN

    sides: dict[str, Times] = {}
    for name, venv, side in (("deploycomp", OWN, "ours"), ("OpenVINO INT8", OPENVINO, "openvino")):
        line = [str(venv.python), __file__, *sys.argv[1:], "--side", side]
        done: Any = subprocess.run(line, check=True, capture_output=True, text=True)
        sides[name] = json.loads(done.stdout.splitlines()[-1])
    alone, best = products(graph, asked.threads, batch, tokens)
    print(f"{asked.model}, {asked.shape}, {asked.threads} threads\n\n{table(sides)}\n")
    print(f"products alone: {alone / 1e3:.2f} ms; ceiling {best / 1e12:.2f} TOP/s")


if __name__ == "__main__":
    main()
