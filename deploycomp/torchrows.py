"""The rows that a compressing step learns from, and others that it judges its choices on, as batches for PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploycomp.errors import UsageError
from deploycomp.onnxmodel import Facts
from deploycomp.recipe import Recipe

if TYPE_CHECKING:
    from deploycomp.compress.batches import Batch
    from deploycomp.data import Rows
    from deploycomp.models.model import TorchModel

__all__ = ["ROWS", "TorchRows", "find_rows"]

ROWS = 1024
"""Calibration rows, as far as `TOKENS` reaches."""
TOKENS = 10_000
"""Real tokens that are scored and fitted on: six for each unknown of the widest fit of a MiniLM (methods.md A)."""
HELD_OUT_TOKENS = 6_000


@dataclass(frozen=True)
class TorchRows:
    """What a torch step learns from and judges its choices on."""

    batches: Sequence[Batch]
    held_out: Sequence[Batch]
    facts: Facts
    every: Sequence[Batch]
    """All rows that were drawn, beyond what is scored on."""


def find_rows(
    recipe: Recipe, model: TorchModel, judged: Rows | None, step: str, *, rows: int = ROWS, labels: bool = False
) -> TorchRows:
    """Read a step's rows.

    Args:
        recipe: Its calibration data.
        model: What is compressed.
        judged: Rows that the result is judged on.
        step: Who asks, for errors.
        rows: How many.
        labels: Whether batches carry labels.

    Raises:
        UsageError: There are no rows, or none to judge choices on.
    """
    from deploycomp.calibration import find_calibration
    from deploycomp.compress.batches import label_tensor, make_batches, tokens_at_once

    found, why = find_calibration(recipe, model, judged, rows=rows, labeled=labels)
    hint = "--calibration train.jsonl (labels are not needed)"
    if found is None:
        raise UsageError(f"{step} needs rows to learn from", why=why, hint=hint)
    if not found.held_out_feeds:
        why = f"{found.facts['data']} gives no rows to judge choices on"
        raise UsageError(f"{step} needs rows to judge its choices on", why=why, hint="give more rows, and real ones")
    pad = model.tokenizer.pad_token_id or 0
    right = None
    if labels and found.rows is not None:
        right = label_tensor(found.rows.column("label"), model.labels, model.problem_type)
    once = tokens_at_once(len(model.anatomy.layers), model.anatomy.hidden_size)
    batches = make_batches(found.feeds, pad_token_id=pad, limit=TOKENS, tokens=once, labels=right)
    held_out = make_batches(found.held_out_feeds, pad_token_id=pad, limit=HELD_OUT_TOKENS)
    counts = {
        "rows": sum(batch.rows for batch in batches),
        "tokens": sum(int(batch.mask.sum()) for batch in batches),
        "held_out_rows": sum(batch.rows for batch in held_out),
    }
    every = make_batches(found.feeds, pad_token_id=pad, tokens=once) if rows > ROWS else batches
    return TorchRows(batches, held_out, {**found.facts, **counts}, every)
