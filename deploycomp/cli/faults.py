"""What the machine did, not the user and not our code: an exception of Python or of a library → one error of ours."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, panicked
from deploycomp.readfile import decoding_error, os_error

__all__ = ["as_ours"]

_NO_MEMORY = re.compile(
    r"bad_?alloc|(cannot|can't|unable to|failed to|could not) (allocate|map|start new thread|create thread|reserve)"
    r"|out of memory|not enough memory|DefaultCPUAllocator|malloc of size|pthread_create",
    re.IGNORECASE,
)
"""As libstdc++, glibc's loader, Python, numpy, torch, Arrow and ONNX Runtime say it."""

_DIGITS = "integer string conversion"
"""Python refuses to read a number of more than 4,300 digits in these words."""

_PACKAGES = {"onnx_ir": "onnx-ir", "sklearn": "scikit-learn", "yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}
"""Packages that pip knows under another name than Python."""


def as_ours(error: BaseException) -> DeploycompError | None:
    """Say an exception as an error of ours, where it is not a bug.

    Args:
        error: What ended a command; also one of ours, which may hide that memory ran out.

    Returns:
        The error to say; None for what nobody foresaw.
    """
    if any(_is_memory(each) for each in _chain(error)):
        if isinstance(error, EnvironmentFailed):
            return error  # it says what took it
        said = f"{error.what}: {error.why}" if isinstance(error, DeploycompError) else str(error)
        return EnvironmentFailed(
            "memory ran out",
            why=said or None,
            hint="close other programs, raise the limit (ulimit -v, cgroup), lower the batch size, or take a larger machine",
        )
    if isinstance(error, DeploycompError):
        return error
    if panicked(error):
        return InputRefused("a library gave up on the input", why=str(error).split("\n")[0])
    if isinstance(error, ImportError):
        return _import(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os_error(error)
    if isinstance(error, UnicodeError):
        return decoding_error(error)
    if isinstance(error, ValueError) and _DIGITS in str(error):
        return InputRefused("a number in the input has too many digits", why="no more than 4,300 are read")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what led to it, also where `from None` hides that."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    foreign = isinstance(error, Exception) and not isinstance(error, DeploycompError)
    return foreign and _NO_MEMORY.search(str(error)) is not None


def _import(error: ImportError) -> DeploycompError | None:
    """A package that is missing or broken; None where it is a module of ours."""
    root = (error.name or "").partition(".")[0]
    if root == "deploycomp":
        return None
    package = _PACKAGES.get(root, root) or "a package"
    missing = isinstance(error, ModuleNotFoundError)
    again = "pip install" if missing else "pip install --force-reinstall"
    return EnvironmentFailed(
        f"{package} is missing" if missing else f"{package} cannot be imported",
        why=str(error),
        hint=f"{again} {package}" if root else "pip install --upgrade deploycomp",
    )
