"""What a rank costs in milliseconds here: each kind of matrix as two products, measured in ONNX Runtime.

    three layers of the model ─┬─ one kind at rank r in the first two  ─ export ─ (INT8) ─ measured ─► ms saved by rank
                               └─ every kind in the last one: a [CLS] head needs one token of it

Two products of rank r have fewer operations below the break-even rank, and write one activation more: only the clock
knows from which rank on that pays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploycomp.context import Progress, part_of
from deploycomp.latency import (
    Setting,
    copied,
    export_graph,
    shorten,
    table_times,
)
from deploycomp.recipe import MATRICES

if TYPE_CHECKING:
    from deploycomp.compress.factorize.matrices import Unit
    from deploycomp.models.model import TorchModel

__all__ = ["WHOLE", "Kind", "RankTable", "as_two_products", "break_even", "rank_table", "ranks_of"]

WHOLE = "whole"
"""Name of the model in whole matrices, among the graphs."""
MULTIPLE = 32
"""Ranks come in steps of it: a product's inner loop runs over whole registers (methods.md B)."""
MOST = 0.75
"""Share of the break-even rank up to which two products may be faster than one (methods.md B)."""
LEVELS = 3
"""Ranks that are measured of each kind, the first and the last among them; between them the table is straight."""


@dataclass(frozen=True)
class Kind:
    """One kind of matrix.

    Args:
        shape: Rows and columns where it was measured.
        saved: Rank → milliseconds that factors of this rank save in one layer; negative where they are slower.
        last: What they save in the last layer, as a share of that.
    """

    shape: tuple[int, int]
    saved: dict[int, float]
    last: float


@dataclass(frozen=True)
class RankTable:
    """Milliseconds of the model in whole matrices, and what ranks save of them, by kind."""

    whole: float
    kinds: dict[str, Kind]

    def saves(self, kind: str, shape: tuple[int, int], rank: int, *, last: bool) -> float:
        """Milliseconds that factors save: a line between measured shares of the break-even, scaled by the size."""
        found = self.kinds[kind]
        ranks = sorted(found.saved)
        shares = [rank / break_even(found.shape) for rank in ranks]
        saved = float(np.interp(rank / break_even(shape), shares, [found.saved[each] for each in ranks]))
        size = shape[0] * shape[1] / (found.shape[0] * found.shape[1])
        return saved * size * (found.last if last else 1.0)


def break_even(shape: tuple[int, int]) -> float:
    """The rank at which two factors hold as many numbers as the matrix."""
    return shape[0] * shape[1] / (shape[0] + shape[1])


def ranks_of(shape: tuple[int, int]) -> list[int]:
    """Ranks that may pay, ascending: multiples of `MULTIPLE` up to `MOST` of the break-even."""
    return list(range(MULTIPLE, int(MOST * break_even(shape)) + 1, MULTIPLE))


def rank_table(model: TorchModel, setting: Setting, work: Path, *, progress: Progress | None = None) -> RankTable:
    """Measure what ranks save.

    Args:
        model: The model in whole matrices; it stays as it is.
        setting: Shape, threads and precision.
        work: An empty folder for the graphs; that of the model itself is called `WHOLE`.
        progress: Called with a message and the share that is done.

    Raises:
        EnvironmentFailed: A measurement failed.
    """
    from deploycomp.compress.factorize.matrices import units_of

    say = progress or (lambda _message, _share: None)
    short = shorten(model)
    kinds = [each for each in MATRICES if each != "embeddings"]
    units = units_of(short.module, short.anatomy, kinds, "joint")
    last = max(unit.layer for unit in units)
    by_kind = {unit.kind: [each for each in units if each.kind == unit.kind] for unit in units}
    shapes = {kind: some[0].group(short.module).shape for kind, some in by_kind.items()}
    variants: dict[str, list[tuple[Unit, int]]] = {"short": []}
    for kind, some in by_kind.items():
        inner = [unit for unit in some if unit.layer < last] or some
        ranks = ranks_of(shapes[kind])
        if not ranks:
            continue
        for rank in sorted({ranks[round(place)] for place in np.linspace(0, len(ranks) - 1, LEVELS)}):
            variants[f"{kind}-{rank}"] = [(unit, rank) for unit in inner]
        if len(inner) < len(some):
            variants[f"{kind}-last"] = [(some[-1], ranks[0])]
    graphs: dict[str, Path] = {}
    for number, (name, changes) in enumerate(variants.items()):
        say(f"exporting {name}", 0.5 * number / len(variants))
        graphs[name] = export_graph(as_two_products(short, changes), setting, work / name)
    say("exporting the whole model", 0.5)
    graphs[WHOLE] = export_graph(copied(model), setting, work / WHOLE)
    times = table_times(graphs, setting, part_of(say, 0.5, 1.0))
    found: dict[str, Kind] = {}
    for kind, shape in shapes.items():
        saved = {
            changes[0][1]: (times["short"] - times[name]) / len(changes)
            for name, changes in variants.items()
            if name.startswith(f"{kind}-") and not name.endswith("-last")
        }
        if saved:
            found[kind] = Kind(shape, saved, _last(times, kind, saved))
    return RankTable(times[WHOLE], found)


def _last(times: Mapping[str, float], kind: str, saved: Mapping[int, float]) -> float:
    """What the last layer saves at the smallest rank, as a share of what another layer does."""
    most = saved[min(saved)]
    if f"{kind}-last" not in times or most <= 0:
        return 1.0
    return float(np.clip((times["short"] - times[f"{kind}-last"]) / most, 0.0, 1.0))


def as_two_products(model: TorchModel, changes: Iterable[tuple[Unit, int]]) -> TorchModel:
    """A copy with units as two products of a rank: as fast as any other factors, but random."""
    from deploycomp.compress.factorize.group import Stored
    from deploycomp.compress.factorize.matrices import install

    made = copied(model)
    for unit, rank in changes:
        made = install(made, unit, Stored.random(unit.group(made.module), rank), "faster")
    return made
