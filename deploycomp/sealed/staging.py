"""Stage beside the destination, hash, write the manifest last, publish by one rename.

Nothing is ever written into the destination while it has its final name, and staging lies on the destination's
file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from deploycomp.errors import UsageError
from deploycomp.sealed.artifact import Artifact
from deploycomp.sealed.claim import ASIDE, Claim, claim
from deploycomp.sealed.contents import Marks, check_ours, marks
from deploycomp.sealed.disk import sha256, sync, translate_os_error
from deploycomp.sealed.manifest import COMPRESSION, EVIDENCE, MANIFEST, SCHEMA_VERSION, SEAL, seal_of
from deploycomp.sealed.version import plain_files

__all__ = ["Staging", "check_destination", "stage"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_SWAP = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
CLEANING_TRIES = 3
"""How often an interruption in the middle of cleaning up is put off."""

Published = Callable[[Path], None]


class Staging:
    """A private folder beside the destination: `path` becomes the artifact, or nothing does; `work` is scratch."""

    def __init__(self, held: Claim, *, overwrite: bool, published: Published | None):
        self.destination = held.destination
        self.path = held.root / "artifact"
        """The folder that will be published."""
        self.work = held.root / "work"
        """Scratch on the same file system, removed in any case."""
        self._claim, self._overwrite, self._published = held, overwrite, published
        self._manifest: dict[str, Any] = {}
        self._mine: os.stat_result | None = None
        """The folder that was on its way to the destination, until that was told."""

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted: KeyboardInterrupt | None = None
        for _ in range(CLEANING_TRIES):
            try:
                self._tell()
                self._claim.release()
                break
            except KeyboardInterrupt as again:  # in the middle of cleaning up: clean up first
                interrupted = again
        if interrupted is not None:
            raise interrupted

    def list_files(self) -> dict[str, dict[str, str | int]]:
        """Sync every file that is to be hashed, and return its hash and size by name.

        Raises:
            InputRefused: A link or a special file.
            EnvironmentFailed: The disk is full or the folder went away.
        """
        found: dict[str, dict[str, str | int]] = {}
        with translate_os_error(self.path):
            for path in plain_files(self.path):
                name = path.relative_to(self.path).as_posix()
                if name in (MANIFEST, COMPRESSION, *EVIDENCE):
                    continue
                sync(path)
                found[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
        return found

    def seal(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Hash every file, then write the manifest, each synced to disk.

        Args:
            manifest: What to record; `schema_version` and `files` are added.

        Returns:
            The manifest as written.

        Raises:
            EnvironmentFailed: The disk is full or the folder went away.
        """
        files = self.list_files()
        full = {"schema_version": SCHEMA_VERSION, **manifest, "evidence": list(EVIDENCE), "files": files}
        full[SEAL] = seal_of(full)
        text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with translate_os_error(self.path):
            (self.path / MANIFEST).write_text(text, encoding="utf-8")
            sync(self.path / MANIFEST)
        self._manifest = full
        return full

    def publish(self) -> Artifact:
        """Rename the sealed folder to its destination, swapping an existing one whole.

        Raises:
            UsageError: The destination appeared in the meantime, or files that are not ours in it.
            EnvironmentFailed: The rename failed.
        """
        self.release()
        return Artifact(self.destination, self._manifest)

    def release(self) -> None:
        """Rename the folder to its destination, sealed or not.

        Raises:
            UsageError: The destination appeared in the meantime, or files that are not ours in it.
            EnvironmentFailed: The rename failed.
        """
        with translate_os_error(self.destination):
            for name in (COMPRESSION, *EVIDENCE):
                if (self.path / name).exists():
                    sync(self.path / name)
            sync(self.path)
            earlier = None
            if self.destination.exists():
                earlier = _check_existing(self.destination, overwrite=self._overwrite)
            self._mine = self.path.stat()
            try:
                if earlier is None:
                    self.path.rename(self.destination)
                else:
                    self._swap(earlier)
            finally:
                self._tell()
        with contextlib.suppress(OSError):  # it is published; some file systems cannot sync a folder
            sync(self.destination.parent)

    def _tell(self) -> None:
        """Say that it is published, where it is: an interruption comes after the call that it fell into, so look."""
        if self._mine is not None and self._published is not None and _is_at(self.destination, self._mine):
            self._published(self.destination)
        self._mine = None

    def _swap(self, earlier: Marks) -> None:
        """Take the place of an earlier output, and give it back where somebody put a file into that meanwhile."""
        _exchange(self.path, self.destination)
        if marks(self.path) != earlier:
            _exchange(self.path, self.destination)
            _check_existing(self.destination, overwrite=True)
            raise UsageError(
                "the output was changed while it was replaced", where=str(self.destination), hint="run again"
            )


def stage(
    destination: Path, *, overwrite: bool = False, source: Path | None = None, published: Published | None = None
) -> Staging:
    """Make a staging folder beside *destination*, and sweep those that dead runs left there.

    Args:
        destination: The folder to publish.
        overwrite: Allow an existing artifact (or an empty folder) to be replaced.
        source: The checkpoint that is read.
        published: Called with the destination at the moment that the result is there.

    Raises:
        UsageError: See `check_destination`.
        EnvironmentFailed: Its parent cannot be written, or another run writes the same output.
    """
    destination = check_destination(destination, overwrite=overwrite, source=source)
    with translate_os_error(destination):
        staging = Staging(claim(destination), overwrite=overwrite, published=published)
        try:
            if destination.exists() and not overwrite:  # another run has published it just now
                _check_existing(destination, overwrite=False)
            staging.path.mkdir()
            staging.work.mkdir()
        except BaseException:
            staging.__exit__(None, None, None)
            raise
    return staging


def check_destination(destination: Path, *, overwrite: bool = False, source: Path | None = None) -> Path:
    """Refuse a destination that cannot or must not be written, before any work is done.

    Args:
        destination: The folder to publish.
        overwrite: Allow an existing artifact (or an empty folder) to be replaced.
        source: The checkpoint that is read; the destination may not be it, contain it or lie in it.

    Returns:
        The absolute destination.

    Raises:
        UsageError: It exists, is a file, a link or a mount point, is the source, or is a folder that holds what
            deploycomp did not write; or a name is not UTF-8.
        EnvironmentFailed: Its parent cannot be written.
    """
    for name, path in (("output", destination), ("model", source)):
        if path is not None:
            _check_spelling(name, path)
    destination = destination.absolute()
    with translate_os_error(destination):  # also a name that is too long, or a parent that may not be read
        return _checked(destination, overwrite=overwrite, source=source)


def _check_spelling(name: str, path: Path) -> None:
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"the name of the {name} is not UTF-8",
            where=os.fsencode(path).decode("utf-8", "backslashreplace"),
            why="manifest and report are UTF-8, and could not say it",
            hint="rename it" if name == "model" else "choose another --output",
        ) from None


def _checked(destination: Path, *, overwrite: bool, source: Path | None) -> Path:
    where = str(destination)
    if destination.is_symlink():
        raise UsageError("the output is a symbolic link", where=where, hint="name the folder that it points to")
    if source is not None and source.exists():
        inside, home = destination.resolve(), source.resolve()
        if inside == home or home in inside.parents or inside in home.parents:
            raise UsageError(
                "the output may not be, contain or lie inside the source model",
                where=where,
                why=f"the source is {home} and is never written to",
                hint="choose an --output beside it",
            )
    if destination.exists():
        _check_existing(destination, overwrite=overwrite)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(destination.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return destination


def _check_existing(destination: Path, *, overwrite: bool) -> Marks:
    where = str(destination)
    if not destination.is_dir():
        raise UsageError("the output exists and is not a folder", where=where, hint="choose another --output")
    if _is_mounted(destination):
        raise UsageError(
            "the output is a mount point",
            where=where,
            why="a result appears whole, by one rename, and a mount point cannot be renamed",
            hint=f"name a folder inside it: --output {destination / 'artifact'}",
        )
    if not overwrite:
        raise UsageError("the output exists", where=where, hint="add --overwrite, or choose another --output")
    return check_ours(destination)


def _is_mounted(folder: Path) -> bool:
    """Tell whether something is mounted there, also a folder of the same file system (`mount --bind`)."""
    if os.path.ismount(folder) or folder.stat().st_dev != folder.parent.stat().st_dev:
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    place = str(folder.resolve())
    for char in "\\ \t\n":  # proc_pid_mountinfo(5) writes them in octal
        place = place.replace(char, f"\\{ord(char):03o}")
    return any(line.split(" ")[4] == place for line in lines)


def _is_at(place: Path, mine: os.stat_result) -> bool:
    try:
        found = place.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one system call where the kernel can, else by moving the old one aside."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in _CANNOT_SWAP:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    aside = new.with_name(ASIDE)
    try:
        old.rename(aside)
        new.rename(old)
    except BaseException:
        if not os.path.lexists(old) and os.path.lexists(aside):
            aside.rename(old)
        raise
    aside.rename(new)
