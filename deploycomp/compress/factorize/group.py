"""The one interface of every method: matrices of a group in, what is stored of them out.

separated      each matrix is a group of its own
concatenated   matrices of one type of all layers, stacked along their rows, share one decoder
joint          Q, K and V of one layer, which read the same input
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deploycomp.models.factors import RULES

__all__ = ["Group", "Stored"]

SPREAD = 0.02
"""Standard deviation of random factors, as transformers initialises weights."""


@dataclass(frozen=True)
class Group:
    """Matrices that share what is stored once.

    Args:
        paths: Of their modules.
        matrices: [rows, columns] each, of one number of columns.
    """

    paths: tuple[str, ...]
    matrices: tuple[Tensor, ...]

    @property
    def stacked(self) -> Tensor:
        """All rows, [rows, columns]."""
        return torch.cat(self.matrices)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the stack."""
        return sum(len(each) for each in self.matrices), int(self.matrices[0].shape[1])

    def split(self, rows: Tensor) -> list[Tensor]:
        """Cut what has an entry for each row of the stack into the members' parts."""
        return list(torch.split(rows, [len(each) for each in self.matrices]))


@dataclass(frozen=True)
class Stored:
    """What is stored of a group.

    Args:
        rule: Name of the rule that rebuilds it (`models/factors.py`).
        sizes: The integers of its shapes.
        own: Of each member.
        shared: Stored once.
        biases: New bias of each member, [rows], or None where the old one stays; empty where all stay.
    """

    rule: str
    sizes: dict[str, int]
    own: tuple[dict[str, Tensor], ...]
    shared: dict[str, Tensor]
    biases: tuple[Tensor | None, ...] = field(default=())

    @property
    def numbers(self) -> int:
        """How many numbers are stored; biases, which every layer has, are not counted."""
        return sum(each.numel() for part in (*self.own, self.shared) for each in part.values())

    @staticmethod
    def random(group: Group, rank: int, *, seed: int = 0) -> Stored:
        """Two random factors, for who only wants to know how long they take."""
        draw = torch.Generator().manual_seed(seed)
        own = tuple({"latents": SPREAD * torch.randn(len(each), rank, generator=draw)} for each in group.matrices)
        basis = SPREAD * torch.randn(rank, group.shape[1], generator=draw)
        return Stored("low_rank", {"rank": rank, "norms": 0, "shift": 0}, own, {"basis": basis})

    def rebuild(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The matrices that come back, in the shapes of *matrices*."""
        rows = RULES[self.rule].rows
        return [
            rows(own, self.shared, None)[: each.shape[0], : each.shape[1]]
            for own, each in zip(self.own, matrices, strict=True)
        ]
