"""Read what a user gave: whatever the system or a decoder says of it becomes one error of ours.

with reading(path):
    text = path.read_text(encoding="utf-8")
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError

__all__ = ["decoding_error", "os_error", "reading"]

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)
"""The path leads to nothing that can be read: the input is wrong, not the machine."""

_HINTS = {
    errno.EACCES: "give yourself the right to read it: chmod -R u+rX",
    errno.EPERM: "give yourself the right to read it: chmod -R u+rX",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close other programs: the system has too many open files",
    errno.ENOMEM: "free memory, or raise its limit (ulimit -v, cgroup)",
    errno.ENOSPC: "free some space, or set TMPDIR to a folder that has it",
    errno.EDQUOT: "your quota is used up; free some space",
}


@contextlib.contextmanager
def reading(path: Path | str) -> Generator[None]:
    """Turn what fails while *path* is read into one error that names it.

    Raises:
        EnvironmentFailed: No permission, an error of the disk, memory or descriptors ran out.
        InputRefused: It is not there or no file, it is not UTF-8, a number in it is too long, or it is nested too deep.
    """
    try:
        yield
    except DeploycompError:
        raise
    except OSError as error:
        raise os_error(error, where=str(path)) from error
    except (UnicodeError, RecursionError) as error:
        raise decoding_error(error, where=str(path)) from None
    except MemoryError:
        raise EnvironmentFailed(
            "memory ran out while a file was read", where=str(path), hint=_HINTS[errno.ENOMEM]
        ) from None


def os_error(error: OSError, *, where: str | None = None) -> DeploycompError:
    """Put an error of the operating system into our words.

    Args:
        error: What it raised.
        where: The file; by default what the error names.
    """
    named = where or (None if error.filename is None else str(error.filename))
    why = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        return UsageError("a path is too long for this system", where=named)
    kind = InputRefused if error.errno in _ABSENT else EnvironmentFailed
    return kind("the file cannot be read", where=named, why=why, hint=_HINTS.get(error.errno or 0))


def decoding_error(error: UnicodeError | RecursionError, *, where: str | None = None) -> DeploycompError:
    """Put into our words what a decoder says of bytes that are no text, or of text nested beyond measure."""
    if isinstance(error, RecursionError):
        return InputRefused("the file is nested too deep", where=where)
    if isinstance(error, UnicodeDecodeError):
        hint = "save it as UTF-8: iconv -f latin1 -t utf-8 FILE"
        return InputRefused(
            "the file is not UTF-8 text", where=where, why=f"byte {error.start} is {error.reason}", hint=hint
        )
    return InputRefused("a text holds what is no character", where=where, why=str(error), hint="write it as UTF-8")
