"""Matrices for the tests of factorization."""

from __future__ import annotations

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def group(members: list[int] | tuple[int, ...], columns: int, *, seed: int = 0) -> Group:
    """Members of these numbers of rows."""
    paths = tuple(f"layer.{number}" for number in range(len(members)))
    return Group(paths, torch.split(random(sum(members), columns, seed=seed), list(members)))


def flat(number: int, rank: int, columns: int, *, seed: int = 0) -> Tensor:
    """Rows that lie in a space of few dimensions."""
    return random(number, rank, seed=seed) @ random(rank, columns, seed=seed + 1)


def rebuilt(given: Group, stored: Stored) -> Tensor:
    return torch.cat(stored.rebuild(given.matrices))


def error(given: Group, stored: Stored) -> float:
    """Of the stack, relative."""
    return float((rebuilt(given, stored) - given.stacked).norm() / given.stacked.norm())


def cosines(given: Group, stored: Stored) -> Tensor:
    return torch.nn.functional.cosine_similarity(rebuilt(given, stored), given.stacked)


def same(one: Stored, two: Stored) -> bool:
    """Bit for bit."""
    parts = [(*each.own, each.shared) for each in (one, two)]
    return (one.rule, one.sizes) == (two.rule, two.sizes) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(*parts, strict=True)
    )
