"""YAML 1.2's core schema, written down a second time: what a plain word means.

`true`, `null`, 0o17, 0x1F, 1e3, .inf; everything else is text: `yes`, `1:30`, 017 is 17, dates are words
(https://yaml.org/spec/1.2.2/#103-core-schema).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["misread"]

_WORDS = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_FLAGS = {
    True: ("true", "yes", "on", "y", "t", "1", "1.0"),
    False: ("false", "no", "off", "n", "f", "0", "0.0", "-0.0"),
}
"""Words for a flag: `yes` is text, and where a flag is asked for it can mean one thing only."""
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


def misread(text: str, said: Any) -> str | None:
    """Say which value of a recipe was read otherwise than the core schema reads it.

    Args:
        text: The recipe.
        said: What was made of it, as JSON.
    """
    node = yaml.compose(text, yaml.BaseLoader)
    for path, leaf in _leaves(node, ()):
        found = _at(said, path)
        if found is _ABSENT or isinstance(found, (list, dict)):
            continue
        meant = _meaning(leaf)
        if not _same(meant, found):
            return f"{'.'.join(map(str, path))}: {leaf.value[:40]!r} means {meant!r:.60}, read as {found!r:.60}"
    return None


def _leaves(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(node, yaml.ScalarNode):
        yield path, node
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _leaves(item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            yield from _leaves(item, (*path, key.value))


_ABSENT = object()


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _ABSENT
    return value


def _meaning(leaf: Any) -> Any:
    word = leaf.value
    if leaf.style is not None or leaf.tag == "!!str":
        return word
    if word in _WORDS:
        return _WORDS[word]
    if re.fullmatch(r"[-+]?[0-9]+", word):
        return int(word)
    if re.fullmatch(r"0o[0-7]+", word):
        return int(word[2:], 8)
    if re.fullmatch(r"0x[0-9a-fA-F]+", word):
        return int(word[2:], 16)
    if _FLOAT.fullmatch(word):
        return float(word)
    return float(_SPECIAL[word.lower()]) if word.lower() in _SPECIAL else word


def _same(meant: Any, found: Any) -> bool:
    """The same value, or the same number however it is written."""
    if isinstance(found, bool):
        return str(meant).lower() in _FLAGS[found]
    if meant is None or found is None or isinstance(meant, bool):
        return meant is found
    try:
        return float(meant) == float(found)
    except ValueError:
        return str(meant) == str(found)
