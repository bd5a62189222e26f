"""Permuted labels are noticed, poor models are only warned about, and luck is not mistaken for an order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import VerificationFailed
from deploycomp.evaluate import Predictions, check_labels
from deploycomp.evaluate.labels import best_permutation
from tests.evaluate.fakes import labeled, rows_of


def judged(gold: np.ndarray, found: np.ndarray, size: int) -> str | None:
    labels = tuple(f"l{index}" for index in range(size))
    return check_labels(labeled([("t", labels[index]) for index in gold]), Predictions("label", found.tolist(), labels))


def answers(size: int, rows: int, *, accuracy: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gold = random.integers(0, size, rows)
    return gold, np.where(random.random(rows) < accuracy, gold, random.integers(0, size, rows))


def test_a_good_model_passes() -> None:
    assert judged(*answers(5, 300, accuracy=0.8), 5) is None


def test_two_swapped_labels_are_refused() -> None:
    gold, found = answers(2, 100, accuracy=0.8)
    with pytest.raises(VerificationFailed, match="labels look permuted") as failed:
        judged(gold, 1 - found, 2)
    assert failed.value.where == "set/test.jsonl"
    assert "16.0%, most frequent label 56.0%; 84.0% with the best matching permutation" in str(failed.value.why)
    assert "'l0' means 'l1', 'l1' means 'l0'" in str(failed.value.why)
    assert failed.value.exit_code == 4


@pytest.mark.parametrize("seed", range(5))
def test_many_permuted_labels_are_refused(seed: int) -> None:
    gold, found = answers(150, 3000, accuracy=0.8, seed=seed)
    order = np.random.default_rng(seed).permutation(150)
    with pytest.raises(VerificationFailed, match="labels look permuted") as failed:
        judged(gold, order[found], 150)
    assert "in all)" in str(failed.value.why)


def test_labels_in_turn_are_no_trap() -> None:
    gold = np.arange(100) % 2
    with pytest.raises(VerificationFailed, match="labels look permuted"):
        judged(gold, 1 - gold, 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "rows"), [(2, 5), (2, 100), (10, 30), (100, 100), (150, 500)])
def test_a_model_that_guesses_is_warned_about_at_most(size: int, rows: int, seed: int) -> None:
    gold, found = answers(size, rows, accuracy=0.0, seed=seed)
    warning = judged(gold, found, size)
    assert warning is None or "less accurate than always answering the most frequent label" in warning


def test_a_poor_model_is_warned_about_with_numbers() -> None:
    gold = np.array([0] * 90 + [1] * 10)
    warning = judged(gold, np.array([0] * 50 + [1] * 50), 2)
    assert str(warning).endswith("(accuracy 60.0%, most frequent label 90.0%)")


def test_data_of_one_label_prove_no_order() -> None:
    assert judged(np.zeros(100, int), np.array([0] * 30 + [1] * 70), 2) is not None


def test_one_row_is_no_evidence() -> None:
    assert judged(np.array([0]), np.array([1]), 2) is not None


def test_other_kinds_are_not_looked_at() -> None:
    rows = rows_of("question-answering", [{"question": "q", "context": "c", "answers": ["x"]}])
    assert check_labels(rows, Predictions("answer", ["y"])) is None


@given(st.permutations(range(6)), st.integers(0, 5))
def test_the_best_permutation_undoes_any(order: list[int], repeat: int) -> None:
    gold = np.repeat(np.arange(6), repeat + 1)
    found = np.array(order)[gold]
    assert (best_permutation(gold, found, 6)[found] == gold).all()


def test_labels_that_never_occur_stay_where_they_are() -> None:
    gold = np.array([0, 1, 0, 1])
    assert best_permutation(gold, 1 - gold, 5).tolist() == [1, 0, 2, 3, 4]
