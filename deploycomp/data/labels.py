"""Labels of the data in the words of the model: by name, else without regard to case, else by number.

One rule holds for the whole column and is chosen on all of its rows, so that no row is read differently from
another, and a `limit` cannot change what a label means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from deploycomp.errors import InputRefused

__all__ = ["label_mapper", "number", "unlabeled"]

UNLABELED = (-1, -100)
"""What public test splits (-1) and token data (-100) put in place of a label."""

_GENERIC = re.compile(r"LABEL_(\d+)")
"""The names that transformers gives to labels that have none."""
_INTEGER = re.compile(r"[+-]?\d+")
_MAX_SHOWN = 12


def unlabeled(value: Any) -> bool:
    """Whether a value stands for "no label": nothing, NaN, -1 or -100."""
    if isinstance(value, str):
        return value.strip() in ("", *map(str, UNLABELED))
    return value is None or value != value or (not isinstance(value, bool) and value in UNLABELED)


def number(value: Any) -> float | None:
    """The value as a finite number, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except ValueError:
        return None
    return result if abs(result) < float("inf") else None


def label_mapper(
    values: Sequence[Any],
    labels: Sequence[str] | None,
    class_names: Sequence[str] | None,
    *,
    where: Callable[[int], str],
) -> tuple[tuple[str, ...], Callable[[Any], str]]:
    """Choose how the labels of a column become those of the model.

    Args:
        values: Every label of the column, in the order of the rows.
        labels: The model's labels in the order of its outputs; None takes those of the data.
        class_names: The names of a `ClassLabel` column, whose values are indices.
        where: Names the row that the n-th value stands in, for errors.

    Returns:
        The labels, and the function that maps a value of the column to one of them.

    Raises:
        InputRefused: The model does not know one of the values.
    """
    distinct = {_key(value): value for value in values}
    named = {key: _name(value, class_names) for key, value in distinct.items()}
    if labels is None:
        own = tuple(class_names) if class_names else tuple(sorted(set(named.values()), key=_natural))
        return own, lambda value: named[_key(value)]
    for fold in (str, _fold):
        known = {fold(label): label for label in labels}
        if len(known) == len(labels) and all(fold(name) in known for name in named.values()):
            mapping = {key: known[fold(name)] for key, name in named.items()}
            return tuple(labels), lambda value, mapping=mapping: mapping[_key(value)]
    by_number = class_names is None or _generic(labels) or len(class_names) == len(labels)
    indices = {key: _index(value, len(labels)) if by_number else None for key, value in distinct.items()}
    if all(index is not None for index in indices.values()):
        mapping = {key: labels[index] for key, index in indices.items() if index is not None}
        return tuple(labels), lambda value: mapping[_key(value)]
    known_names = {_fold(label) for label in labels}
    unknown = {key for key, name in named.items() if _fold(name) not in known_names and indices[key] is None}
    first = next((index for index, value in enumerate(values) if _key(value) in unknown), 0)
    raise InputRefused(
        f"the model does not know the label '{_name(values[first], class_names)}'",
        where=where(first),
        why=f"labels of the data: {_shown(sorted(set(named.values())))}; of the model: {_shown(labels)}",
        hint="evaluate on data with the model's labels, or name the right column: --column label=…",
    )


def _key(value: Any) -> str:
    """The value as text: JSON keeps 1, 1.0 and "1" apart, a label does not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _name(value: Any, class_names: Sequence[str] | None) -> str:
    if class_names is not None and isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    return _key(value)


def _index(value: Any, size: int) -> int | None:
    """The value as a number of an output, where it is one."""
    text = str(int(value)) if isinstance(value, bool) else _key(value)
    generic = _GENERIC.fullmatch(text)
    text = generic.group(1) if generic else text
    return int(text) if _INTEGER.fullmatch(text) and 0 <= int(text) < size else None


def _fold(name: str) -> str:
    """Case, and which character separates words, do not make another label."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def _generic(labels: Sequence[str]) -> bool:
    return all(_GENERIC.fullmatch(label) for label in labels)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers in the order of numbers, before words."""
    is_number = _INTEGER.fullmatch(name) is not None
    return (not is_number, int(name) if is_number else 0, name)


def _shown(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
