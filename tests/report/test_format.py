from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.report import format as fmt


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.06419, "0.0642"),
        (6.1, "6.10"),
        (9.996, "10.0"),
        (99.96, "100"),
        (90.9, "90.9"),
        (612.4, "612"),
        (1320.0, "1,320"),
        (-1.5, "−1.50"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_three_significant_digits(value, text):
    assert fmt.significant(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_significant_digits_are_right_to_half_a_unit_and_never_scientific(value):
    text = fmt.significant(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_megabytes_are_of_ten_to_the_six_bytes():
    assert fmt.megabytes(22_900_000) == "22.9 MB"
    assert fmt.megabytes(64_190) == "0.0642 MB"
    assert fmt.megabytes(None) == "–"


def test_milliseconds_and_counts():
    assert fmt.milliseconds(6.123) == "6.12 ms"
    assert fmt.milliseconds(None) == "–"
    assert [fmt.count(each) for each in (872, 22_713_986, 1.5e9, None)] == ["872", "22.7 M", "1.50 G", "–"]
    assert [fmt.plural(each, "check") for each in (1, 24)] == ["1 check", "24 checks"]


def test_percent_and_points():
    assert fmt.percent(0.8945) == "89.45 %"
    assert fmt.percent(0.221, 0) == "22 %"
    assert fmt.points(-0.0011) == "−0.11 pt"
    assert fmt.points(0.0023) == "+0.23 pt"
    assert fmt.points(0.0023, unit=False) == "+0.23"
    assert fmt.points(-0.0) == "0.00 pt"
    assert fmt.points(-0.00001) == "0.00 pt"
    assert fmt.points(None) == "–"
    assert fmt.percent(math.nan) == "–"
    assert fmt.interval(0.8724, 0.9132) == "87.2…91.3"
    assert fmt.interval(None, 0.9) == "–"


@given(st.floats(min_value=-1, max_value=1))
def test_a_change_is_zero_or_has_a_sign(value):
    text = fmt.points(value, unit=False)
    assert text == "0.00" or text[0] in "+−"


@pytest.mark.parametrize(
    ("value", "text"), [(0.92, "0.92×"), (1.083, "1.08×"), (2.44, "2.4×"), (9.97, "10×"), (12.3, "12×"), (-1, "–")]
)
def test_ratio(value, text):
    assert fmt.ratio(value) == text


def test_ratios_in_words_name_the_side_that_wins():
    assert fmt.faster(2.4) == "2.4× faster"
    assert fmt.faster(1 / 1.08) == "1.08× slower"
    assert fmt.faster(1.001) == "same speed"
    assert fmt.smaller(0.5) == "2.0× larger"
    assert fmt.less(1 / 1.07) == "1.07× more"
    assert fmt.less(None) == "–"
    assert fmt.smaller(0) == "–"


@given(st.floats(min_value=0.01, max_value=100))
def test_the_reciprocal_of_a_ratio_says_the_opposite(value):
    swap = {"faster": "slower", "slower": "faster"}
    words, opposite = fmt.faster(value).split(), fmt.faster(1 / value).split()
    if "same" not in words and "same" not in opposite:
        assert [words[0], swap[words[1]]] == opposite


@pytest.mark.parametrize(
    ("value", "text"), [(3.1e-7, "3.1e−7"), (1e-4, "1.0e−4"), (0.061, "0.061"), (0.5, "0.50"), (0, "0"), (None, "–")]
)
def test_errors(value, text):
    assert fmt.scientific(value) == text


def test_metrics_have_their_own_unit():
    assert fmt.metric_value("accuracy", 0.8945) == "89.45 %"
    assert fmt.metric_value("spearman", 0.89123) == "0.8912"
    assert fmt.metric_range("f1", 0.87, 0.91) == "87.0…91.0"
    assert fmt.metric_range("pearson", 0.87, 0.91) == "0.8700…0.9100"
    assert fmt.metric_range("pearson", None, 0.91) == "–"
    assert fmt.metric_change("accuracy", -0.0011) == "−0.11 pt"
    assert fmt.metric_change("spearman", -0.0011) == "−0.0011"
    assert [fmt.metric_name(each) for each in ("f1", "macro_f1", "exact_match", "accuracy", "spearman")] == [
        "F1",
        "macro F1",
        "exact match",
        "accuracy",
        "Spearman ρ",
    ]
    assert [fmt.metric_value("x", None), fmt.metric_change("x", None)] == ["–", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (72_731, "72,731"), (1_000_000, "1.0 million"), (1_377_828_864, "1.4 billion"), (25e9, "25 billion")],
)
def test_large_counts_are_spoken(value, text):
    assert fmt.spoken(value) == text


def test_the_interval_of_a_ratio():
    assert fmt.ratio_range(0.856, 1.428) == "0.86…1.43"
    assert fmt.ratio_range(None, 1.0) == fmt.ratio_range(1.0, math.nan) == "–"
