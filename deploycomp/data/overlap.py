"""Rows that stand in two data sets: what is learned or chosen on rows cannot be judged on them.

Rows are compared by a digest of their inputs alone, so that neither their order, nor labels, nor names of files count:
Unicode in one form, without case and runs of white space, which many tokenizers drop too.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from typing import Any

from deploycomp.data.columns import ANSWERS, PAIR_TASKS
from deploycomp.data.reader import MASK, MASKS
from deploycomp.data.rows import Rows
from deploycomp.errors import UsageError

__all__ = ["FEW", "MANY", "unlike", "without_judged"]

MANY = 0.1
"""Share of rows in common from which on two data sets are no longer two. Published splits repeat by chance 0 to 0.4 %
of what is judged (SST-2, CLINC150, STS-B, QNLI, SQuAD and WNUT17, counted as here); a tenth is no chance."""

FEW = 2
"""Rows in common that are no more than chance, however small the data."""


def without_judged(found: Rows, judged: Rows | None) -> Rows:
    """Leave out of rows to learn or to choose on those that the result is judged on.

    Args:
        found: Rows to learn or to choose on.
        judged: Rows that the result is judged on; None where nothing is judged.

    Returns:
        *found* without the few that both have; fewer rows than before where there were any.

    Raises:
        UsageError: Too many are in both: all of either, or more than `FEW` and at least `MANY` of either.
    """
    if judged is None or found.task != judged.task:
        return found
    known = {key for row in judged.rows for key in _keys(row, judged.task, single="text_pair" not in found.rows[0])}
    kept = [place for place, row in enumerate(found.rows) if known.isdisjoint(_keys(row, found.task))]
    learned = {key for row in found.rows for key in _keys(row, found.task)}
    single = "text_pair" not in found.rows[0]
    both = sum(not learned.isdisjoint(_keys(row, judged.task, single=single)) for row in judged.rows)
    shared = len(found) - len(kept)
    if _too_many(both, len(judged)) or _too_many(shared, len(found)):
        raise UsageError(
            f"calibration and evaluation use the same rows: {both:,} of {len(judged):,} that are judged stand among "
            f"{len(found):,} to learn from",
            where=f"{found.name} and {judged.name}",
            why="what is chosen on rows cannot be judged on them",
            hint="--calibration train.jsonl, or --eval with rows that are not in it",
        )
    return found.take(kept) if shared else found


def unlike(rows: Rows, others: Rows) -> Rows:
    """Return the rows whose inputs are not among those of *others*: choices are not tried on what they were made on."""
    known = {key for row in others.rows for key in _keys(row, others.task)}
    return rows.take([place for place, row in enumerate(rows.rows) if known.isdisjoint(_keys(row, rows.task))])


def _too_many(shared: int, rows: int) -> bool:
    return shared > 0 and (shared == rows or (shared > FEW and shared >= MANY * rows))


def _keys(row: dict[str, Any], task: str, *, single: bool = False) -> Iterator[str]:
    """Digests of a row's inputs: one, and further ones where the same inputs may be written otherwise.

    Args:
        row: The row.
        task: Its task.
        single: Whether the other rows of a pair task are single sentences.
    """
    inputs = [_normal(value) for name, value in sorted(row.items()) if name not in ANSWERS]
    if task in PAIR_TASKS:
        inputs.sort()  # a cosine has no first and second
        if single and len(inputs) > 1:
            yield from (_digest([each]) for each in inputs)
    yield _digest(inputs)
    if task == "fill-mask" and row.get("label") is not None:  # which word is masked is our choice
        yield _digest([_normal(MASKS.sub(lambda _: row["label"], row["text"]))])


def _normal(value: str | list[str]) -> str:
    text = MASKS.sub(MASK, value if isinstance(value, str) else " ".join(value))
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _digest(inputs: list[str]) -> str:
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
