"""Watch a checkpoint being loaded: what is opened must have been audited, no pickle runs, nothing is connected or run.

    with watch(files, folder):        # raises where it happens, and again at the end if a library swallowed that
        AutoModel.from_pretrained(folder)

It hears what Python opens (`sys.addaudithook`, PEP 578). Libraries in Rust and C open files unheard; they are given
paths of the private folder only, see `stage.py`. It hears the thread that loads and, from Python 3.12 on, the threads
that this one starts.
"""

from __future__ import annotations

import contextlib
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused

__all__ = ["watch"]

SYSTEM = ("/usr", "/lib", "/lib64", "/sys", "/dev/null", "/dev/urandom", "/etc/localtime", "/etc/os-release")
"""Where libraries look for one another, for time zones and for what the machine is; nothing there is secret."""

MACHINE = ("mounts", "mountinfo", "maps", "cgroup", "cpuinfo", "meminfo", "loadavg", "stat", "statm", "status")
"""What libraries read below /proc; a process's environment and command line are not among them."""

CODE = (".py", ".pyc", ".so")
"""What an import reads, wherever the import path leads."""

_FORBIDDEN = {
    "pickle.find_class": "a pickle was read, which can run any code",
    "socket.connect": "a connection was opened",
    "socket.getaddrinfo": "a name was looked up in the network",
    "subprocess.Popen": "a program was started",
    "os.system": "a program was started",
    "os.exec": "a program was started",
    "os.posix_spawn": "a program was started",
}

_STARTS = ("_thread.start_new_thread", "_thread.start_joinable_thread")

_ANEW = os.O_TRUNC | os.O_EXCL
"""Flags of a file that is written anew: nothing of it is read."""


def _installation() -> tuple[str, ...]:
    """The folders of Python and its packages."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sysconfig.get_paths().values(), *site.getsitepackages()}
    return tuple(sorted({real for each in places for real in (each, os.path.realpath(each))}))


@dataclass
class _Watch:
    """One load: what it may read, in which thread it runs, which it started, and what it did against that."""

    files: frozenset[str]
    folder: str
    owner: int
    helpers: set[int] = field(default_factory=set)
    found: list[InputRefused] = field(default_factory=list)


_ACTIVE: list[_Watch] = []
_LOCK = threading.Lock()
_HOOKED: list[bool] = []
_INSTALLED: tuple[str, ...] = ()


@contextlib.contextmanager
def watch(files: Iterable[Path], folder: Path) -> Iterator[None]:
    """Refuse whatever else than *files*, *folder* and the installation is opened while the block runs.

    Args:
        files: What was audited and hashed.
        folder: The private folder that the loader was given.

    Raises:
        InputRefused: Naming what was opened, connected or run.
    """
    _install()
    places = {real for each in files for real in (os.path.abspath(each), os.path.realpath(each))}  # noqa: PTH100
    mine = _Watch(frozenset(places), os.path.realpath(folder), threading.get_ident())
    _ACTIVE.append(mine)
    try:
        yield
    finally:
        _ACTIVE.remove(mine)
        if mine.found and not isinstance(sys.exception(), KeyboardInterrupt):
            raise mine.found[0] from None


def _install() -> None:
    """Add the hook, once: it cannot be taken away again, and does nothing while no watch is on."""
    global _INSTALLED
    with _LOCK:
        if not _HOOKED:
            _INSTALLED = _installation()
            sys.addaudithook(_hear)
            _HOOKED.append(True)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _ACTIVE or (event != "open" and event not in _FORBIDDEN and event not in _STARTS):
        return
    mine = _watch_of(threading.get_ident())
    if mine is None:
        return
    if event in _STARTS:
        mine.helpers.add(id(getattr(args[0], "__self__", None)))  # the `threading.Thread` that is about to run
        return
    problem = _problem(event, args, mine)
    if problem is not None:
        mine.found.append(problem)
        raise problem


def _watch_of(ident: int) -> _Watch | None:
    """The innermost load that runs in a thread, or that started it."""
    active = tuple(_ACTIVE)[::-1]
    thread = id(getattr(threading, "_active", {}).get(ident))  # `current_thread()` would take a lock
    return next((each for each in active if each.owner == ident), None) or next(
        (each for each in active if thread in each.helpers), None
    )


def _problem(event: str, args: tuple[Any, ...], mine: _Watch) -> InputRefused | None:
    """What is wrong with an event, or `None`."""
    if event in _FORBIDDEN:
        what = ".".join(str(part) for part in args[:2]) if event == "pickle.find_class" else str(args[0])
        return InputRefused("loading the model was stopped", where=what, why=_FORBIDDEN[event])
    path, _, flags = args
    if not isinstance(path, str | bytes) or flags & os.O_ACCMODE == os.O_WRONLY or flags & _ANEW:
        return None  # a descriptor was opened before, and what is written is nobody's input
    name = os.fsdecode(path)
    place = os.path.abspath(name)  # noqa: PTH100 (of a link the name is asked, and `..` is gone)
    if place in mine.files or _below(place, mine.folder) or _installed(place):
        return None
    return InputRefused(
        "loading the model was stopped: it opened a file that was not audited",
        where=name,
        why="only files that were checked and hashed may be read; a setting may have named it",
    )


def _below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder + os.sep)


def _installed(place: str) -> bool:
    if any(_below(place, root) for root in (*SYSTEM, *_INSTALLED)):
        return True
    if _below(place, "/proc"):
        return place.rpartition("/")[2] in MACHINE
    return place.endswith(CODE) and any(_below(place, os.path.abspath(root)) for root in sys.path)  # noqa: PTH100
