"""Parity: does the ONNX graph compute what the source model computes, at shapes that export never saw?

Probes are real text cut to the lengths at which exports go wrong: one token, a few, many, the maximum; one row and
three; padded and not; with one segment and with two. Answers at padded positions mean nothing and are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deploycomp.errors import VerificationFailed

__all__ = ["TOLERANCES", "Probe", "Reference", "Tolerance", "check", "make_probes"]

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Array], tuple[str, ...]], list[Array]]


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost, and how it is measured."""

    limit: float
    measure: Literal["largest", "overall"]

    @property
    def words(self) -> str:
        """The measure, spelled out for the report."""
        if self.measure == "largest":
            return "max |difference| / max(1, max |reference|), worst probe"
        return "‖difference‖ / ‖reference‖ over all probes together"


TOLERANCES = {
    # Summation order and fused kernels: about 1e-6 is seen on 6 to 24 layers, a wrong graph is off by 1e-2 and more.
    "fp32": Tolerance(1e-4, "largest"),
    # 11 bits of mantissa through the depth of the model: 1e-3 to 1e-2 is seen.
    "fp16": Tolerance(5e-2, "largest"),
    # Rounding noise is part of INT8; its size on a task is what `evaluate` measures. A wrong scale, axis or zero
    # point gives 1 and more here; sound INT8 gives 0.01 to 0.1.
    "int8": Tolerance(0.3, "overall"),
}
"""The one table of tolerances, by precision."""

BATCHES = (1, 3)
LENGTHS = (1, 7, 64)
LONGEST_PROBE = 1024
"""Attention needs memory in the square of the length; longer models are checked to here, and the report says so."""

PROBE_TEXT = (
    "The quick brown fox jumps over the lazy dog near the old bridge, and nobody in the small town remembers why. "
    "She paid 42.50 for two tickets on Monday, 3 March, although the film had terrible reviews. What a wonderful, "
    "moving performance! I would not recommend this hotel: the room was cold and the staff were rude. Can you book "
    "a table for four in Berlin tomorrow at 7 pm? Scientists reported that the new material stores twice as much "
    "energy as lithium cells. Turn off the lights in the kitchen, please. The committee, however, rejected the "
    "proposal by a narrow margin; its chair, Dr. Amara Lindqvist, resigned soon afterwards."
)
"""Written for this purpose; ordinary text keeps activations in the range that the model was trained for."""


@dataclass(frozen=True)
class Probe:
    """One batch of inputs, int64 [batch, length] each."""

    feeds: dict[str, Array]
    padded: bool
    segments: int

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, length)."""
        batch, length = self.feeds["input_ids"].shape
        return batch, length


@dataclass(frozen=True)
class Reference:
    """Probes with the answers of the model that is to be matched, one list of outputs a probe."""

    probes: tuple[Probe, ...]
    outputs: tuple[str, ...]
    answers: tuple[tuple[Array, ...], ...]
    note: str | None = None

    @staticmethod
    def record(run: Run, probes: Sequence[Probe], outputs: tuple[str, ...], note: str | None = None) -> Reference:
        """Run the model to be matched over all probes."""
        return Reference(tuple(probes), outputs, tuple(tuple(run(p.feeds, outputs)) for p in probes), note)


def make_probes(
    ids: Sequence[int],
    inputs: tuple[str, ...],
    *,
    max_length: int,
    pad_token_id: int,
    first: int | None = None,
    last: int | None = None,
    batch: int | None = None,
    sequence: int | None = None,
) -> list[Probe]:
    """Cut a long list of token ids into probes.

    Args:
        ids: Token ids of `PROBE_TEXT` without special tokens, at least one.
        inputs: Names of the graph's inputs.
        max_length: Positions that the model has.
        pad_token_id: What fills padded positions.
        first: The token that starts a row ([CLS]), if there is one.
        last: The token that ends a row ([SEP]), if there is one.
        batch: The one batch size, where the graph has it fixed.
        sequence: The one length, where the graph has it fixed.
    """
    longest = min(max_length, LONGEST_PROBE)
    lengths = [sequence] if sequence else [*(each for each in LENGTHS if each < longest), longest]
    two_segments = "token_type_ids" in inputs
    probes: list[Probe] = []
    for length in lengths:
        for rows in [batch] if batch else BATCHES:
            for padded in (False, True):
                if padded and length == 1:
                    continue
                if length > max(LENGTHS) and not sequence and padded != (rows > 1):
                    continue  # the longest are the dearest: one row unpadded, three rows padded
                for segments in (1, 2) if two_segments and length > 1 else (1,):
                    if segments == 2 and length > max(LENGTHS) and not sequence:
                        continue
                    probes.append(_probe(ids, inputs, rows, length, padded, segments, pad_token_id, first, last))
    return probes


def _probe(
    ids: Sequence[int],
    inputs: tuple[str, ...],
    rows: int,
    length: int,
    padded: bool,  # noqa: FBT001  private, always named by position above
    segments: int,
    pad: int,
    first: int | None,
    last: int | None,
) -> Probe:
    tokens = np.full((rows, length), pad, np.int64)
    mask = np.zeros((rows, length), np.int64)
    types = np.zeros((rows, length), np.int64)
    for row in range(rows):
        # Every row has another length, the first of several the whole one; a single padded row loses a third.
        real = length if not padded or (rows > 1 and row == 0) else max(1, length - (row + 1) * max(1, length // 4))
        cut = [ids[(row * 17 + position) % len(ids)] for position in range(real)]
        if first is not None and real > 1:
            cut[0] = first
        if last is not None and real > 2:  # room for both and one token between
            cut[-1] = last
        tokens[row, :real], mask[row, :real] = cut, 1
        if segments == 2:
            types[row, real // 2 : real] = 1
    named = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    return Probe({name: named[name] for name in inputs}, padded, segments)


def check(run: Run, reference: Reference, precision: str, *, stage: str) -> dict[str, Any]:
    """Compare a graph's answers with the reference and fail when the worst is beyond the tolerance.

    Args:
        run: Runs the graph: (feeds, output names) to arrays.
        reference: What the answers must be.
        precision: `fp32`, `fp16` or `int8`, a key of `TOLERANCES`.
        stage: The step that is checked, for the report.

    Returns:
        Number of checks and, for each output, the error, the tolerance, and where it was worst.

    Raises:
        VerificationFailed: Beyond tolerance, another shape, or not finite.
    """
    tolerance = TOLERANCES[precision]
    errors: dict[str, list[tuple[float, float, float]]] = {name: [] for name in reference.outputs}
    for probe, expected in zip(reference.probes, reference.answers, strict=True):
        for name, want, got in zip(reference.outputs, expected, run(probe.feeds, reference.outputs), strict=True):
            errors[name].append(_compare(name, want, got, probe, stage))
    outputs = {name: _summary(each, tolerance, reference.probes) for name, each in errors.items()}
    for name, each in outputs.items():
        if not each["worst"] <= tolerance.limit:
            raise VerificationFailed(
                f"the {precision} graph does not compute what the source model computes",
                where=f"output {name}, batch x length {each['shape']}, {'padded' if each['padded'] else 'unpadded'}",
                why=f"{tolerance.words} is {each['worst']:.3g}, allowed is {tolerance.limit:g}",
                hint="nothing was written; please report the model's architecture",
            )
    facts: dict[str, Any] = {
        "stage": stage,
        "precision": precision,
        "checks": len(reference.probes) * len(reference.outputs),
        "outputs": outputs,
    }
    if reference.note:
        facts["note"] = reference.note
    return facts


def _compare(name: str, want: Array, got: Array, probe: Probe, stage: str) -> tuple[float, float, float]:
    """(largest difference over scale, sum of squared differences, sum of squared reference) of one probe."""
    where = f"{stage}: output {name} at batch x length {probe.shape}"
    if want.shape != got.shape:
        raise VerificationFailed(f"an output has shape {got.shape}, the source model gives {want.shape}", where=where)
    if not np.isfinite(got).all():
        raise VerificationFailed("an output is not finite", where=where)
    if want.ndim >= 2 and want.shape[:2] == probe.shape:  # one answer a token: padded positions mean nothing
        real = probe.feeds["attention_mask"].astype(bool)
        want, got = want[real], got[real]
    difference = got.astype(np.float64) - want.astype(np.float64)
    scale = max(1.0, float(np.abs(want).max(initial=0.0)))
    return (
        float(np.abs(difference).max(initial=0.0)) / scale,
        float((difference**2).sum()),
        float((want.astype(np.float64) ** 2).sum()),
    )


def _summary(
    errors: list[tuple[float, float, float]], tolerance: Tolerance, probes: tuple[Probe, ...]
) -> dict[str, Any]:
    largest = int(np.argmax([each[0] for each in errors]))
    if tolerance.measure == "largest":
        worst = errors[largest][0]
    else:
        worst = float(np.sqrt(sum(each[1] for each in errors) / max(sum(each[2] for each in errors), 1e-30)))
    return {
        "worst": float(f"{worst:.3g}"),
        "tolerance": tolerance.limit,
        "measure": tolerance.words,
        "shape": list(probes[largest].shape),
        "padded": probes[largest].padded,
    }
