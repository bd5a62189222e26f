"""What a model in factors stores, as arrays for the graph, and rounded to INT8 where the graph will hold it so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from deploycomp.graph.store import StoredGroup, as_stored

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.models.factors import FactoredLinear

__all__ = ["round_factors", "stored_groups"]


def _groups(module: Any) -> list[dict[str, FactoredLinear]]:
    """Linear layers that rebuild their matrices, those with one decoder together."""
    from deploycomp.models.factors import FactoredLinear, groups_of

    rebuilt = [
        {path: each for path, each in group.items() if isinstance(each, FactoredLinear) and each.form == "smaller"}
        for group in groups_of(module)
    ]
    return [group for group in rebuilt if group]


def round_factors(module: Any) -> None:
    """Round what rebuilds the matrices of linear layers to what INT8 stores, in place."""
    for group in _groups(module):
        for each in (*group.values(), next(iter(group.values())).decoder):
            each.change(lambda values: as_stored(values, 8))


def stored_groups(module: Any, *, bits: Literal[8, 32]) -> list[StoredGroup]:
    """Hand what rebuilds the matrices of linear layers to the graph.

    Args:
        module: Its embeddings are exported as they are, and so is what is multiplied in factors.
        bits: Of each number that is stored.
    """
    made: list[StoredGroup] = []
    for group in _groups(module):
        members = list(group.values())
        made.append(
            StoredGroup(
                rule=members[0].rule,
                paths=tuple(group),
                shapes=tuple(each.shape for each in members),
                own=tuple(_arrays(each.own()) for each in members),
                shared=_arrays(members[0].decoder.tensors()),
                bits=bits,
            )
        )
    return made


def _arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in tensors.items()}
