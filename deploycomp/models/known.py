"""What an architecture's own code asks of config.json: looked up in its source, so that no list grows old.

A config class of transformers takes any key, and keeps it as an attribute. What neither it nor the architecture's
modules ever mention can change nothing but a loader's way, so it is dropped before transformers sees it.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.models import settings

__all__ = ["filter_config"]


def filter_config(config: dict[str, Any], *, where: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings of config.json that the architecture knows, and a note on those it does not.

    Args:
        config: What the audit let through.
        where: The file.

    Raises:
        InputRefused: A setting that changes answers and that the architecture does not know, or a value that is a path.
    """
    known = _names_of(str(config["model_type"]))
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in config.items():
        listed = name in settings.CONFIG.honoured
        if not listed and known is not None and name not in known and not name.endswith("_token_id"):
            _check_lost(name, value, config, where)
            dropped += [] if value is None else [name]
            continue
        if not listed and (path := next(_paths(value), None)) is not None:
            raise InputRefused(
                f"{where.name} gives {name!r} a value that names a file",
                where=str(where),
                why=repr(path),
                hint=f"remove {name!r} if the model works without it",
            )
        kept[name] = value
    return kept, settings.told(sorted(dropped), where.name)


def _check_lost(name: str, value: Any, config: dict[str, Any], where: Path) -> None:
    if name in settings.LOST and value not in (None, settings.LOST[name][0]):
        raise InputRefused(
            f"transformers no longer knows {name} {value!r} for {config['model_type']}",
            where=str(where),
            why=settings.LOST[name][1],
            hint="use the version of transformers that it was trained with, or train it again",
        )


def _paths(value: Any) -> Iterator[str]:
    """Every text inside a value that could name a file."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stack += list(each.values())
        elif isinstance(each, list):
            stack += each
        elif settings.is_path(each):
            yield each


@functools.cache
def _names_of(model_type: str) -> frozenset[str] | None:
    """Every name that the modules of an architecture mention, or `None` for one that transformers does not have."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind: type[Any] = CONFIG_MAPPING[model_type]
    except KeyError:
        return None  # loading it says so
    files: set[Path] = set()
    for base in kind.__mro__:
        source = getattr(sys.modules.get(base.__module__), "__file__", None)
        if source is None or base is object:
            continue
        if base.__module__.startswith("transformers.models."):
            files |= {*Path(source).parent.glob("configuration_*.py"), *Path(source).parent.glob("modeling_*.py")}
        elif not base.__module__.startswith(("transformers.", "huggingface_hub.")):
            files.add(Path(source))  # an architecture that the caller registered
    return frozenset(name for file in files for name in _names_in(ast.parse(file.read_text(encoding="utf-8"))))


def _names_in(tree: ast.AST) -> Iterator[str]:
    """Names of attributes and parameters, and texts that are one word: `config.x`, `x: int = 1`, `"x"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
