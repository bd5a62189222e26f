from __future__ import annotations

import gc
from collections.abc import Sequence

import pytest

from deploycomp.measure.sampling import sample, warm_up

NS = 1_000_000_000


class Model:
    """Calls that take made-up times on a made-up clock; the last time repeats."""

    def __init__(self, seconds: Sequence[float]):
        self.seconds, self.now, self.calls = seconds, 0, list[int]()

    def clock(self) -> int:
        return self.now

    def __call__(self, index: int) -> None:
        self.now += int(NS * self.seconds[min(len(self.calls), len(self.seconds) - 1)])
        self.calls.append(index)


def test_warm_up_ends_when_the_median_stops_falling():
    model = Model([0.09, 0.08, 0.08, 0.05, 0.05, 0.05, 0.04, 0.04, 0.04, 0.04])
    warmup = warm_up(model, 0.5, clock=model.clock)
    assert warmup.settled
    assert warmup.calls == 12  # windows of three: 0.08, 0.05, 0.04, and 0.04 again
    assert model.calls == list(range(12))


def test_one_slow_call_does_not_hold_up_the_warm_up():
    model = Model([0.3, 0.02, 0.02, 0.02])
    assert warm_up(model, 0.1, clock=model.clock).calls == 6


def test_a_window_of_fast_calls_lasts_a_tenth_of_the_block():
    model = Model([0.001])
    assert warm_up(model, 0.5, clock=model.clock).calls == 100  # two windows of 50 ms


@pytest.mark.parametrize(("block_seconds", "cap"), [(0.1, 1.0), (2.0, 4.0)])
def test_warm_up_that_keeps_falling_ends_at_the_cap_and_says_so(block_seconds: float, cap: float):
    model = Model([0.1 * 0.98**step for step in range(10_000)])
    warmup = warm_up(model, block_seconds, clock=model.clock)
    assert not warmup.settled
    assert cap <= model.now / NS <= cap + 0.1


def test_a_call_slower_than_the_cap_warms_up_once():
    model = Model([30.0])
    assert warm_up(model, 0.5, clock=model.clock).calls == 1


def test_sampling_lasts_as_long_as_asked():
    model = Model([0.01, 0.02, 0.01])
    samples = sample(model, 0.1, clock=model.clock)
    assert samples[:3] == [NS // 100, NS // 50, NS // 100]
    assert 0.1 <= sum(samples) / NS < 0.12
    assert model.calls == list(range(len(samples)))


def test_inputs_of_unlike_sizes_are_passed_whole():
    model = Model([0.01])
    assert len(sample(model, 0.1, cycle=7, clock=model.clock)) == 14
    model = Model([0.01])
    assert warm_up(model, 0.1, cycle=7, clock=model.clock).calls == 14  # two windows


def test_slow_calls_are_sampled_three_times():
    model = Model([5.0])
    assert len(sample(model, 0.1, clock=model.clock)) == 3


def test_garbage_is_not_collected_between_calls_and_is_again_after_a_failure():
    def fail(index: int) -> None:
        assert not gc.isenabled()
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        sample(fail, 0.1)
    assert gc.isenabled()
