"""A process that has imported everything, and forks to run a command: half a second each instead of ten.

    python -m tests.faults.zygote MODEL

A line comes in: the arguments, and when which signal is sent. A line goes out: how the command ended, what it said, and
which processes of it are left. Nothing that starts threads is used before a fork, and the graph is traced once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

__all__ = ["main"]

PATIENCE_SECONDS = 60.0
"""Far above what a command takes after a signal; only a hang lasts longer."""
LOOK = 0.005


def main(model: Path) -> None:
    """Fork for every line of stdin."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _prepare(model)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), file=answers, flush=True)


def _prepare(model: Path) -> None:
    """Import what an export needs, and trace the model without opening a session."""
    import onnxruntime  # noqa: F401

    import deploycomp.pipeline  # noqa: F401
    from deploycomp.export import torch_export
    from deploycomp.models import resolve
    from deploycomp.models.load import load
    from deploycomp.recipe import Export
    from tests.fuzz.doors import Traces

    Traces({"": 1_000}, []).install()
    torch_export.export(load(resolve(model)), Export(), opset=26)


def _run(arguments: list[str], after: float | None, number: int) -> dict[str, Any]:
    """Run a command in a fork, and send it a signal after so many seconds."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _command(arguments, out, err)
        ended = _wait(child, until=began + (PATIENCE_SECONDS if after is None else after))
        if ended is None and after is not None:
            os.kill(child, number)
            ended = _wait(child, until=time.monotonic() + PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        left = _session(child)
        if ended is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        texts = [path.read_text(encoding="utf-8", errors="replace") if path.exists() else "" for path in (out, err)]
    return {"ended": ended, "seconds": seconds, "out": texts[0], "err": texts[1], "left": left}


def _command(arguments: list[str], out: Path, err: Path) -> None:
    """What the fork does: become the command, and never come back."""
    code = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for path, number in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["deploycomp", *arguments]
        from deploycomp.cli.app import main as command

        command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, *, until: float) -> int | None:
    """Its exit code, negative for a signal; None where it still runs."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(LOOK)


def _session(leader: int) -> list[str]:
    """Processes that the command started and that are still there a moment after its end."""
    deadline = time.monotonic() + 2.0
    while True:
        left: list[str] = []
        for each in psutil.process_iter(["pid", "name", "status"]):
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(each.pid) == leader and each.pid != leader and each.info["status"] != "zombie":
                    left.append(f"{each.pid} {each.info['name']}")
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
