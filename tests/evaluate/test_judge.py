"""Agreement, the paired drop and the goal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import GateFailed, UsageError
from deploycomp.evaluate import Drop, Predictions, agreement, agreement_of_rows, check_drop, check_resolvable, compare
from tests.evaluate.fakes import labeled, rows_of

LABELS = ("a", "b")

SAME = [
    Predictions("label", [0, 1, 1], LABELS),
    Predictions("labels", [(0,), (), (0, 1)], LABELS),
    Predictions("value", [0.5, 0.5, 0.5]),
    Predictions("value", [0.1, 0.5, 0.9]),
    Predictions("tags", [("O", "B-X"), (), ("O",)], ("O", "B-X")),
    Predictions("answer", ["x", "", "y"]),
    Predictions("similarity", [0.1, -0.5, 0.9]),
    Predictions("token", [("a", "b"), (), ("c",)]),
]


@pytest.mark.parametrize("same", SAME)
def test_a_thing_agrees_with_itself(same: Predictions) -> None:
    for found in (agreement(same, same), agreement_of_rows(same, same)):
        assert found.value == found.high == 1
        assert found.low <= 1


def test_agreement_by_hand() -> None:
    assert (
        agreement(Predictions("label", [0, 1, 1, 0], LABELS), Predictions("label", [0, 1, 0, 0], LABELS)).value == 0.75
    )
    assert agreement(Predictions("answer", ["x", "y"]), Predictions("answer", ["x", "Y"])).value == 0.5
    assert agreement(Predictions("token", [("a", "b")]), Predictions("token", [("a", "c")])).value == 1
    doubled = Predictions("value", [2.0, 4.0, 8.0])
    assert agreement(Predictions("value", [1.0, 2.0, 4.0]), doubled).value == pytest.approx(1)


def test_tags_agree_by_word_and_by_row() -> None:
    source = Predictions("tags", [("O", "B-X", "O"), ("O",)], ("O", "B-X"))
    candidate = Predictions("tags", [("O", "O", "O"), ("O",)], ("O", "B-X"))
    assert agreement(source, candidate).value == 3 / 4
    assert agreement_of_rows(source, candidate).value == 1 / 2


def test_the_drop_of_accuracy_is_paired() -> None:
    """10 rows: the candidate loses 3 and wins 1; McNemar's p is 10/16."""
    rows = labeled([("t", "a")] * 10)
    drop = compare(
        rows, Predictions("label", [0] * 8 + [1] * 2, LABELS), Predictions("label", [1] * 3 + [0] * 6 + [1], LABELS)
    )
    assert drop.value == pytest.approx(0.2)
    assert drop.p_value == pytest.approx(10 / 16)
    assert drop.low < 0 < drop.high


def test_the_drop_of_f1_is_bootstrapped_in_pairs() -> None:
    rows = rows_of("token-classification", [{"tokens": ["w"], "tags": ["B-X"]}] * 60)
    source = Predictions("tags", [("B-X",)] * 60, ("O", "B-X"))
    candidate = Predictions("tags", [("O",)] * 20 + [("B-X",)] * 40, ("O", "B-X"))
    drop = compare(rows, source, candidate)
    assert drop.value == pytest.approx(1 - 2 * 40 / 100)
    assert 0 < drop.low < drop.value < drop.high
    assert drop.p_value < 0.01


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_no_drop_against_itself(drawn: list[tuple[int, int]]) -> None:
    rows = labeled([("t", LABELS[right]) for right, _ in drawn])
    found = Predictions("label", [guess for _, guess in drawn], LABELS)
    drop = compare(rows, found, found)
    assert (drop.value, drop.p_value) == (0, 1)
    assert drop.low <= 0 <= drop.high


def test_no_drop_of_f1_against_itself() -> None:
    rows = rows_of("question-answering", [{"question": "q", "context": "c", "answers": ["x y"]}] * 5)
    found = Predictions("answer", ["x", "x y", "z", "", "y"])
    assert compare(rows, found, found).as_dict() == {"value": 0, "low": 0, "high": 0, "p_value": 1}


# The goal


def goal(value: float, max_drop: float, *, rows: int = 200, metric: str = "accuracy") -> None:
    check_drop(
        Drop(value, value - 0.01, value + 0.02, 0.04), max_drop=max_drop, metric=metric, rows=rows, where="artifact"
    )


@pytest.mark.parametrize(("value", "max_drop"), [(0.0, 0.005), (-0.1, 0.005), (0.005, 0.005), (1 / 200, 0.005)])
def test_the_point_decides(value: float, max_drop: float) -> None:
    goal(value, max_drop)


def test_a_broken_goal_says_what_where_why() -> None:
    with pytest.raises(GateFailed, match=r"accuracy falls by 1 pt, more than the accepted 0\.5 pt") as failed:
        goal(0.01, 0.005)
    assert failed.value.where == "artifact"
    assert failed.value.why == "on 200 rows, 95 % CI 0 pt to 3 pt, p = 0.04"
    assert failed.value.hint
    assert failed.value.exit_code == 1


def test_correlations_are_no_points() -> None:
    with pytest.raises(GateFailed, match=r"spearman falls by 0\.01, more than the accepted 0\.005"):
        goal(0.01, 0.005, metric="spearman")


@pytest.mark.parametrize(("max_drop", "rows"), [(0.005, 199), (0.0, 5000), (0.1, 5)])
def test_a_goal_below_one_row_is_refused(max_drop: float, rows: int) -> None:
    with pytest.raises(UsageError, match="cannot be decided on") as refused:
        check_resolvable(max_drop, rows, where="set")
    assert "one row alone is worth" in str(refused.value.why)
    with pytest.raises(UsageError):
        goal(1.0, max_drop, rows=rows)


def test_the_refusal_says_what_would_do() -> None:
    with pytest.raises(UsageError) as refused:
        check_resolvable(0.005, 150)
    assert refused.value.what == "a largest drop of 0.5 pt cannot be decided on 150 rows"
    assert refused.value.why == "one row alone is worth 0.667 pt"
    assert refused.value.hint == "take at least 200 rows, or a max_drop of at least 0.67%"


@given(st.integers(1, 100_000))
def test_one_row_is_always_enough(rows: int) -> None:
    check_resolvable(1 / rows, rows)


def test_different_lengths_are_a_bug_that_is_heard() -> None:
    short: Any = Predictions("label", [0], LABELS)
    with pytest.raises(ValueError, match="zip"):
        agreement(SAME[0], short)
