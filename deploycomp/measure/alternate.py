"""Several graphs call by call in one process: how much faster one is than another, on a machine that others use too.

    round 1:  b b  a a  c c        twice each; the first call, of another batch, brings the weights back
    round 2:  c c  b b  a a

A neighbour slows whole rounds. What the calls of a round have in common is taken out, and then each graph's median is
left: median polish of the logarithms (Tukey 1977, chapter 11). Fresh processes cannot do that: in them, the same
machine a second later is another one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deploycomp.measure.sampling import no_garbage_collection, timed

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.measure.engines import Engine

__all__ = ["alternate", "levels", "rounds_of"]

SWEEPS = 5
"""Of the polish; it settles in two or three."""


def alternate(request: dict[str, Any]) -> dict[str, Any]:
    """Open the graphs of a request in their order, and time them in turns.

    Args:
        request: As for `worker.py`, with `models` instead of one, and `least_rounds`, however long they take.

    Returns:
        `answers`: for each graph `cells` (`samples_ns`, one a round; `digests`, `verified`) and `skipped` cells.

    Raises:
        InputRefused, EnvironmentFailed: A graph cannot be opened or run.
        VerificationFailed: A timed call answered otherwise than an untimed one.
    """
    from deploycomp.measure.cell import runnable
    from deploycomp.measure.engines import open_engine

    engines = [open_engine({**request, **each}) for each in request["models"]]
    answers: list[dict[str, Any]] = [{"cells": [], "skipped": runnable(engine, request)[1]} for engine in engines]
    if any(each["skipped"] for each in answers):
        return {"answers": answers}
    draw = random.Random(request["order"])
    for batch, sequence in request["cells"]:
        measured = _take_turns(engines, (batch, sequence), request, draw)
        for answer, cell in zip(answers, measured, strict=True):
            answer["cells"].append({"batch_size": batch, "sequence_length": sequence, **cell})
    return {"answers": answers}


def _take_turns(
    engines: Sequence[Engine], shape: tuple[int, int], request: Mapping[str, Any], draw: random.Random
) -> list[dict[str, Any]]:
    sides = [_Side(engine, shape) for engine in engines]
    order = list(sides)
    done = 0
    with no_garbage_collection():
        end = time.perf_counter() + request["block_seconds"]
        while done < request["least_rounds"] or time.perf_counter() < end:
            draw.shuffle(order)
            for side in order:
                side.turn(done)
            done += 1
    return [side.answer() for side in sides]


class _Side:
    """One graph, its calls and what they took."""

    def __init__(self, engine: Engine, shape: tuple[int, int]):
        from deploycomp.measure.cell import pool
        from deploycomp.measure.verify import Recorder

        ready = pool(engine, shape)
        self.exact, self.samples = engine.exact, list[int]()
        self.before = Recorder(engine.run, [*ready[1:], ready[0]])
        self.timed = Recorder(engine.run, ready)

    def turn(self, number: int) -> None:
        self.before(number)
        self.samples.append(timed(self.timed, number))

    def answer(self) -> dict[str, Any]:
        from deploycomp.measure.verify import check_outputs, digest

        return {
            "samples_ns": self.samples,
            "verified": check_outputs(self.before.kept, self.timed.kept[1:], exact=self.exact),  # it is a batch ahead
            "digests": [digest(outputs) for outputs in self.timed.kept],
        }


def rounds_of(answers: Sequence[dict[str, Any]], cell: int = 0) -> np.ndarray:
    """Return nanoseconds as [rounds, graphs] of one cell of `answers`."""
    import numpy as np

    return np.array([each["cells"][cell]["samples_ns"] for each in answers], dtype=np.float64).T


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
