"""Find every hint that an error of deploycomp can carry, by reading the source.

What an f-string fills in becomes `{}`; a hint of several words (`a if x else b`, names, dictionaries) is each of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from tests.cli.made import ROOT

__all__ = ["Hint", "hints"]

PACKAGE = ROOT / "deploycomp"
MADE_ELSEWHERE = ("next", "hint")
"""Keys and names of a hint that was raised before and is passed on."""


@dataclass(frozen=True, order=True)
class Hint:
    """One hint, as it is written."""

    text: str
    place: str
    """File and line."""


@cache
def hints() -> tuple[Hint, ...]:
    """Every hint of the package, sorted.

    Raises:
        AssertionError: One is built in a way that this reader does not follow.
    """
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    known = [(path, _assigned(tree)) for path, tree in trees.items()]
    everywhere: dict[str, list[ast.expr]] = {}
    for _, names in known:
        for name, values in names.items():
            everywhere.setdefault(name, []).extend(values)
    takers = _takers(trees.values())
    found: set[Hint] = set()
    for (path, own), tree in zip(known, trees.values(), strict=True):
        for value in _values(tree, takers):
            place = f"{path.relative_to(ROOT)}:{value.lineno}"
            found |= {Hint(text, place) for text in _texts(value, own, everywhere, place)}
    return tuple(sorted(found))


def _values(tree: ast.AST, takers: dict[str, int]) -> Iterator[ast.expr]:
    """What is given as a hint: by keyword to anything, or by place to a function that has such a parameter."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        yield from (each.value for each in node.keywords if each.arg == "hint")
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in takers and len(node.args) > takers[name]:
            yield node.args[takers[name]]


def _takers(trees: Iterable[ast.AST]) -> dict[str, int]:
    """Functions with a parameter `hint` that is given by place → which place."""
    found: dict[str, int] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                names = [each.arg for each in node.args.args if each.arg not in ("self", "cls")]
                if "hint" in names:
                    found[node.name] = names.index("hint")
    return found


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """Every expression that a name is bound to, anywhere in a file."""
    names: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    names.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names.setdefault(node.target.id, []).append(node.value)
    return names


def _texts(
    value: ast.expr, own: dict[str, list[ast.expr]], everywhere: dict[str, list[ast.expr]], place: str
) -> set[str]:
    """Each hint that an expression can be."""

    def follow(each: ast.expr) -> set[str]:
        return _texts(each, own, everywhere, place)

    if isinstance(value, ast.Constant):
        return {value.value} if isinstance(value.value, str) else set()
    if isinstance(value, ast.JoinedStr):
        return {"".join(part.value if isinstance(part, ast.Constant) else "{}" for part in value.values)}
    if isinstance(value, ast.IfExp):
        return follow(value.body) | follow(value.orelse)
    if isinstance(value, ast.BoolOp):
        return set().union(*map(follow, value.values))
    if isinstance(value, ast.Dict):
        return set().union(*map(follow, value.values))
    if isinstance(value, ast.Name):
        constants = everywhere.get(value.id, []) if value.id.isupper() else []
        return set().union(*map(follow, own.get(value.id) or constants))  # a parameter was given by whoever calls
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr == "format":
            spelled = {text.replace("{{", "\0").replace("}}", "}") for text in follow(value.func.value)}
            return {text.replace("{name}", "{}").replace("\0", "{") for text in spelled}
        if value.func.attr == "get":
            return set() if _passed_on(value.args[0]) else follow(value.func.value)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return set()  # a function of its own: `_suggestion`, which names keys of a recipe
    if isinstance(value, ast.Subscript):
        return set() if _passed_on(value.slice) else follow(value.value)  # one of a table: any of them
    raise AssertionError(f"{place}: a hint is built in a way that this reader does not follow: {ast.unparse(value)}")


def _passed_on(key: ast.expr) -> bool:
    return isinstance(key, ast.Constant) and key.value in MADE_ELSEWHERE
