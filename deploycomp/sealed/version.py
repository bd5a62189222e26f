"""One version of an artifact, read whole, also while another run replaces it.

    look ─ open every file ─ look again ─ read through what is open

A file that is open stays what it was, whatever becomes of its name. Where the folder has become another one meanwhile,
reading begins again with that one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused
from deploycomp.sealed import manifest as manifests
from deploycomp.sealed.manifest import MANIFEST, check_manifest, parse_object

__all__ = ["Version", "plain_files", "read_version"]

T = TypeVar("T")

ATTEMPTS = 100
"""Opening takes well under a millisecond and publishing some: a second attempt is rare, a tenth was never seen."""
PAUSE = 0.002
"""Seconds between two attempts; the gap between two renames, where the kernel cannot swap, is shorter."""
GAP = 25
"""Pauses until a folder that is not there is believed to be missing: a busy machine can stop the writer in between."""
MOST_OPEN = 256
"""Files held open at once; processes may have 1,024 by default, and no artifact of ours comes near this."""
DESCRIPTORS = Path("/proc/self/fd")

Identity = tuple[int, ...] | None


def read_version(folder: Path, use: Callable[[Version], T]) -> T:
    """Call *use* with a version of an artifact, and again with the next where that one was replaced meanwhile.

    Args:
        folder: The artifact.
        use: What reads it; called anew, it begins anew.

    Raises:
        InputRefused: No artifact, or what *use* raises on one that was not replaced.
        EnvironmentFailed: It is replaced faster than it can be read.
    """
    for _ in range(ATTEMPTS):
        with contextlib.closing(Version(folder)) as version:
            try:
                result = use(version)
            except DeploycompError:
                if not version.replaced():
                    raise
            else:
                if not (version.by_name and version.replaced()):
                    return result
        time.sleep(PAUSE)
    raise EnvironmentFailed(
        "the artifact is replaced again and again while it is read",
        where=str(folder),
        hint="wait until nobody writes it",
    )


class Version:
    """The files of a folder as they were at one moment."""

    def __init__(self, path: Path):
        self.path = path
        self.by_name = False
        """Whether a file was opened by its name, which may lead to another version."""
        self._files: dict[str, BufferedReader] = {}
        self._identity = _identity(path)
        for _ in range(GAP):
            if self._identity is not None:
                break
            time.sleep(PAUSE)  # between the two renames of a swap, or not there at all
            self._identity = _identity(path)

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest, its parts checked.

        Raises:
            InputRefused: There is none, or see `check_manifest`.
        """
        found = parse_object(self.read(MANIFEST), where=str(self.path / MANIFEST))
        check_manifest(found, where=str(self.path / MANIFEST))
        return found

    def names(self) -> set[str]:
        """Every file in the folder.

        Raises:
            InputRefused: A link or a special file.
        """
        try:
            return {path.relative_to(self.path).as_posix() for path in plain_files(self.path)}
        except OSError as error:
            raise InputRefused("the folder cannot be read", where=str(self.path), why=error.strerror) from None

    def hold(self, names: Iterable[str]) -> None:
        """Open files now, so that they stay what they are, and make sure that they are of one version.

        Raises:
            InputRefused: The folder was replaced meanwhile, or see `open`.
        """
        for name, _ in zip(names, range(MOST_OPEN), strict=False):
            self.open(name)
        if self.replaced():
            raise InputRefused("the artifact was replaced while it was opened", where=str(self.path))

    def open(self, name: str) -> BufferedReader:
        """Return a file, open from its beginning.

        Raises:
            InputRefused: It is missing, no plain file, or cannot be read.
        """
        if name not in self._files:
            self._files[name] = self._opened(self.path / name)
        self._files[name].seek(0)
        return self._files[name]

    def sha256(self, name: str) -> str:
        """Return the hex SHA-256 of a file.

        Raises:
            InputRefused: As for `open`.
        """
        return hashlib.file_digest(self.open(name), "sha256").hexdigest()

    def read(self, name: str) -> bytes:
        """Return what a small file holds.

        Raises:
            InputRefused: As for `open`, or it is larger than any of ours.
        """
        file, limit = self.open(name), manifests.MAX_JSON_BYTES
        data = file.read(limit + 1)
        if len(data) > limit:
            raise InputRefused(f"the file is larger than {limit:,} bytes", where=str(self.path / name))
        return data

    def opened_by(self, opening: Callable[[Path], T], name: str, *, beside: str | None = None) -> T:
        """Hand a file to a library that opens paths.

        Args:
            opening: Given the path of the open file; where it refuses that, given the name, which its error then says.
            name: The file.
            beside: A file that the library looks for next to it; where there is one, only the name will do.
        """
        place = DESCRIPTORS / str(self.open(name).fileno())
        if place.exists() and not (beside is not None and (self.path / beside).exists()):
            with contextlib.suppress(DeploycompError):
                return opening(place)
        self.by_name = True
        return opening(self.path / name)

    def replaced(self) -> bool:
        """Tell whether the name of the folder leads to another version by now."""
        return _identity(self.path) != self._identity

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()

    def _opened(self, path: Path) -> BufferedReader:
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise InputRefused("an artifact holds plain files only", where=str(path))
            return os.fdopen(handle, "rb")
        except FileNotFoundError:
            if path.name != MANIFEST:
                raise InputRefused(f"{path.name} is missing", where=str(path), hint="export the model again") from None
            raise InputRefused(
                f"there is no artifact here: {MANIFEST} is missing",
                where=str(self.path),
                hint="deploycomp export MODEL -o FOLDER writes one",
            ) from None
        except OSError as error:
            raise InputRefused(f"{path.name} cannot be read", where=str(path), why=error.strerror) from None


def plain_files(folder: Path) -> Iterator[Path]:
    """Every file below *folder*, sorted; links and special files are refused.

    Raises:
        InputRefused: A link or a special file.
    """
    for path in sorted(folder.rglob("*")):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # the folder is being removed
            continue
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            raise InputRefused("an artifact holds plain files only", where=str(path))


def _identity(folder: Path) -> Identity:
    """What tells one version from the next: the folder, and the manifest in it, which is never written twice."""
    try:
        home, seal = folder.stat(), (folder / MANIFEST).stat()
    except (OSError, ValueError):
        return None
    return home.st_dev, home.st_ino, seal.st_ino, seal.st_mtime_ns, seal.st_size
