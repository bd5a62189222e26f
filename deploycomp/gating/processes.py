"""Fresh processes → the numbers that are gated; where the baseline is stored, its numbers come from the file.

turns     baseline and candidate call by call in one process       latency: see `measure/alternate.py`
weighed   each alone in a process of its own                        peak memory
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploycomp.errors import UsageError
from deploycomp.gate.rounds import BASELINE, CANDIDATE, SIDES, Quantity

if TYPE_CHECKING:
    from deploycomp.gate.stored import Stored
    from deploycomp.measure.rounds import Bench

__all__ = ["AgainstStored", "Processes"]

NS_PER_MS = 1_000_000

Numbers = dict[Quantity, float]


@dataclass
class Processes:
    """Measures what is on the bench in fresh processes, and the reference kernel beside it where that is wanted."""

    bench: Bench
    with_reference: bool = False
    reference: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    """Threads → milliseconds of the reference kernel, one a round."""
    answers: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict[tuple[str, int], list[Any]])
    """Side and threads → what each process answered."""

    def __call__(self, first: str, threads: int, number: int) -> dict[str, Numbers]:
        """Measure round *number*; *first* is opened first where both take turns, and weighed first.

        Raises:
            UsageError: A model cannot run a shape.
        """
        sides = sorted(self.bench.subjects, key=lambda side: side != first)
        found = self._take_turns(sides, threads, number)
        for side in sides:
            weighed = self._kept(side, threads, self.bench.weigh(side, threads=threads, block=number))
            found[side][Quantity("memory", threads)] = float(weighed["peak_rss_bytes"])
        if self.with_reference:
            self.time_reference(threads, number)
        return found

    def _take_turns(self, opened: Sequence[str], threads: int, number: int) -> dict[str, Numbers]:
        """Milliseconds of each shape: the baseline's median, or the only side's, and the other's in proportion."""
        from deploycomp.measure.alternate import levels, rounds_of

        answers = self.bench.alternate(opened, threads=threads, block=number)
        sides = [side for side in SIDES if side in answers]
        each = [self._kept(side, threads, answers[side]) for side in sides]
        found: dict[str, Numbers] = {side: {} for side in sides}
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

    def __call__(self, first: str, threads: int, number: int) -> dict[str, Numbers]:
        """Measure a round of the candidate, and the reference kernel, which scales the baseline's numbers."""
        known = [each for each in self.wanted if each.threads == threads and each in self.stored.values]
        measure = {CANDIDATE: self._candidate, BASELINE: self._baseline}
        return {side: measure[side](known, threads, number) for side in sorted(SIDES, key=lambda side: side != first)}

    def _candidate(self, known: Sequence[Quantity], threads: int, number: int) -> Numbers:
        found = self.processes(CANDIDATE, threads, number)[CANDIDATE]
        return {each: found[each] for each in known}

    def _baseline(self, known: Sequence[Quantity], threads: int, number: int) -> Numbers:
        place = self.order[max(number - 1, 0)]
        then = self.stored.reference.get(threads)
        speed = self.processes.time_reference(threads, number) / then[place] if then else 1.0
        return {each: self.stored.values[each][place] * (speed if each.kind == "latency" else 1.0) for each in known}
