"""The child: one engine, one request on stdin, one answer on stdout, under the Python of the peer that it runs.

    <venv>/bin/python child.py      {"kind": "openvino", "model": …, "threads": 1, "cpus": [0], "do": "cells", …}

| `do` | runs | answers |
|---|---|---|
| `memory` | a few rows of two lengths | the peak resident memory of a process that serves |
| `cells` | full random rows of each shape | the nanoseconds of every call |
| `stream` | real rows with their lengths, by one or more policies | the nanoseconds of every pass |
| `serve` | the feeds that follow on stdin, framed as in `frames` | their logits |

The request is one line, the answer is one line (after the frames, with `serve`). What every engine shares is the
standard library and numpy, so the memory of a process is that of the engine.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for deploycomp's clockwork, which needs no package

import numpy as np
from engines import Engine, open_engine
from frames import read_frame, write_frame
from stream import agreement, passes

from deploycomp.measure.sampling import sample, warm_up
from deploycomp.measure.worker import peak_rss_bytes

PR_SET_PDEATHSIG = 1
"""prctl(2): the kernel kills this process when its parent dies, however that dies."""
POOL = 8
"""Distinct batches that a cell cycles through, so that no call repeats the one before."""
SERVING_SHAPES, SERVING_CALLS = ((1, 16), (1, 128)), 16
NS_PER_MS = 1_000_000

Request = dict[str, Any]
Answer = dict[str, Any]


def main() -> None:
    """Answer one request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    request = json.loads(sys.stdin.buffer.readline())
    try:
        answer = run(request, answers)
    except Exception as error:  # the parent names the candidate
        last = (str(error).strip() or "no message").splitlines()[-1]
        answer = {"error": f"{type(error).__name__}: {last}"}
        import traceback

        traceback.print_exc()
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
    os._exit(0)  # some runtimes hang or crash in their destructors; the answer is out


def run(request: Request, answers: BinaryIO) -> Answer:
    """Open the engine and do what was asked."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cpus"])
    start = time.perf_counter_ns()
    engine = open_engine(request)
    opened = (time.perf_counter_ns() - start) / NS_PER_MS
    work: dict[str, Callable[[], Answer]] = {
        "memory": lambda: _memory(engine, request),
        "cells": lambda: _cells(engine, request),
        "stream": lambda: _stream(engine, request),
        "serve": lambda: _serve(engine, answers),
    }
    done = work[request["do"]]()
    return {"open_ms": opened, "peak_rss_bytes": peak_rss_bytes(), "facts": engine.facts, **done}


def _memory(engine: Engine, request: Request) -> Answer:
    for batch, length in SERVING_SHAPES:
        pool = _batches(batch, length, vocabulary=request["vocabulary"])
        for call in range(SERVING_CALLS):
            engine.run(pool[call % POOL])
    return {}


def _cells(engine: Engine, request: Request) -> Answer:
    order = list(request["cells"])
    random.Random(request["seed"]).shuffle(order)
    return {"cells": [_time(engine, batch, length, request) for batch, length in order]}


def _time(engine: Engine, batch: int, length: int, request: Request) -> Answer:
    pool = _batches(batch, length, vocabulary=request["vocabulary"])

    def call(index: int) -> object:
        return engine.run(pool[index % POOL])

    call(0)  # where the engine compiles for this shape; its time must not use up the warm-up
    warmup = warm_up(call, request["seconds"])
    samples = sample(call, request["seconds"])
    return {"batch_size": batch, "sequence_length": length, "samples_ns": samples, "settled": warmup.settled}


def _stream(engine: Engine, request: Request) -> Answer:
    """Time whole passes over the rows, the first of them not counted."""
    rows = json.loads(Path(request["rows"]).read_text(encoding="utf-8"))
    known = passes(engine)
    found: dict[str, Answer] = {}
    expected = known["one"](rows) if request["compare"] else None
    for policy in request["policies"] or list(known):
        outputs = known[policy](rows)
        samples = _passes_ns(lambda run=known[policy]: run(rows), request["seconds"])
        found[policy] = {"samples_ns": samples}
        if expected is not None:
            found[policy]["agreement_with_one"] = agreement(expected, outputs)
    return {"policies": found, "rows": len(rows)}


def _passes_ns(call: Callable[[], object], seconds: float) -> list[int]:
    samples: list[int] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - start)
    return samples


def _serve(engine: Engine, answers: BinaryIO) -> Answer:
    while (feeds := read_frame(sys.stdin.buffer)) is not None:
        write_frame(answers, {"logits": engine.run(feeds)})
    return {}


def _batches(batch: int, length: int, *, vocabulary: int) -> list[dict[str, np.ndarray]]:
    """Distinct random rows of full length: the same for every candidate, in every block."""
    draw, shape = np.random.default_rng([batch, length]), (batch, length)
    mask, types = np.ones(shape, np.int64), np.zeros(shape, np.int64)
    return [
        {"input_ids": draw.integers(0, vocabulary, shape, np.int64), "attention_mask": mask, "token_type_ids": types}
        for _ in range(POOL)
    ]


if __name__ == "__main__":
    main()
