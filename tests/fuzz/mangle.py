"""Change bytes as disks, networks, editors and attackers do, and YAML as people write it by mistake."""

from __future__ import annotations

from random import Random

__all__ = ["mangle", "yaml_trap"]

FEW = 8
"""At most so many single bytes are changed at once."""


def mangle(data: bytes, draw: Random) -> bytes:
    """Change some bytes: flip, cut, drop, grow, copy a piece elsewhere, set to zero.

    Args:
        data: What was written.
        draw: Every choice follows from it.
    """
    if not data:
        return draw.randbytes(16)
    size = len(data)
    start = draw.randrange(size)
    end = min(size, start + draw.choice([1, 2, 8, 64, size // 4 or 1]))
    at = draw.randrange(size)
    kind = draw.choice(["flip", "flip", "flip", "cut", "drop", "insert", "copy", "zero", "append", "encode", "empty"])
    if kind == "flip":
        return _flip(data, draw)
    changed = {
        "cut": data[:start],
        "drop": data[:start] + data[end:],
        "insert": data[:start] + draw.choice([draw.randbytes(4), b"\0", b"\xff", b"\r\n", b'"', b"\\"]) + data[start:],
        "copy": data[:at] + data[start:end] + data[at:],
        "zero": data[:start] + bytes(end - start) + data[end:],
        "append": data + draw.choice([b"\0", b"x", data[:64], draw.randbytes(64)]),
        "encode": draw.choice([b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), data.replace(b"e", b"\xe9", 1)]),
        "empty": b"",
    }
    return changed[kind]


def _flip(data: bytes, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, FEW)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


_SCALARS = (
    "1:30", "1:30:15", "017", "0o17", "0x1F", "0b101", "1_000", "1e3", "1.", ".5", "+5", ".inf", "-.INF", ".nan", "yes",
    "no", "on", "Off", "y", "~", "null", "Null", "True", "2026-01-01", "2026-02-30", "2026-01-01 10:00:00", "9" * 5000,
    "1e400", "-0", "!!python/object/apply:os.system [id]", "!!binary aGk=", "!!float 5", "!!str 5", "!x y", "&a 5",
    "*a", "'1:30'", '"\\ud800"', '"\\0"', '"\\x1b[2J"', "[1, 2", "{a: 1", "[" * 2000, "- x", "? x", "%x", "@x", "`x`",
    "x: y: z", "# x", "|", ">\n  x", "x" * 100_000, "\u2028", "a\u0085b", "{}", "[]", "''", "0.1", "0.005", "8", "-1",
)  # fmt: skip
"""What people and attackers write as a value: words that YAML 1.1 reads as something else, tags, anchors, openings."""

_LINES = (
    "\tversion: 1", "version: 1", "---", "...", "%YAML 1.1", "<<: {version: 2}", "? [a]\n: b", "'': 1", "1: 2",
    "null: 1",
    "gate: {max_slowdown: 0.05}", "calibrate: {rows: 1_000}", "evaluate: {data: x.jsonl, limit: 017}", "tune: yes",
    "benchmark: {batch_size: [1:30]}", "tune: on", "keep_fp32: off", "target: no", "task: 2026-01-01", "layout: ~",
    "benchmark: {block_seconds: 1e-3}", "benchmark: {sequence_length: [0o20, 0x10]}", "revision: 1e3", "revision: 0123",
    "revision: 12:30", "model: 1.0", "model: 2026-01-01", "a: &a [x]\nb: [*a, *a, *a]", "steps: []",
    "steps: {step: export}",
)  # fmt: skip
"""Whole lines: keys that a recipe knows with values that are read in several ways, and keys that it does not know."""


def yaml_trap(text: str, draw: Random) -> str:
    """Change one value or one line of a YAML file."""
    lines = text.splitlines()
    places = [number for number, line in enumerate(lines) if ":" in line and not line.startswith("#")]
    kind = draw.choice(["value", "value", "value", "line", "line", "delete", "indent", "swap", "double"])
    number = draw.choice(places) if places else 0
    if kind == "line" or not places:
        lines.insert(draw.choice([0, len(lines)]), draw.choice(_LINES))
    elif kind == "value":
        lines[number] = lines[number].rpartition(":")[0] + ": " + draw.choice(_SCALARS)
    elif kind == "delete":
        del lines[number]
    elif kind == "indent":
        lines[number] = draw.choice(["\t", " ", "   "]) + lines[number]
    elif kind == "swap":
        other = draw.choice(places)
        lines[number], lines[other] = lines[other], lines[number]
    else:
        lines.insert(number, lines[number])
    return "\n".join(lines) + "\n"
