"""The child: one JSON request on stdin, one JSON answer on stdout, one model in between.

    python -m deploycomp.measure.worker < request.json > answer.json

Request: kind (`onnx`, `torch`, `empty` or `alternate`), model, threads, cpus, cells [[batch, sequence], …] in the order
to measure, streams (batch size → batches of real rows, or null), block_seconds, repeat, profile, weigh, parent, and
what `Subject.request` says. Answer: import_ms, load_ms, first_answer_ns, peak_rss_bytes, pss_bytes, vocabulary, gpu,
cells (see `cell.py`), skipped cells with reasons; or that of `alternate.py`; or {"error": …}.

The top of this file imports the standard library only, and little of it: that is the baseline that memory is compared
with, and every child pays for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from deploycomp.errors import DeploycompError, EnvironmentFailed

if TYPE_CHECKING:
    from deploycomp.measure.engines import Engine

__all__ = ["main", "measure", "peak_rss_bytes", "pss_bytes"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel kills this process when its parent dies, however that dies."""

KIB = 1024


def main() -> None:
    """Answer one request."""
    _die_with_parent()
    answers = _claim_stdout()
    request = json.load(sys.stdin)
    if os.getppid() != request["parent"]:  # it died before the kernel was told
        sys.exit(1)
    try:
        answer = measure(request)
    except DeploycompError as error:
        answer = {"error": error.as_dict()}
    except Exception as error:  # the parent names the candidate and raises
        failed = EnvironmentFailed("the model failed", why=f"{type(error).__name__}: {error}")
        answer = {"error": failed.as_dict()}
    with answers:
        json.dump(answer, answers)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Open the model of *request* and time its cells, or profile them.

    Raises:
        InputRefused, EnvironmentFailed: The model cannot be opened or run.
        VerificationFailed: A timed call answered otherwise than the same batch before.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cpus"])
    if request["kind"] == "empty":
        return memory()
    if request["kind"] == "alternate":
        from deploycomp.measure.alternate import alternate

        return alternate(request)
    if request.get("profile"):
        from deploycomp.measure.profile import profile

        return profile(request)
    from deploycomp.measure.engines import open_engine

    engine = open_engine(request)
    from deploycomp.measure.cell import runnable  # imports numpy, which is part of the time to import and load

    cells, skipped = runnable(engine, request)
    first = _first_answer(engine, request, cells)
    time_or_weigh = _weigh if request.get("weigh") else _cell
    measured = [time_or_weigh(engine, request, shape) for shape in cells]
    taken = {"gpu": engine.gpu_facts(), **memory()}  # before the device is timed, which takes more
    return {
        "import_ms": engine.import_ms,
        "load_ms": engine.load_ms,
        "first_answer_ns": first,
        "cells": _on_device(engine, request, measured),
        "skipped": skipped,
        "vocabulary": engine.vocabulary,
        **taken,
    }


def memory() -> dict[str, int | None]:
    """Return what this process takes: the largest resident memory so far, and its share of memory now."""
    return {"peak_rss_bytes": peak_rss_bytes(), "pss_bytes": pss_bytes()}


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far.

    VmHWM and not ru_maxrss: the latter survives exec, so a child of a large parent would report the parent's.
    """
    peak = _kilobytes(Path("/proc/self/status"), "VmHWM:")
    if peak is not None:
        return peak
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * KIB


def pss_bytes() -> int | None:
    """Return the proportional set size of this process now: pages it shares count by its share; None off Linux."""
    return _kilobytes(Path("/proc/self/smaps_rollup"), "Pss:")


def _kilobytes(file: Path, name: str) -> int | None:
    """The bytes in a line `name  123 kB`."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(name)), None)


def _first_answer(engine: Engine, request: dict[str, Any], cells: list[tuple[int, int]]) -> int | None:
    """Run the smallest cell once; return when it answered, in nanoseconds of the monotonic clock, less our audit."""
    if not cells:
        return None
    from deploycomp.measure.cell import pool

    batch = min(cells)
    engine.run(pool(engine, batch, _stream(request, batch))[0])
    return time.monotonic_ns() - engine.audit_ns


def _cell(engine: Engine, request: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    from deploycomp.measure.cell import measure_cell

    found = measure_cell(
        engine,
        shape,
        block_seconds=request["block_seconds"],
        repeat=bool(request.get("repeat")),
        stream=_stream(request, shape),
    )
    return {"batch_size": shape[0], "sequence_length": shape[1], **found}


def _weigh(engine: Engine, request: dict[str, Any], shape: tuple[int, int]) -> dict[str, Any]:
    """Run a cell as often as the memory of an answer takes to settle, untimed."""
    from deploycomp.measure.cell import pool
    from deploycomp.measure.sampling import MIN_SAMPLES
    from deploycomp.measure.verify import digest

    batches = pool(engine, shape, _stream(request, shape))[:MIN_SAMPLES]
    return {
        "batch_size": shape[0],
        "sequence_length": shape[1],
        "digests": [digest(engine.run(batch)) for batch in batches],
    }


def _on_device(engine: Engine, request: dict[str, Any], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the times on the device to measured cells; on a CPU there are none."""
    if engine.program is None:
        return cells
    from deploycomp.measure.cell import pool
    from deploycomp.measure.device import device_times

    shapes = [(cell["batch_size"], cell["sequence_length"]) for cell in cells]
    pools = [pool(engine, shape, _stream(request, shape)) for shape in shapes]
    whole = bool(request.get("streams"))
    times = device_times(engine.program, pools, request["block_seconds"], whole=whole)
    return [{**cell, **each} for cell, each in zip(cells, times, strict=True)]


def _stream(request: dict[str, Any], shape: tuple[int, int]) -> list[dict[str, Any]] | None:
    return (request.get("streams") or {}).get(str(shape[0]))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _claim_stdout() -> TextIO:
    """Keep stdout for the answer; whatever a library prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
