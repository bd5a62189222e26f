"""Measure variants of one graph on this machine and keep the fastest; a variant that does not pay is refused.

    variants ─ interleaved blocks, fresh processes ─► ratio to the first, by cell ─► the fastest ─ session options ─► …

Every variant has passed parity before it comes here: this room only counts milliseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploycomp.onnxmodel import Facts
from deploycomp.recipe import Benchmark

__all__ = ["SESSION_OPTIONS", "Tuned", "tune"]

Progress = Callable[[str, float], None]

BLOCKS = 6
BLOCK_SECONDS = 0.1
BUDGET_SECONDS = 60.0
"""When the graphs alone took half of it, session options stay as they are."""

GAIN = 0.99
"""A variant must take less than this share of the time: a percent is below what one run can tell."""

SESSION_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "denormals are zero": {"session.set_denormal_as_zero": "1"},
    "dynamic block size": {"session.dynamic_block_base": "4"},
    "threads sleep between operators": {"session.intra_op.allow_spinning": "0"},
}
"""What is tried on the fastest graph, each alone."""


@dataclass(frozen=True)
class Tuned:
    """What was kept, and what was measured."""

    graph: str
    session: dict[str, str]
    facts: Facts


def tune(
    graphs: Mapping[str, Path],
    settings: Benchmark,
    *,
    refused: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Keep the fastest of some graphs, and the session options that make it faster.

    Args:
        graphs: Name → file; the first is the default, and stays where nothing is clearly faster. A name with a
            leading `=` is measured for comparison only.
        settings: The shapes and threads to be fast at.
        refused: Variants that were not measured, with the reason.
        progress: Called with a message and the share of the work that is done.

    Returns:
        The kept graph and session entries; the facts have a table of every variant.
    """
    began = time.monotonic()
    shapes = settings.model_copy(update={"blocks": BLOCKS, "block_seconds": BLOCK_SECONDS})
    say = progress or (lambda _message, _share: None)
    default = next(iter(graphs))
    rows = _measure({name: (path, {}) for name, path in graphs.items()}, shapes, lambda m, f: say(m, 0.6 * f))
    kept = _fastest(rows, default)
    table = [_row("graph", name, row, kept) for name, row in rows.items()]
    session: dict[str, str] = {}
    if time.monotonic() - began < BUDGET_SECONDS / 2:
        options = {
            kept: (graphs[kept], {}),
            **{name: (graphs[kept], {**each}) for name, each in SESSION_OPTIONS.items()},
        }
        rows = _measure(options, shapes, lambda m, f: say(m, 0.6 + 0.4 * f))
        best = _fastest(rows, kept)
        session = dict(SESSION_OPTIONS.get(best, {}))
        table += [_row("session", name, row, best) for name, row in rows.items() if name != kept]
    table += [
        {"what": "graph", "name": name, "ratio": None, "kept": False, "why": why}
        for name, why in (refused or {}).items()
    ]
    facts = {"seconds": round(time.monotonic() - began, 1), "kept": kept, "session": session, "variants": table}
    return Tuned(kept, session, facts)


def _measure(
    variants: Mapping[str, tuple[Path, Mapping[str, str]]], settings: Benchmark, progress: Progress
) -> dict[str, Facts]:
    """Name → milliseconds by cell, and the geometric mean of the ratio to the first with its bounds."""
    from deploycomp.measure.benchmark import benchmark, ratios
    from deploycomp.measure.candidate import Candidate

    candidates = [Candidate(name, "onnx", path, session=session) for name, (path, session) in variants.items()]
    result = benchmark(candidates, settings, progress=progress)
    first = candidates[0].name
    found: dict[str, Facts] = {}
    for name in variants:
        cells = [cell for cell in result["cells"] if cell["candidate"] == name]
        entries = [] if name == first else ratios(result, name, first)
        found[name] = {
            "cells": [
                {key: cell[key] for key in ("threads", "batch_size", "sequence_length", "p50_ms")} for cell in cells
            ],
            **{key: _mean([entry[key] or entry["ratio"] for entry in entries]) for key in ("ratio", "low", "high")},
        }
    return found


def _mean(values: list[float]) -> float:
    """Geometric mean, 1 of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 1.0


def _fastest(rows: Mapping[str, Facts], default: str) -> str:
    """The variant with the smallest ratio among those that are clearly faster than the default."""
    clear = {
        name: row["ratio"]
        for name, row in rows.items()
        if not name.startswith("=") and row["ratio"] < GAIN and row["high"] < 1
    }
    return min(clear, key=clear.__getitem__, default=default)


def _row(what: str, name: str, row: Facts, kept: str) -> dict[str, Any]:
    low, high = row["low"], row["high"]
    if name == kept:
        why = "kept"
    elif name.startswith("="):
        why = "for comparison"
    elif row["ratio"] >= GAIN or high >= 1:
        why = f"not clearly faster: {row['ratio']:.2f} of the default's time ({low:.2f} to {high:.2f})"
    else:
        why = "another one is faster"
    return {"what": what, "name": name.removeprefix("="), "kept": name == kept, "why": why, **row}
