"""One run at a time writes an output: a folder that only one can have, with a locked record of its owner in it.

    .out.partial/
      owner.json     host, boot, PID namespace, process and its start, since when; locked while the run lives

The folder is the lock: it gets its name by a rename that fails where the name is taken, on every file system. flock
only helps to tell a dead owner from a living one; where it lies (Lustre, some mounts of NFS), no output is harmed.
What may live is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

from deploycomp.errors import EnvironmentFailed

__all__ = ["ASIDE", "Claim", "claim"]

OWNER = "owner.json"
ASIDE = "old"
"""In the folder of a run: the earlier output while it is moved aside, where the kernel cannot swap."""

SILENT_SECONDS = 24 * 3600
"""Where the owner's process cannot be looked for (another machine), a lock that nobody holds and a day without a new
file mean that it is dead: no export takes that long."""
SILENT_HERE_SECONDS = 120
"""The same under this very kernel (another container), where a lock that works is proof by itself."""
TRIES = 5
MAX_RECORD_BYTES = 100_000
MAX_SHOWN = 80
"""Characters of a record's value in a message."""

_NAME_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)

Record = dict[str, Any]


class Claim:
    """The right to write one output, until it is released or the process ends."""

    def __init__(self, root: Path, destination: Path):
        self.root, self.destination, self.token = root, destination, uuid.uuid4().hex[:12]
        self.lock: TextIO | None = None
        _held[self.token] = self  # before its folder is there, so that no thread beside this one takes it for dead

    def release(self) -> None:
        """Remove the folder, and let go of the lock."""
        if _record(self.root).get("token") == self.token:
            _clear(self.root, self.destination)
        self.let_go()

    def let_go(self) -> None:
        """Let go of the lock."""
        _held.pop(self.token, None)
        if self.lock is not None:
            self.lock.close()


_held: weakref.WeakValueDictionary[str, Claim] = weakref.WeakValueDictionary()
"""The claims of this process."""


def claim(destination: Path) -> Claim:
    """Claim an output, and sweep what dead runs left beside it.

    Raises:
        EnvironmentFailed: Another run holds it, or may hold it, by name.
        OSError: The parent cannot be written.
    """
    root = destination.with_name(f".{destination.name}.partial")
    for path in list(_unfinished(destination)):
        with contextlib.suppress(EnvironmentFailed):  # it lives, and is in nobody's way
            _sweep(path, destination)
    for _ in range(TRIES):
        held = _take(root, destination)
        if held is not None:
            return held
        _sweep(root, destination)
    raise _taken(root, {}, "runs begin and end there all the time")


def _take(root: Path, destination: Path) -> Claim | None:
    """Make the folder under a name of its own, whole, then give it the name that counts; None where that is taken."""
    held = Claim(root, destination)
    made = destination.with_name(f".{destination.name}.{held.token}.partial")
    try:
        held.lock = _make(made, destination, held.token)
        made.rename(root)
        return held
    except BaseException as error:
        for path in (made, root):
            if path == made or _record(path).get("token") == held.token:
                _clear(path, destination)
        held.let_go()
        if isinstance(error, OSError) and error.errno in _NAME_TAKEN:
            return None
        raise


def _make(folder: Path, destination: Path, token: str) -> TextIO:
    """Make a folder with a record of this process in it; locked before it is written, so that none is read unlocked."""
    folder.mkdir()
    file = (folder / OWNER).open("x", encoding="utf-8")
    try:
        with contextlib.suppress(OSError):  # no locks on this file system: the folder is the lock
            _flock(file)
        record = {
            "token": token,
            "output": destination.name,
            **_here(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        file.write(json.dumps(record, indent=1) + "\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _unfinished(destination: Path) -> Iterator[Path]:
    """Folders of runs that ended on the way to a claim, or while they swept one."""
    for path in destination.parent.iterdir():
        named = path.name.startswith(f".{destination.name}.") and path.name.endswith(".partial")
        if named and path.name != f".{destination.name}.partial" and _record(path).get("output") == destination.name:
            yield path


def _sweep(root: Path, destination: Path) -> None:
    """Remove what a dead run left.

    Raises:
        EnvironmentFailed: The run lives, or may live, or this is no folder of a run.
    """
    if root.is_symlink():
        raise _taken(root, {}, "it is a link, and no folder of ours")
    try:
        lock = (root / OWNER).open("r+", encoding="utf-8")
    except FileNotFoundError:
        if not root.exists():
            return  # gone meanwhile
        raise _taken(root, {}, "it has no record of an owner") from None
    except OSError as error:
        raise _taken(root, {}, f"its record of the owner cannot be read: {error.strerror}") from None
    with lock:
        free, record = _lock(lock), _record(root)
        _check_dead(root, record, free=free)
        grave = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:12]}.partial")
        try:
            root.rename(grave)
        except FileNotFoundError:
            return  # another run was quicker
        if _record(grave) != record:  # another run was quicker, and this is its own folder
            with contextlib.suppress(FileNotFoundError):  # or a third one sweeps it already
                grave.rename(root)
            raise _taken(root, _record(root), "it began just now")
        _clear(grave, destination)  # what a reader on NFS still holds stays, in nobody's way: the next run tries again


def _clear(root: Path, destination: Path) -> None:
    """Remove the folder of a run; the record goes last, so that what a kill leaves can be swept later."""
    if os.path.lexists(root / ASIDE) and not os.path.lexists(destination):  # ended between two renames
        (root / ASIDE).rename(destination)
    with contextlib.suppress(FileNotFoundError):
        for path in [each for each in root.iterdir() if each.name != OWNER]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if all(each.name == OWNER for each in root.iterdir()):
            (root / OWNER).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another run is at it, too
                root.rmdir()


def _lock(file: TextIO) -> bool | None:
    """Take the lock: True where it was free, False where somebody holds it, None where locks mean nothing."""
    try:
        _flock(file)
    except BlockingIOError:
        return False
    except OSError:
        return None
    with contextlib.suppress(OSError), Path(file.name).open("r+", encoding="utf-8") as again:
        _flock(again)
        return None  # granted twice
    return True


def _flock(file: TextIO) -> None:
    import fcntl  # not on every system that an artifact is read on

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_dead(root: Path, record: Record, *, free: bool | None) -> None:
    """Refuse a run that lives, or of which it cannot be told.

    Raises:
        EnvironmentFailed: By name.
    """
    if free is False or str(record.get("token")) in _held:
        raise _taken(root, record, None)
    here = _here()
    same_kernel = here["boot"] is not None and record.get("boot") == here["boot"]
    if same_kernel and here["namespace"] is not None and record.get("namespace") == here["namespace"]:
        pid, started = record.get("pid"), record.get("started")
        if pid != os.getpid() and started is not None and _started(pid) == started:
            raise _taken(root, record, None)
        return
    if free is None:
        raise _taken(root, record, "whether it lives cannot be told from here, and this file system has no locks")
    limit = SILENT_HERE_SECONDS if same_kernel else SILENT_SECONDS
    if time.time() - _last_sign(root) <= limit:
        where = "another container" if same_kernel else "another machine, or before this one started anew"
        raise _taken(root, record, f"it ran in {where}, and has been silent for less than {limit / 60:,.0f} minutes")


def _taken(root: Path, record: Record, doubt: str | None) -> EnvironmentFailed:
    """The refusal: who, since when, and what to remove by hand; *doubt* where the run may also be dead."""

    def shown(key: str) -> str:
        return str(record.get(key, "unknown"))[:MAX_SHOWN]

    who = f"process {shown('pid')} on {shown('host')}, since {shown('since')}, holds {root.name}" if record else ""
    return EnvironmentFailed(
        f"another deploycomp run {'may be' if doubt else 'is'} writing this output",
        where=str(root),
        why="; ".join(each for each in (who, doubt) if each),
        hint="wait for it, or choose another --output; if you know that it is dead, remove that folder by hand",
    )


def _record(root: Path) -> Record:
    """What the folder says of its owner; nothing where that cannot be read."""
    try:
        with (root / OWNER).open(encoding="utf-8") as file:
            found: Any = json.loads(file.read(MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("Record", found) if isinstance(found, dict) else {}


def _last_sign(root: Path) -> float:
    """When the newest file in a run's folder was written."""
    times = [root.lstat().st_mtime]
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)


def _here() -> dict[str, str | None]:
    """This machine, this boot of it, and the namespace that process numbers are from; None where it cannot be told."""
    boot = namespace = None
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return {"host": os.uname().nodename, "boot": boot, "namespace": namespace}


def _started(pid: object) -> int | None:
    """When a process started, in ticks since the boot; None where there is no such process, or it has ended."""
    if not isinstance(pid, int):
        return None
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *numbers = status.rpartition(")")[2].split()  # proc_pid_stat(5): the name before it may hold anything
    return None if state in "ZX" else int(numbers[18])
