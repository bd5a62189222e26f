"""When to look, how much error each look may spend, and what is decided there.

    rounds   7    9   12   16   22   30
    pass   β/6  β/6  β/6  β/6  β/6  β/6     a look may call "within the tolerance" wrongly this often
    fail     –    –    –  α/3  α/3  α/3     and "beyond it" this often, all hypotheses together (Holm 1979)

Shares that add up to α and β hold whatever the looks have to do with one another (Bonferroni), so nothing is assumed
about their joint distribution; spending in equal parts is one of the functions of Lan and DeMets (1983). A look that
so few rounds cannot decide (n signs reach 2⁻ⁿ at best) spends nothing. Looks lie a third more rounds apart, which
narrows the interval by an eighth: closer ones would spend more than they save.

PASS needs every hypothesis to pass, each at the full β: the wrong PASS needs the one that is truly beyond its tolerance
to pass (intersection-union, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deploycomp.errors import UsageError
from deploycomp.gate import signedrank

__all__ = [
    "FAIL",
    "INCONCLUSIVE",
    "PASS",
    "Finding",
    "Look",
    "Verdict",
    "decide",
    "least_rounds",
    "more_rounds",
    "outcomes",
    "overall",
    "schedule",
]

Verdict = Literal["pass", "fail", "inconclusive"]
PASS: Verdict = "pass"
FAIL: Verdict = "fail"
INCONCLUSIVE: Verdict = "inconclusive"

GROWTH = 4 / 3
"""Rounds of a look over those of the one before."""

HOPELESS = 20
"""More than this many times the rounds so far, and measuring on is no advice any more."""


@dataclass(frozen=True)
class Look:
    """A planned decision.

    Args:
        rounds: After so many rounds.
        alpha: Probability of a false FAIL that this look may spend, all hypotheses together; 0 where it cannot fail.
        beta: Probability of a false PASS that it may spend.
    """

    rounds: int
    alpha: float
    beta: float


@dataclass(frozen=True)
class Finding:
    """One hypothesis at one look.

    Args:
        verdict: "fail" exactly where low > 1 + limit, "pass" exactly where high < 1 + limit.
        ratio: Candidate over baseline, by Hodges and Lehmann.
        low: Lower end of its confidence interval at the level of FAIL at this look, 0 where it has none.
        high: Upper end at the level of PASS at this look, infinite where it has none.
        p_beyond: p-value of "the ratio is at most 1 + limit".
        p_within: p-value of "the ratio is at least 1 + limit".
    """

    verdict: Verdict
    ratio: float
    low: float
    high: float
    p_beyond: float
    p_within: float


def least_rounds(*, hypotheses: int, false_alarm: float, missed: float) -> int:
    """Return the fewest rounds that can end in FAIL and in PASS, with a single look."""
    return max(math.ceil(math.log2(hypotheses / false_alarm)), math.ceil(math.log2(1 / missed)))


def schedule(max_rounds: int, *, hypotheses: int, false_alarm: float, missed: float) -> tuple[Look, ...]:
    """Plan the looks; the plan may depend on anything but the rounds it will judge.

    Args:
        max_rounds: Rounds at the last look.
        hypotheses: Numbers that are held to a limit at once.
        false_alarm: Probability of FAIL where no ratio is beyond its limit, over all hypotheses and looks.
        missed: Probability of PASS where one is.

    Raises:
        UsageError: So few rounds cannot decide.
    """
    need = least_rounds(hypotheses=hypotheses, false_alarm=false_alarm, missed=missed)
    if max_rounds < need:
        raise UsageError(
            f"{max_rounds} rounds cannot decide",
            why=f"n rounds reach a false-alarm rate of 1/2ⁿ at best; {hypotheses} × {false_alarm:.3g} needs {need}",
        )
    first = next(n for n in range(1, max_rounds + 1) if 0.5**n * len(_sizes(n, max_rounds)) <= missed)
    sizes = _sizes(first, max_rounds)
    alphas = _spend(false_alarm, sizes, hypotheses)
    return tuple(Look(size, alpha, missed / len(sizes)) for size, alpha in zip(sizes, alphas, strict=True))


def _sizes(first: int, last: int) -> list[int]:
    """Rounds from *first* to *last*, each about `GROWTH` times the one before."""
    steps = math.ceil(math.log(last / first) / math.log(GROWTH)) if last > first else 0
    return sorted({round(first * (last / first) ** (step / max(steps, 1))) for step in range(steps + 1)})


def _spend(total: float, sizes: Sequence[int], hypotheses: int) -> list[float]:
    """Equal shares for as many of the last looks as can reach their share, nothing for those before."""
    for looks in range(len(sizes), 0, -1):
        if 0.5 ** sizes[-looks] <= total / looks / hypotheses:
            return [0.0] * (len(sizes) - looks) + [total / looks] * looks
    raise AssertionError("schedule() checked that the last look can decide")


def decide(differences: Sequence[Sequence[float]], limits: Sequence[float], look: Look) -> list[Finding]:
    """Judge every hypothesis at one look.

    Args:
        differences: For each hypothesis log(candidate / baseline) of each round; the first `look.rounds` are used.
        limits: For each hypothesis the tolerance: 0.05 allows a ratio of 1.05.
        look: See `schedule`.

    Returns:
        For each hypothesis its finding. FAIL follows Holm (1979): with r of H failed, those stand at the level
        alpha / (H - r + 1), and none of the others reaches alpha / (H - r), which is the level of their intervals.
    """
    averages = [signedrank.walsh_averages(each[: look.rounds]) for each in differences]
    beyond = [signedrank.p_above(each, math.log1p(limit)) for each, limit in zip(averages, limits, strict=True)]
    failed = _holm(beyond, look.alpha)
    left = len(beyond) - sum(failed)
    found: list[Finding] = []
    for each, limit, p_beyond, fails in zip(averages, limits, beyond, failed, strict=True):
        level = look.alpha / (left + 1 if fails else left)
        low, high = signedrank.bounds(each, lower=level, upper=look.beta)
        p_within = signedrank.p_below(each, math.log1p(limit))
        verdict = FAIL if fails else PASS if high < math.log1p(limit) else INCONCLUSIVE
        ratio = math.exp(signedrank.estimate(each))
        found.append(Finding(verdict, ratio, math.exp(low), math.exp(high), p_beyond, p_within))
    return found


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Return FAIL where one fails, PASS where all pass."""
    if FAIL in verdicts:
        return FAIL
    return PASS if all(each == PASS for each in verdicts) else INCONCLUSIVE


def _holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


def outcomes(
    differences: ArrayLike, limits: ArrayLike, looks: Sequence[Look], *, hypotheses: int | None = None
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Run many gates at once, each to its end: the rule of `decide`, for simulations.

    Args:
        differences: [gates, hypotheses, rounds], with at least the rounds of the last look.
        limits: [hypotheses] or one number for all.
        looks: See `schedule`.
        hypotheses: Number to correct for, where it is not that of *differences*.

    Returns:
        ([gates] verdicts, [gates] rounds that were needed).
    """
    values = np.asarray(differences, np.float64)
    bound = np.broadcast_to(np.log1p(np.asarray(limits, np.float64)), values.shape[1:2])
    above, below = signedrank.counts_above(values, bound), signedrank.counts_above(-values, -bound)
    verdicts = np.full(len(values), INCONCLUSIVE, dtype="<U12")
    rounds = np.full(len(values), looks[-1].rounds)
    for look in looks:
        n, running = look.rounds, verdicts == INCONCLUSIVE
        need = signedrank.critical(n, look.alpha / (hypotheses or values.shape[1]))
        fails = running & (above[..., n - 1] >= need).any(1)
        passes = running & ~fails & (below[..., n - 1] >= signedrank.critical(n, look.beta)).all(1)
        verdicts[fails], verdicts[passes] = FAIL, PASS
        rounds[fails | passes] = n
    return verdicts, rounds


def more_rounds(finding: Finding, limit: float, rounds: int) -> int | None:
    """Estimate how many more rounds would settle an inconclusive finding.

    The distance from the estimate to the end of its interval shrinks with the square root of the rounds; it has to
    become smaller than the distance to the limit.

    Args:
        finding: At the last look.
        limit: Its tolerance.
        rounds: Rounds so far.

    Returns:
        Rounds, at least one; None where the ratio lies so near the limit that no sane number would do.
    """
    gap = math.log(finding.ratio) - math.log1p(limit)
    end = finding.low if gap > 0 else finding.high
    if end == 0 or math.isinf(end):
        return rounds  # no interval yet: twice the rounds will have one
    width = abs(math.log(finding.ratio) - math.log(end))
    if abs(gap) * math.sqrt(HOPELESS) < width:
        return None
    return max(1, math.ceil(rounds * (width / abs(gap)) ** 2) - rounds)
