"""Rows in two data sets are told by what is asked, in whatever order and spelling, for every task."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.data import Rows, unlike, without_judged
from deploycomp.errors import UsageError


def rows_of(task: str, rows: list[dict[str, Any]]) -> Rows:
    return Rows.of(rows, task=task, name="x/d.jsonl", columns={name: name for name in rows[0]})


def shared(task: str, found: list[dict[str, Any]], judged: list[dict[str, Any]]) -> int:
    """How many rows of *found* are left out; strangers stand around them, so that they are few."""
    strangers = [{name: _other(value, index) for name, value in found[0].items()} for index in range(99)]
    both = rows_of(task, [*strangers, *found]), rows_of(task, [*judged, *_strangers(judged[0])])
    return len(both[0]) - len(without_judged(*both))


def _strangers(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: _other(value, -index) for name, value in row.items()} for index in range(1, 100)]


def _other(value: Any, index: int) -> Any:
    return f"stranger {index}" if isinstance(value, str) else [f"stranger {index}"] if isinstance(value, list) else 0.5


TEXT = "text-classification"


@pytest.mark.parametrize(
    ("task", "found", "judged"),
    [
        (TEXT, {"text": "A good film"}, {"text": "a  good\tfilm ", "label": "pos"}),
        (TEXT, {"text": "caf\u00e9"}, {"text": "cafe\u0301", "label": "pos"}),
        (TEXT, {"text": "a", "label": "neg"}, {"text": "a", "label": "pos"}),
        (TEXT, {"text": "a", "text_pair": "b"}, {"text": "a", "text_pair": "B", "label": "pos"}),
        ("token-classification", {"tokens": ["Ada", "ran"]}, {"tokens": ["ada", "ran"], "tags": ["B-PER", "O"]}),
        ("question-answering", {"question": "q", "context": "c"}, {"question": "Q", "context": "c", "answers": ["c"]}),
        ("sentence-similarity", {"text": "a", "text_pair": "b"}, {"text": "b", "text_pair": "a", "score": 0.5}),
        ("sentence-similarity", {"text": "b"}, {"text": "a", "text_pair": "b", "score": 0.5}),
        ("fill-mask", {"text": "the red lamp"}, {"text": "the [MASK] lamp", "label": "red"}),
        ("fill-mask", {"text": "the red [MASK]", "label": "lamp"}, {"text": "the [MASK] lamp", "label": "red"}),
        ("fill-mask", {"text": "the <mask> lamp"}, {"text": "the [MASK] lamp", "label": "red"}),
    ],
)
def test_the_same_inputs_are_one_row(task: str, found: dict[str, Any], judged: dict[str, Any]) -> None:
    assert shared(task, [found], [judged]) == 1


@pytest.mark.parametrize(
    ("task", "found", "judged"),
    [
        (TEXT, {"text": "a good film"}, {"text": "a good film.", "label": "pos"}),
        (TEXT, {"text": "a", "text_pair": "b"}, {"text": "b", "text_pair": "a", "label": "pos"}),
        (TEXT, {"text": "ab"}, {"text": "a b", "label": "pos"}),
        ("question-answering", {"question": "p", "context": "c"}, {"question": "q", "context": "c", "answers": ["c"]}),
        ("sentence-similarity", {"text": "a", "text_pair": "c"}, {"text": "a", "text_pair": "b", "score": 0.5}),
        ("fill-mask", {"text": "the blue lamp"}, {"text": "the [MASK] lamp", "label": "red"}),
    ],
)
def test_other_inputs_are_another_row(task: str, found: dict[str, Any], judged: dict[str, Any]) -> None:
    assert shared(task, [found], [judged]) == 0


@given(st.permutations(range(40)), st.integers(0, 40))
def test_the_rule_does_not_depend_on_order(order: list[int], common: int) -> None:
    judged = rows_of(TEXT, [{"text": f"judged {index}"} for index in range(40)])
    texts = [f"judged {index}" if index < common else f"other {index}" for index in order]
    found = rows_of(TEXT, [{"text": text} for text in texts])
    if common > 3:
        with pytest.raises(UsageError, match=f"{common} of 40 that are judged stand among 40 to learn from"):
            without_judged(found, judged)
    elif common == 3:
        assert len(without_judged(found, judged)) == 37  # fewer than a tenth
    else:
        assert without_judged(found, judged).column("text") == [text for text in texts if text.startswith("other")]


def test_nothing_is_left_out_where_nothing_is_judged_or_shared() -> None:
    found = rows_of(TEXT, [{"text": "a"}])
    assert without_judged(found, None) is found
    assert without_judged(found, rows_of(TEXT, [{"text": "b"}])) is found


def test_a_row_that_is_said_often_is_one_judged_row() -> None:
    """Thirty times "thanks" in a thousand rows of training data: one judged row of a hundred, and three percent."""
    found = rows_of(TEXT, [{"text": "thanks"}] * 30 + [{"text": f"row {index}"} for index in range(970)])
    judged = rows_of(TEXT, [{"text": "Thanks"}, *({"text": f"judged {index}"} for index in range(99))])
    assert len(without_judged(found, judged)) == 970


def test_unlike_keeps_order_and_settings() -> None:
    rows = rows_of(TEXT, [{"text": text} for text in ("c", "A", "b", "c")])
    kept = unlike(rows, rows_of(TEXT, [{"text": "a"}]))
    assert kept.column("text") == ["c", "b", "c"]
    assert (kept.task, kept.name, kept.columns) == (rows.task, rows.name, rows.columns)
    assert kept.digest != rows.digest
