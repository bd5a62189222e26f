"""The child: one JSON request on stdin, one JSON answer on stdout, one model in between.

    python -m deploycomp.measure.worker < request.json > answer.json

Request: kind (`onnx`, `torch` or `empty`), model, threads, cpus, cells [[batch, sequence], …], order_seed,
block_seconds, parent, and what `Subject.request` says. Answer: import_ms, load_ms, peak_rss_bytes, vocabulary,
cells with the nanoseconds of each call, skipped cells with reasons; or {"error": …}.

The top of this file imports the standard library only: that is the baseline that memory is compared with.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from deploycomp.errors import DeploycompError, EnvironmentFailed

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.measure.engines import Engine

__all__ = ["main", "measure", "peak_rss_bytes", "why_skipped"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel kills this process when its parent dies, however that dies."""

POOL = 8
"""Distinct batches that a cell cycles through, so that no call repeats the one before."""

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
    """Open the model of *request* and time its cells.

    Raises:
        InputRefused, EnvironmentFailed: The model cannot be opened or run.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cpus"])
    if request["kind"] == "empty":
        return {"peak_rss_bytes": peak_rss_bytes()}
    from deploycomp.measure.engines import open_engine

    engine = open_engine(request)
    order = list(request["cells"])
    random.Random(request["order_seed"]).shuffle(order)
    cells: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for batch, sequence in order:
        cell: dict[str, Any] = {"batch_size": batch, "sequence_length": sequence}
        if reason := why_skipped(batch, sequence, fixed=engine.fixed, max_length=engine.max_length):
            skipped.append({**cell, "reason": reason})
        else:
            cells.append({**cell, **_time(engine, batch, sequence, block_seconds=request["block_seconds"])})
    return {
        "import_ms": engine.import_ms,
        "load_ms": engine.load_ms,
        "peak_rss_bytes": peak_rss_bytes(),
        "vocabulary": engine.vocabulary,
        "cells": cells,
        "skipped": skipped,
    }


def why_skipped(
    batch: int, sequence: int, *, fixed: tuple[int | None, int | None], max_length: int | None
) -> str | None:
    """Return why a model cannot run a shape, or None where it can."""
    if max_length is not None and sequence > max_length:
        return f"the model takes at most {max_length} tokens"
    for name, wanted, has in (("batch", batch, fixed[0]), ("sequence", sequence, fixed[1])):
        if has is not None and has != wanted:
            return f"the graph is fixed to {name} {has}"
    return None


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process so far.

    VmHWM and not ru_maxrss: the latter survives exec, so a child of a large parent would report the parent's.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * KIB
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * KIB


def _time(engine: Engine, batch: int, sequence: int, *, block_seconds: float) -> dict[str, Any]:
    from deploycomp.measure.sampling import sample, warm_up

    pool = _batches(engine.inputs, batch, sequence, vocabulary=engine.vocabulary)

    def call(index: int) -> object:
        return engine.run(pool[index % POOL])

    warmup = warm_up(call, block_seconds)
    samples = sample(call, block_seconds)
    return {"samples_ns": samples, "warmup_calls": warmup.calls, "settled": warmup.settled}


def _batches(inputs: tuple[str, ...], batch: int, sequence: int, *, vocabulary: int) -> list[dict[str, np.ndarray]]:
    """Distinct random rows of full length: the same for every candidate of one vocabulary, in every block."""
    import numpy as np

    draw = np.random.default_rng([batch, sequence])
    shape = (batch, sequence)
    constant = {
        "attention_mask": np.ones(shape, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
    }
    return [
        {
            name: draw.integers(0, vocabulary, shape, np.int64) if name == "input_ids" else constant[name]
            for name in inputs
        }
        for _ in range(POOL)
    ]


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
