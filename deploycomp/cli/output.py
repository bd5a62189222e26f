"""The one output sink: for people, as JSON, or quiet; and the one place where an error becomes text and an exit code.

Results go to stdout, everything else (progress, notes, errors) to stderr. With `--json`, stdout holds one JSON
document, also when the command fails.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from deploycomp.artifact import translate_os_error
from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, Interrupted, UsageError, panicked

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["SINK", "Progress", "handled", "save_text"]

Progress = Callable[[str, float], None]
P = ParamSpec("P")

BUG = 70
"""Exit code of an error that nobody foresaw (EX_SOFTWARE of sysexits.h)."""


@dataclass
class Sink:
    """How this process talks; set once by the options of the command."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    stopped: Interrupted | None = None
    """A signal that came; raised again at the next sign of progress, because Python drops what is raised in a destructor
    or a weak reference's callback."""
    written: Path | None = None
    """What this command has published, or writes piece by piece: an interruption must not deny it."""

    @functools.cached_property
    def out(self) -> Console:
        """The console for results."""
        from rich.console import Console

        return Console(highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())

    @functools.cached_property
    def err(self) -> Console:
        """The console for everything else."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())

    def result(self, data: Any, *human: RenderableType) -> None:
        """Print a result: as JSON, or as the given renderables unless quiet."""
        if self.json:
            print(json.dumps(data, indent=2, ensure_ascii=False, default=str))  # noqa: T201  the one print
        elif not self.quiet:
            for each in human:
                self.out.print(_printable(each) if isinstance(each, str) else each, markup=False)

    def note(self, text: str) -> None:
        """Say something by the way."""
        if not self.quiet and not self.json:
            self.err.print(_printable(text), markup=False, style="dim")

    def error(self, error: DeploycompError) -> None:
        """Print an error: what, where, why, next."""
        if self.json:
            print(json.dumps(error.as_dict(), indent=2, ensure_ascii=False))  # noqa: T201
        else:
            self.err.print("error: ", style="bold red", end="")
            self.err.print(_printable(str(error)), markup=False)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a bar with an estimate, on a terminal only."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield lambda _message, _share: self.check()
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err, transient=True) as bar:
            task = bar.add_task("starting", total=1.0)

            def show(message: str, share: float) -> None:
                self.check()
                bar.update(task, description=_printable(message), completed=share)

            yield show

    def check(self) -> None:
        """Stop here if a signal came that nobody has heard."""
        if self.stopped is not None:
            raise self.stopped


SINK = Sink()


def handled(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what a command raises into one clear message and its exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        sys.unraisablehook = _unraisable
        try:
            command(*args, **kwargs)
        except (typer.Exit, SystemExit):
            raise  # a command within a command (demo → export) has said it all
        except BaseException as error:  # the one place where every error ends
            raise typer.Exit(_tell(SINK.stopped or error)) from None

    return wrapper


def _tell(error: BaseException) -> int:
    """Say what happened and return the exit code."""
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt):
        return _interrupted(error if isinstance(error, Interrupted) else Interrupted())
    if isinstance(error, MemoryError):
        error = EnvironmentFailed("memory ran out", hint="close other programs, or take a larger machine")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        error = UsageError("a path is too long for this system", where=str(error.filename))
    if panicked(error):
        error = InputRefused("a library gave up on the input", why=str(error).split("\n")[0])
    if not isinstance(error, DeploycompError):
        _bug(error)
        return BUG
    SINK.error(error)
    if SINK.verbose:
        traceback.print_exc()
    return error.exit_code


def _interrupted(error: Interrupted) -> int:
    what = f"interrupted; see {SINK.written}" if SINK.written else "interrupted: nothing was written"
    if SINK.json:
        print(json.dumps({"error": "Interrupted", "exit_code": error.exit_code, "what": what}))  # noqa: T201
    else:
        SINK.err.print(_printable(what), style="bold", markup=False)
    return error.exit_code


def _stop(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    SINK.stopped = Interrupted(128 + number)
    raise SINK.stopped


def _unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Say nothing of a dropped interruption: it is raised again."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)


def _bug(error: BaseException) -> None:
    if SINK.json:
        data = {
            "error": type(error).__name__,
            "exit_code": BUG,
            "what": str(error),
            "next": "run again with -v",
        }
        print(json.dumps(data))  # noqa: T201
    else:
        SINK.err.print("a bug in deploycomp: ", style="bold red", end="")
        SINK.err.print(_printable(f"{type(error).__name__}: {error}"), markup=False)
    if SINK.verbose:
        traceback.print_exc()
    elif not SINK.json:
        SINK.err.print("run again with -v for the traceback, and please report it", style="dim")


def _printable(text: str) -> str:
    """Keep a hostile name from steering the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def save_text(path: Path, text: str, *, parents: bool = False) -> None:
    """Write beside and rename, so that a file is whole or absent.

    Args:
        path: The file; one that is there is replaced.
        text: What it will hold.
        parents: Whether its folder is made where it is missing.

    Raises:
        EnvironmentFailed: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with translate_os_error(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
