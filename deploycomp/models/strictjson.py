"""JSON as it is written, or a refusal: no duplicate keys, no NaN, no endless nesting, no file without bound.

Parsers disagree on duplicate keys (the first, the last, an error), so a file that has them can show one value to an
audit and another to the loader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn, cast

from deploycomp.errors import InputRefused
from deploycomp.models.place import check_place
from deploycomp.readfile import reading

__all__ = ["MAX_CONFIG_BYTES", "as_object", "parse", "read"]

MAX_CONFIG_BYTES = 10_000_000
"""A config with 100,000 labels takes about 5 MB; a larger one is refused unread."""


class _Duplicate(ValueError):
    pass


def parse(data: bytes, *, where: str) -> Any:
    """Parse JSON strictly.

    Args:
        data: UTF-8 text.
        where: What to call it in errors, usually its path.

    Raises:
        InputRefused: Not UTF-8, not JSON, a duplicate key, NaN or Infinity, or nested too deep.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise InputRefused("the JSON is nested too deep", where=where) from None
    except _Duplicate as error:
        raise InputRefused(
            f"the JSON has a duplicate key: {error}",
            where=where,
            why="readers disagree on which of the two values counts",
            hint="remove one of them",
        ) from None
    except ValueError as error:
        raise InputRefused("the file is not valid JSON", where=where, why=str(error)) from None


def read(path: Path, *, inside: Path, limit: int = MAX_CONFIG_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        inside: The model's folder, which it may not leave through a link.
        limit: The most bytes it may have.

    Raises:
        InputRefused: Elsewhere, too large, or see `parse`.
        EnvironmentFailed: It may not be read.
    """
    check_place(path, inside=inside)
    with reading(path):
        size = path.stat().st_size
        if size > limit:
            raise InputRefused(f"{path.name} is too large: {size:,} bytes, at most {limit:,} are read", where=str(path))
        data = path.read_bytes()
    return parse(data, where=str(path))


def as_object(value: Any, *, where: Path) -> dict[str, Any]:
    """Return a parsed value that must be a JSON object.

    Raises:
        InputRefused: It is something else.
    """
    if not isinstance(value, dict):
        raise InputRefused(f"{where.name} is not a JSON object", where=str(where))
    return cast("dict[str, Any]", value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        raise _Duplicate(repr(next(key for key, _ in pairs if key in seen or seen.add(key))))
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
