"""Hash, sync, write whole, and turn an operating system's error into one with a remedy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

from deploycomp.errors import EnvironmentFailed

__all__ = ["digest_files", "is_full", "scratch", "sha256", "sync", "translate_os_error", "write_whole"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_TEXT = "Not enough disk space"
"""How `datasets` says it, without an error number."""


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(files: dict[str, str]) -> str:
    """Return one SHA-256 over a mapping of file name to SHA-256, independent of its order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write beside and rename, so that a file is whole or absent, also after a power cut.

    Args:
        path: The file; one that is there is replaced. A link is followed, and what is no plain file (`/dev/stdout`, a
            pipe) is written to.
        text: What it will hold.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def translate_os_error(path: Path) -> Generator[None]:
    """Turn an operating system's error while writing *path* into one with a remedy.

    Raises:
        EnvironmentFailed: No space, no permission, a read-only file system, or any other OSError.
    """
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: f"free some space there ({_free(path)}) or choose another --output",
            errno.EDQUOT: "your quota is used up; choose another --output",
            errno.EACCES: "choose an --output that you may write to",
            errno.EPERM: "choose an --output that you may write to",
            errno.EROFS: "the file system is read-only; choose another --output",
            errno.ENAMETOOLONG: "choose a shorter --output",
        }
        raise EnvironmentFailed(
            "the output cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            hint=hints.get(error.errno or 0),
        ) from error


@contextlib.contextmanager
def scratch(prefix: str = "deploycomp-") -> Generator[Path]:
    """Make a folder among the system's temporary ones, gone afterwards; when that place is full, say its name.

    Raises:
        EnvironmentFailed: It cannot be made, or no space is left in it.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:  # also: no usable temporary directory was found
        raise _no_scratch(error) from error
    with made as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if not is_full(error):
                raise
            raise _no_scratch(error) from error


def is_full(error: BaseException | None) -> bool:
    """Tell whether a full disk is behind an error, itself or what caused it."""
    while error is not None:
        if isinstance(error, OSError) and (error.errno in _FULL or _NO_SPACE_TEXT in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _no_scratch(error: OSError) -> EnvironmentFailed:
    try:
        place = Path(tempfile.gettempdir())
    except OSError:
        place = Path(os.environ.get("TMPDIR", "/tmp"))
    return EnvironmentFailed(
        "the folder for temporary files cannot be written",
        where=str(place),
        why=error.strerror or str(error),
        hint=f"free some space there ({_free(place)}), or set TMPDIR to a folder on another disk",
    )


def _free(path: Path) -> str:
    try:
        return f"{shutil.disk_usage(_existing(path)).free / 1e6:,.0f} MB free"
    except OSError:
        return "how much is free cannot be told"


def _existing(path: Path) -> Path:
    """The nearest ancestor of *path* that exists."""
    for each in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):  # a name that is too long
            if each.exists():
                return each
    return Path("/")
