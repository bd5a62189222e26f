"""What is said of rows that are few, the same, nearly the same, or empty."""

from __future__ import annotations

import pytest

from deploycomp.data import variety_of
from deploycomp.errors import InputRefused

SPECIAL = frozenset(range(5))


def rows(*texts: str) -> list[list[int]]:
    """Token ids, one a letter, between the two ends."""
    return [[2, *map(ord, text), 3] for text in texts]


def said(*texts: str, wanted: int = 1) -> list[str]:
    return variety_of(rows(*texts), special=SPECIAL, where="d").warnings("d", wanted=wanted)


NATURAL = ["abcd", "efgh", "ijkl", "mnop", "qrst", "uvwx", "yzab", "cdef"]


def test_rows_that_differ_are_fine():
    assert said(*NATURAL) == []
    found = variety_of(rows(*NATURAL), special=SPECIAL, where="d")
    assert (found.rows, found.distinct, found.bare, found.common) == (8, 8, 0, 0)


@pytest.mark.parametrize(
    ("texts", "wanted", "sentences"),
    [
        (["abc"] * 9, 1, ["All 9 calibration rows of d are the same: what is learned holds for it alone."]),
        (["abc", "def", "ghi", "abc", "abc", "abc", "abc"], 1,
         ["Only 3 of 7 rows of d to calibrate on are different ones."]),
        (["abcd" + each for each in "efghijkl"], 1,
         ["The 8 calibration rows of d are nearly equal: 80% of a row's tokens stand in most of them."]),
        (["abcd", "efgh", "", "ijkl", ""], 1, ["2 of 5 rows of d to calibrate on hold no token of text."]),
        (NATURAL, 17, ["Calibrated on 8 rows of d where 17 are wanted: too few to be sure."]),
        (NATURAL, 16, []),
        (["abc"], 9, ["Calibrated on 1 row of d where 9 are wanted: too few to be sure."]),
        (["abcd" + each for each in "ef"], 1, []),  # two rows tell nothing
    ],
)  # fmt: skip
def test_poor_rows(texts: list[str], wanted: int, sentences: list[str]):
    assert said(*texts, wanted=wanted) == sentences


@pytest.mark.parametrize("bare", [[[2, 3]], [[2, 0, 0, 3], [2, 1, 3]], [[]]])
def test_rows_without_text_are_refused(bare: list[list[int]]):
    with pytest.raises(InputRefused, match="no row to calibrate on holds a token of text") as caught:
        variety_of(bare, special=SPECIAL, where="x/d.jsonl")
    assert caught.value.where == "x/d.jsonl"
    assert "all of them empty, or padding, special and unknown tokens alone" in str(caught.value.why)
