"""Metrics against the libraries and by hand, for every kind of answer."""

from __future__ import annotations

import random
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score, precision_score, recall_score

from deploycomp.data import Rows
from deploycomp.errors import InputRefused, UsageError
from deploycomp.evaluate import Predictions, main_metric, score
from deploycomp.evaluate.metrics import has_entities, squad_f1, squad_normalize
from tests.evaluate.fakes import labeled, rows_of

LABELS = ("a", "b", "c")


def values(rows: Rows, predictions: Predictions) -> dict[str, float]:
    return {name: interval.value for name, interval in score(rows, predictions).items()}


def test_single_labels_by_hand() -> None:
    """Of 2 a, 1 b, 1 c one a is taken for b: F1 a = 2/3, b = 2/3, c = 1."""
    rows = labeled([("t", "a"), ("t", "a"), ("t", "b"), ("t", "c")])
    found = values(rows, Predictions("label", [0, 1, 1, 2], LABELS))
    assert found == pytest.approx({"accuracy": 3 / 4, "macro_f1": 7 / 9, "weighted_f1": (2 * 2 / 3 + 2 / 3 + 1) / 4})
    assert next(iter(found)) == "accuracy"


def test_two_labels_have_a_binary_f1_of_the_second() -> None:
    rows = labeled([("t", "a"), ("t", "b"), ("t", "b"), ("t", "a")])
    assert values(rows, Predictions("label", [0, 1, 0, 0], ("a", "b")))["f1"] == pytest.approx(2 / 3)


def test_label_sets_by_hand() -> None:
    """Right: a, ab, none. Found: a, a, c. 2 hits of 3 right and 3 found."""
    rows = rows_of(
        "text-classification",
        [{"text": "t", "label": ["a"]}, {"text": "t", "label": ["a", "b"]}, {"text": "t", "label": []}],
        problem_type="multi_label_classification",
    )
    found = values(rows, Predictions("labels", [(0,), (0,), (2,)], LABELS))
    assert found == pytest.approx({"micro_f1": 4 / 6, "macro_f1": 1 / 3, "accuracy": 1 / 3})
    assert next(iter(found)) == "micro_f1"


def test_numbers_are_scipys() -> None:
    gold, found = [0.0, 1.0, 2.0, 3.0, 3.0], [0.1, 0.9, 3.0, 2.0, 2.5]
    rows = rows_of("text-classification", [{"text": "t", "label": each} for each in gold], problem_type="regression")
    expected = {"pearson": pearsonr(gold, found).statistic, "spearman": spearmanr(gold, found).statistic}
    assert values(rows, Predictions("value", found)) == pytest.approx(expected)


def test_similarity_has_spearman_first() -> None:
    rows = rows_of("sentence-similarity", [{"text": "t", "text_pair": "u", "score": each} for each in (0.0, 1.0, 5.0)])
    found = values(rows, Predictions("similarity", [0.1, 0.2, 0.3]))
    assert list(found) == ["spearman", "pearson"]
    assert found["spearman"] == pytest.approx(1)


TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")
tag_rows = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=8), min_size=1, max_size=12
)


@given(tag_rows)
@settings(deadline=None, max_examples=60)
def test_entities_are_seqevals(drawn: list[list[tuple[str, str]]]) -> None:
    gold = [[right for right, _ in row] for row in drawn]
    found = [[guess for _, guess in row] for row in drawn]
    rows = rows_of("token-classification", [{"tokens": ["w"] * len(tags), "tags": tags} for tags in gold])
    predictions = Predictions("tags", [tuple(tags) for tags in found], TAGS)
    if not any(tag != "O" for tags in gold for tag in tags):
        with pytest.raises(InputRefused, match="no row has an entity"):
            score(rows, predictions)
        return
    ours = values(rows, predictions)
    with_zero: dict[str, Any] = {"zero_division": 0}
    assert ours["f1"] == pytest.approx(f1_score(gold, found, **with_zero))
    assert ours["precision"] == pytest.approx(precision_score(gold, found, **with_zero))
    assert ours["recall"] == pytest.approx(recall_score(gold, found, **with_zero))
    assert ours["token_accuracy"] == pytest.approx(np.mean([a == b for row in drawn for a, b in row]))


def test_tags_without_entities_are_judged_by_token() -> None:
    rows = rows_of("token-classification", [{"tokens": ["a", "b"], "tags": ["NOUN", "VERB"]}])
    assert values(rows, Predictions("tags", [("NOUN", "NOUN")], ("NOUN", "VERB"))) == {"token_accuracy": 0.5}
    assert main_metric("token-classification", labels=["NOUN", "VERB"]) == "token_accuracy"
    assert has_entities(["O", "S-X"])
    assert not has_entities(["LABEL_0", "X"])


@pytest.mark.parametrize(
    ("gold", "found", "exact", "overlap"),
    [
        ("The Apollo program", "apollo program!", True, 1.0),
        ("the cat sat", "a cat", False, 2 / 3),
        ("July 20, 1969", "July 20 1969", True, 1.0),
        ("x y x", "x x", False, 0.8),
        ("x", "y", False, 0.0),
        ("", "", True, 1.0),
        ("", "x", False, 0.0),
        ("the", "x", False, 0.0),
    ],
)
def test_squad_by_hand(gold: str, found: str, exact: bool, overlap: float) -> None:
    assert (squad_normalize(gold) == squad_normalize(found)) == exact
    assert squad_f1(gold, found) == pytest.approx(overlap)


def test_answers_take_the_best_of_several_and_an_empty_one_for_the_unanswerable() -> None:
    answers = [["Apollo", "Project Apollo"], ["NASA"], []]
    rows = rows_of("question-answering", [{"question": "q", "context": "c", "answers": each} for each in answers])
    assert values(rows, Predictions("answer", ["project apollo", "the NASA base", ""])) == pytest.approx(
        {
            "f1": (1 + 2 / 3 + 1) / 3,
            "exact_match": 2 / 3,
            "has_answer_f1": (1 + 2 / 3) / 2,
            "has_answer_exact_match": 1 / 2,
            "no_answer_accuracy": 1,
        }
    )


def _official(golds: list[list[str]], found: list[str]) -> dict[str, float]:
    """SQuAD's script, version 2, written down again: exact and F1 of all, HasAns and NoAns."""

    def words(text: str) -> list[str]:
        kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    def f1(gold: str, answer: str) -> float:
        right, guess = words(gold), words(answer)
        if not right or not guess:
            return float(right == guess)
        left, same = list(right), 0
        for word in guess:
            if word in left:
                left.remove(word)
                same += 1
        precision, recall = same / len(guess), same / len(right)
        return 2 * precision * recall / (precision + recall) if same else 0.0

    exact, overlap = [], []
    for answers, answer in zip(golds, found, strict=True):
        usable = [each for each in answers if words(each)] or [""]
        exact.append(max(float(words(each) == words(answer)) for each in usable))
        overlap.append(max(f1(each, answer) for each in usable))
    result = {"f1": np.mean(overlap), "exact_match": np.mean(exact)}
    has = [bool(answers) for answers in golds]
    if not all(has):
        with_answer = [index for index, each in enumerate(has) if each]
        without = [index for index, each in enumerate(has) if not each]
        result["has_answer_f1"] = np.mean([overlap[index] for index in with_answer]) if with_answer else 0
        result["has_answer_exact_match"] = np.mean([exact[index] for index in with_answer]) if with_answer else 0
        result["no_answer_accuracy"] = np.mean([exact[index] for index in without])
        assert result["no_answer_accuracy"] == np.mean([overlap[index] for index in without])
    return {name: float(value) for name, value in result.items()}


ANSWER = st.sampled_from(["", "the", "Apollo", "the Apollo.", "apollo apollo 11", "a  b", "NASA's base", "base, NASA"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.lists(ANSWER.filter(bool), max_size=3), ANSWER), min_size=1, max_size=8))
def test_answers_are_judged_as_by_the_official_script(drawn: list[tuple[list[str], str]]) -> None:
    golds, found = [gold for gold, _ in drawn], [answer for _, answer in drawn]
    rows = rows_of("question-answering", [{"question": "q", "context": "c", "answers": each} for each in golds])
    assert values(rows, Predictions("answer", found)) == pytest.approx(_official(golds, found))


def test_masked_tokens_by_hand() -> None:
    rows = rows_of("fill-mask", [{"text": "[MASK]", "label": each} for each in ("Graz", "city", "river")])
    tokens = [("Ġgraz", "x"), ("town", "▁city"), ("a", "b", "c", "d", "##e")]
    found = values(rows, Predictions("token", tokens))
    assert found == pytest.approx({"accuracy_at_1": 1 / 3, "accuracy_at_5": 2 / 3})
    assert values(rows, Predictions("token", [(), (), ()]))["accuracy_at_5"] == 0


def test_all_labels_alike_have_no_correlation() -> None:
    rows = rows_of("sentence-similarity", [{"text": "t", "text_pair": "u", "score": 1.0}] * 3)
    with pytest.raises(InputRefused, match="a correlation needs rows with different labels") as refused:
        score(rows, Predictions("similarity", [0.1, 0.2, 0.3]))
    assert refused.value.why == "all 3 are the same"


def test_a_label_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(InputRefused, match="the model does not know the label 'z'") as refused:
        score(labeled([("t", "a"), ("t", "z")]), Predictions("label", [0, 0], LABELS))
    assert refused.value.where == "set/test.jsonl, row 2"


@pytest.mark.parametrize(
    ("task", "problem", "metric"),
    [
        ("text-classification", None, "accuracy"),
        ("text-classification", "single_label_classification", "accuracy"),
        ("text-classification", "multi_label_classification", "micro_f1"),
        ("text-classification", "regression", "pearson"),
        ("token-classification", None, "f1"),
        ("question-answering", None, "f1"),
        ("sentence-similarity", None, "spearman"),
        ("feature-extraction", None, "spearman"),
        ("fill-mask", None, "accuracy_at_1"),
    ],
)
def test_main_metrics(task: str, problem: str | None, metric: str) -> None:
    assert main_metric(task, problem) == metric


def test_a_task_without_a_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="task 'text-generation' has no metric"):
        main_metric("text-generation")


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 2)), min_size=1, max_size=30), st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(drawn: list[tuple[str, int]], order: random.Random) -> None:
    shuffled = order.sample(drawn, len(drawn))
    first, second = (
        values(labeled([("t", label) for label, _ in each]), Predictions("label", [found for _, found in each], LABELS))
        for each in (drawn, shuffled)
    )
    assert first == pytest.approx(second)


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 2)), min_size=1, max_size=30), st.permutations([0, 1, 2])
)
@settings(max_examples=25, deadline=None)
def test_the_order_of_labels_does_not_matter(drawn: list[tuple[str, int]], order: list[int]) -> None:
    rows = labeled([("t", label) for label, _ in drawn])
    turned = tuple(LABELS[index] for index in order)
    moved = [turned.index(LABELS[found]) for _, found in drawn]
    first = values(rows, Predictions("label", [found for _, found in drawn], LABELS))
    assert first == pytest.approx(values(rows, Predictions("label", moved, turned)))


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_every_interval_holds_its_value(drawn: list[tuple[str, int]]) -> None:
    rows = labeled([("t", label) for label, _ in drawn])
    for interval in score(rows, Predictions("label", [found for _, found in drawn], LABELS)).values():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
