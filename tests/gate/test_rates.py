"""Thousands of gates on made-up machines: false alarms, missed slowdowns and power, by Clopper and Pearson's bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from deploycomp.gate.sequential import FAIL, INCONCLUSIVE, PASS, outcomes, schedule
from tests.gate.streams import STREAMS, normal, rounds

ROUNDS = 30
GATES = 4000
LIMIT = 0.05


def gates(stream: str, ratio: float, *, seed: int, count: int = GATES, cells: int = 1) -> np.ndarray:
    draw = np.random.default_rng([seed, *stream.encode()])
    slots = STREAMS[stream](draw, (count, cells, 2 * ROUNDS))
    return rounds(draw, slots, ratio)


def interval(count: int, of: int) -> tuple[float, float]:
    """Clopper and Pearson's, 99.9 % each side: 30 rates are held to it."""
    found = binomtest(int(count), of).proportion_ci(0.998, method="exact")
    return float(found.low), float(found.high)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("declared", [0.05, 0.001])
def test_false_alarms_exactly_at_the_tolerance(stream: str, declared: float) -> None:
    """The worst ratio that must not fail. Nothing is known of the noise but the coin, and the rate holds."""
    looks = schedule(ROUNDS, hypotheses=1, false_alarm=declared, missed=0.05)
    count = GATES if declared > 0.01 else 5 * GATES  # rarer alarms take more gates to count
    verdicts, _ = outcomes(gates(stream, 1 + LIMIT, seed=1, count=count), LIMIT, looks)
    low, high = interval((verdicts == FAIL).sum(), count)
    assert low <= declared
    assert high <= 2 * declared  # a bound that nothing could break would prove nothing


@pytest.mark.parametrize("stream", STREAMS)
def test_passes_exactly_at_the_tolerance_are_as_rare_as_declared(stream: str) -> None:
    looks = schedule(ROUNDS, hypotheses=1, false_alarm=0.001, missed=0.05)
    verdicts, _ = outcomes(gates(stream, 1 + LIMIT, seed=2), LIMIT, looks)
    low, high = interval((verdicts == PASS).sum(), GATES)
    assert low <= 0.05
    assert high <= 0.08


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("ratio", [1.0, 1.03])
def test_within_the_tolerance_nothing_fails(stream: str, ratio: float) -> None:
    looks = schedule(ROUNDS, hypotheses=1, false_alarm=0.001, missed=0.05)
    verdicts, _ = outcomes(gates(stream, ratio, seed=3), LIMIT, looks)
    assert interval((verdicts == FAIL).sum(), GATES)[0] <= 0.001
    assert (verdicts == FAIL).sum() <= 8


def test_an_unchanged_model_passes_and_soon() -> None:
    looks = schedule(ROUNDS, hypotheses=2, false_alarm=0.001, missed=0.05)
    verdicts, needed = outcomes(gates("normal", 1.0, seed=4), LIMIT, looks)
    assert interval((verdicts == INCONCLUSIVE).sum(), GATES)[1] <= 0.1
    assert np.median(needed) <= 10


@pytest.mark.parametrize("ratio", [1.08, 1.1])
def test_a_slowdown_beyond_the_tolerance_fails(ratio: float) -> None:
    looks = schedule(ROUNDS, hypotheses=2, false_alarm=0.001, missed=0.05)
    verdicts, needed = outcomes(gates("normal", ratio, seed=5), LIMIT, looks, hypotheses=2)
    assert interval((verdicts == FAIL).sum(), GATES)[0] >= 0.95
    assert np.median(needed) <= 18


@pytest.mark.parametrize(("stream", "power"), [("bimodal", 0.3), ("drifting", 0.95), ("spiky", 0.6)])
def test_and_on_a_restless_machine_it_still_does_so_often(stream: str, power: float) -> None:
    looks = schedule(ROUNDS, hypotheses=1, false_alarm=0.001, missed=0.05)
    verdicts, _ = outcomes(gates(stream, 1.15, seed=6), LIMIT, looks)
    assert interval((verdicts == FAIL).sum(), GATES)[0] >= power
    assert (verdicts == PASS).sum() == 0


@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize("declared", [0.05, 0.001])
def test_twenty_cells_together_raise_no_more_false_alarms_than_declared(shared: float, declared: float) -> None:
    """Every cell lies exactly at its tolerance; cells of one process are correlated, and independent ones are worse."""
    draw, count = np.random.default_rng(7), 3000
    own, common = normal(draw, (count, 20, 2 * ROUNDS)), normal(draw, (count, 1, 2 * ROUNDS))
    slots = own ** (1 - shared) * common**shared
    looks = schedule(ROUNDS, hypotheses=20, false_alarm=declared, missed=0.05)
    verdicts, _ = outcomes(rounds(draw, slots, 1 + LIMIT), LIMIT, looks)
    low, high = interval((verdicts == FAIL).sum(), count)
    assert low <= declared
    assert high <= 1.5 * declared + 0.004


def test_one_slow_cell_of_twenty_is_found() -> None:
    draw, count = np.random.default_rng(8), 1000
    differences = rounds(draw, normal(draw, (count, 20, 2 * ROUNDS)), 1.0)
    differences[:, 3] += np.log(1.1)
    looks = schedule(ROUNDS, hypotheses=20, false_alarm=0.001, missed=0.05)
    verdicts, _ = outcomes(differences, LIMIT, looks)
    assert interval((verdicts == FAIL).sum(), count)[0] >= 0.95


def test_without_the_coin_the_claim_would_not_hold() -> None:
    """The second slot of `drifting` is 1 % slower: a candidate at its tolerance that always runs second is alarmed."""
    draw = np.random.default_rng(9)
    slots = np.log(STREAMS["drifting"](draw, (1000, 1, 2 * ROUNDS)))
    fixed_order = slots[..., 1::2] - slots[..., ::2] + np.log(1 + LIMIT)
    looks = schedule(ROUNDS, hypotheses=1, false_alarm=0.001, missed=0.05)
    verdicts, _ = outcomes(fixed_order, LIMIT, looks)
    assert (verdicts == FAIL).mean() > 0.5
