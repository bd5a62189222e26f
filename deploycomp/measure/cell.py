"""One cell in the child: batches, warm-up, timed calls, the same input again, and a check of what was answered.

warm-up ──► timed: batch 0, 1, … 7, 0, 1, …  ──► repeated: 0, 0, 0, …  ──► fresh: 0', 0'', … ──► outputs compared

Fresh inputs have the size of batch 0 and tokens that no call has seen. What answers batch 0 faster than those answers
it from a cache, be it of one input or of all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deploycomp.measure.sampling import sample, warm_up
from deploycomp.measure.verify import Recorder, check_outputs, digest

if TYPE_CHECKING:
    from deploycomp.measure.engines import Engine

    Batch = dict[str, np.ndarray]

__all__ = ["FRESH", "POOL", "REPEAT_SHARE", "measure_cell", "pool", "runnable", "unseen", "why_skipped"]

POOL = 8
"""Distinct batches that a cell cycles through, so that no call repeats the one before."""

REPEAT_SHARE = 0.2
"""Of a block: how long the same input is repeated, to see whether it comes out of a cache."""

FRESH = 16
"""Fresh inputs at most: enough for a median, and no more calls than were repeated."""

TOKEN_BYTES = 8


def measure_cell(
    engine: Engine,
    shape: tuple[int, int],
    *,
    block_seconds: float,
    repeat: bool,
    stream: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Time one cell.

    Args:
        engine: The model.
        shape: Batch and sequence; the longest row of a stream.
        block_seconds: How long to time.
        repeat: Whether to time the same input again and again, too, and inputs of its size that no call has seen.
        stream: Batches of real rows as lists, instead of random tokens; they are passed through whole.

    Returns:
        samples_ns, warmup_calls, settled, digests of the outputs of the first batches, verified (batches whose timed
        outputs were compared), repeated_ns and fresh_ns (None where not asked for).

    Raises:
        VerificationFailed: A timed call answered otherwise than the same batch in the warm-up.
    """
    ready = pool(engine, shape, stream)
    cycle = len(ready) if stream is not None else 1
    before, timed = Recorder(engine.run, ready), Recorder(engine.run, ready)
    warmup = warm_up(before, block_seconds, cycle=cycle)
    samples = sample(timed, block_seconds, cycle=cycle)
    repeated, fresh = _repeat(engine, ready, REPEAT_SHARE * block_seconds) if repeat else (None, None)
    return {
        "samples_ns": samples,
        "warmup_calls": warmup.calls,
        "settled": warmup.settled,
        "repeated_ns": repeated,
        "fresh_ns": fresh,
        "verified": check_outputs(before.kept, timed.kept, exact=engine.exact),
        "digests": [digest(outputs) for outputs in before.kept],
    }


def _repeat(engine: Engine, ready: Sequence[Batch], seconds: float) -> tuple[list[int], list[int]]:
    repeated = sample(lambda _: engine.run(ready[0]), seconds)
    others = unseen(ready, count=min(FRESH, len(repeated)))
    return repeated, sample(lambda index: engine.run(others[index]), 0, cycle=len(others))  # each of them once


def unseen(batches: Sequence[Batch], *, count: int) -> list[Batch]:
    """Draw inputs of the size of the first batch, with its padding and other tokens of *batches*.

    Not seeded, so that a cache on disk has not seen them either.
    """
    first, draw = batches[0], random.Random()
    ids = first["input_ids"]
    real = first["attention_mask"] != 0 if "attention_mask" in first else np.ones_like(ids, bool)
    known = np.unique(np.concatenate([batch["input_ids"].ravel() for batch in batches]))
    return [
        {**first, "input_ids": np.where(real, known[_tokens(draw, ids.shape, len(known))], ids)} for _ in range(count)
    ]


def pool(engine: Engine, shape: tuple[int, int], stream: Sequence[Mapping[str, Any]] | None = None) -> list[Batch]:
    """Return the batches of a stream, or distinct random rows of full length.

    The latter are the same for every candidate of one vocabulary, in every block. `random` and not `numpy.random`,
    whose import would be a tenth of the child's start.
    """
    if stream is not None:
        return [{name: np.array(batch[name], np.int64) for name in engine.inputs} for batch in stream]
    draw = random.Random(f"{shape[0]}x{shape[1]}")
    constant = {"attention_mask": np.ones(shape, np.int64), "token_type_ids": np.zeros(shape, np.int64)}
    return [
        {
            name: _tokens(draw, shape, engine.vocabulary) if name == "input_ids" else constant[name]
            for name in engine.inputs
        }
        for _ in range(POOL)
    ]


def runnable(engine: Engine, request: Mapping[str, Any]) -> tuple[list[tuple[int, int]], list[dict[str, Any]]]:
    """Return the cells of a request that a model can run, and the others with reasons."""
    cells: list[tuple[int, int]] = []
    skipped: list[dict[str, Any]] = []
    for batch, sequence in request["cells"]:
        reason = None
        if not request.get("streams"):  # real rows were cut to what the model takes
            reason = why_skipped((batch, sequence), fixed=engine.fixed, max_length=engine.max_length)
        if reason:
            skipped.append({"batch_size": batch, "sequence_length": sequence, "reason": reason})
        else:
            cells.append((batch, sequence))
    return cells, skipped


def why_skipped(shape: tuple[int, int], *, fixed: tuple[int | None, int | None], max_length: int | None) -> str | None:
    """Return why a model cannot run a shape, or None where it can."""
    if max_length is not None and shape[1] > max_length:
        return f"the model takes at most {max_length} tokens"
    for name, wanted, has in zip(("batch", "sequence"), shape, fixed, strict=True):
        if has is not None and has != wanted:
            return f"the graph is fixed to {name} {has}"
    return None


def _tokens(draw: random.Random, shape: tuple[int, ...], vocabulary: int) -> np.ndarray:
    bits = np.frombuffer(draw.randbytes(math.prod(shape) * TOKEN_BYTES), np.uint64)
    return (bits % vocabulary).astype(np.int64).reshape(shape)
