"""Whether timed calls answered right: outputs of the warm-up are the reference, and every process must give the same.

    warm-up calls 0, 1, 2, …  ──keep──► reference ──round, SHA-256──► digests, compared between processes
    timed calls   0, 1, 2, …  ──keep──► compared with the reference of the same batch, after the clock has stopped

Imported by the child. One thread on a CPU adds in one order, so its outputs must be the same bits; more threads and a
GPU may add in another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deploycomp.errors import VerificationFailed

if TYPE_CHECKING:
    Outputs = Sequence[np.ndarray]

__all__ = ["KEEP_BYTES", "RELATIVE_TOLERANCE", "Recorder", "check_outputs", "digest"]

KEEP_BYTES = 8_000_000
"""Outputs that the warm-up and the timed calls may each keep: they count as the process's memory."""

RELATIVE_TOLERANCE = 1e-5
"""Of the largest output, where the order of additions may differ: some hundred roundings of float32 (6e-8)."""

DIGITS = 3
"""Decimals of an output over the largest one that a digest sees."""


class Recorder:
    """A call that keeps the outputs of its first calls, one for each batch, up to `KEEP_BYTES`.

    Args:
        run: Batch → outputs.
        batches: Taken in turn.
    """

    def __init__(self, run: Callable[[Any], Outputs], batches: Sequence[Any]):
        self.kept: list[Outputs] = []
        self._run, self._batches, self._room, self._open = run, batches, KEEP_BYTES, True

    def __call__(self, index: int) -> None:
        """Run batch *index*, modulo their number; the first call gets 0, the next 1, and so on."""
        outputs = self._run(self._batches[index % len(self._batches)])
        if self._open:
            self._keep(outputs)

    def _keep(self, outputs: Outputs) -> None:
        self._room -= sum(each.nbytes for each in outputs)
        if self._room >= 0 or not self.kept:
            self.kept.append(outputs)
        self._open = self._room > 0 and len(self.kept) < len(self._batches)


def check_outputs(reference: Sequence[Outputs], timed: Sequence[Outputs], *, exact: bool) -> int:
    """Compare what timed calls answered with what the same batches were answered before timing.

    Args:
        reference: For each batch its outputs, in the warm-up.
        timed: For each batch its outputs, in a timed call.
        exact: Whether every bit must be the same; else each output within `RELATIVE_TOLERANCE` of the largest.

    Returns:
        How many batches were compared.

    Raises:
        VerificationFailed: An output differs.
    """
    pairs = list(zip(reference, timed, strict=False))
    for batch, (expected, got) in enumerate(pairs):
        for place, (one, other) in enumerate(zip(expected, got, strict=True)):
            if not _same(one, other, exact=exact):
                raise VerificationFailed(
                    "a timed call answered otherwise than an untimed one",
                    where=f"batch {batch}, output {place}",
                    why=f"largest difference {_difference(one, other):.3g}",
                    hint="what was timed is not what the model computes: look for caching and for races",
                )
    return len(pairs)


def digest(outputs: Outputs) -> str:
    """Return SHA-256, in hex, of outputs divided by their largest magnitude and rounded to three decimals."""
    import hashlib

    state = hashlib.sha256()
    for each in outputs:
        values = np.asarray(each, dtype=np.float64)
        largest = np.max(np.abs(values), initial=0.0)
        rounded = np.round(values / largest, DIGITS) if np.isfinite(largest) and largest > 0 else values
        state.update(repr(values.shape).encode())
        state.update((rounded + 0.0).astype(np.float32).tobytes())  # + 0.0: minus zero is zero
    return state.hexdigest()


def _same(one: np.ndarray, other: np.ndarray, *, exact: bool) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if exact:
        return one.tobytes() == other.tobytes()
    scale = float(np.max(np.abs(one[np.isfinite(one)]), initial=0.0))
    return bool(np.allclose(one, other, rtol=0, atol=RELATIVE_TOLERANCE * scale, equal_nan=True))


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.max(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)), initial=0.0))
