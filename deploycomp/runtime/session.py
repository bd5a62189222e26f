"""Open an ONNX Runtime session that does what was asked, or say why it cannot.

ONNX Runtime falls back to the CPU with a printed line when a provider is missing; here that is an error. Its
exceptions are turned into ours: a missing kernel is the machine's fault, a broken graph is the input's.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError
from deploycomp.external import check_external_data
from deploycomp.runtime.cpu import default_threads
from deploycomp.runtime.inputs import check_count
from deploycomp.runtime.versions import OPERATORS, PADDING_GUARD, version_hint

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

__all__ = ["CPU_PROVIDER", "Run", "open_session", "providers_available", "runner", "trim_memory"]

Run = Callable[[dict[str, "np.ndarray"], tuple[str, ...]], list["np.ndarray"]]
"""(feeds, names of outputs) → the outputs in that order. ONNX Runtime or PyTorch stands behind it."""

CPU_PROVIDER = "CPUExecutionProvider"

INTER_OP_THREADS = 1
"""A transformer's graph is a chain; a second pool of threads only takes cores from the first."""
LOG_ERRORS_ONLY = 3
"""ONNX Runtime's severity: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""
SPINNING = "session.intra_op.allow_spinning"

_ORT_MESSAGE = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+) : (.*)", re.DOTALL)
_NO_KERNEL = re.compile(r"implementation for (?P<op>\S+?)(\(\d+\))? node with name '(?P<node>[^']*)'")
_MISPLACED = "Name:'padding_must_be_on_the_right'"
"""The node with which a graph refuses other padding, see `export.torch_export`."""
_UPGRADE = "pip install --upgrade onnxruntime, or export with --opset 18, which every one since 1.18 answers rightly"
_NO_DATA = re.compile(r'does not exist: "([^"]+)"')
_NO_MEMORY = re.compile(r"bad_alloc|failed to allocate|out of memory", re.IGNORECASE)


def open_session(
    model: Path,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    spinning: bool = True,
    config: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open a session: sequential, every graph optimization, one pool of threads.

    Args:
        model: The ONNX file; `<name>.data` must lie beside it if the graph refers to it.
        threads: Threads within an operator; by default what affinity and cgroup quota allow.
        providers: ONNX Runtime's names in order of preference; by default the CPU.
        spinning: Let threads spin between operators. Faster alone, slower with another session beside it.
        config: Session config entries; they overrule *spinning*.
        profile: Where the session records its kernels, a folder, until `kernels_run` ends it.

    Returns:
        The session; its first provider is the first that was asked for.

    Raises:
        UsageError: No whole number of threads, at least one; or a provider's name where a list of them is taken.
        InputRefused: The file is missing, keeps weights where it may not, or is not a model that ONNX Runtime takes.
        EnvironmentFailed: A provider is missing or does not start, a kernel is missing, memory ran out.
    """
    import onnxruntime as ort

    if threads is not None:
        threads = check_count("threads", threads)
    if isinstance(providers, str):
        raise UsageError("providers is a list of names", where="providers", hint=f"providers=[{providers!r}]")
    wanted = list(providers or [CPU_PROVIDER])
    _check_providers(wanted)
    if not model.is_file():
        raise InputRefused("the model file is missing", where=str(model))
    check_external_data(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = INTER_OP_THREADS
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = LOG_ERRORS_ONLY
    for key, value in {SPINNING: "1" if spinning else "0", **(config or {})}.items():
        options.add_session_config_entry(key, str(value))
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "profile")
    try:
        session = ort.InferenceSession(str(model), options, providers=wanted, enable_fallback=0)
    except Exception as error:
        raise _translate(error, model=model, providers=wanted) from error
    _check_started(session.get_providers(), wanted)
    trim_memory()
    return session


def trim_memory() -> None:
    """Give freed memory back to the system: glibc keeps what building a session freed, blocks as large as weights."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def providers_available() -> tuple[str, ...]:
    """Return the execution providers that this build of ONNX Runtime has, best first."""
    import onnxruntime as ort

    return tuple(ort.get_available_providers())


def runner(session: onnxruntime.InferenceSession, *, model: Path) -> Run:
    """Wrap a session as a `Run` whose errors are ours; *model* names it in them."""

    def run(feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        try:
            return cast("list[np.ndarray]", session.run(list(outputs), feeds))
        except Exception as error:
            raise _translate(error, model=model, providers=session.get_providers()) from error

    return run


def _check_providers(wanted: list[str]) -> None:
    available = providers_available()
    for name in wanted:
        if name not in available:
            hint = "pip install onnxruntime-gpu" if name.startswith(("CUDA", "Tensorrt")) else None
            raise EnvironmentFailed(
                f"this ONNX Runtime, {_version()}, has no {name}",
                why=f"available: {', '.join(available)}",
                hint=hint or "choose one that is available",
            )


def _check_started(started: Sequence[str], wanted: list[str]) -> None:
    """ONNX Runtime drops a provider that does not start (no driver, no device) and goes on without it."""
    if not started or started[0] != wanted[0]:
        raise EnvironmentFailed(
            f"{wanted[0]} did not start, ONNX Runtime would fall back to {', '.join(started) or 'nothing'}",
            why=f"onnxruntime {_version()}, available: {', '.join(providers_available())}",
            hint="check the driver and the device (nvidia-smi), or ask for the provider that you have",
        )


def _translate(error: Exception, *, model: Path, providers: Sequence[str]) -> DeploycompError:
    """Turn what ONNX Runtime raised into our error with the reason in plain words."""
    match = _ORT_MESSAGE.search(str(error))
    code, text = (match[1], match[2]) if match else ("", str(error))
    text, where = " ".join(text.split()), str(model)
    if code == "NOT_IMPLEMENTED":
        found = _NO_KERNEL.search(text)
        return _no_kernel(found, text, where=where, providers=providers)
    if _MISPLACED in text:
        return InputRefused(
            "this graph takes padding on the right only",
            where=where,
            why="its attention is told how many tokens of a row are real, and in one of them these do not stand first",
            hint="pad on the right, or export with --opset 18: that takes any attention_mask",
        )
    if _NO_MEMORY.search(text):
        return EnvironmentFailed("memory ran out in ONNX Runtime", where=where, why=text, hint="lower the batch size")
    named = _NO_DATA.search(text)
    data = Path(named[1]) if named else model.with_name(model.name + ".data")
    if "xternal" in text and not data.is_file():
        return InputRefused(
            "the weights file of the model is missing",
            where=str(data),
            why=f"{model.name} keeps its weights in it",
            hint=f"copy {data.name} beside {model.name}; they belong together",
        )
    if providers[0] != CPU_PROVIDER and code in ("", "EP_FAIL", "RUNTIME_EXCEPTION"):
        return EnvironmentFailed(f"{providers[0]} failed", where=where, why=text)
    return InputRefused(
        "ONNX Runtime refuses the model", where=where, why=text, hint=version_hint(text, found=_version())
    )


def _no_kernel(found: re.Match[str] | None, text: str, *, where: str, providers: Sequence[str]) -> EnvironmentFailed:
    op, node = (found["op"], found["node"]) if found else ("an operator", "unknown")
    newer = op == PADDING_GUARD and providers[0] == CPU_PROVIDER
    return EnvironmentFailed(
        f"ONNX Runtime {_version()} has no kernel for {op} on {', '.join(providers)}",
        where=f"{where}: node '{node}'",
        why=f"the graph needs onnxruntime {OPERATORS[op]} or newer" if newer else text,
        hint=_UPGRADE if newer else "choose another target or precision for this machine",
    )


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)
