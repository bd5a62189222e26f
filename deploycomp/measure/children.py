"""One child process at a time: start it fresh, wait asleep, and leave none behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from deploycomp import errors
from deploycomp.errors import DeploycompError, EnvironmentFailed

__all__ = ["ask"]

COMMAND = ("-P", "-c", "from deploycomp.measure.worker import main; main()")
"""`-P` keeps the working directory off the import path: a file there may be called json.py. `-c` and not `-m`, which
imports more before our first line."""

STDERR_TAIL = 2000
"""Characters of a dead child's last words that go into the error."""

NS_PER_MS = 1_000_000

RAISED = {"InputRefused", "EnvironmentFailed", "UsageError", "VerificationFailed"}
"""Errors that a child may hand on by name; everything else is the environment's fault."""


def ask(request: dict[str, Any], *, who: str, limit_seconds: float) -> dict[str, Any]:
    """Run one worker on one request and return its answer.

    The child gets its own session, so that Ctrl-C in a terminal reaches the parent alone, which kills it.

    Args:
        request: What `worker.py` reads.
        who: The candidate, for errors.
        limit_seconds: The child is killed after this time.

    Returns:
        The answer; `cold_start_ms` is the time from here to the child's `first_answer_ns` (both on the monotonic clock,
        which all processes of a machine share).

    Raises:
        InputRefused, EnvironmentFailed, VerificationFailed: The child refused or failed, died, or ran out of time.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(request["threads"]),  # the caller's value is for the caller
        "HF_HUB_OFFLINE": "1",
    }
    message = json.dumps({**request, "parent": os.getpid()}).encode()
    spawned = time.monotonic_ns()
    try:
        child = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentFailed("no child process can be started", where=who, why=str(error)) from None
    try:
        out, err = child.communicate(message, timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        raise EnvironmentFailed(
            f"measuring '{who}' took longer than {limit_seconds:g} s and was stopped",
            hint="measure fewer or smaller shapes, or shorter blocks",
        ) from None
    finally:
        _end(child)
    answer = _answer(out, err.decode(errors="replace"), who=who, code=child.returncode)
    first = answer.pop("first_answer_ns", None)
    return answer if first is None else {**answer, "cold_start_ms": (first - spawned) / NS_PER_MS}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it started, if it still runs."""
    with child:  # closes the pipes and waits
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _answer(out: bytes, err: str, *, who: str, code: int) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        raise EnvironmentFailed(
            f"the process that measured '{who}' died", why=f"{_death(code)}\n{err[-STDERR_TAIL:]}".strip()
        ) from None
    if "error" in answer:
        raise _error(answer["error"], who)
    return answer


def _death(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as a rule the system ran out of memory" if name == "SIGKILL" else name


def _error(said: dict[str, Any], who: str) -> DeploycompError:
    kind: type[DeploycompError] = EnvironmentFailed
    if said.get("error") in RAISED:
        kind = getattr(errors, str(said["error"]))
    return kind(
        f"'{who}' cannot be measured: {said['what']}",
        where=said.get("where"),
        why=said.get("why"),
        hint=said.get("next"),
    )
