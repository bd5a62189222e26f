"""The parent's side of the children: start one fresh, ask, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from candidates import Candidate
from frames import read_frame, write_frame
from models import Model, PeerFailed, last_line

from deploycomp.measure.context import affinity
from deploycomp.runtime.session import Run

__all__ = ["ask", "serve"]

CHILD = Path(__file__).with_name("child.py")
LIMIT_SECONDS = 1800.0
"""Far above any sane child, so it only ends a hang."""

Answer = dict[str, Any]


def ask(candidate: Candidate, model: Model, *, threads: int, **request: Any) -> Answer:
    """Run one child on one request and return its answer.

    Raises:
        PeerFailed: It failed, died or hung.
    """
    message = _message(candidate, model, threads, request)
    with _started(candidate, model, threads) as (child, words):
        try:
            out, _ = child.communicate(message, timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"took longer than {LIMIT_SECONDS:g} s") from None
        try:
            answer: Answer = json.loads(out)
        except ValueError:
            raise PeerFailed(f"died with {child.returncode}: {_tail(words)}") from None
    if "error" in answer:
        raise PeerFailed(answer["error"])
    return answer


@contextmanager
def serve(candidate: Candidate, model: Model, *, threads: int) -> Iterator[Run]:
    """Hold one child open as a `Run`, so that a `Predictor` in this process can judge it.

    Raises:
        PeerFailed: It failed or died.
    """
    with _started(candidate, model, threads) as (child, words):
        there, back = cast(BinaryIO, child.stdin), cast(BinaryIO, child.stdout)

        def run(feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
            try:
                write_frame(there, feeds)
                found = read_frame(back)
            except OSError:
                found = None
            if found is None:
                raise PeerFailed(_tail(words))
            logits = found["logits"]
            return [logits] if len(outputs) == 1 else list(np.moveaxis(logits, -1, 0))  # start and end

        with contextlib.suppress(OSError):  # a child that is dead already says why in its answer
            there.write(_message(candidate, model, threads, {"do": "serve"}))
            there.flush()
        yield run


def _message(candidate: Candidate, model: Model, threads: int, request: dict[str, Any]) -> bytes:
    full = {
        **candidate.request,
        "task": model.real.task,
        "vocabulary": model.vocabulary,
        "threads": threads,
        "cpus": affinity()[:threads],
        **request,
    }
    return json.dumps(full).encode() + b"\n"


@contextmanager
def _started(candidate: Candidate, model: Model, threads: int) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """A child with its own session (Ctrl-C reaches the parent alone), killed in the end; its stderr is kept."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(model.work / "inductor"),
    }
    line, pipe = [str(candidate.python), str(CHILD)], subprocess.PIPE
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=words, env=environment, start_new_session=True)
        with contextlib.suppress(BrokenPipeError), child:  # closes the pipes and waits
            try:
                yield child, cast(BinaryIO, words)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # with whatever it started: Inductor has workers


def _tail(words: BinaryIO) -> str:
    words.seek(0)
    return last_line(words.read().decode(errors="replace"))
