"""How a child runs a model: numpy arrays in, numpy arrays out, the same work for every kind.

Imported by the child only. Heavy imports happen inside the functions: their time is taken apart from loading.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.errors import InputRefused

if TYPE_CHECKING:
    import numpy as np

__all__ = ["INPUTS", "Engine", "open_engine"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Engine:
    """A model that is ready to be timed."""

    run: Callable[[dict[str, np.ndarray]], object]
    """int64 [batch, sequence] by input name → outputs as numpy arrays."""
    inputs: tuple[str, ...]
    vocabulary: int
    import_ms: float
    load_ms: float
    fixed: tuple[int | None, int | None] = (None, None)
    """Batch and sequence that the graph is fixed to."""
    max_length: int | None = None


def open_engine(request: dict[str, Any]) -> Engine:
    """Open the model of a request.

    Raises:
        InputRefused: Its inputs are not what an encoder has, or the model cannot be loaded.
    """
    return {"onnx": _onnx, "torch": _torch}[request["kind"]](request)


def _onnx(request: dict[str, Any]) -> Engine:
    start = time.perf_counter_ns()
    import onnxruntime  # noqa: F401  open_session imports it lazily, and its time is not loading

    from deploycomp.runtime.session import open_session, runner

    model = Path(request["model"])
    imported = time.perf_counter_ns()
    session = open_session(model, threads=request["threads"], config=request["session"])
    loaded = time.perf_counter_ns()
    names, fixed = _signature(session.get_inputs(), where=str(model))
    run, outputs = runner(session, model=model), tuple(each.name for each in session.get_outputs())
    return Engine(
        run=lambda feeds: run(feeds, outputs),
        inputs=names,
        vocabulary=request["vocabulary"],
        import_ms=(imported - start) / NS_PER_MS,
        load_ms=(loaded - imported) / NS_PER_MS,
        fixed=fixed,
        max_length=request["max_length"],
    )


def _signature(inputs: Sequence[Any], *, where: str) -> tuple[tuple[str, ...], tuple[int | None, int | None]]:
    """Input names, and the batch and sequence they are fixed to."""
    batch: int | None = None
    sequence: int | None = None
    for each in inputs:
        why = None
        if each.name not in INPUTS:
            why = f"known inputs are {', '.join(INPUTS)}"
        elif each.type != "tensor(int64)" or len(each.shape) != 2:
            why = f"it is {each.type} {each.shape}, expected tensor(int64) [batch, sequence]"
        if why:
            raise InputRefused(f"no data can be made for input '{each.name}'", where=where, why=why)
        rows, tokens = each.shape
        batch = rows if isinstance(rows, int) else batch
        sequence = tokens if isinstance(tokens, int) else sequence
    return tuple(each.name for each in inputs), (batch, sequence)


def _torch(request: dict[str, Any]) -> Engine:
    """Eager FP32 through the model's own forward, built once; numpy in and out, as a session does it."""
    import_ms, load_ms = _time_from_pretrained(request)
    import torch

    from deploycomp.models import forward_module, resolve
    from deploycomp.models.load import load

    torch.set_num_threads(request["threads"])
    model = load(resolve(request["model"]), request["task"] or "auto")
    forward = forward_module(model)

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = forward(*(torch.from_numpy(feeds[name]) for name in model.inputs))
        return [output.numpy() for output in outputs]

    return Engine(
        run=run,
        inputs=model.inputs,
        vocabulary=int(getattr(model.config, "vocab_size", request["vocabulary"])),
        import_ms=import_ms,
        load_ms=load_ms,
        max_length=model.max_length,
    )


def _time_from_pretrained(request: dict[str, Any]) -> tuple[float, float]:
    """Time imports and plain `from_pretrained`, in milliseconds.

    Our own `load` takes three times as long as `from_pretrained`: it also audits the weights and loads the tokenizer,
    and PyTorch must not pay for that beside a session. What is loaded here is dropped; the peak memory stays the same.
    The imports count finding the task and its class (optimum), so that no import is left for the load.
    """
    start = time.perf_counter_ns()
    import torch
    from transformers import AutoConfig

    from deploycomp.models import check_task, resolve
    from deploycomp.models.quiet import quiet
    from deploycomp.models.tasks import model_class

    source = resolve(request["model"])  # audited before transformers sees it
    task = check_task(source, request["task"] or "auto")
    config = AutoConfig.from_pretrained(source.encoder, local_files_only=True, trust_remote_code=False)
    kind = model_class(source, task, config)  # imports the architecture's module
    imported = time.perf_counter_ns()
    with quiet():
        kind.from_pretrained(source.encoder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    loaded = time.perf_counter_ns()
    return (imported - start) / NS_PER_MS, (loaded - imported) / NS_PER_MS
