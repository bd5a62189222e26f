"""What each task takes, and a refusal with an example for everything else; options that are no such number."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from deploycomp.errors import UsageError

__all__ = ["EXAMPLES", "check_count", "check_inputs", "check_number", "has_words"]

EXAMPLES = {
    "text-classification": 'predictor(["a text", "another"]) or predictor([("a text", "its pair")])',
    "token-classification": 'predictor(["Ada lives here."]) or predictor([["Ada", "lives", "here"]])',
    "question-answering": 'predictor([("Who lives in Graz?", "Ada lives in Graz.")])',
    "feature-extraction": 'predictor(["a text", "another"])',
    "sentence-similarity": 'predictor(["a text", "another"])',
    "fill-mask": 'predictor(["Graz is a [MASK] in Austria."])',
}

_TAKES = {
    "text-classification": "texts or pairs of texts (tuples)",
    "token-classification": "texts, or lists of words",
    "question-answering": "tuples of (question, context)",
}


def check_inputs(task: str, inputs: Any) -> tuple[list[Any], bool]:
    """Bring inputs to a list, and refuse what the task does not take.

    Args:
        task: One of `EXAMPLES`.
        inputs: One text, one pair (a tuple), or many of what the task takes.

    Returns:
        The list, and whether a single input was given.

    Raises:
        UsageError: With the index and the type of the first wrong input, and an example.
    """
    single = isinstance(inputs, str) or (task in ("text-classification", "question-answering") and _is_pair(inputs))
    if single:
        inputs = [inputs]
    elif isinstance(inputs, Mapping | bytes) or not isinstance(inputs, Iterable):
        raise _refusal(task, type(inputs).__name__, where=None)
    items = list(inputs)
    for index, item in enumerate(items):
        if not _accepted(task, item):
            raise _refusal(task, _describe(item), where=f"input {index}")
    if task == "token-classification" and len({isinstance(item, str) for item in items}) > 1:
        raise _refusal(task, "a mixture of both", where=None)
    return [item if isinstance(item, str) or _is_pair(item) else list(item) for item in items], single


def check_count(name: str, value: Any) -> int:
    """Return an option that counts things, at least one of them.

    Args:
        name: The option, for the error.
        value: What was given for it.

    Raises:
        UsageError: It is no whole number, or below one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise UsageError(f"{name} is a whole number of at least one, not {value!r}", where=name, hint=f"{name}=1")
    return int(value)


def check_number(name: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return an option that is a number between two bounds, which it may reach.

    Args:
        name: The option, for the error.
        value: What was given for it.
        low: The lower bound.
        high: The upper bound.

    Raises:
        UsageError: It is no number, not finite, or out of bounds.
    """
    found = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(found) or not low <= found <= high:
        between = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
        raise UsageError(f"{name} is a number{between}, not {value!r}", where=name)
    return found


def has_words(task: str, items: list[Any]) -> bool:
    """Whether checked inputs are lists of words."""
    return task == "token-classification" and bool(items) and not isinstance(items[0], str)


def _accepted(task: str, item: Any) -> bool:
    if task == "question-answering":
        return _is_pair(item)
    if isinstance(item, str):
        return True
    if task == "text-classification":
        return _is_pair(item)
    return task == "token-classification" and _is_words(item)


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(text, str) for text in item)


def _is_words(item: Any) -> bool:
    return isinstance(item, list | tuple) and all(isinstance(word, str) for word in item)


def _describe(item: Any) -> str:
    if isinstance(item, list | tuple):
        inside = ", ".join(sorted({type(part).__name__ for part in item})) or "nothing"
        return f"a {type(item).__name__} of {len(item)} ({inside})"
    return type(item).__name__


def _refusal(task: str, got: str, *, where: str | None) -> UsageError:
    return UsageError(
        f"{task} takes {_TAKES.get(task, 'texts')}, not {got}",
        where=where,
        hint=f"for example {EXAMPLES[task]}",
    )
