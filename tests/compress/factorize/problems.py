"""Seeded matrices, inputs and moments that are all correlated, and errors measured directly on the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deploycomp.compress.factorize.group import Group, Stored
from deploycomp.compress.factorize.moments import Moments

TOKENS = 300
SHAPES = [(5, 9), (9, 5), (6, 6)]
"""Wide, tall and square: the two sides of the decomposition."""


def draw(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(columns: int, *, seed: int = 0) -> Tensor:
    """Tokens whose mean is not zero, [tokens, columns]."""
    return draw(TOKENS, columns, seed=seed) @ draw(columns, columns, seed=seed + 1) + 2 * draw(columns, seed=seed + 2)


def moments(x: Tensor, rows: int, *, seed: int = 0) -> Moments:
    """Of these inputs, with a curvature of fewer directions than there are outputs."""
    g = draw(max(1, rows - 2), rows, seed=seed + 3)
    return Moments(x.T @ x / len(x), x.mean(0), g.T @ g, torch.ones(rows, dtype=torch.float64), len(x))


def embedding_moments(counts: Sequence[int], columns: int, *, seed: int = 0) -> Moments:
    """Of an embedding whose pieces came so often."""
    share = torch.tensor(counts, dtype=torch.float64) / max(1, sum(counts))
    g = draw(columns + 2, columns, seed=seed)
    return Moments(share, share, g.T @ g, torch.ones(len(counts), dtype=torch.float64), sum(counts))


def group(rows: int, columns: int, members: int = 1, *, seed: int = 0) -> Group:
    matrices = [draw(rows, columns, seed=seed + 10 + number).float() for number in range(members)]
    return Group(tuple(f"layer.{number}" for number in range(members)), tuple(matrices))


def biases(of: Group) -> list[Tensor]:
    return [draw(len(each), seed=50 + number).float() for number, each in enumerate(of.matrices)]


def outputs_error(of: Group, stored: Stored, old: Sequence[Tensor | None], x: Tensor, drifted: Tensor | None = None):
    """Mean squared error of all outputs together, and by member what is missing, [tokens, rows]."""
    arriving = x if drifted is None else drifted
    made = zip(of.matrices, stored.rebuild(of.matrices), old, stored.biases or old, strict=True)
    missing = [
        x @ w.double().T + (0 if b is None else b) - arriving @ m.double().T - (0 if c is None else c)
        for w, m, b, c in made
    ]
    return sum(float(each.square().sum()) for each in missing) / len(x), missing


def alternatives(stored: Stored, count: int = 50):
    """Other low ranks: the given one with its factors and biases disturbed, a little or much."""
    for seed in range(count):
        size = (0.01, 0.1, 1.0)[seed % 3]
        latents = [each["latents"] + size * draw(*each["latents"].shape, seed=seed).float() for each in stored.own]
        basis = stored.shared["basis"] + size * draw(*stored.shared["basis"].shape, seed=seed + 100).float()
        moved = [
            None if each is None else each + size * draw(len(each), seed=seed + 200).float() for each in stored.biases
        ]
        own = tuple({"latents": each} for each in latents)
        yield Stored(stored.rule, stored.sizes, own, {**stored.shared, "basis": basis}, tuple(moved))


def identical(one: Stored, two: Stored, of: Group) -> None:
    """Whether two rebuild the same matrices with the same biases and shift."""
    for left, right in zip(one.rebuild(of.matrices), two.rebuild(of.matrices), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    assert len(one.biases) == len(two.biases)
    for left, right in zip(one.biases, two.biases, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
