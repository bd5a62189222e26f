"""Real rows through an engine, by different policies of batching. Runs in the child.

    one        each row alone, with its own length
    batch8     eight at a time in the given order, padded to the longest of them
    sorted32   32 at a time, ordered by length first; the results go back into the given order

An engine adds policies of its own with `Engine.policies`: OpenVINO's asynchronous queue, our `Predictor`'s batching.
Padding is part of every pass, tokenizing of none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engines import Engine

__all__ = ["Outputs", "Rows", "agreement", "pad", "passes"]

Rows = Sequence[Sequence[int]]
"""Token ids of each row, special tokens included, no padding."""
Outputs = list[np.ndarray]
"""Logits of each row, padding cut off, in the order of the rows."""

BATCHED = {"batch8": (8, False), "batch32": (32, False), "sorted8": (8, True), "sorted32": (32, True)}
"""Policy → rows in a batch at most, whether they are ordered by length first."""


def passes(engine: Engine) -> dict[str, Callable[[Rows], Outputs]]:
    """Every policy that the engine knows, as a function from rows to outputs."""
    found: dict[str, Callable[[Rows], Outputs]] = {
        "one": lambda rows: _run(engine, rows, [[i] for i in range(len(rows))])
    }
    for name, (size, ordered) in BATCHED.items():
        found[name] = lambda rows, size=size, ordered=ordered: _run(engine, rows, _plan(rows, size, ordered=ordered))
    return {**found, **engine.policies}


def pad(rows: Rows) -> dict[str, np.ndarray]:
    """Stack rows, padded to the longest of them. BERT's padding token is 0."""
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def agreement(expected: Outputs, found: Outputs) -> float:
    """Share of the decisions that are the same: it would be chance if a policy mixed up its rows."""
    same = [np.mean(one.argmax(-1) == other.argmax(-1)) for one, other in zip(expected, found, strict=True)]
    return float(np.mean(same))


def _run(engine: Engine, rows: Rows, plan: list[list[int]]) -> Outputs:
    outputs: list[np.ndarray] = [np.empty(0)] * len(rows)
    for batch in plan:
        logits = engine.run(pad([rows[index] for index in batch]))
        for place, index in enumerate(batch):
            mine = logits[place]
            outputs[index] = np.array(mine[: len(rows[index])] if mine.ndim > 1 else mine)
    return outputs


def _plan(rows: Rows, size: int, *, ordered: bool) -> list[list[int]]:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index])) if ordered else list(range(len(rows)))
    return [order[start : start + size] for start in range(0, len(order), size)]
