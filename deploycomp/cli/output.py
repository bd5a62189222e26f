"""The one output sink: for people, as JSON, or quiet; and the one place where an error becomes text and an exit code.

Results go to stdout, everything else (progress, notes, errors) to stderr. With `--json`, stdout holds one JSON
document, also when the command fails. Whatever is printed is escaped here (escape.py): no name, label or path, and
nothing that a library says, begins a line, steers a terminal or is read as a command by a CI system.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from deploycomp.artifact import translate_os_error, write_whole
from deploycomp.cli import process
from deploycomp.cli.faults import as_ours
from deploycomp.cli.process import BUG, READER_LEFT
from deploycomp.errors import DeploycompError, EnvironmentFailed, Interrupted
from deploycomp.escape import document, json_text, one_line
from deploycomp.room import check_room

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["SINK", "Document", "Progress", "finish", "handled", "save_text"]

Progress = Callable[[str, float], None]
P = ParamSpec("P")


_ELSEWHERE = "send it to a file or to /dev/null, or add --quiet"


class _Unheard(EnvironmentFailed):
    """Stdout takes nothing: said on stderr, also with `--json`."""


class Document(str):
    """Text of several lines that are meant, such as a recipe; any other text is one line."""


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
        return _console(stderr=False)

    @functools.cached_property
    def err(self) -> Console:
        """The console for everything else."""
        return _console(stderr=True)

    def expect_reader(self) -> None:
        """Refuse to work where stdout is closed and somebody is to be told.

        Raises:
            EnvironmentFailed: There is no stdout.
        """
        if sys.stdout is None and (self.json or not self.quiet):
            raise _Unheard("stdout is closed", hint=_ELSEWHERE)

    def publish(self, path: Path) -> None:
        """Take note of what is there from now on."""
        self.written = path

    def result(self, data: Any, *human: RenderableType) -> None:
        """Print a result: as JSON, or as the given lines, documents and renderables unless quiet."""
        with _writing():
            if self.json:
                print(json_text(data, indent=2))  # noqa: T201  the one print
            elif not self.quiet:
                for each in human:
                    self.out.print(_shown(each) if isinstance(each, str) else each, markup=False)

    def command(self, line: str) -> None:
        """Print a command to the CI system, which the caller has escaped by its rules."""
        with _writing():
            typer.echo(line, err=self.json)

    def note(self, text: str) -> None:
        """Say something by the way."""
        if not self.quiet and not self.json:
            self._say(_shown(text), style="dim")

    def say(self, text: str) -> None:
        """Say on stderr what explains an error."""
        self._say(document(text))

    def error(self, error: DeploycompError) -> None:
        """Print an error: what, where, why, next."""
        if self.json and not isinstance(error, _Unheard):
            self.result(error.as_dict())
        else:
            self._say("error: ", style="bold red", end="")
            self._say(str(error))

    def _say(self, text: str, *, style: str | None = None, end: str = "\n") -> None:
        """Print escaped text on stderr; nobody hears of one that is full or gone, but the exit code stays right."""
        with contextlib.suppress(OSError, ValueError):
            self.err.print(text, markup=False, style=style, end=end)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a bar with an estimate, on a terminal only; whatever shows one imports heavy libraries."""
        check_room()
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
                bar.update(task, description=one_line(message), completed=share)

            yield show

    def check(self) -> None:
        """Stop here if a signal came that nobody has heard."""
        if self.stopped is not None:
            raise self.stopped


SINK = Sink()


def _shown(text: str) -> str:
    return document(text) if isinstance(text, Document) else one_line(text)


def _console(*, stderr: bool) -> Console:
    """A console that escapes whatever reaches it, also what a table or a bar brings along."""
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            for segment in super().render(*arguments, **options):
                yield segment if segment.control else Segment(document(segment.text), segment.style)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end the process with 1

    stream = sys.stderr if stderr else sys.stdout
    broken = stream is None or not stream.isatty()
    return Escaping(stderr=stderr, highlight=False, emoji=False, soft_wrap=broken)


def handled(command: Callable[P, None]) -> Callable[P, None]:
    """Turn what a command raises into one clear message and its exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        sys.unraisablehook = _unraisable
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise  # a command within a command (demo → export) has said it all
        except BaseException as error:  # the one place where every error ends
            raise typer.Exit(_tell(SINK.stopped or error)) from None

    return wrapper


def finish(command: Callable[[], int]) -> int:
    """Run a whole command line and say what Typer itself stumbles over.

    Args:
        command: Returns the exit code of a command that said everything.

    Returns:
        The exit code.
    """
    try:
        with _writing():
            return command()
    except SystemExit:  # so Typer answers to a reader that left while it printed help
        return READER_LEFT
    except BaseException as error:
        return _tell(error)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Write to stdout to the last byte: what Python keeps back would fail after the exit code.

    Raises:
        EnvironmentFailed: It takes no more.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _Unheard("stdout cannot be written", why=error.strerror, hint=_ELSEWHERE) from error


def _tell(error: BaseException) -> int:
    """Say what happened and return the exit code, in few words where memory does not do for more."""
    try:
        return _told(error)
    except Exception:
        return process.short_of_memory()


def _told(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return _interrupted(error if isinstance(error, Interrupted) else Interrupted())
    if isinstance(error, BrokenPipeError | _Unheard):
        _let_go()
    if isinstance(error, BrokenPipeError):
        _written()
        return READER_LEFT
    ours = as_ours(error)
    try:
        _bug(error) if ours is None else SINK.error(ours)
    except (_Unheard, BrokenPipeError) as unheard:  # the JSON document of an error
        return _told(unheard)
    _written()
    _trace()
    return BUG if ours is None else ours.exit_code


def _let_go() -> None:
    """Send what is left for stdout to nowhere: it was tried, and Python would try again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _written() -> None:
    """Say what was published although the command then failed."""
    if SINK.written:
        SINK.say(one_line(f"written: {SINK.written}"))


def _trace() -> None:
    """Show the traceback where it was asked for, so that no line of it looks like one of a message."""
    if SINK.verbose:
        for line in traceback.format_exc().splitlines():
            SINK.say(f"| {one_line(line)}")


def _interrupted(error: Interrupted) -> int:
    what = f"interrupted; see {SINK.written}" if SINK.written else "interrupted: nothing was written"
    if SINK.json:
        SINK.result({"error": "Interrupted", "exit_code": error.exit_code, "what": what})
    else:
        SINK._say(one_line(what), style="bold")
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
        SINK.result({"error": type(error).__name__, "exit_code": BUG, "what": str(error), "next": "run again with -v"})
    else:
        SINK._say("a bug in deploycomp: ", style="bold red", end="")
        SINK._say(one_line(f"{type(error).__name__}: {error}"))
        if not SINK.verbose:
            SINK._say("run again with -v for the traceback, and please report it", style="dim")


def save_text(path: Path, text: str, *, parents: bool = False) -> None:
    """Write beside and rename, so that a file is whole or absent.

    Args:
        path: The file; one that is there is replaced, a device or a pipe is written to.
        text: What it will hold.
        parents: Whether its folder is made where it is missing.

    Raises:
        EnvironmentFailed: It cannot be written.
    """
    with translate_os_error(path):
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
