from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import VerificationFailed
from deploycomp.measure import verify
from deploycomp.measure.verify import RELATIVE_TOLERANCE, Recorder, check_outputs, digest

values = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(lambda each: np.array(each, np.float32))

whole = st.lists(st.integers(-1000, 1000), min_size=1, max_size=20).map(lambda each: np.array(each, np.float32))


def outputs(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


def test_the_first_answer_to_each_batch_is_kept():
    seen: list[int] = []

    def run(batch: int) -> list[np.ndarray]:
        seen.append(batch)
        return outputs(batch, len(seen))

    call = Recorder(run, [10, 20, 30])
    for index in range(7):
        call(index)
    assert seen == [10, 20, 30, 10, 20, 30, 10]
    assert [each[0].tolist() for each in call.kept] == [[10, 1], [20, 2], [30, 3]]


def test_large_outputs_are_kept_up_to_a_limit_but_never_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "KEEP_BYTES", 20)
    for size, kept in ((1, 5), (2, 2), (10, 1)):
        call = Recorder(lambda _, size=size: outputs(*[1.0] * size), range(8))
        for index in range(16):
            call(index)
        assert len(call.kept) == kept


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=4), st.booleans())
def test_the_same_outputs_pass(arrays: list[np.ndarray], exact: bool):
    assert check_outputs([arrays], [[each.copy() for each in arrays]], exact=exact) == 1


def test_one_thread_must_give_the_same_bits():
    close = outputs(1.0, np.nextafter(np.float32(2), np.float32(3)))
    assert check_outputs([outputs(1, 2)], [close], exact=False) == 1
    with pytest.raises(VerificationFailed, match="answered otherwise") as caught:
        check_outputs([outputs(1, 2)], [close], exact=True)
    assert caught.value.where == "batch 0, output 0"


@pytest.mark.parametrize(
    "wrong",
    [
        outputs(1, 2 + 4 * RELATIVE_TOLERANCE),
        outputs(1, np.nan),
        outputs(1, 2, 3),
        [np.array([1, 2], np.float64)],
    ],
)
def test_other_outputs_are_refused_by_batch(wrong: list[np.ndarray]):
    right = outputs(1, 2)
    with pytest.raises(VerificationFailed) as caught:
        check_outputs([right, right], [right, wrong], exact=False)
    assert caught.value.where == "batch 1, output 0"


def test_only_batches_that_both_answered_are_compared():
    assert check_outputs([outputs(1), outputs(2), outputs(3)], [outputs(1), outputs(2)], exact=True) == 2


def test_nan_everywhere_is_the_same_nan():
    assert check_outputs([outputs(np.nan, 1)], [outputs(np.nan, 1)], exact=False) == 1
    assert digest(outputs(np.nan, 1)) == digest(outputs(np.nan, 1)) != digest(outputs(1, np.nan))


@settings(deadline=None)
@given(whole, st.sampled_from([2.0, 0.25, 1024.0]))
def test_a_digest_sees_proportions_not_the_scale(array: np.ndarray, factor: float):
    assert digest([array * np.float32(factor)]) == digest([array])


def test_a_digest_sees_order_shape_and_a_change_of_a_hundredth():
    assert (
        len({digest(each) for each in (outputs(1, 2), outputs(2, 1), [np.array([[1.0, 2.0]])], outputs(1.02, 2))}) == 4
    )
    assert digest(outputs(0.0, 1)) == digest(outputs(-0.0, 1)) == digest(outputs(1e-6, 1))
    assert digest(outputs(0, 0)) != digest([np.zeros(3, np.float32)])
