"""Rounds of a baseline and a candidate until a look decides or the budget ends.

    round 0        both once, not judged: warms the page cache, and its time says how many rounds the budget holds
    plan           the looks; it depends on round 0 alone, so nothing that is judged has a say in it
    round 1, 2, …  fresh processes; a fair coin draws for every round who comes first
    look           fail or pass: stop; else on

What is measured, this file does not know: it is handed a function that measures a round.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deploycomp.errors import UsageError
from deploycomp.gate.sequential import INCONCLUSIVE, Finding, Look, decide, least_rounds, overall, schedule

__all__ = ["BASELINE", "CANDIDATE", "SIDES", "Played", "Quantity", "Rules", "play"]

SIDES = BASELINE, CANDIDATE = "baseline", "candidate"

MAX_ROUNDS = 200
"""More rounds narrow an interval by nothing that a person would wait for."""
OVERTIME = 1.5
"""Rounds that take longer than planned may stretch the budget by this factor, then the gate ends undecided."""
PATIENCE = 3
"""A budget is refused only where round 0 says that it is this many times too short: it may have met a bad moment."""


@dataclass(frozen=True)
class Quantity:
    """A number that is measured once a round for each side, and gated."""

    kind: Literal["latency", "memory"]
    threads: int
    batch_size: int | None = None
    sequence_length: int | None = None

    @property
    def name(self) -> str:
        """What it is called in a report, unique in one gate."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        if self.kind == "memory":
            return f"peak memory, {threads}"
        return f"latency, {threads}, {self.batch_size}×{self.sequence_length}"

    @property
    def order(self) -> tuple[int, ...]:
        """What reports sort by: threads, then shapes, then memory."""
        return (self.threads, self.kind == "memory", self.batch_size or 0, self.sequence_length or 0)

    @property
    def unit(self) -> str:
        """Of its values."""
        return "bytes" if self.kind == "memory" else "ms"

    @property
    def cell(self) -> dict[str, int | None] | None:
        """Where it was measured; None for a process as a whole."""
        if self.kind == "memory":
            return None
        return {"threads": self.threads, "batch_size": self.batch_size, "sequence_length": self.sequence_length}


Measure = Callable[[str, int, int], Mapping[str, Mapping[Quantity, float]]]
"""(who comes first, threads, round) → each number of both sides, above 0."""


@dataclass(frozen=True)
class Rules:
    """How sure the gate must be, and how long it may take.

    Args:
        false_alarm: Probability of FAIL where every ratio is within its limit, over all numbers and looks.
        missed: Probability of PASS where one is not.
        budget: Seconds for measuring.
    """

    false_alarm: float = 0.001
    missed: float = 0.05
    budget: float = 60.0

    def __post_init__(self) -> None:
        for name in ("false_alarm", "missed"):
            if not 0 < getattr(self, name) < 0.5:
                raise UsageError(f"{name} is a probability above 0 and below 0.5, not {getattr(self, name):g}")
        if not 0 < self.budget < math.inf:
            raise UsageError(f"the budget is a number of seconds above 0, not {self.budget:g}")


@dataclass
class Played:
    """Everything that was measured and decided."""

    limits: dict[Quantity, float]
    looks: tuple[Look, ...]
    round_seconds: float
    """Of round 0."""
    values: dict[str, dict[Quantity, list[float]]]
    """"baseline" and "candidate" → number → one value a round."""
    first: dict[int, list[str]]
    """Threads → who was measured first, one entry a round."""
    findings: dict[Quantity, Finding] = field(default_factory=dict[Quantity, Finding])
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What each look saw, as plain values."""

    @property
    def rounds(self) -> int:
        """Rounds that were measured, round 0 aside."""
        return max((len(each) for each in self.first.values()), default=0)

    def differences(self, quantity: Quantity) -> list[float]:
        """log(candidate / baseline) of each round."""
        pairs = zip(self.values[CANDIDATE][quantity], self.values[BASELINE][quantity], strict=True)
        return [math.log(above / below) for above, below in pairs]

    def look(self, look: Look) -> str:
        """Judge what was measured so far; return the overall verdict."""
        found = decide([self.differences(each) for each in self.limits], list(self.limits.values()), look)
        self.findings = dict(zip(self.limits, found, strict=True))
        said = [{"name": each.name, **_plain(finding)} for each, finding in self.findings.items()]
        verdict = overall([each.verdict for each in found])
        self.seen.append(
            {"rounds": look.rounds, "alpha": look.alpha, "beta": look.beta, "verdict": verdict, "saw": said}
        )
        return verdict


def play(
    measure: Measure,
    limit: Callable[[Quantity], float],
    rules: Rules,
    *,
    threads: Sequence[int],
    seed: int,
    most: int = MAX_ROUNDS,
    to_the_end: bool = False,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[str, float], None] | None = None,
) -> Played:
    """Measure round after round, and look when the plan says so.

    Args:
        measure: Measures a round.
        limit: The tolerance of each number, as a fraction.
        rules: See there.
        threads: Thread counts; each is measured, and has its own coin, in every round.
        seed: Of the coins. Draw it anew for every gate: the coins are what the false-alarm rate rests on.
        most: Rounds at most, whatever the budget holds.
        to_the_end: Measure all rounds that the plan has, and do not look.
        clock: Seconds.
        progress: Called with a message and the share of the planned rounds.

    Raises:
        UsageError: The budget holds too few rounds to decide anything.
    """
    start, draw = clock(), random.Random(seed)
    trial = [measure(BASELINE, count, 0)[BASELINE] for count in threads]
    round_seconds = clock() - start
    limits = {quantity: limit(quantity) for each in trial for quantity in each}
    looks = _plan(rules, round_seconds, most=most, hypotheses=len(limits))
    empty = {side: {quantity: list[float]() for quantity in limits} for side in SIDES}
    played = Played(limits, looks, round_seconds, empty, {count: [] for count in threads})
    planned = {look.rounds: look for look in looks}
    for number in range(1, looks[-1].rounds + 1):
        for count in threads:
            first = SIDES[draw.random() >= 0.5]
            played.first[count].append(first)
            for side, numbers in measure(first, count, number).items():
                for quantity, value in numbers.items():
                    played.values[side][quantity].append(value)
        if progress:
            progress(_message(played, number), number / looks[-1].rounds)
        if to_the_end:
            continue
        if number in planned and played.look(planned[number]) != INCONCLUSIVE:
            break
        if clock() - start > OVERTIME * rules.budget and number not in planned:
            played.look(Look(number, 0.0, 0.0))  # spends nothing and decides nothing: it only says what is known
            break
    return played


def _plan(rules: Rules, round_seconds: float, *, most: int, hypotheses: int) -> tuple[Look, ...]:
    affordable = min(most, MAX_ROUNDS, int(rules.budget / max(round_seconds, 1e-9)) - 1)
    need = least_rounds(hypotheses=hypotheses, false_alarm=rules.false_alarm, missed=rules.missed)
    if PATIENCE * affordable < need:
        raise UsageError(
            f"a budget of {rules.budget:g} s is too short to decide anything",
            why=f"a round takes {round_seconds:.1f} s here, and it takes {need} of them after the first",
            hint=f"--budget {math.ceil(1.5 * (need + 1) * round_seconds)}, or fewer shapes",
        )
    return schedule(max(affordable, need), hypotheses=hypotheses, false_alarm=rules.false_alarm, missed=rules.missed)


def _message(played: Played, number: int) -> str:
    """The worst ratio so far, roughly: the median of the rounds."""
    middles = [sorted(each)[len(each) // 2] for each in map(played.differences, played.limits)]
    return f"round {number} of at most {played.looks[-1].rounds}, candidate {100 * math.expm1(max(middles)):+.1f} %"


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "ratio": finding.ratio,
        "low": finding.low or None,
        "high": None if math.isinf(finding.high) else finding.high,
        "p_beyond": finding.p_beyond,
        "p_within": finding.p_within,
    }
