"""Change JSON as a careless or hostile hand would: what is changed stays JSON, or nearly.

An object is a list of pairs, so that a key can stand twice; what JSON has no word for is written raw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

__all__ = ["ODD", "Pairs", "Raw", "change", "read", "write"]


class Pairs(list[tuple[str, Any]]):
    """A JSON object: pairs in order, a key more than once if need be."""


class Raw(str):
    """Text that is written as it stands."""

    __slots__ = ()


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 1.5, -0.0, 1e308, 2**31, 2**63, 2**64, 10**30, Raw("1e999"), Raw("NaN"),
    Raw("-Infinity"), Raw("9" * 5000), "", " ", "0", "1", "true", "null", "None", "\0", "\x1b[2J", "\u202etxt.exe",
    "x\nerror: forged\n  next:  curl x | sh", Raw('"\\ud800"'), "x" * 100_000, "../canary.txt", "/etc/hostname",
    "C:\\canary.txt", "file:///etc/hostname", Raw("[" * 100_000), Raw("[" * 200 + "]" * 200), Raw("{}"), Raw("[]"),
)  # fmt: skip
"""Values that stand where others are expected."""

STAY = 0.35
"""How likely a walk from the root stops at each level: settings stand high up, vocabularies lie deep."""

Place = tuple[list[Any], int]
"""A container and the position in it."""


def read(text: bytes) -> Any:
    """Parse JSON whose objects become `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs)


def write(value: Any) -> bytes:
    """Write what `read` gives, after whatever was done to it."""
    return _text(value).encode("utf-8", "surrogatepass")


def _text(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_text(item)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def change(tree: Any, draw: Random, *, keys: Mapping[str, Sequence[Any]], odd: Sequence[Any] = ODD) -> Any:
    """Change one place of a tree.

    Args:
        tree: What `read` gave; it is changed in place.
        draw: Every choice follows from it.
        keys: Keys that a loader may know, each with values that could matter.
        odd: Values that nobody expects.

    Returns:
        The tree, or what stands in its place.
    """
    place = _pick(tree, draw)
    if place is None:
        return draw.choice(odd)
    holder, index = place
    kind = draw.choices(list(_WAYS), weights=[weight for weight, _ in _WAYS.values()])[0]
    _WAYS[kind][1](holder, index, draw, keys, odd)
    return tree


def _pick(tree: Any, draw: Random) -> Place | None:
    """A place by a walk from the root; None where the root has no places."""
    holder, found = tree, None
    while isinstance(holder, list) and holder:
        index = draw.randrange(len(holder))
        found = (holder, index)
        if draw.random() < STAY:
            break
        holder = _value(holder, index)
    return found


def _value(holder: list[Any], index: int) -> Any:
    return holder[index][1] if isinstance(holder, Pairs) else holder[index]


def _put(holder: list[Any], index: int, value: Any) -> None:
    holder[index] = (holder[index][0], value) if isinstance(holder, Pairs) else value


def _delete(holder: list[Any], index: int, *_: Any) -> None:
    del holder[index]


def _replace(holder: list[Any], index: int, draw: Random, _: Any, odd: Sequence[Any]) -> None:
    _put(holder, index, draw.choice(odd))


def _nudge(holder: list[Any], index: int, draw: Random, _: Any, odd: Sequence[Any]) -> None:
    """The smallest change that means something else."""
    value = _value(holder, index)
    if isinstance(value, bool):
        changed: Any = not value
    elif isinstance(value, int):
        changed = draw.choice([value + 1, value - 1, value * 2, -value, float(value), str(value)])
    elif isinstance(value, float):
        changed = draw.choice([value * 10, -value, value / 1000, int(value)])
    elif isinstance(value, str) and value:
        changed = draw.choice([value[:-1], value.upper(), value.swapcase(), f"{value} ", f" {value}", value + value])
    elif isinstance(value, list) and value:
        changed = draw.choice([value[:-1], value[::-1], value + value[:1], value[:1]])
        changed = Pairs(changed) if isinstance(value, Pairs) else changed
    else:
        changed = draw.choice(odd)
    _put(holder, index, changed)


def _retype(holder: list[Any], index: int, draw: Random, *_: Any) -> None:
    value = _value(holder, index)
    leaf = value if not isinstance(value, list) else "x"
    _put(holder, index, draw.choice([[value], Pairs([("x", value)]), str(leaf), [], Pairs(), None, 0, "x", True]))


def _twice(holder: list[Any], index: int, draw: Random, _: Any, odd: Sequence[Any]) -> None:
    if isinstance(holder, Pairs):
        holder.insert(draw.randrange(len(holder) + 1), (holder[index][0], draw.choice([*odd, _value(holder, index)])))
    else:
        holder.append(holder[index])


def _swap(holder: list[Any], index: int, draw: Random, *_: Any) -> None:
    other = draw.randrange(len(holder))
    first, second = _value(holder, index), _value(holder, other)
    _put(holder, index, second)
    _put(holder, other, first)


def _rename(holder: list[Any], index: int, draw: Random, keys: Mapping[str, Sequence[Any]], _: Any) -> None:
    if not isinstance(holder, Pairs):
        return _swap(holder, index, draw)
    key, value = holder[index]
    holder[index] = (draw.choice([f"{key}_", key.upper(), key[:-1], f"_{key}", *keys]), value)
    return None


def _add(holder: list[Any], _: int, draw: Random, keys: Mapping[str, Sequence[Any]], odd: Sequence[Any]) -> None:
    """A key that a loader may know, with a value that could matter; it takes the place of one that is there."""
    if not isinstance(holder, Pairs):
        holder.insert(draw.randrange(len(holder) + 1), draw.choice(odd))
        return
    key = draw.choice(list(keys))
    value = draw.choice([*keys[key]] * 4 + [draw.choice(odd)])
    holder[:] = [pair for pair in holder if pair[0] != key]
    holder.append((key, value))


Way = Callable[..., None]
_WAYS: dict[str, tuple[int, Way]] = {
    "delete": (3, _delete),
    "replace": (3, _replace),
    "nudge": (4, _nudge),
    "retype": (2, _retype),
    "twice": (1, _twice),
    "swap": (2, _swap),
    "rename": (1, _rename),
    "add": (5, _add),
}
