"""The pace is the time of one product, over as many as the call before asks for."""

from __future__ import annotations

import pytest

from deploycomp.measure.pace import LEAST_NS, SHARE, WEIGHT, Pace, at_one_pace, pace_of


class Clock:
    """Every look at it takes a while."""

    def __init__(self, tick: int):
        self.tick, self.looks = tick, 0

    def __call__(self) -> int:
        self.looks += 1
        return self.looks * self.tick


@pytest.mark.parametrize("tick", [100, 30_000, 7_000_000])
def test_it_is_the_time_of_one_product(tick: int):
    assert Pace(Clock(tick))() == tick


@pytest.mark.parametrize(("took", "spent"), [(0, LEAST_NS), (1_000, LEAST_NS), (10**9, SHARE * 10**9)])
def test_a_share_of_the_call_is_spent(took: int, spent: float):
    clock = Clock(1_000)
    Pace(clock)(took)
    assert clock.looks == spent / 1_000 + 1


def test_a_real_processor_has_one():
    assert 0 < Pace()() < 1e9


def test_calls_are_taken_at_one_pace():
    cell = {"samples_ns": [100, 200, 100], "pace_ns": [10.0, 20.0, 40.0]}
    assert at_one_pace(cell, 10.0) == pytest.approx([100, 200 / 2**WEIGHT, 100 / 4**WEIGHT])
    assert pace_of({"cells": [cell, {"pace_ns": None}]}) == 20
    assert pace_of({"cells": [{"pace_ns": None}]}) is None


def test_nothing_changes_where_no_pace_is_known():
    assert at_one_pace({"samples_ns": [1, 2], "pace_ns": None}, 10.0) == [1, 2]
    assert at_one_pace({"samples_ns": [1, 2], "pace_ns": [1.0, 1.0]}, None) == [1, 2]
