"""The plan spends what it may, the rule does what it says, and a simulation runs the rule that decides."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import UsageError
from deploycomp.gate import sequential
from deploycomp.gate.sequential import FAIL, INCONCLUSIVE, PASS, Finding, Look, decide, outcomes, schedule

plans = st.tuples(st.integers(1, 200), st.integers(1, 50), st.sampled_from([0.05, 0.01, 0.001, 1e-5]))


@given(plans)
def test_a_plan_spends_what_it_may_and_where_it_can(plan: tuple[int, int, float]) -> None:
    last, hypotheses, false_alarm = plan
    need = sequential.least_rounds(hypotheses=hypotheses, false_alarm=false_alarm, missed=0.05)
    if last < need:
        with pytest.raises(UsageError, match=f"{last} rounds cannot decide"):
            schedule(last, hypotheses=hypotheses, false_alarm=false_alarm, missed=0.05)
        return
    looks = schedule(last, hypotheses=hypotheses, false_alarm=false_alarm, missed=0.05)
    sizes = [look.rounds for look in looks]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == last
    assert sum(look.alpha for look in looks) == pytest.approx(false_alarm)
    assert sum(look.beta for look in looks) == pytest.approx(0.05)
    for look in looks:
        assert 0.5**look.rounds <= look.beta
        assert look.alpha == 0 or 0.5**look.rounds <= look.alpha / hypotheses
    assert all(later <= 1.5 * earlier + 1 for earlier, later in itertools.pairwise(sizes))


def test_the_default_plan_of_thirty_rounds() -> None:
    looks = schedule(30, hypotheses=2, false_alarm=0.001, missed=0.05)
    assert [look.rounds for look in looks] == [8, 10, 14, 18, 23, 30]
    assert [look.alpha for look in looks] == [0, 0, 0.00025, 0.00025, 0.00025, 0.00025]


def test_clear_cases() -> None:
    look = Look(14, 0.001, 0.05)
    wobble = [0.001 * (-1) ** index * index for index in range(14)]
    same, slow, near = wobble, [math.log(1.1) + each for each in wobble], [math.log(1.05) + each for each in wobble]
    found = decide([same, slow, near], [0.05, 0.05, 0.05], look)
    assert [each.verdict for each in found] == [PASS, FAIL, INCONCLUSIVE]
    assert found[1].ratio == pytest.approx(1.1, abs=0.002)
    assert found[1].low > 1.05
    assert found[0].high < 1.05
    assert sequential.overall([PASS, FAIL, INCONCLUSIVE]) == FAIL
    assert sequential.overall([PASS, INCONCLUSIVE]) == INCONCLUSIVE
    assert sequential.overall([PASS, PASS]) == PASS


def test_too_few_rounds_have_an_open_interval() -> None:
    (found,) = decide([[0.5] * 4], [0.05], Look(4, 0.001, 0.01))
    assert (found.low, found.high, found.verdict) == (0.0, math.inf, INCONCLUSIVE)


def test_holm_by_hand() -> None:
    """0.01 / 4, 0.01 / 3, 0.01 / 2, 0.01: the third stops it, though the fourth alone would be small enough."""
    assert sequential._holm([0.0024, 0.0033, 0.006, 0.0061], 0.01) == [True, True, False, False]
    assert sequential._holm([0.006, 0.0033, 0.0024], 0.01) == [True, True, True]
    assert sequential._holm([0.0034, 0.02, 0.02], 0.01) == [False, False, False]


rounds = st.lists(st.integers(-8, 8).map(lambda each: each / 64), min_size=12, max_size=12)
values = st.lists(rounds, min_size=1, max_size=5)


@given(values, st.sampled_from([0.0, 0.05, 0.125]), st.sampled_from([0.2, 0.05, 0.004]))
def test_the_verdict_and_the_interval_agree(differences: list[list[float]], limit: float, alpha: float) -> None:
    found = decide(differences, [limit] * len(differences), Look(12, alpha, 0.05))
    for each in found:
        assert (each.verdict == FAIL) == (each.low > 1 + limit)
        if each.verdict != FAIL:
            assert (each.verdict == PASS) == (each.high < 1 + limit)
        assert each.low <= each.ratio * (1 + 1e-12)
        assert each.ratio <= each.high * (1 + 1e-12)


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.0, 0.03, 0.08]))
@settings(max_examples=30, deadline=None)
def test_a_simulation_runs_the_rule_that_decides(seed: int, hypotheses: int, effect: float) -> None:
    draw = np.random.default_rng(seed)
    looks = schedule(24, hypotheses=hypotheses, false_alarm=0.01, missed=0.05)
    gates = np.round(math.log1p(effect) + 0.04 * draw.normal(size=(5, hypotheses, 24)), 2)  # with ties
    verdicts, rounds = outcomes(gates, 0.03, looks)
    for gate, verdict, needed in zip(gates, verdicts, rounds, strict=True):
        for look in looks:
            seen = sequential.overall([each.verdict for each in decide(gate.tolist(), [0.03] * hypotheses, look)])
            if seen != INCONCLUSIVE:
                break
        assert (seen, look.rounds) == (verdict, needed)


def finding(ratio: float, low: float, high: float) -> Finding:
    return Finding(INCONCLUSIVE, ratio, low, high, 0.1, 0.1)


def test_what_would_settle_it() -> None:
    """The end of the interval is 2 % beyond the limit where 1 % is the gap: four times the rounds, about."""
    assert sequential.more_rounds(finding(1.04, 0.99, 1.0605), 0.05, 20) == pytest.approx(60, abs=5)
    assert sequential.more_rounds(finding(1.06, 1.0395, 1.11), 0.05, 20) == pytest.approx(60, abs=5)
    assert sequential.more_rounds(finding(1.0501, 0.99, 1.12), 0.05, 20) is None
    assert sequential.more_rounds(finding(1.05, 0.99, 1.12), 0.05, 20) is None
    assert sequential.more_rounds(finding(1.2, 0.0, math.inf), 0.05, 8) == 8


@pytest.mark.parametrize("effect", [0.035, 0.07])
def test_and_it_does_settle_it(effect: float) -> None:
    """Of gates that end open, most would be decided by twice the rounds that are advised."""
    draw = np.random.default_rng(3)
    looks = schedule(20, hypotheses=1, false_alarm=0.001, missed=0.05)
    settled = tried = 0
    for _ in range(60):
        gate = math.log1p(effect) + 0.03 * draw.normal(size=4000)
        (found,) = decide([gate.tolist()], [0.05], looks[-1])
        more = sequential.more_rounds(found, 0.05, 20)
        if found.verdict == INCONCLUSIVE and more is not None:
            look = Look(20 + 2 * more, looks[-1].alpha, looks[-1].beta)
            tried, settled = tried + 1, settled + (decide([gate.tolist()], [0.05], look)[0].verdict != INCONCLUSIVE)
    assert tried > 20
    assert settled > 0.6 * tried
