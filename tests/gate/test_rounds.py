"""The loop on a made-up machine with a made-up clock."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import UsageError
from deploycomp.gate.rounds import BASELINE, CANDIDATE, OVERTIME, Played, Quantity, Rules, play

LATENCY = Quantity("latency", 1, 1, 128)
MEMORY = Quantity("memory", 1)


class Machine:
    """Each side takes a second; the candidate takes `ratio` times the baseline's latency, memory is equal."""

    def __init__(self, ratio: float = 1.0, *, spread: float = 0.01, seconds: float = 1.0):
        self.ratio, self.spread, self.seconds = ratio, spread, seconds
        self.now, self.calls, self.draw = 0.0, [], random.Random(1)

    def __call__(self, first: str, threads: int, number: int) -> dict[str, dict[Quantity, float]]:
        self.now += 2 * self.seconds
        self.calls.append((number, threads, first))
        return {BASELINE: self.side(1.0), CANDIDATE: self.side(self.ratio)}

    def side(self, level: float) -> dict[Quantity, float]:
        return {LATENCY: level * math.exp(self.draw.gauss(0, self.spread)), MEMORY: 1e6}

    def clock(self) -> float:
        return self.now

    def play(self, rules: Rules | None = None, **how: object) -> Played:
        limit: Callable[[Quantity], float] = lambda _: 0.05  # noqa: E731
        options = {"threads": [1], "seed": 0, "clock": self.clock, **how}
        return play(self, limit, rules or Rules(), **options)  # type: ignore[arg-type]


def verdicts(played: Played) -> list[str]:
    return [each.verdict for each in played.findings.values()]


def test_an_equal_model_passes_at_the_first_look():
    played = Machine().play()
    assert verdicts(played) == ["pass", "pass"]
    assert played.rounds == played.looks[0].rounds == 7
    assert [look["verdict"] for look in played.seen] == ["pass"]


def test_a_slower_one_fails_at_the_first_look_that_can():
    played = Machine(1.1).play()
    assert verdicts(played) == ["fail", "pass"]
    assert played.rounds == next(look.rounds for look in played.looks if look.alpha)
    assert played.findings[LATENCY].low > 1.05
    assert [look["verdict"] for look in played.seen] == ["inconclusive"] * (len(played.seen) - 1) + ["fail"]


def test_one_at_the_limit_is_measured_to_the_budget():
    machine = Machine(1.05)
    played = machine.play()
    assert "inconclusive" in verdicts(played)
    assert played.rounds == played.looks[-1].rounds == 29
    assert machine.now <= 60


def test_round_zero_is_not_judged_and_plans_the_rest():
    machine = Machine(1.05)
    played = machine.play()
    assert machine.calls[0] == (0, 1, BASELINE)
    assert len(played.values[CANDIDATE][LATENCY]) == played.rounds
    assert played.round_seconds == 2


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_every_round_is_measured_once_for_each_thread_count_in_the_order_of_its_coin(seed: int):
    machine = Machine(1.05)
    played = machine.play(seed=seed, threads=[1, 2], most=15)
    coins = zip(played.first[1], played.first[2], strict=True)
    tossed = [(number, count, first) for number, pair in enumerate(coins, 1) for count, first in enumerate(pair, 1)]
    assert machine.calls[2:] == tossed


def test_coins_are_fair_and_differ_between_gates():
    orders = [tuple(Machine(1.05).play(seed=seed).first[1]) for seed in range(40)]
    first = sum(order.count(BASELINE) for order in orders) / sum(map(len, orders))
    assert 0.45 < first < 0.55
    assert len(set(orders)) == 40
    assert Machine(1.05).play(seed=7).first == Machine(1.05).play(seed=7).first


def test_the_same_numbers_give_the_same_verdict():
    one, two = Machine(1.06, spread=0.02).play(), Machine(1.06, spread=0.02).play()
    assert one.findings == two.findings


def test_a_budget_that_cannot_decide_is_refused_with_one_that_can():
    with pytest.raises(UsageError, match="too short") as refused:
        Machine().play(Rules(budget=6))
    assert refused.value.hint is not None
    budget = float(refused.value.hint.split()[1].rstrip(","))
    assert verdicts(Machine().play(Rules(budget=budget))) == ["pass", "pass"]


def test_a_bad_moment_in_round_zero_costs_no_verdict():
    """Sixty seconds hold four such rounds, so the gate plans the fewest that can decide, and they take less."""
    machine = Machine(1.1)
    whole = machine.__call__

    def faster(first: str, threads: int, number: int) -> dict[str, dict[Quantity, float]]:
        machine.seconds = 6.0 if number == 0 else 1.0
        return whole(first, threads, number)

    played = play(faster, lambda _: 0.05, Rules(), threads=[1], seed=0, clock=machine.clock)
    assert verdicts(played) == ["fail", "pass"]
    assert played.rounds == 11


def test_a_machine_that_becomes_slow_ends_the_gate_undecided():
    machine = Machine(1.1)
    whole = machine.__call__

    def slower(first: str, threads: int, number: int) -> dict[str, dict[Quantity, float]]:
        machine.seconds = 1.0 if number == 0 else 10.0
        return whole(first, threads, number)

    played = play(slower, lambda _: 0.05, Rules(), threads=[1], seed=0, clock=machine.clock)
    assert machine.now < OVERTIME * 60 + 2 * 10 + 2
    assert "inconclusive" in verdicts(played)
    assert "fail" not in verdicts(played)
    assert played.findings[LATENCY].ratio == pytest.approx(1.1, rel=0.02)


def test_calibration_does_not_stop_early():
    played = Machine().play(to_the_end=True)
    assert played.rounds == played.looks[-1].rounds == 29
    assert played.findings == {}


def test_at_most_so_many_rounds():
    assert Machine(1.05).play(most=15).rounds == 15


@pytest.mark.parametrize("wrong", [{"false_alarm": 0.0}, {"missed": 0.5}, {"budget": 0.0}, {"budget": math.inf}])
def test_rules_out_of_range(wrong: dict[str, float]):
    with pytest.raises(UsageError):
        Rules(**wrong)


def test_progress_tells_the_rounds_and_the_worst_ratio():
    said: list[tuple[str, float]] = []
    Machine(1.1, spread=0.0).play(progress=lambda message, share: said.append((message, share)))
    assert said[0] == ("round 1 of at most 29, candidate +10.0 %", 1 / 29)
    assert [share for _, share in said] == sorted(share for _, share in said)
