"""How fast the processor is just now: a product of small matrices beside every timed call.

    pace  call  pace  call  pace  …          each call between two of them

A neighbour on the other half of a core, or a clock that falls, slows both. The matrices stay in the first-level cache,
and the first product is not timed, so that no model can slow them by what it leaves behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

__all__ = ["Pace"]

SIDE = 48
"""Three float32 matrices of it are 27 KB."""
SHARE = 0.1
"""Of the call before: longer calls are disturbed for longer."""
LEAST_NS = 300_000


class Pace:
    """Times the work."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns):
        """Prepare the matrices.

        Args:
            clock: Nanoseconds, monotonic.
        """
        self.clock = clock
        self.left = np.linspace(-1, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
        self.out = np.empty_like(self.left)

    def __call__(self, took: int = 0) -> float:
        """Return nanoseconds of one product.

        Args:
            took: Nanoseconds of the call before it, of which a share is spent.
        """
        np.matmul(self.left, self.left, out=self.out)
        start, enough = self.clock(), max(LEAST_NS, SHARE * took)
        products = 0
        while True:
            np.matmul(self.left, self.left, out=self.out)
            products += 1
            passed = self.clock() - start
            if passed >= enough:
                return passed / products
