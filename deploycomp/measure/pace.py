"""How fast the processor is just now: a product of small matrices beside every timed call.

    pace  call  pace  call  pace  …          each call between two of them

A neighbour on the other half of a core, or a clock that falls, slows both. The matrices stay in the first-level cache,
and the first product is not timed, so that no model can slow them by what it leaves behind.

Where two models are compared, what a neighbour costs both is taken out (a control variate): t · (p₀ / p)^0.75, t a
call, p the product beside it, p₀ that of the first process of all. On a machine whose cores were shared with others,
processes of one model then spread half as wide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Pace", "at_one_pace", "pace_of"]

SIDE = 48
"""Three float32 matrices of it are 27 KB."""
SHARE = 0.1
"""Of the call before: longer calls are disturbed for longer."""
LEAST_NS = 300_000
WEIGHT = 0.75
"""What slows the product by 1 % slows a model by about so much (`benchmarks/gate/run.py` prints the spread with and
without); 1 would carry the noise of short products over to calls that outlast them."""


class Pace:
    """Times the work."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns):
        """Prepare the matrices.

        Args:
            clock: Nanoseconds, monotonic.
        """
        import numpy as np

        left = np.linspace(-1, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
        out = np.empty_like(left)
        self.clock, self.product = clock, lambda: np.matmul(left, left, out=out)

    def __call__(self, took: int = 0) -> float:
        """Return nanoseconds of one product.

        Args:
            took: Nanoseconds of the call before it, of which a share is spent.
        """
        self.product()
        start, enough = self.clock(), max(LEAST_NS, SHARE * took)
        products = 0
        while True:
            self.product()
            products += 1
            passed = self.clock() - start
            if passed >= enough:
                return passed / products


def pace_of(answer: Mapping[str, Any]) -> float | None:
    """Return nanoseconds of a product while a child measured, None where nobody asked."""
    paces = [each for cell in answer["cells"] for each in cell["pace_ns"] or ()]
    return statistics.median(paces) if paces else None


def at_one_pace(cell: Mapping[str, Any], pace: float | None) -> Sequence[float]:
    """Return nanoseconds of each call of a measured cell, had a product taken *pace* nanoseconds beside it."""
    if pace is None or not cell["pace_ns"]:
        return cell["samples_ns"]
    return [call * (pace / now) ** WEIGHT for call, now in zip(cell["samples_ns"], cell["pace_ns"], strict=True)]
