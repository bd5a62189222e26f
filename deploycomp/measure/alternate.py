"""Several graphs call by call in one process: how much faster one is than another, on a machine that others use too.

    round 1:  b b  a a  c c        twice each; the second call is timed, the first brings weights back into the caches
    round 2:  c c  b b  a a

A neighbour slows whole rounds. What the calls of a round have in common is taken out, and then each graph's median is
left: median polish of the logarithms (Tukey 1977, chapter 11). Fresh processes cannot do that: in them, the same
machine a second later is another one.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LEAST_ROUNDS", "alternate", "levels"]

LEAST_ROUNDS = 8
"""However long they take: the median of fewer is one of the calls that were disturbed."""
SWEEPS = 5
"""Of the polish; it settles in two or three."""


def alternate(request: dict[str, Any]) -> dict[str, Any]:
    """Open the graphs of a request, and time them in turns.

    Args:
        request: As for `worker.py`, with `models` instead of one; of its cells the first.

    Returns:
        `rounds_ns`, a list for each round with nanoseconds by place of the graph.

    Raises:
        InputRefused, EnvironmentFailed: A graph cannot be opened or run.
    """
    from deploycomp.measure.cell import pool
    from deploycomp.measure.engines import open_engine

    engines = [open_engine({**request, **each}) for each in request["models"]]
    batches = [pool(engine, tuple(request["cells"][0])) for engine in engines]
    draw = random.Random(request["order"])
    places = list(range(len(engines)))
    rounds: list[list[int]] = []
    end = time.perf_counter() + request["block_seconds"]
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        draw.shuffle(places)
        took = [0] * len(engines)
        for place in places:
            engine, ready = engines[place], batches[place]
            engine.run(ready[(len(rounds) + 1) % len(ready)])
            batch = ready[len(rounds) % len(ready)]
            start = time.perf_counter_ns()
            engine.run(batch)
            took[place] = time.perf_counter_ns() - start
        rounds.append(took)
    return {"rounds_ns": rounds}


def levels(rounds: np.ndarray) -> np.ndarray:
    """Return how long each graph takes, in times of the first.

    Args:
        rounds: [rounds, graphs], positive.
    """
    import numpy as np

    logs = np.log(np.asarray(rounds, dtype=np.float64))
    shared = np.zeros((len(logs), 1))
    graphs = np.zeros(logs.shape[1])
    for _ in range(SWEEPS):
        graphs = np.median(logs - shared, axis=0)
        shared = np.median(logs - graphs, axis=1, keepdims=True)
    return np.exp(graphs - graphs[0])
