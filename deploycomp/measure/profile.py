"""Where the time of a session goes: ONNX Runtime's own profiler, in a child of its own, outside of what is timed.

    session with profiling ──3 + 10 calls──► events (JSON) ──drop the first 3──► shares by operator, slowest nodes
                                                                              └► nodes on each provider, copies

Profiling costs time itself, so its milliseconds are for shares only. The placement is how a CUDA session that computes
on the CPU is found out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploycomp.artifact import scratch
from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.external import check_external_data

__all__ = ["CALLS", "TOP", "WARMUP_CALLS", "check_placement", "profile", "summarize"]

WARMUP_CALLS = 3
CALLS = 10
TOP = 10
"""Nodes that are listed."""

KERNEL = "_kernel_time"
COPIES = {"MemcpyFromHost": "host_to_device", "MemcpyToHost": "device_to_host"}
"""Nodes that ONNX Runtime puts between providers."""

PRODUCTS = ("MatMul", "Gemm", "Attention", "Conv")
"""An operator with one of these in its name is a matrix product: what a GPU is for."""


def profile(request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request of the worker: profile each cell that the model can run.

    Raises:
        InputRefused: The candidate is not an ONNX graph, or cannot be opened.
    """
    from deploycomp.measure.cell import pool, why_skipped
    from deploycomp.measure.engines import open_engine

    if request["kind"] != "onnx":
        raise InputRefused("only ONNX graphs are profiled", hint="torch.profiler shows where PyTorch's time goes")
    engine = open_engine(request)
    profiles: list[dict[str, Any]] = []
    for batch, sequence in request["cells"]:
        shape, stream = (batch, sequence), (request.get("streams") or {}).get(str(batch))
        if stream is None and why_skipped(shape, fixed=engine.fixed, max_length=engine.max_length):
            continue
        events = _record(request, pool(engine, shape, stream))
        profiles.append({"batch_size": batch, "sequence_length": sequence, **summarize(events)})
    return {"profiles": profiles}


def summarize(events: Iterable[Mapping[str, Any]], *, skip: int = WARMUP_CALLS, top: int = TOP) -> dict[str, Any]:
    """Add up the node events of a profile.

    Args:
        events: What ONNX Runtime wrote: `cat`, `name`, `ts` and `dur` in microseconds, `args`.
        skip: Calls at the start that are left out.
        top: Nodes to list.

    Returns:
        calls; operators and nodes, slowest first, with their share of the time in kernels and milliseconds of a call;
        providers (nodes on each), provider_shares (of the nodes), copies (nodes that copy between host and device)
        and products (matrix products on each provider).
    """
    events = list(events)
    starts = sorted(each["ts"] for each in events if each.get("name") == "model_run")
    begin = starts[skip] if len(starts) > skip else float("inf")
    kernels = [each for each in events if str(each.get("name")).endswith(KERNEL) and each["ts"] >= begin]
    calls, total = max(0, len(starts) - skip), sum(each["dur"] for each in kernels)
    places = {_node(each): each["args"] for each in kernels}
    providers = _counts(args["provider"] for args in places.values())
    return {
        "calls": calls,
        "operators": _shares(kernels, _operator, calls=calls, total=total),
        "nodes": [
            {**entry, "operator": places[entry["name"]]["op_name"]}
            for entry in _shares(kernels, _node, calls=calls, total=total)[:top]
        ],
        "providers": providers,
        "provider_shares": {name: count / len(places) for name, count in providers.items()},
        "copies": _counts(COPIES[args["op_name"]] for args in places.values() if args["op_name"] in COPIES),
        "products": _counts(
            args["provider"] for args in places.values() if any(word in args["op_name"] for word in PRODUCTS)
        ),
    }


def check_placement(profiles: Sequence[Mapping[str, Any]], provider: str, *, who: str) -> None:
    """Refuse a session whose matrix products run elsewhere than on *provider*.

    Shapes and small integers belong on the CPU, so nodes there are not the failure; products are.

    Raises:
        EnvironmentFailed: With the share of nodes on each provider.
    """
    for each in profiles:
        placed = each["products"] or each["providers"]
        if set(placed) == {provider}:
            continue
        kind = "matrix products" if each["products"] else "nodes"
        shares = ", ".join(f"{name} {share:.0%}" for name, share in each["provider_shares"].items())
        elsewhere = sum(count for name, count in placed.items() if name != provider)
        raise EnvironmentFailed(
            f"'{who}' falls back from {provider}: {elsewhere} of {sum(placed.values())} {kind} run elsewhere",
            why=f"share of nodes: {shares or 'none was seen'}",
            hint="export for this provider (FP16 for CUDA; INT8 kernels are the CPU's)",
        )


def _record(request: dict[str, Any], batches: Sequence[Any]) -> list[dict[str, Any]]:
    """Run a session that profiles itself, and return its events."""
    import onnxruntime as ort

    from deploycomp.measure.engines import NAMES

    check_external_data(Path(request["model"]))
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = request["threads"]
    options.log_severity_level = 3
    for key, value in request["session"].items():
        options.add_session_config_entry(key, value)
    with scratch() as folder:
        options.profile_file_prefix = str(folder / "profile")
        session = ort.InferenceSession(request["model"], options, providers=NAMES[request["provider"]])
        for index in range(WARMUP_CALLS + CALLS):
            session.run(None, batches[index % len(batches)])
        return json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))


def _shares(kernels: Sequence[Mapping[str, Any]], key: Any, *, calls: int, total: float) -> list[dict[str, Any]]:
    """Time by *key*, largest first."""
    sums: dict[str, float] = {}
    for each in kernels:
        sums[key(each)] = sums.get(key(each), 0) + each["dur"]
    ordered = sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))
    return [
        {"name": name, "share": micros / total if total else 0.0, "ms": micros / 1000 / calls}
        for name, micros in ordered
    ]


def _operator(event: Mapping[str, Any]) -> str:
    return str(event["args"]["op_name"])


def _node(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(KERNEL)


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
