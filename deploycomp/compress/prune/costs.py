"""What units cost: a table of each sublayer's cost by the units it has, in milliseconds, FLOPs, parameters or bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploycomp.compress.prune.sublayers import Sublayer

__all__ = ["Costs", "flops", "parameters"]

TOKENS = 128
"""Tokens of the row that FLOPs are counted for."""


@dataclass(frozen=True)
class Costs:
    """An additive model of what the whole model costs.

    Args:
        unit: What is counted: `ms`, `FLOPs`, `parameters` or `bytes`.
        rest: What everything else costs.
        tables: Sublayer's name → cost with 0, 1, … units, [units + 1].
    """

    unit: str
    rest: float
    tables: Mapping[str, np.ndarray]

    def total(self, levels: Mapping[str, int]) -> float:
        """Predict the cost of a model with these units; sublayers that are not named are whole."""
        return self.rest + sum(float(table[levels.get(name, len(table) - 1)]) for name, table in self.tables.items())

    @property
    def whole(self) -> float:
        """Cost of the model before any cut."""
        return self.total({})


def _columns(part: Sublayer, hidden: int) -> float:
    """Weights of one unit: Q, K, V rows and O columns of a head, FFN in rows (twice in a GLU) and FFN out columns."""
    if part.kind == "heads":
        return (4 + len(part.parts.relative)) * part.size * hidden
    return (3 if part.parts.ffn_glu else 2) * hidden


def parameters(parts: Sequence[Sublayer], *, hidden: int, total: int, unit: str = "parameters") -> Costs:
    """Count parameters.

    Args:
        parts: Sublayers of the whole model.
        hidden: Its hidden size.
        total: All parameters of the model.
        unit: `bytes` counts four of them a parameter.
    """
    scale = 4.0 if unit == "bytes" else 1.0
    tables = {part.name: scale * _columns(part, hidden) * np.arange(part.units + 1) for part in parts}
    return Costs(unit, scale * total - sum(float(table[-1]) for table in tables.values()), tables)


def flops(parts: Sequence[Sublayer], *, hidden: int, uses: int = 1) -> Costs:
    """Count multiplications and additions of the encoder for one row.

    Args:
        parts: Sublayers of the whole model.
        hidden: Its hidden size.
        uses: How often each is run: more than once where layers share weights.
    """
    tables: dict[str, np.ndarray] = {}
    for part in parts:
        one = 2 * TOKENS * _columns(part, hidden)
        if part.kind == "heads":
            one += 4 * TOKENS**2 * part.size
        tables[part.name] = float(uses) * one * np.arange(part.units + 1)
    return Costs("FLOPs", 0.0, tables)
