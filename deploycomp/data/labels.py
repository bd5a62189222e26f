"""Labels of the data in the words of the model: by name, else without regard to case, else by number.

One rule holds for the whole column and is chosen on all of its rows, so that no row is read differently from
another, and a `limit` cannot change what a label means. A number that can be read in two ways is refused: beside
labels "1", "2", "3" the numbers 1 and 2 may be names or positions. Text is the name that it spells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deploycomp.errors import InputRefused

__all__ = ["label_mapper", "number", "unlabeled"]

UNLABELED = (-1, -100)
"""What public test splits (-1) and token data (-100) put in place of a label."""

_GENERIC = re.compile(r"LABEL_(\d+)")
"""The names that transformers gives to labels that have none."""
_INTEGER = re.compile(r"[+-]?\d+")
_DIGITS = re.compile(r"\d+")
_TRUTH = {"true": True, "yes": True, "y": True, "false": False, "no": False, "n": False}
"""What a label must be called so that `true` and `false` mean it."""
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
        InputRefused: The model does not know one of the values, or a number may be a name or a position.
    """
    distinct = {_key(value): value for value in values}
    named = {key: _name(value, class_names) for key, value in distinct.items()}
    if labels is None:
        own = tuple(class_names) if class_names else tuple(sorted(set(named.values()), key=_natural))
        return own, lambda value: named[_key(value)]
    names, positions = _by_name(named, labels), _by_position(distinct, labels, class_names)
    whole = positions if len(positions) == len(distinct) else {}
    found = names or whole
    if not found and values:
        raise _unknown(values, labels, class_names, named, positions, where)
    spelled = {key for key, label in found.items() if _spells(distinct[key], named[key], label)}
    rival = whole if names and class_names is None else _by_meaning(distinct, named, labels, class_names)
    for place, value in enumerate(values):
        key = _key(value)
        if key not in spelled and rival.get(key, found[key]) != found[key]:
            at, means = (rival[key], found[key]) if names else (found[key], rival[key])
            raise _ambiguous(named[key], at, means, labels, where=where(place))
    return tuple(labels), lambda value: found[_key(value)]


def _by_name(named: Mapping[str, str], labels: Sequence[str]) -> dict[str, str] | None:
    """Value → the label of its name, by the strictest spelling in which every value is one; None where none is."""
    for fold in (str, _fold, _same_number):
        known = {fold(label): label for label in labels}
        if len(known) == len(labels) and all(fold(name) in known for name in named.values()):
            return {key: known[fold(name)] for key, name in named.items()}
    return None


def _by_position(
    distinct: Mapping[str, Any], labels: Sequence[str], class_names: Sequence[str] | None
) -> dict[str, str]:
    """Value → the label at its position, of those values that are one."""
    if class_names is not None and not _generic(labels) and len(class_names) != len(labels):
        return {}
    indices = {key: _index(value, len(labels)) for key, value in distinct.items()}
    return {key: labels[index] for key, index in indices.items() if index is not None}


def _by_meaning(
    distinct: Mapping[str, Any], named: Mapping[str, str], labels: Sequence[str], class_names: Sequence[str] | None
) -> dict[str, str]:
    """Value → the label that it seems to mean, whatever its position: what speaks against reading positions.

    A `ClassLabel` that has the name of a label; `true` beside "yes" and "no"; 1 beside "1 star", "2 stars".
    """
    if class_names is not None:
        known = {_fold(label): label for label in labels}
        return {key: known[_fold(name)] for key, name in named.items() if _fold(name) in known}
    truth = {_TRUTH.get(_fold(label)): label for label in labels}
    if len(labels) == 2 and None not in truth and len(truth) == 2:
        return {key: truth[value] for key, value in distinct.items() if isinstance(value, bool)}
    numbers = [_DIGITS.findall(label) for label in labels]
    own = {int(found[0]): label for found, label in zip(numbers, labels, strict=True) if len(found) == 1}
    plain = {key: int(value) if isinstance(value, bool) else key for key, value in distinct.items()}
    plain = {key: int(text) for key, text in plain.items() if _INTEGER.fullmatch(str(text))}
    whole = len(own) == len(labels) and all(value in own for value in plain.values())
    return {key: own[value] for key, value in plain.items()} if whole else {}


def _spells(value: Any, name: str, label: str) -> bool:
    """Whether a value is the label in writing: text, or `true` for "True"; a number is not."""
    return isinstance(value, str | bool) and _fold(name) == _fold(label)


def _ambiguous(name: str, at: str, means: str, labels: Sequence[str], *, where: str) -> InputRefused:
    generic = f"LABEL_{list(labels).index(at)}"
    return InputRefused(
        f"the label '{name}' can be read in two ways",
        where=where,
        why=f"by position it is '{at}', by name '{means}'; labels of the model: {_shown(labels)}",
        hint=f'write labels as text in .jsonl: "{means}" for that name, or "{generic}" for that position',
    )


def _unknown(
    values: Sequence[Any],
    labels: Sequence[str],
    class_names: Sequence[str] | None,
    named: Mapping[str, str],
    positions: Mapping[str, str],
    where: Callable[[int], str],
) -> InputRefused:
    known_names = {_fold(label) for label in labels}
    unknown = {key for key, name in named.items() if _fold(name) not in known_names and key not in positions}
    first = next((index for index, value in enumerate(values) if _key(value) in unknown), 0)
    return InputRefused(
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


def _same_number(name: str) -> str:
    """`1`, `1.0` and `01` are one number, however they are written."""
    found = number(name)
    return _fold(name) if found is None else repr(found)


def _generic(labels: Sequence[str]) -> bool:
    return all(_GENERIC.fullmatch(label) for label in labels)


def _natural(name: str) -> tuple[bool, int, str]:
    """Numbers in the order of numbers, before words."""
    is_number = _INTEGER.fullmatch(name) is not None
    return (not is_number, int(name) if is_number else 0, name)


def _shown(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more
