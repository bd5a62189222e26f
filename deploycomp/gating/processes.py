"""Fresh processes → the numbers that are gated; where the baseline is stored, its numbers come from the file.

turns     baseline and candidate call by call in one process       latency: see `measure/alternate.py`
weighed   each alone in a process of its own                        peak memory
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploycomp.errors import UsageError
from deploycomp.gate.rounds import CANDIDATE, Quantity

if TYPE_CHECKING:
    from deploycomp.gate.stored import Stored
    from deploycomp.measure.rounds import Bench

__all__ = ["AgainstStored", "Processes"]

NS_PER_MS = 1_000_000

Numbers = Mapping[Quantity, float]


@dataclass
class Processes:
    """Measures both sides in fresh processes, and the reference kernel beside the candidate where that is wanted."""

    bench: Bench
    with_reference: bool = False
    reference: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Threads → milliseconds of the reference kernel, one a round."""
    answers: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict[tuple[str, int], list[Any]])
    """Side and threads → what each process answered."""
    latest: tuple[int, int] | None = None
    """Threads and round of `turns`."""
    turns: dict[str, Numbers] = field(default_factory=dict[str, Numbers])

    def __call__(self, side: str, threads: int, number: int) -> Numbers:
        """Measure one side in round *number*; who is asked first in a round is opened first where both take turns.

        Raises:
            UsageError: A model cannot run a shape.
        """
        if self.latest != (threads, number):
            self.turns, self.latest = self._take_turns(side, threads, number), (threads, number)
        weighed = self._kept(side, threads, self.bench.weigh(side, threads=threads, block=number))
        if side == CANDIDATE and self.with_reference:
            self.time_reference(threads, number)
        return {**self.turns[side], Quantity("memory", threads): float(weighed["peak_rss_bytes"])}

    def _take_turns(self, first: str, threads: int, number: int) -> dict[str, Numbers]:
        """Milliseconds of each shape: the first side's median, and the other's in proportion."""
        from deploycomp.measure.alternate import levels, rounds_of

        sides = list(self.bench.subjects)
        opened = sorted(sides, key=lambda side: side != first)
        answers = self.bench.alternate(opened, threads=threads, block=number)
        each = [self._kept(side, threads, answers[side]) for side in sides]
        found: dict[str, dict[Quantity, float]] = {side: {} for side in sides}
        for place, cell in enumerate(each[0]["cells"]):
            quantity = Quantity("latency", threads, cell["batch_size"], cell["sequence_length"])
            unit = statistics.median(cell["samples_ns"]) / NS_PER_MS
            for side, level in zip(sides, levels(rounds_of(each, place)).tolist(), strict=True):
                found[side][quantity] = unit * level
        return {side: dict(sorted(numbers.items(), key=lambda item: item[0].order)) for side, numbers in found.items()}

    def _kept(self, side: str, threads: int, answer: dict[str, Any]) -> dict[str, Any]:
        for cell in answer["skipped"]:
            raise UsageError(
                f"the {side} cannot run {cell['batch_size']}×{cell['sequence_length']}",
                why=cell["reason"],
                hint="choose --batch-size and --sequence-length that both can run",
            )
        self.answers.setdefault((side, threads), []).append(answer)
        return answer

    def time_reference(self, threads: int, number: int) -> float:
        """Time the reference kernel; round 0 is not kept, because it is not judged."""
        from deploycomp.measure.reference import measure_reference

        found = measure_reference(self.bench.plan.cpus[0])
        if number:
            self.reference.setdefault(threads, []).append(found)
        return found

    def check(self) -> list[str]:
        """Compare what the processes of each side answered to the same inputs.

        Returns:
            A warning for each shape where they differ and may, because several threads add in any order.

        Raises:
            VerificationFailed: They differ with one thread: what was timed is not one model.
        """
        from deploycomp.measure.result import check_digests

        return check_digests(self.bench, self.answers)


@dataclass
class AgainstStored:
    """Measures the candidate; the baseline's numbers are stored, scaled to how fast the machine is now.

    Each stored process is used once, in an order drawn anew: two runs of independent processes of the same spread have
    differences that are symmetric about the true ratio, which is all that the signed-rank test needs. Where the
    reference kernel ran then and runs now, each pair is taken in units of it.
    """

    processes: Processes
    stored: Stored
    wanted: Sequence[Quantity]
    seed: int

    def __post_init__(self) -> None:
        self.order = list(range(self.stored.rounds))
        random.Random(self.seed).shuffle(self.order)
        for quantity in self.wanted:
            if quantity.kind == "latency" and quantity not in self.stored.values:
                known = ", ".join(each.name for each in sorted(self.stored.values, key=lambda each: each.order))
                raise UsageError(f"the stored baseline lacks {quantity.name}", why=f"it has {known}")

    def __call__(self, side: str, threads: int, number: int) -> Numbers:
        """Measure one process of the candidate, or the reference kernel and scale the baseline's numbers by it."""
        known = [each for each in self.wanted if each.threads == threads and each in self.stored.values]
        if side == CANDIDATE:
            found = self.processes(side, threads, number)
            return {each: found[each] for each in known}
        place = self.order[max(number - 1, 0)]
        then = self.stored.reference.get(threads)
        speed = self.processes.time_reference(threads, number) / then[place] if then else 1.0
        return {each: self.stored.values[each][place] * (speed if each.kind == "latency" else 1.0) for each in known}
