"""A baseline that was measured earlier: what a stored JSON says, whichever command wrote it.

an earlier gate, `gate calibrate`   its candidate: one value a round, and the reference kernel where it ran
`deploycomp benchmark --json`       its one candidate: one value a block
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from deploycomp.errors import InputRefused, UsageError
from deploycomp.gate.fingerprint import fingerprint
from deploycomp.gate.rounds import Quantity

__all__ = ["Stored", "read_stored", "write_samples"]

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """What is known of a baseline that is not measured again.

    Args:
        values: Number → one value a process.
        reference: Threads → milliseconds of the reference kernel beside each of them; empty where it did not run.
        bytes: Size on disk, None where it is not said.
        fingerprint: Of the machine and the setting.
    """

    values: dict[Quantity, list[float]]
    reference: dict[int, list[float]]
    bytes: int | None
    fingerprint: dict[str, Any]

    @property
    def rounds(self) -> int:
        """Processes of which everything is known."""
        return min(len(each) for each in (*self.values.values(), *self.reference.values()))


def write_samples(
    values: Mapping[str, Mapping[Quantity, list[float]]],
    reference: Mapping[int, list[float]],
    **more: Any,
) -> dict[str, Any]:
    """Return the `samples` of a result, which `read_stored` reads back.

    Args:
        values: Side → number → one value a round.
        reference: Threads → milliseconds of the reference kernel, one a round.
        more: What else shall stand there.
    """
    numbers = [
        {
            "kind": each.kind,
            "threads": each.threads,
            "batch_size": each.batch_size,
            "sequence_length": each.sequence_length,
            "unit": each.unit,
            **{side: values[side][each] for side in values},
        }
        for each in next(iter(values.values()), {})
    ]
    return {"numbers": numbers, "reference_ms": {str(count): each for count, each in reference.items()}, **more}


def read_stored(data: Any, *, where: str) -> Stored:
    """Read a stored baseline.

    Args:
        data: The parsed JSON.
        where: The file, for errors.

    Raises:
        InputRefused: It is not the JSON of a gate or a benchmark.
        UsageError: It holds several candidates, or none that was measured.
    """
    try:
        if not isinstance(data, Mapping):
            raise TypeError("it is not an object")
        found = cast("Json", data)
        stored = _benchmark(found, where) if "cells" in found else _gate(found)
        _check(stored)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputRefused(
            "this is not the JSON of a gate or a benchmark",
            where=where,
            why=f"{type(error).__name__}: {error}",
            hint="deploycomp gate calibrate ARTIFACT --output FILE writes one",
        ) from None
    if not stored.values:
        raise UsageError("the stored baseline holds no measurements", where=where)
    return stored


def _check(stored: Stored) -> None:
    for each in (*stored.values.values(), *stored.reference.values()):
        if not all(value > 0 for value in each):
            raise ValueError("a measurement is not above 0")


def _gate(data: Json) -> Stored:
    samples = data["samples"]
    shape = ("kind", "threads", "batch_size", "sequence_length")
    values = {
        Quantity(*(each[name] for name in shape)): [float(value) for value in each["candidate"]]
        for each in samples["numbers"]
    }
    reference = {int(count): [float(value) for value in each] for count, each in samples["reference_ms"].items()}
    bytes_ = data.get("bytes") or next(
        (each["candidate"] for each in data.get("checks", []) if each["kind"] == "size"), None
    )
    return Stored(values, reference, bytes_, dict(data["context"]["fingerprint"]))


def _benchmark(data: Json, where: str) -> Stored:
    names = list(data["candidates"])
    if len(names) != 1:
        raise UsageError(
            f"the stored benchmark holds {len(names)} candidates, a baseline is one",
            where=where,
            hint="measure the baseline alone: deploycomp benchmark ARTIFACT --blocks 20 --json",
        )
    cells = data["cells"]
    values = {
        Quantity("latency", cell["threads"], cell["batch_size"], cell["sequence_length"]): [
            float(value) for value in cell["block_p50_ms"]
        ]
        for cell in cells
    }
    threads = sorted({cell["threads"] for cell in cells})
    return Stored(values, {}, data["candidates"][names[0]]["bytes"], fingerprint(data["context"], threads))
