"""What a machine can decide: from rounds of one model against itself to the smallest tolerance that makes sense.

    A/A rounds ──► dᵢ ──resample with random signs──► thousands of gates through the real rule
                                                       ├─ floor        the tolerance that an unchanged model passes
                                                       ├─ detectable   the slowdown that fails
                                                       └─ false alarms at the worst ratio, exactly at the limit

The rule is the same for every tolerance but for a shift of the logarithms, so one simulation serves them all: what
counts is only how far, in logarithms, the true ratio lies from the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deploycomp.gate.sequential import FAIL, PASS, Look, outcomes

__all__ = ["Noise", "measure_noise"]

POWER = 0.95
"""Share of gates that must end as they should for "passes" and "detects"."""
GATES = 2000
"""Simulated gates for each share: 0.95 ± 0.01."""
MAD_TO_SD = 1.4826
"""Median absolute deviation of a normal distribution → its standard deviation."""
LARGEST_SHIFT = math.log(10)
"""A machine where a tenfold slowdown goes unnoticed has no figure."""
PRECISION = 1e-4
"""The search ends at a hundredth of a percent."""


@dataclass(frozen=True)
class Noise:
    """The noise of one number that is gated.

    Args:
        rounds: A/A rounds it comes from.
        spread: Standard deviation of log(candidate / baseline) of a round, by 1.4826 · MAD around 0.
        floor: The smallest tolerance that an unchanged model passes in 95 % of gates, as a fraction; None if none.
        margin: How far beyond the limit, as a factor less one, a ratio must be to FAIL in 95 % of gates; None if none.
        false_alarms: FAILs among `gates` simulated gates whose true ratio lies exactly at the limit.
        gates: Number of them.
    """

    rounds: int
    spread: float
    floor: float | None
    margin: float | None
    false_alarms: int
    gates: int = GATES

    def detectable(self, tolerance: float) -> float | None:
        """Return the smallest slowdown that FAILs in 95 % of gates with *tolerance*, as a fraction."""
        return None if self.margin is None else (1 + tolerance) * (1 + self.margin) - 1


def measure_noise(differences: Sequence[float], looks: Sequence[Look], *, hypotheses: int = 1, seed: int = 0) -> Noise:
    """Simulate gates from A/A rounds.

    Args:
        differences: log(second / first) of each round; its signs mean nothing and are drawn anew.
        looks: The plan of the gates, see `schedule`.
        hypotheses: How many numbers such a gate holds to a limit.
        seed: Of the resampling.
    """
    draw = np.random.default_rng(seed)
    sizes = np.abs(np.asarray(differences, np.float64))
    shape = (GATES, 1, looks[-1].rounds)
    values = draw.choice(sizes, shape) * draw.choice([-1.0, 1.0], shape)

    def share(verdict: str) -> Callable[[float], float]:
        """Share of gates with this verdict as the true ratio moves away from a limit of 0."""
        sign = 1 if verdict == FAIL else -1
        return lambda shift: _share(values + sign * shift, looks, hypotheses, verdict)

    return Noise(
        rounds=len(sizes),
        spread=MAD_TO_SD * float(np.median(sizes)),
        floor=_smallest(share(PASS)),
        margin=_smallest(share(FAIL)),
        false_alarms=round(GATES * share(FAIL)(0.0)),
    )


def _share(values: ArrayLike, looks: Sequence[Look], hypotheses: int, verdict: str) -> float:
    verdicts: NDArray[np.str_] = outcomes(values, 0.0, looks, hypotheses=hypotheses)[0]
    return float((verdicts == verdict).mean())


def _smallest(share: Callable[[float], float]) -> float | None:
    """The smallest shift at which *share*, which grows with it, reaches `POWER`, as a factor less one."""
    low, high = 0.0, LARGEST_SHIFT
    if share(high) < POWER:
        return None
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if share(middle) >= POWER else (middle, high)
    return math.expm1(high)
