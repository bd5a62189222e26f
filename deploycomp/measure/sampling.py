"""Warm-up that ends by a rule, and the timed loop.

    windows of calls:  9.1  6.3  5.2  5.1  5.1 ► settled: the median stopped falling

Nothing here knows what a call does, and the clock is handed in, so both are tested on made-up times. Imported by the
child: `statistics` and `dataclasses` would cost its start 10 ms.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["MIN_SAMPLES", "Warmup", "no_garbage_collection", "sample", "timed", "warm_up"]

Clock = Callable[[], int]
"""Nanoseconds, monotonic."""

WINDOW_CALLS = 3
"""A window of the warm-up has at least this many calls, so that its median ignores one outlier."""
WINDOW_SHARE = 0.1
"""A window also lasts this share of a block: microsecond calls need more than three to mean anything."""
FALLING = 0.02
"""A window whose median is lower than the one before by more than this share is still falling."""
CAP_SECONDS = 1.0
CAP_BLOCKS = 2.0
"""Warm-up ends at the larger of one second and two blocks, settled or not; the result says which."""
MIN_SAMPLES = 3
"""Calls of a block, however slow they are: the median of fewer is one call's luck."""

NS = 1_000_000_000


class Warmup(NamedTuple):
    """How warm-up went."""

    calls: int
    settled: bool
    """Whether the median stopped falling before the time was up."""


def warm_up(
    call: Callable[[int], object], block_seconds: float, *, cycle: int = 1, clock: Clock = time.perf_counter_ns
) -> Warmup:
    """Call until the median of a window of calls is no longer below that of the window before.

    Args:
        call: What to warm up; gets 0, 1, 2, …
        block_seconds: Length of the block that follows, in seconds; windows and cap follow from it.
        cycle: Calls after which the inputs repeat, where they are not of one size: windows are whole cycles.
        clock: Nanoseconds.

    Returns:
        The number of calls, and whether they settled before the cap.
    """
    start = clock()
    cap = start + int(NS * max(CAP_SECONDS, CAP_BLOCKS * block_seconds))
    before: float | None = None
    calls = 0
    while True:
        opened, window = clock(), list[int]()
        while len(window) < WINDOW_CALLS or len(window) % cycle or clock() - opened < NS * WINDOW_SHARE * block_seconds:
            window.append(timed(call, calls, clock))
            calls += 1
            if clock() >= cap:
                return Warmup(calls, settled=False)
        now = _median(window)
        if before is not None and now >= before * (1 - FALLING):
            return Warmup(calls, settled=True)
        before = now


def sample(
    call: Callable[[int], object],
    seconds: float,
    *,
    cycle: int = 1,
    clock: Clock = time.perf_counter_ns,
) -> list[int]:
    """Time single calls for *seconds*, at least `MIN_SAMPLES` of them, without garbage collection between.

    Args:
        call: What to time; gets 0, 1, 2, …
        seconds: After this time no new cycle begins.
        cycle: Calls after which the inputs repeat, where they are not of one size: only whole cycles are timed.
        clock: Nanoseconds.

    Returns:
        The duration of each call in nanoseconds, in order.
    """
    samples: list[int] = []
    with no_garbage_collection():
        end = clock() + int(NS * seconds)
        while len(samples) < MIN_SAMPLES or len(samples) % cycle or clock() < end:
            samples.append(timed(call, len(samples), clock))
    return samples


def _median(values: Sequence[int]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def timed(call: Callable[[int], object], index: int, clock: Clock = time.perf_counter_ns) -> int:
    """Return how long one call takes, in nanoseconds."""
    start = clock()
    call(index)
    return clock() - start


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect once, and then not while something is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
