"""The pace is the time of one product, over as many as the call before asks for."""

from __future__ import annotations

import pytest

from deploycomp.measure.pace import LEAST_NS, SHARE, Pace


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
