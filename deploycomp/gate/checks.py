"""From numbers and findings to the checks of a report, each with its reason in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from deploycomp.gate.rounds import BASELINE, CANDIDATE, Played, Quantity
from deploycomp.gate.sequential import FAIL, INCONCLUSIVE, PASS, Finding, more_rounds

__all__ = ["advice", "check", "disturbance", "measured", "size", "skipped", "verdict_of", "why"]

Check = dict[str, Any]

SKIPPED = "skipped"


def check(kind: str, verdict: str, reason: str, *, name: str | None = None, **values: Any) -> Check:
    """Return one entry of the result's `checks`; what is not given is None."""
    empty = dict.fromkeys(("cell", "ratio", "low", "high", "limit", "baseline", "candidate", "unit"))
    return {"kind": kind, "name": name or kind, "verdict": verdict, **empty, **values, "reason": reason}


def skipped(kind: str, reason: str) -> Check:
    """Return a check that was not made, and why."""
    return check(kind, SKIPPED, reason)


def size(baseline: int, candidate: int, limit: float) -> Check:
    """Compare bytes on disk, which are exact."""
    ratio = candidate / baseline
    verdict = FAIL if ratio > 1 + limit else PASS
    reason = f"{_change(ratio)} on disk, {_allowed(limit)}"
    values = {"ratio": ratio, "low": ratio, "high": ratio, "limit": 1 + limit, "unit": "bytes"}
    return check("size", verdict, reason, baseline=baseline, candidate=candidate, **values)


def measured(played: Played) -> list[Check]:
    """Return a check for each number of *played*, by the finding of its last look."""
    return [_measured(played, quantity, finding) for quantity, finding in played.findings.items()]


def _measured(played: Played, quantity: Quantity, finding: Finding) -> Check:
    limit = played.limits[quantity]
    return check(
        quantity.kind,
        finding.verdict,
        _reason(played, quantity, finding),
        name=quantity.name,
        cell=quantity.cell,
        ratio=finding.ratio,
        low=finding.low or None,
        high=None if math.isinf(finding.high) else finding.high,
        limit=1 + limit,
        baseline=statistics.median(played.values[BASELINE][quantity]),
        candidate=statistics.median(played.values[CANDIDATE][quantity]),
        unit=quantity.unit,
    )


def _reason(played: Played, quantity: Quantity, finding: Finding) -> str:
    limit = played.limits[quantity]
    change, allowed = _change(finding.ratio), _allowed(limit)
    if finding.verdict == FAIL:
        return f"{change}, surely {_change(finding.low)} or more, {allowed}"
    if finding.verdict == PASS:
        return f"{change}, surely {_change(finding.high)} or less, {allowed}"
    more = more_rounds(finding, limit, played.rounds)
    if more is None:
        return f"{change}, {allowed}: the ratio lies at the limit, and no number of rounds would settle it"
    return f"{change} after {played.rounds} rounds, {allowed}: about {more} more rounds would settle it"


def verdict_of(checks: Sequence[Check]) -> str:
    """Return FAIL where one check failed, INCONCLUSIVE where one could not be decided, else PASS."""
    verdicts = {each["verdict"] for each in checks}
    return FAIL if FAIL in verdicts else INCONCLUSIVE if INCONCLUSIVE in verdicts else PASS


def why(checks: Sequence[Check]) -> str:
    """Give the reason of the verdict in one sentence."""
    deciding = [each for each in checks if each["verdict"] == verdict_of(checks)]
    if verdict_of(checks) == PASS:
        return f"all {len(deciding)} checks hold"
    rest = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    return f"{deciding[0]['name']}: {deciding[0]['reason']}{rest}"


def advice(played: Played, context: Mapping[str, Any], *, busy: float) -> str | None:
    """Say what would settle what is open; None where nothing is, or where another check fails anyway.

    Args:
        played: What was measured.
        context: With `foreign_share` and `steal_share`, where they are known.
        busy: From which share on others are to blame.
    """
    found = played.findings
    if any(each.verdict == FAIL for each in found.values()):
        return None
    still = [quantity for quantity, each in found.items() if each.verdict == INCONCLUSIVE]
    if not still:
        return None
    if others := disturbance(context, busy=busy):
        return f"run it again on a quieter machine: {others}"
    more = [more_rounds(found[each], played.limits[each], played.rounds) for each in still]
    if None in more:
        option = "--max-memory-growth" if still[more.index(None)].kind == "memory" else "--max-slowdown"
        return f"the change is as large as what is allowed: make it smaller, or allow more with {option}"
    rounds = played.rounds + max(each for each in more if each is not None)
    return f"--budget {math.ceil(1.2 * (rounds + 1) * played.round_seconds)}, or a quieter machine"


def disturbance(context: Mapping[str, Any], *, busy: float) -> str | None:
    """Say who else used the processors while we measured, where it was more than the share *busy*."""
    foreign, stolen = context.get("foreign_share") or 0.0, context.get("steal_share") or 0.0
    if stolen > busy:
        return f"the hypervisor took {100 * stolen:.0f} % of the processor time"
    return f"other processes took {100 * foreign:.0f} % of the processor time" if foreign > busy else None


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _allowed(limit: float) -> str:
    return f"allowed is +{100 * limit:g} %"
