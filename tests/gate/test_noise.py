"""What is said of a machine comes true on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from deploycomp.gate.noise import measure_noise
from deploycomp.gate.sequential import FAIL, PASS, outcomes, schedule

LOOKS = schedule(30, hypotheses=2, false_alarm=0.001, missed=0.05)


def fresh(sd: float, centre: float) -> np.ndarray:
    """Gates that the calibration has not seen."""
    return centre + sd * np.random.default_rng(99).normal(size=(2000, 1, 30))


@pytest.mark.parametrize("sd", [0.005, 0.015, 0.05])
def test_the_floor_passes_and_the_detectable_slowdown_fails(sd: float) -> None:
    aa = sd * norm.ppf((np.arange(400) + 0.5) / 400)
    noise = measure_noise(aa.tolist(), LOOKS, hypotheses=2)
    assert noise.spread == pytest.approx(sd, rel=0.02)
    assert noise.floor is not None
    passed = outcomes(fresh(sd, 0.0), noise.floor, LOOKS, hypotheses=2)[0] == PASS
    assert passed.mean() == pytest.approx(0.95, abs=0.03)
    slower = noise.detectable(0.05)
    assert slower is not None
    failed = outcomes(fresh(sd, math.log1p(slower)), 0.05, LOOKS, hypotheses=2)[0] == FAIL
    assert failed.mean() == pytest.approx(0.95, abs=0.03)
    assert noise.false_alarms <= 12  # 2000 × 0.001, and chance
    assert 0 < noise.floor < slower - 0.05


def test_a_noisier_machine_has_a_higher_floor() -> None:
    aa = np.random.default_rng(2).normal(size=60)
    floors = [measure_noise((sd * aa).tolist(), LOOKS).floor for sd in (0.005, 0.01, 0.02)]
    assert floors == sorted(floors)
    assert floors[2] == pytest.approx(math.expm1(4 * math.log1p(floors[0])), rel=0.02)  # in proportion, in logarithms


def test_a_hopeless_machine_says_so() -> None:
    noise = measure_noise([8.0, -9.0, 7.0, 10.0, -8.5], LOOKS)
    assert (noise.floor, noise.margin, noise.detectable(0.05)) == (None, None, None)


def test_two_calibrations_of_the_same_numbers_are_the_same() -> None:
    aa = [0.01, -0.02, 0.005, 0.0, -0.013]
    assert measure_noise(aa, LOOKS) == measure_noise(aa, LOOKS)


def test_a_machine_without_noise_has_no_floor_to_speak_of() -> None:
    noise = measure_noise([0.0] * 10, LOOKS)
    assert noise.spread == 0
    assert noise.floor is not None
    assert noise.floor <= 1e-4
