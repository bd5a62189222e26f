"""What real machines did, replayed: A/A rounds that `record.py` took, with a slowdown multiplied in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from deploycomp.gate.sequential import FAIL, PASS, outcomes, schedule
from tests.gate.streams import rounds

TRACES = json.loads(Path(__file__).with_name("traces.json").read_text(encoding="utf-8"))
GATES, LIMIT, LAST = 3000, 0.05, 30


def replayed(name: str, ratio: float, *, seed: int) -> np.ndarray:
    """Windows of consecutive recorded rounds, so that drift and bursts stay together; only the coins are new."""
    draw = np.random.default_rng(seed)
    slots = np.array(TRACES[name]).T  # [rounds, 2]
    starts = draw.integers(0, len(slots), GATES)
    places = (starts[:, None] + np.arange(LAST)) % len(slots)
    return rounds(draw, slots[places].reshape(GATES, 1, 2 * LAST), ratio)


@pytest.mark.parametrize("name", ["quiet", "busy"])
@pytest.mark.parametrize("declared", [0.05, 0.001])
def test_false_alarms_at_the_tolerance_are_as_rare_as_declared(name: str, declared: float) -> None:
    looks = schedule(LAST, hypotheses=1, false_alarm=declared, missed=0.05)
    alarms = int((outcomes(replayed(name, 1 + LIMIT, seed=1), LIMIT, looks)[0] == FAIL).sum())
    assert binomtest(alarms, GATES).proportion_ci(0.998, method="exact").low <= declared


@pytest.mark.parametrize("name", ["quiet", "busy"])
def test_an_unchanged_model_never_fails(name: str) -> None:
    looks = schedule(LAST, hypotheses=1, false_alarm=0.001, missed=0.05)
    assert (outcomes(replayed(name, 1.0, seed=2), LIMIT, looks)[0] == FAIL).sum() == 0


def test_on_the_quiet_machine_gates_decide() -> None:
    looks = schedule(LAST, hypotheses=1, false_alarm=0.001, missed=0.05)
    assert (outcomes(replayed("quiet", 1.0, seed=3), LIMIT, looks)[0] == PASS).mean() >= 0.9
    assert (outcomes(replayed("quiet", 1.1, seed=3), LIMIT, looks)[0] == FAIL).mean() >= 0.9
