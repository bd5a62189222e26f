r"""Text from elsewhere (paths, labels, names, what a library says), written so that it cannot begin or steer a line.

A name may hold line breaks, terminal escapes, direction marks and commands of a CI system. Shown as they are, they
would forge a line of an error message or be carried out by the runner that reads the log. Whatever is printed or
raised here goes through one of these once.

    one_line     `a⏎b` → `a\nb`               every part of a message: it stays where it was put
    document     lines that are meant        a recipe, a table: line breaks stay, nothing in them is a command
    json_text    JSON that reads back equal  the same characters, as JSON's own escapes
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["document", "json_text", "one_line"]

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_UNSEEN = re.compile("[\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0]")
"""Letters and marks that are drawn as nothing, although Unicode counts them among what is printed."""

_COMMAND = re.compile(r"##(?=\w*\[)")
"""GitHub (`##[error]`), Azure (`##vso[…]`) and TeamCity (`##teamcity[…]`) take these anywhere in a line.

Source: ActionCommand.TryParse of actions/runner, src/Runner.Common/ActionCommand.cs.
"""

_WORKFLOW = re.compile(r"^(\s*):(?=:)")
"""GitHub takes `::error::` at the beginning of a line, behind white space too (TryParseV2 of the same file)."""


def one_line(text: object) -> str:
    r"""Write anything as printable text on one line.

    Args:
        text: What to show; line breaks, control characters, direction marks and what has no width appear as escapes
            (`\n`, `\x1b`, `\u202e`), as in Python, and a command to a CI system is broken by one.

    Returns:
        The text without a line break in it; printable text comes back as it was.
    """
    plain = "".join(each if each.isprintable() else _escaped(each) for each in str(text))
    plain = _UNSEEN.sub(lambda found: _escaped(found[0]), plain)
    return _WORKFLOW.sub(r"\1\\x3a", _COMMAND.sub(r"#\\x23", plain))


def document(text: object) -> str:
    """Write text whose line feeds are meant: every line of it as `one_line` does, tabs left as they are."""
    return "\n".join(_tabbed(line) for line in str(text).split("\n"))


def _tabbed(line: str) -> str:
    plain = "\t".join(one_line(part) for part in line.split("\t"))
    return _WORKFLOW.sub(r"\1\\x3a", plain)


def json_text(data: Any, *, indent: int | None = None) -> str:
    """Write JSON that reads back as *data* and holds no character that steers a terminal, a log or a CI system.

    Args:
        data: Plain values; anything else is written as its text.
        indent: As for `json.dumps`.

    Returns:
        The document; what is printable is written as it is, not as an escape.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=False, default=str)
    safe = "".join(each if each.isprintable() or each == "\n" else _json_escape(each) for each in text)
    safe = _UNSEEN.sub(lambda found: _json_escape(found[0]), safe)
    return _COMMAND.sub(r"#\\u0023", safe)


def _escaped(char: str) -> str:
    """Python's escape of a character, the shortest."""
    if char in _SHORT:
        return _SHORT[char]
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escape(char: str) -> str:
    """JSON's escape of a character, two where it takes a pair of surrogates."""
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
