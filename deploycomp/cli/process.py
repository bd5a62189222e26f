"""The process around a command: streams that are there, an end for every signal, last words, and the exit code.

Nothing heavy is imported here: all of it must hold while the rest is still being imported.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

__all__ = [
    "BUG",
    "FAILED",
    "READER_LEFT",
    "last_words",
    "leave",
    "open_streams",
    "quiet_signals",
    "say",
    "short_of_memory",
    "with_docstrings",
]

FAILED = 5
"""Exit code of `EnvironmentFailed`."""
BUG = 70
"""Exit code of an error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""
READER_LEFT = 128 + signal.SIGPIPE
"""141, what a shell says of a program whose reader went away."""

_NOTHING = "interrupted: nothing was written"
_ENDED = "a native library ended the process, as a rule because memory ran out"
_ADVICE = "free memory, raise its limit (ulimit -v, cgroup), or use fewer threads"
_SPARE_BYTES = 4_000_000
"""Kept for saying the last words where no memory is left."""


def with_docstrings() -> None:
    """Start again without -OO: transformers builds parts of itself from docstrings, which it takes away."""
    if sys.flags.optimize < 2:
        return
    environment = {**os.environ, "PYTHONOPTIMIZE": "1"}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "deploycomp", *sys.argv[1:]], environment)


def open_streams() -> None:
    """Put /dev/null where stdin, stdout or stderr are closed, so that no file of ours is opened in their place.

    `sys.stdout` stays None where it was closed: the sink refuses to work for nobody. What is said on stderr is lost.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  for the life of the process


def quiet_signals() -> None:
    """End without a traceback on Ctrl-C and SIGTERM, until a command takes them over."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_early)


def _end_early(number: int, _frame: FrameType | None) -> NoReturn:
    say(_NOTHING, error="Interrupted", code=128 + number)
    os._exit(128 + number)


def say(what: str, *, error: str, code: int, hint: str | None = None) -> None:
    """Say an error with nothing but the system: on stderr, or as JSON on stdout where that was asked for.

    Args:
        what: What happened; our own words, nothing from elsewhere.
        error: The name of its kind.
        code: The exit code.
        hint: What to do next.
    """
    if "--json" in sys.argv:
        named = {"next": hint} if hint else {}
        stream, text = 1, json.dumps({"error": error, "exit_code": code, "what": what, **named})
    else:
        head = "" if error == "Interrupted" else "error: "
        stream, text = 2, head + what + (f"\n  next:  {hint}" if hint else "")
    with contextlib.suppress(OSError):
        os.write(stream, f"{text}\n".encode())


def leave(code: int) -> NoReturn:
    """End the process with an exit code, whatever is left to tidy up.

    What Python runs at its end is run, but no library's destructors: they fail where memory ran out, and turn the code
    into another.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, OSError):
            signal.signal(number, signal.SIG_IGN)  # all is done and said
    sys.unraisablehook = lambda _dropped: None
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def _published() -> str:
    """What the command has published, if it came that far."""
    output = sys.modules.get("deploycomp.cli.output")
    written = output.SINK.written if output else None
    return f"; written before that: {str(written)!a}" if written else ""


_kept: dict[str, object] = {"spare": None}
"""What C holds on to must live as long as the process; what is spare must not."""


def short_of_memory() -> int:
    """Say that memory ran out with the little that is kept for it, and return the exit code."""
    _kept["spare"] = None
    say("memory ran out" + _published(), error="EnvironmentFailed", code=FAILED, hint=_ADVICE)
    return FAILED


def last_words() -> None:
    """Turn `exit` and `abort` of a native library into one message and exit code 5.

    OpenBLAS calls `exit(1)` where it gets no memory, which would read as a broken goal; C++ aborts. Whoever calls this
    must end by `leave`.
    """
    libc, owner = ctypes.CDLL(None), os.getpid()
    _kept["spare"] = bytearray(_SPARE_BYTES)

    def speak(_: int | None) -> None:
        if os.getpid() == owner:  # not in a child that was forked off
            _kept["spare"] = None
            say(_ENDED + _published(), error="EnvironmentFailed", code=FAILED, hint=_ADVICE)
            os._exit(FAILED)

    at_exit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(speak)
    at_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    _kept.update(exit=at_exit, abort=at_abort)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.__cxa_atexit(at_exit, None, None)  # glibc has no `atexit` to link to
    libc.signal(signal.SIGABRT, ctypes.cast(at_abort, ctypes.c_void_p))
