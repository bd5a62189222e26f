"""YAML as version 1.2 reads it: the core schema, nothing that expands, no key twice.

PyYAML reads YAML 1.1, where `1:30` is 90, `017` is 15, `no` is false, `1e3` a text and `2020-01-01` a date. What people
and other programs write today means what the core schema says (YAML 1.2.2, chapter 10.3.2, "Tag Resolution"); anything
that it does not name is text.

    null   null Null NULL ~ and nothing         true   true True TRUE          false  false False FALSE
    int    -12  0o17  0x1F                      float  1.5  .5  1e3  -.inf  .nan
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, cast

import yaml

__all__ = ["Loader", "dump"]

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN"
    ),
}
"""Tag → the plain scalars that have it, in the order of the specification."""

MAX_DIGITS = 400
"""A number of a recipe is a float at most, which ends at 309 digits; a longer one costs time and means nothing."""

_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Ends of lines to YAML 1.1 and to PyYAML, but not to YAML 1.2."""


def _number(kind: str, text: str) -> int | float | bool | None:
    """The value of a scalar that matched the pattern of its tag."""
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text[2:], 16) if text[:2] == "0x" else int(text[2:], 8) if text[:2] == "0o" else int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class Loader(yaml.SafeLoader):
    """A loader of the core schema that refuses anchors, which can expand one kilobyte to gigabytes, and keys twice."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, Any]] = {  # type: ignore[assignment]  # as PyYAML has it
        None: [(_TAG + kind, re.compile(rf"(?:{pattern.pattern})\Z")) for kind, pattern in _CORE.items()]
    }
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        None: yaml.SafeLoader.yaml_constructors[None],
        **{_TAG + kind: yaml.SafeLoader.yaml_constructors[_TAG + kind] for kind in ("str", "seq", "map")},
    }

    def __init__(self, text: str):
        found = _BREAKS.search(text)
        if found:
            before = text[: found.start()]
            mark = yaml.Mark("", found.start(), before.count("\n"), found.start() - before.rfind("\n") - 1, None, 0)
            problem = (
                f"the character U+{ord(found[0]):04X} ends a line for some readers; write it as an escape in quotes"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        super().__init__(text)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Build a node that is written out."""
        if self.check_event(yaml.AliasEvent):
            mark = cast("Any", self).peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: Any) -> None:
        """Merge nothing: `<<` is a key like any other."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002  yaml's signature
        """Build a mapping whose keys stand once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue  # a list or mapping as a key: yaml refuses it
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_core(self, node: Any) -> int | float | bool | None:
        """Build null, a boolean or a number, also where a tag asks for it (`!!int "12"`)."""
        kind, text = node.tag.removeprefix(_TAG), str(self.construct_scalar(node))
        if not _CORE[kind].fullmatch(text):
            raise yaml.MarkedYAMLError(problem=f"{text[:40]!r} is no {kind}", problem_mark=node.start_mark)
        if len(text) > MAX_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(text):,} characters, at most {MAX_DIGITS} are read",
                problem_mark=node.start_mark,
            )
        return _number(kind, text)


for _kind in _CORE:
    Loader.add_constructor(_TAG + _kind, Loader.construct_core)


class _Dumper(yaml.SafeDumper):
    """Writes what YAML 1.1 and 1.2 read alike: text that one of them takes for something else stands in quotes."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write a string on one line, which no `::command` begins."""
        odd = any(not each.isprintable() for each in text)
        quoted = text.startswith(":") or any(pattern.fullmatch(text) for pattern in _CORE.values())
        return self.represent_scalar(f"{_TAG}str", text, style='"' if odd else "'" if quoted else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def dump(data: Any) -> str:
    """Write plain values, keys in their order, each scalar on one line.

    Args:
        data: Mappings, lists, texts, numbers, booleans and None.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))  # type: ignore[return-value]
