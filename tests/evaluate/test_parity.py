"""Parity fails closed, looks only where answers mean something, and names the worst."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import VerificationFailed
from deploycomp.evaluate.parity import LONGEST_PROBE, TOLERANCES, Reference, check, make_probes

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
IDS = list(range(5, 60))


def probes(**changes: Any) -> list[Any]:
    settings: dict[str, Any] = {"max_length": 128, "pad_token_id": 0, "first": 2, "last": 3}
    return make_probes(IDS, INPUTS, **{**settings, **changes})


def model(feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
    """One answer a token and one a row, which depend on every input."""
    tokens = np.sin(feeds["input_ids"] * 0.37 + feeds["token_type_ids"])[..., None] * np.arange(1.0, 4.0)
    row = (tokens * feeds["attention_mask"][..., None]).sum(axis=1)
    return [{"tokens": tokens, "row": row}[name].astype(np.float32) for name in outputs]


def reference(*outputs: str) -> Reference:
    return Reference.record(model, probes(), outputs or ("tokens", "row"))


def changed(change: Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]):
    def run(feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        return [change(each, feeds) for each in model(feeds, outputs)]

    return run


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_the_same_answers_pass(precision: str):
    facts = check(model, reference(), precision, stage="export")
    assert facts["checks"] == 2 * len(probes())
    assert all(each["worst"] == 0 for each in facts["outputs"].values())


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_beyond_the_tolerance_fails_and_within_passes(precision: str):
    limit = TOLERANCES[precision].limit
    run = changed(lambda each, _: each * np.float32(1 + limit * 0.9))
    check(run, reference("row"), precision, stage="x")
    worse = changed(lambda each, _: each * np.float32(1 + limit * 1.5) + np.float32(limit))
    with pytest.raises(VerificationFailed, match="does not compute what the source") as caught:
        check(worse, reference("row"), precision, stage="x")
    assert f"allowed is {limit:g}" in str(caught.value.why)
    assert caught.value.exit_code == 4


def test_one_bad_token_in_one_probe_is_found_and_named():
    def spoil(each: np.ndarray, feeds: dict[str, np.ndarray]) -> np.ndarray:
        if feeds["input_ids"].shape == (3, 7) and feeds["attention_mask"].all():
            each = each.copy()
            each[2, 4, 1] += 0.5
        return each

    with pytest.raises(VerificationFailed) as caught:
        check(changed(spoil), reference("tokens"), "fp32", stage="x")
    assert "[3, 7], unpadded" in str(caught.value.where)


def test_answers_at_padded_positions_are_not_compared():
    def spoil(each: np.ndarray, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return np.where(feeds["attention_mask"][..., None] == 1, each, 1e6).astype(np.float32)

    check(changed(spoil), reference("tokens"), "fp32", stage="x")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_what_is_not_finite_fails(bad: float, precision: str):
    with pytest.raises(VerificationFailed, match="not finite"):
        check(changed(lambda each, _: each * np.float32(bad)), reference("row"), precision, stage="x")


def test_another_shape_fails():
    with pytest.raises(VerificationFailed, match=r"has shape \(1, 2\), the source model gives \(1, 3\)"):
        check(changed(lambda each, _: each[..., :2]), reference("row"), "fp32", stage="x")


def test_probes_cover_what_exports_get_wrong():
    found = probes()
    assert {(probe.shape, probe.padded) for probe in found} >= {
        ((1, 1), False), ((1, 7), True), ((3, 64), True), ((1, 128), False), ((3, 128), True),
    }  # fmt: skip
    assert {probe.segments for probe in found} == {1, 2}
    assert make_probes(IDS, INPUTS[:2], max_length=64, pad_token_id=0)[0].feeds.keys() == set(INPUTS[:2])


@given(
    max_length=st.integers(1, 3000),
    ids=st.lists(st.integers(1, 50_000), min_size=1, max_size=80),
    batch=st.none() | st.integers(1, 4),
    sequence=st.none() | st.integers(1, 40),
)
def test_probes_are_sound(max_length: int, ids: list[int], batch: int | None, sequence: int | None):
    for probe in make_probes(
        ids, INPUTS, max_length=max_length, pad_token_id=0, first=1, last=2, batch=batch, sequence=sequence
    ):
        tokens, mask, types = (probe.feeds[name] for name in INPUTS)
        rows, length = probe.shape
        assert rows == (batch or rows)
        assert length == (sequence or length) <= (sequence or min(max_length, LONGEST_PROBE))
        assert mask.any(axis=1).all()
        assert probe.padded == bool((mask == 0).any())
        assert np.all(np.diff(mask, axis=1) <= 0)
        assert np.all(tokens[mask == 0] == 0)
        assert np.all(types[mask == 0] == 0)
        assert types.any() == (probe.segments == 2)
