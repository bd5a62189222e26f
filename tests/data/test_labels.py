"""Labels of the data become the model's: by name, without case, by number; one rule for a whole column."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.data.labels import label_mapper, number, unlabeled
from deploycomp.errors import InputRefused


def mapped(values: list[Any], labels: list[str] | None, names: list[str] | None = None) -> list[str]:
    _, mapper = label_mapper(values, labels, names, where=lambda index: f"row {index + 1}")
    return [mapper(value) for value in values]


@pytest.mark.parametrize(
    ("values", "labels", "names", "expected"),
    [
        (["pos", "neg"], ["neg", "pos"], None, ["pos", "neg"]),
        (["Positive", "NEGATIVE"], ["negative", "positive"], None, ["positive", "negative"]),
        (["not entailment"], ["entailment", "not_entailment"], None, ["not_entailment"]),
        ([1, 0], ["neg", "pos"], None, ["pos", "neg"]),
        (["1", "0"], ["neg", "pos"], None, ["pos", "neg"]),
        ([1.0, 0.0], ["neg", "pos"], None, ["pos", "neg"]),
        ([True, False], ["neg", "pos"], None, ["pos", "neg"]),
        ([True, False], ["False", "True"], None, ["True", "False"]),
        (["LABEL_1"], ["neg", "pos"], None, ["pos"]),
        ([5, 1], ["1", "2", "3", "4", "5"], None, ["5", "1"]),
        ([0, 4], ["1", "2", "3", "4", "5"], None, ["1", "5"]),
        ([0, 1], ["pos", "neg"], ["neg", "pos"], ["neg", "pos"]),
        ([0, 1], ["LABEL_0", "LABEL_1"], ["neg", "pos"], ["LABEL_0", "LABEL_1"]),
        ([0, 1], ["negative", "positive"], ["neg", "pos"], ["negative", "positive"]),
        (["a", "A"], ["a", "A"], None, ["a", "A"]),
        (["b", 10, 2], None, None, ["b", "10", "2"]),
        (["1", "2"], ["1", "2", "3"], None, ["1", "2"]),
        (["LABEL_1", "LABEL_2"], ["1", "2", "3"], None, ["2", "3"]),
        ([1, 0], ["0", "1"], None, ["1", "0"]),
        ([1.0, 0.0], ["0", "1"], None, ["1", "0"]),
        ([True, False], ["0", "1"], None, ["1", "0"]),
        ([1, 2, 3], ["1", "2", "3"], None, ["1", "2", "3"]),
        ([1.0, 3.0], ["1.0", "2.0", "3.0"], None, ["1.0", "3.0"]),
        (["5"], ["5.0", "x"], None, ["5.0"]),
        (["1.0", "0.0"], ["0", "1"], None, ["1", "0"]),
        ([" Pos "], ["neg", " pos"], None, [" pos"]),
        ([0, 4], ["1 star", "2 stars", "3 stars", "4 stars", "5 stars"], None, ["1 star", "5 stars"]),
        ([0, 1], ["type 1", "type 2"], None, ["type 1", "type 2"]),
        ([True, False], ["no", "yes"], None, ["yes", "no"]),
        (["1 star"], ["1 star", "2 stars"], None, ["1 star"]),
        ([1, 0], ["1", "2"], ["2", "1"], ["1", "2"]),
    ],
)  # fmt: skip
def test_mapping(values: list[Any], labels: list[str] | None, names: list[str] | None, expected: list[str]) -> None:
    assert mapped(values, labels, names) == expected


def test_without_a_model_the_labels_are_those_of_the_data_in_natural_order() -> None:
    assert label_mapper(["b", 10, 2, "a"], None, None, where=str)[0] == ("2", "10", "a", "b")
    assert label_mapper([1], None, ["neg", "pos"], where=str)[0] == ("neg", "pos")


@pytest.mark.parametrize(
    ("values", "labels", "names", "unknown", "row"),
    [
        (["pos", "neutral"], ["neg", "pos"], None, "neutral", 2),
        ([0, 2], ["neg", "pos"], None, "2", 2),
        ([0, 1, 2], ["neg", "pos"], ["a", "b", "c"], "a", 1),
        (["x", "y"], ["A", "a"], None, "x", 1),
        ([1.5], ["neg", "pos"], None, "1.5", 1),
    ],
)
def test_an_unknown_label_is_refused_with_its_row(
    values: list[Any], labels: list[str], names: list[str] | None, unknown: str, row: int
) -> None:
    with pytest.raises(InputRefused, match=f"the model does not know the label '{unknown}'") as refused:
        mapped(values, labels, names)
    assert refused.value.where == f"row {row}"
    assert f"of the model: {', '.join(labels)}" in str(refused.value.why)


@pytest.mark.parametrize(
    ("values", "labels", "names", "at", "means"),
    [
        ([1, 2], ["1", "2", "3"], None, "2", "1"),
        ([2, 1], ["1", "2", "3"], None, "3", "2"),
        ([1], ["1", "2"], None, "2", "1"),
        ([1.0], ["1", "2"], None, "2", "1"),
        ([1.0, 2.0], ["1.0", "2.0", "3.0"], None, "2.0", "1.0"),
        (["1"], ["1.0", "2.0"], None, "2.0", "1.0"),
        ([0, 1], ["1", "0"], None, "1", "0"),
        ([True, False], ["1", "0"], None, "0", "1"),
        ([True], ["yes", "no"], None, "no", "yes"),
        ([1, 2], ["1 star", "2 stars", "3 stars"], None, "2 stars", "1 star"),
        (["1", "2"], ["1 star", "2 stars", "3 stars"], None, "2 stars", "1 star"),
        ([0, 1], ["LABEL_1", "LABEL_0"], None, "LABEL_1", "LABEL_0"),
        ([0, 2], ["negative", "neutral", "pos"], ["pos", "neutral", "neg"], "negative", "pos"),
    ],
)  # fmt: skip
def test_a_number_that_is_a_name_or_a_position_is_refused_and_the_remedy_works(
    values: list[Any], labels: list[str], names: list[str] | None, at: str, means: str
) -> None:
    with pytest.raises(InputRefused, match="can be read in two ways") as refused:
        mapped(values, labels, names)
    assert refused.value.where == "row 1"
    assert f"by position it is '{at}', by name '{means}'" in str(refused.value.why)
    generic = f"LABEL_{labels.index(at)}"
    assert refused.value.hint == (
        f'write labels as text in .jsonl: "{means}" for that name, or "{generic}" for that position'
    )
    assert mapped([means], labels) == [means]
    if generic not in labels:
        assert mapped([generic], labels) == [at]


def test_one_value_in_doubt_is_refused_with_its_row() -> None:
    with pytest.raises(InputRefused, match="the label '1' can be read in two ways") as refused:
        mapped(["LABEL_0", 1], ["1", "2", "3"])
    assert refused.value.where == "row 2"


def test_long_lists_of_labels_are_cut() -> None:
    with pytest.raises(InputRefused) as refused:
        mapped(["x"], [f"l{index}" for index in range(151)])
    assert str(refused.value.why).endswith("l10, l11, … (151 in all)")


@given(
    st.lists(st.text(alphabet="abcXYZ_ -12", min_size=1).map(str.strip).filter(bool), min_size=1, unique=True),
    st.data(),
)
def test_round_trip(labels: list[str], data: Any) -> None:
    """Names map to themselves, and where the names say nothing, numbers map to the names they count."""
    values = data.draw(st.lists(st.sampled_from(labels), min_size=1))
    assert mapped(values, labels) == values
    words = [f"word {index}" for index in range(len(labels))]
    assert mapped([labels.index(value) for value in values], words) == [words[labels.index(value)] for value in values]


@given(st.permutations(["red", "green", "blue"]), st.lists(st.sampled_from(["red", "GREEN", "Blue"]), min_size=1))
def test_names_win_over_the_order_of_the_model(labels: list[str], values: list[str]) -> None:
    assert mapped(values, labels) == [value.lower() for value in values]


@pytest.mark.parametrize("value", [None, -1, -100, -1.0, float("nan"), "", "  ", "-1"])
def test_unlabeled(value: Any) -> None:
    assert unlabeled(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "none", [], [None], {}])
def test_labeled(value: Any) -> None:
    assert not unlabeled(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        ("2.5", 2.5),
        (-1, -1.0),
        (True, None),
        ("x", None),
        (float("inf"), None),
        (float("nan"), None),
        ([], None),
    ],
)
def test_number(value: Any, expected: float | None) -> None:
    assert number(value) == expected
