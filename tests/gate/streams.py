"""Made-up machines: what one process takes in each slot of time, with the noise that real ones show.

A round has two slots. A fair coin says who runs first; the candidate takes `ratio` times what the baseline would take
in the same slot. So the streams keep everything the noise does from slot to slot, and only the coin is fair.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SD = 0.015 / np.sqrt(2)
"""Of one process: 1.5 % for a round, as on a quiet runner."""


def normal(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return 1 + SD * draw.normal(size=shape)


def lognormal(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.exp(0.2 * draw.normal(size=shape))


def bimodal(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Three of ten processes land on a mode that is 10 % slower."""
    return normal(draw, shape) * np.where(draw.random(shape) < 0.3, 1.1, 1.0)


def drifting(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """The machine heats up: half as slow again at the end, and the second slot always a little slower."""
    slots = np.linspace(1, 1.5, shape[-1]) + 0.01 * (np.arange(shape[-1]) % 2)
    return normal(draw, shape) * slots


def autocorrelated(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """AR(1) over slots, 0.9 from one to the next."""
    noise = 0.03 * draw.normal(size=shape)
    level = np.empty(shape)
    level[..., 0] = noise[..., 0]
    for slot in range(1, shape[-1]):
        level[..., slot] = 0.9 * level[..., slot - 1] + noise[..., slot]
    return np.exp(level)


def spiky(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Heavy tails (Pareto 1.5), and one process in twenty five times as slow."""
    return (1 + 0.01 * draw.pareto(1.5, size=shape)) * np.where(draw.random(shape) < 0.05, 5.0, 1.0)


STREAMS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": normal,
    "lognormal": lognormal,
    "bimodal": bimodal,
    "drifting": drifting,
    "autocorrelated": autocorrelated,
    "spiky": spiky,
}


def rounds(draw: np.random.Generator, slots: Array, ratio: float) -> Array:
    """[…, 2·rounds] slots → […, rounds] of log(candidate / baseline); one coin a round, shared by all cells."""
    first, second = np.log(slots[..., ::2]), np.log(slots[..., 1::2])
    coin = draw.integers(0, 2, (*slots.shape[:1], *(1,) * (slots.ndim - 2), slots.shape[-1] // 2)) * 2 - 1
    return (first - second) * coin + np.log(ratio)
