"""How a child runs a model: numpy arrays in, numpy arrays out, the same work for every kind.

Imported by the child only. Heavy imports happen inside the functions: their time is taken apart from loading.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deploycomp.errors import EnvironmentFailed, InputRefused

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.measure.device import Program

__all__ = ["INPUTS", "Engine", "open_engine"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NS_PER_MS = 1_000_000

NAMES = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
"""ONNX Runtime's providers for ours; CUDA needs the CPU beside it for shapes, and `profile.py` checks what it took."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""PyTorch's names for ours."""


class Engine(NamedTuple):
    """A model that is ready to be timed."""

    run: Callable[[dict[str, np.ndarray]], list[np.ndarray]]
    """int64 [batch, sequence] by input name → outputs as numpy arrays."""
    inputs: tuple[str, ...]
    vocabulary: int
    import_ms: float
    load_ms: float
    fixed: tuple[int | None, int | None] = (None, None)
    """Batch and sequence that the graph is fixed to."""
    max_length: int | None = None
    audit_ns: int = 0
    """Time that only our own audit of a checkpoint took; it is no part of a cold start."""
    exact: bool = False
    """Whether equal inputs must give equal bits: one thread on a CPU."""
    gpu_facts: Callable[[], dict[str, Any] | None] = lambda: None
    """What the GPU tells after the last call, None on a CPU."""
    program: Callable[[Any], Program] | None = None
    """The torch module → the same model with inputs and outputs on the device, see `device.py`; None on a CPU."""


def open_engine(request: dict[str, Any]) -> Engine:
    """Open the model of a request.

    Raises:
        InputRefused: Its inputs are not what an encoder has, or the model cannot be loaded.
        EnvironmentFailed: The provider is not here.
    """
    return {"onnx": _onnx, "torch": _torch}[request["kind"]](request)


def _onnx(request: dict[str, Any]) -> Engine:
    start = time.perf_counter_ns()
    import onnxruntime  # noqa: F401  open_session imports it lazily, and its time is not loading

    from deploycomp.runtime.session import open_session, runner

    model, providers = Path(request["model"]), NAMES[request["provider"]]
    imported = time.perf_counter_ns()
    session = open_session(model, threads=request["threads"], providers=providers, config=request["session"])
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
        exact=_exact(request),
        gpu_facts=_gpu_facts(request),
        program=_onnx_program(request),
    )


def _onnx_program(request: dict[str, Any]) -> Callable[[Any], Program] | None:
    if request["provider"] == "cpu":
        return None
    from deploycomp.measure.device import onnx_program

    return lambda torch: onnx_program(request, torch)


def _exact(request: dict[str, Any]) -> bool:
    return request["threads"] == 1 and request["provider"] == "cpu"


def _gpu_facts(request: dict[str, Any]) -> Callable[[], dict[str, Any] | None]:
    if request["provider"] == "cpu":
        return lambda: None
    from deploycomp.measure.gpu import process_memory_bytes

    return lambda: {"memory_bytes": process_memory_bytes()}


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
    """The model's own forward, built once; numpy in and out, as a session does it."""
    import_ms, load_ms = _time_from_pretrained(request)
    import torch

    from deploycomp.measure.device import torch_program
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    torch.set_num_threads(request["threads"])
    device = _device(request["provider"])
    start = time.perf_counter_ns()
    model = load(resolve(request["model"]), request["task"] or "auto")
    audited = time.perf_counter_ns()
    model.module.to(device=device, dtype=getattr(torch, DTYPES[request["dtype"]]))
    forward = _forward(model, request)

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = forward(*(torch.from_numpy(feeds[name]).to(device) for name in model.inputs))
        return [(each.float() if each.dtype is torch.bfloat16 else each).cpu().numpy() for each in outputs]

    return Engine(
        run=run,
        inputs=model.inputs,
        vocabulary=int(getattr(model.config, "vocab_size", request["vocabulary"])),
        import_ms=import_ms,
        load_ms=load_ms,
        max_length=model.max_length,
        audit_ns=audited - start,
        exact=_exact(request),
        gpu_facts=_gpu_facts(request),
        program=None if device == "cpu" else lambda torch: torch_program(forward, model.inputs, torch),
    )


def _forward(model: Any, request: dict[str, Any]) -> Any:
    """The plain forward, or one compiled for every shape (for streams, whose lengths are many, for all shapes)."""
    import torch

    from deploycomp.models import forward_module

    forward = forward_module(model)
    if not request["compiled"]:
        return forward
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 1 + len(request["cells"]))
    return torch.compile(forward, dynamic=bool(request.get("streams")))


def _device(provider: str) -> str:
    import torch

    if provider == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFailed(
            "this PyTorch sees no CUDA device",
            why=f"torch {torch.__version__}",
            hint="check the driver (nvidia-smi), and that torch is a CUDA build",
        )
    return provider


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
    from deploycomp.models.stage import staged
    from deploycomp.models.tasks import model_class

    source = resolve(request["model"])  # audited before transformers sees it
    task = check_task(source, request["task"] or "auto")
    with staged(source) as stage:
        config = AutoConfig.from_pretrained(stage.folder, local_files_only=True, trust_remote_code=False)
        kind = model_class(source, task, config)  # imports the architecture's module
        dtype = getattr(torch, DTYPES[request["dtype"]])
        imported = time.perf_counter_ns()
        with quiet():
            kind.from_pretrained(stage.folder, dtype=dtype, local_files_only=True, use_safetensors=True)
        loaded = time.perf_counter_ns()
    return (imported - start) / NS_PER_MS, (loaded - imported) / NS_PER_MS
