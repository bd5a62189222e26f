"""The paired drop of the main metric: a candidate that answers worse fails, however fast it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploycomp.errors import GateFailed
from deploycomp.gate import checks
from deploycomp.gate.sequential import FAIL, PASS
from deploycomp.gating.goals import DEFAULT_MAX_DROP, Data, Goals

__all__ = ["check_accuracy"]


def check_accuracy(
    candidate: Path, baseline: Path, data: Data, goals: Goals, *, progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Judge both on the same rows, by the rule of `deploycomp.evaluate.judge.check_drop`.

    Returns:
        The check, its bounds those of the drop (95 % confidence), which say and do not decide.

    Raises:
        UsageError: The goal cannot be decided on so few rows, or the tasks differ.
        InputRefused: A model or the data cannot be read.
        VerificationFailed: A model answers with NaN, or labels look permuted.
    """
    from deploycomp.assess import judge
    from deploycomp.evaluate.judge import CORRELATIONS, check_drop
    from deploycomp.evaluate.statistics import Drop

    limit = DEFAULT_MAX_DROP if goals.max_drop is None else goals.max_drop
    found = judge(
        str(candidate), data.path, against=str(baseline), split=data.split, columns=data.columns, limit=data.limit,
        progress=progress,
    )  # fmt: skip
    drop, metric, rows = Drop(**found["drop"]["artifact"]), found["metric"], found["rows"]
    verdict, reason = PASS, f"{metric} falls by {drop.value:.4f} on {rows} rows, allowed is {limit:g}"
    try:
        check_drop(drop, max_drop=limit, metric=metric, rows=rows, where=data.path)
    except GateFailed as broken:
        verdict, reason = FAIL, f"{broken.what}, {broken.why}"
    return checks.check(
        "accuracy",
        verdict,
        reason,
        low=drop.low,
        high=drop.high,
        limit=limit,
        baseline=found["scores"]["source"][metric]["value"],
        candidate=found["scores"]["artifact"][metric]["value"],
        unit=None if metric in CORRELATIONS else "pt",
    )
