"""Text from elsewhere (names of models, nodes, data and labels), made harmless for terminals, Markdown and pages."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["block", "clean", "fenced", "markdown", "shorten"]

MAX_NAME = 120
"""Longer names are cut in the middle, so that no name can grow a page beyond its limit."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)", re.DOTALL)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
_MARKUP = re.compile(r"[\\`*_\[\]~$]|[<>&|]|[@#](?=\w)|://|\bwww\.", re.IGNORECASE)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;", "://": "&#58;//", "www.": "www&#46;"}
_ZERO_WIDTH = "&#8203;"
"""After @ and # it keeps GitHub from mentioning people and issues."""


def block(text: object) -> str:
    """Remove terminal escapes, control characters and direction marks; keep line breaks and tabs."""
    plain = _ANSI.sub("", str(text))
    return "".join(each for each in plain if each in "\n\t" or unicodedata.category(each) not in _HIDDEN)


def clean(text: object) -> str:
    """Make one line of printable text out of anything."""
    words = " ".join(_ANSI.sub("", str(text)).split())
    return block(words)


def shorten(text: object, limit: int = MAX_NAME) -> str:
    """Clean a name and cut its middle out when it is longer than *limit* characters."""
    name = clean(text)
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[len(name) - (limit - 1 - head) :]}"


def markdown(text: object, limit: int = MAX_NAME) -> str:
    """Write text into Markdown, where nothing in it is markup, a link, a mention or an end of a table cell."""
    return _MARKUP.sub(_escape, shorten(text, limit))


def _escape(match: re.Match[str]) -> str:
    token = match[0]
    if token in "@#":
        return token + _ZERO_WIDTH
    return _ENTITIES.get(token.lower()) or "\\" + token


def fenced(text: object, language: str = "") -> str:
    """Write text as a fenced code block in Markdown, with a fence that the text cannot close."""
    body = block(text).rstrip("\n")
    fence = "`" * max(3, _longest_run(body) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)
