"""Where a graph says that its weights lie, checked before any library follows it.

An ONNX file from anywhere may name `/etc/passwd`, `../../key`, a link or a device as the place of a tensor, in its
initializers and as well in sparse tensors, attributes, subgraphs and functions. Four advisories on the libraries that
read such files each closed one door (CVE-2022-25882, CVE-2024-27318, CVE-2026-34446, CVE-2026-34447), so nothing is
handed to them that was not walked here first.

    model ─ graph, functions, training ─ node ─ attribute ─ tensor ─ external_data {location, offset, length}

The walk reads protobuf's wire format itself, because who runs a model has no `onnx` installed, and skips what weighs:
it takes milliseconds. What is no protobuf it leaves to the library, which refuses the file before it opens another.
"""

from __future__ import annotations

import mmap
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deploycomp.errors import InputRefused
from deploycomp.readfile import reading

__all__ = ["check_external_data"]

_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {8: "name", 13: "entry"},
    "entry": {1: "key", 2: "value"},
}
"""Message → number of a field → what it holds; fields that lead to no tensor are skipped (onnx.proto)."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf; 3 and 4, groups, are in no ONNX file."""
_MAX_VARINT = 10
_MAX_DEPTH = 200
"""Protobuf refuses more than 100 messages within one another."""
_MAX_DIGITS = 20
"""Of an offset or a length; 2^64 has twenty."""

_LOCATION = b"location"
Span = tuple[int, int]


@dataclass
class _Tensor:
    """What a tensor says of itself."""

    name: str = ""
    entries: list[tuple[str, str]] = field(default_factory=list)

    def values(self, key: str) -> list[str]:
        """Every value of a key: libraries disagree on which of two counts."""
        return [value for name, value in self.entries if name == key]


def check_external_data(model: Path) -> tuple[str, ...]:
    """Refuse a graph that keeps weights where it may not.

    Args:
        model: The ONNX file.

    Returns:
        The names of the files beside it that it keeps weights in, sorted.

    Raises:
        InputRefused: A place that is absolute, leaves the folder, is a link, a hard link or no plain file, is not
            there, or is shorter than the tensor says.
        EnvironmentFailed: A file cannot be read.
    """
    with reading(model):
        if not model.stat().st_size:
            return ()
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tensors = list(_tensors(data))
    places: set[str] = set()
    for tensor in tensors:
        for location in tensor.values("location"):
            _check(tensor, location, model)
            places.add(location)
    return tuple(sorted(places))


def _tensors(data: mmap.mmap) -> Iterator[_Tensor]:
    """Every tensor of a model that keeps its data elsewhere."""
    waiting: list[tuple[str, Span, int]] = [("model", (0, len(data)), 0)]
    while waiting:
        kind, span, depth = waiting.pop()
        if kind == "tensor":
            tensor = _tensor(data, span)
            if tensor.entries:
                yield tensor
        elif depth < _MAX_DEPTH and (kind != "node" or data.find(_LOCATION, *span) >= 0):
            waiting += [(inner, at, depth + 1) for inner, at in _messages(data, span, kind)]


def _tensor(data: mmap.mmap, span: Span) -> _Tensor:
    tensor = _Tensor()
    for kind, at in _messages(data, span, "tensor"):
        if kind == "name":
            tensor.name = _text(data, at)
        else:
            entry = {name: _text(data, place) for name, place in _messages(data, at, "entry")}
            tensor.entries.append((entry.get("key", ""), entry.get("value", "")))
    return tensor


def _text(data: mmap.mmap, span: Span) -> str:
    return data[slice(*span)].decode("utf-8", "backslashreplace")


def _messages(data: mmap.mmap, span: Span, kind: str) -> Iterator[tuple[str, Span]]:
    """The fields of a message that lead on, each with where it lies; ends at what is no protobuf."""
    known, (at, end) = _FIELDS[kind], span
    while at < end:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        length = 0
        if wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire == _BYTES:
            length, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            return
        if at + length > end:
            return
        if wire == _BYTES and (inner := known.get(tag >> 3)):
            yield inner, (at, at + length)
        at += length


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends; behind the end where it has none."""
    value = 0
    for shift in range(_MAX_VARINT):
        if at + shift >= end:
            break
        byte = data[at + shift]
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    return 0, end + 1


def _check(tensor: _Tensor, location: str, model: Path) -> None:
    """Refuse one place."""
    place, what = model.parent / location, "a tensor of the graph lies where it may not"
    why = _bad_name(location) or _bad_file(place, model)
    if why is None:
        what, why = "the weights file does not hold what the graph says", _bad_range(tensor, place.stat().st_size)
    if why is not None:
        raise InputRefused(
            what,
            where=f"{model}: tensor '{tensor.name}' in '{location}'",
            why=why,
            hint="weights lie in plain files beside the graph; take both anew from where they came",
        )


def _bad_name(location: str) -> str | None:
    parts = location.split("/")
    if not location or "\0" in location:
        return "the place has no name"
    if location.startswith("/") or "\\" in location or ":" in parts[0]:
        return "the place is absolute, or written for another system"
    if any(part in ("", "..") for part in parts):
        return "the place leaves the folder of the graph"
    return None


def _bad_file(place: Path, model: Path) -> str | None:
    """Why a file is no place for weights; nothing is opened to tell."""
    with reading(place):
        for part in (place, *place.parents):
            if part == model.parent:
                break
            if part.is_symlink():
                return f"{part.name} is a link"
        try:
            about = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise InputRefused(
                "the weights file of the model is missing",
                where=str(place),
                why=f"{model.name} keeps its weights in it",
                hint=f"copy {place.name} beside {model.name}; they belong together",
            ) from None
    if not stat.S_ISREG(about.st_mode):
        return "it is no plain file"
    return "it is a hard link, so another name of it may lie anywhere" if about.st_nlink > 1 else None


def _bad_range(tensor: _Tensor, size: int) -> str | None:
    for key in ("offset", "length"):
        for text in tensor.values(key):
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
                return f"its {key} is no number: {text[:40]!r}"
    offset = max(map(int, tensor.values("offset")), default=0)
    length = max(map(int, tensor.values("length")), default=0)
    if offset + length > size:
        return f"it ends at byte {offset + length:,}, the file has {size:,}"
    return None
