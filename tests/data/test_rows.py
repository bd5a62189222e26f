"""Rows of every task from plain files: what they hold, and which row is refused for what reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.data import MASK, Rows, load_rows
from deploycomp.errors import InputRefused, UsageError


def load(folder: Path, rows: list[dict[str, Any]], task: str = "text-classification", **settings: Any) -> Rows:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_rows(str(path), task=task, **settings)


def texts(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"text {index}", "label": label} for index, label in enumerate(labels)]


def refusal(
    folder: Path, rows: list[dict[str, Any]], task: str = "text-classification", **settings: Any
) -> InputRefused:
    with pytest.raises(InputRefused) as refused:
        load(folder, rows, task, **settings)
    return refused.value


# Text classification


def test_single_labels(tmp_path: Path) -> None:
    rows = load(tmp_path, texts([1, 0]), labels=["neg", "pos"])
    assert rows.rows == [{"text": "text 0", "label": "pos"}, {"text": "text 1", "label": "neg"}]
    assert (rows.labels, rows.problem_type) == (("neg", "pos"), "single_label_classification")


def test_pairs(tmp_path: Path) -> None:
    rows = load(tmp_path, [{"premise": "a", "hypothesis": "b", "label": "x"}])
    assert rows.rows == [{"text": "a", "text_pair": "b", "label": "x"}]


@pytest.mark.parametrize(
    ("labels", "model", "expected"),
    [
        ([["b", "a"], []], ["a", "b", "c"], [["a", "b"], []]),
        ([[2, 0], [1, 1]], ["a", "b", "c"], [["a", "c"], ["b"]]),
        ([[1, 0, 1], [0, 0, 0]], ["a", "b", "c"], [["a", "c"], []]),
        ([[1.0, 0.0, 1.0]], ["a", "b", "c"], [["a", "c"]]),
        ([["b"], ["a"]], None, [["b"], ["a"]]),
    ],
)
def test_label_sets(tmp_path: Path, labels: list[Any], model: list[str] | None, expected: list[Any]) -> None:
    rows = load(tmp_path, texts(labels), labels=model)
    assert rows.column("label") == expected
    assert rows.problem_type == "multi_label_classification"


def test_regression_by_the_model_or_by_the_data(tmp_path: Path) -> None:
    assert load(tmp_path, texts([0, 5]), labels=["LABEL_0"]).column("label") == [0.0, 5.0]
    assert load(tmp_path, texts([0.5, -1.0])).problem_type == "regression"
    rows = load(tmp_path, texts([1, 2]), labels=["a", "b"], problem_type="regression")
    assert (rows.column("label"), rows.labels) == ([1.0, 2.0], None)


@pytest.mark.parametrize("label", [None, -1, -100, ""])
def test_an_unlabeled_row_is_refused(tmp_path: Path, label: Any) -> None:
    value = "pos" if label == "" else 1
    error = refusal(tmp_path, texts([value, label]))
    assert error.what == "the row has no label"
    assert error.where == f"{tmp_path.name}/rows.jsonl, row 2"
    assert "public test splits are often unlabeled" in str(error.why)
    assert error.hint == "choose a labeled split: --split validation"


def test_minus_one_may_be_a_label_of_the_model(tmp_path: Path) -> None:
    assert load(tmp_path, texts([-1, 1]), labels=["-1", "0", "1"]).column("label") == ["-1", "1"]


def test_an_unlabeled_regression_split_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, texts([-1.0, -1.0]), problem_type="regression").what == "the row has no label"
    assert (
        refusal(tmp_path, texts([0.5, None]), problem_type="regression").where == f"{tmp_path.name}/rows.jsonl, row 2"
    )


@pytest.mark.parametrize(
    ("labels", "settings", "what", "row"),
    [
        (["a", "b"], {"problem_type": "regression"}, "the label is not a number", 1),
        ([["a"], ["b"]], {"problem_type": "single_label_classification"}, "the row has more than one label", 1),
        (["a"], {"problem_type": "multi_label_classification"}, "the row has no list of labels", 1),
        ([["a"], None], {}, "the row has no label", 2),
        ([["a"], [None]], {}, "the row has no label", 2),
        (["a", "x"], {"labels": ["a", "b"]}, "the model does not know the label 'x'", 2),
        ([["a", "b"], ["a", "x"]], {"labels": ["a", "b"]}, "the model does not know the label 'x'", 2),
    ],
)
def test_wrong_labels_are_refused(
    tmp_path: Path, labels: list[Any], settings: dict[str, Any], what: str, row: int
) -> None:
    error = refusal(tmp_path, texts(labels), **settings)
    assert error.what == what
    assert error.where == f"{tmp_path.name}/rows.jsonl, row {row}"


@pytest.mark.parametrize(("text", "why"), [(None, "nothing"), (["a"], "list"), (True, "bool")])
def test_a_row_without_text_is_refused(tmp_path: Path, text: Any, why: str) -> None:
    error = refusal(tmp_path, [{"text": text, "label": "a"}])
    assert error.what == "the row has no text"
    assert error.why == f"column 'text' holds {why}, not a string"
    assert error.where == f"{tmp_path.name}/rows.jsonl, row 1"


# Token classification


def test_tags_by_name_and_by_number(tmp_path: Path) -> None:
    named = load(tmp_path, [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}], "token-classification", labels=["O", "B-X"])
    counted = load(tmp_path, [{"tokens": ["a", "b"], "ner_tags": [0, 1]}], "token-classification", labels=["O", "B-X"])
    assert named.rows == counted.rows == [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}]
    assert named.digest == counted.digest


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"tokens": "a b", "tags": ["O", "O"]}, "the row has no list of tokens"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "the row has 2 tokens and 1 tags"),
        ({"tokens": ["a"], "tags": None}, "the row has no label"),
        ({"tokens": ["a"], "tags": [None]}, "the row has no label"),
        ({"tokens": ["a"], "tags": ["B-Y"]}, "the model does not know the label 'B-Y'"),
    ],
)
def test_wrong_tags_are_refused(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    error = refusal(tmp_path, [row], "token-classification", labels=["O", "B-X"])
    assert (error.what, error.where) == (what, f"{tmp_path.name}/rows.jsonl, row 1")


def test_the_row_of_an_unknown_tag_is_counted_in_rows(tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "O"]}, {"tokens": [], "tags": []}, {"tokens": ["a"], "tags": ["X"]}]
    assert refusal(tmp_path, rows, "token-classification", labels=["O"]).where == f"{tmp_path.name}/rows.jsonl, row 3"


# Question answering


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [0, 3]}, ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        ([{"text": "a", "answer_start": 0}], ["a"]),
    ],
)
def test_answers(tmp_path: Path, answers: Any, expected: list[str]) -> None:
    rows = load(tmp_path, [{"question": "q", "context": "c", "answers": answers}], "question-answering")
    assert rows.rows == [{"question": "q", "context": "c", "answers": expected}]


def test_an_unanswerable_question_is_a_row_but_a_split_without_answers_is_not(tmp_path: Path) -> None:
    row = {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}}
    none = {**row, "answers": {"text": [], "answer_start": []}}
    assert load(tmp_path, [row, none], "question-answering").column("answers") == [["a"], []]
    empty = {**row, "answers": {"text": ["", " "], "answer_start": [0, 0]}}
    assert load(tmp_path, [row, empty], "question-answering").column("answers") == [["a"], []]
    refused = refusal(tmp_path, [none, none], "question-answering")
    assert refused.what == "not one row has an answer"
    assert refused.why == "rows without one are unanswerable questions, and all of them together an unlabeled split"
    assert refusal(tmp_path, [row, {**row, "answers": None}], "question-answering").what == "the row has no label"
    odd = {**row, "answers": [1, 2]}
    assert refusal(tmp_path, [odd], "question-answering").what == "the answers are not texts"


# Similarity and masks


@pytest.mark.parametrize(
    ("score", "what"),
    [
        (float("nan"), "the row has no label"),
        (float("inf"), "the label is not a number"),
        (None, "the row has no label"),
        ("high", "the label is not a number"),
    ],
)
def test_a_score_that_is_no_number_is_refused_with_its_row(tmp_path: Path, score: Any, what: str) -> None:
    rows = [{"text": "a", "text_pair": "b", "score": 0.5 if isinstance(score, float) else "0.5"}]
    refused = refusal(tmp_path, [*rows, {**rows[0], "score": score}], "sentence-similarity")
    assert refused.what == what
    assert str(refused.where).endswith("row 2")


@pytest.mark.parametrize("task", ["text-classification", "question-answering", "token-classification"])
def test_rows_that_all_say_nothing_are_refused(tmp_path: Path, task: str) -> None:
    blank = {
        "text-classification": {"text": " ", "label": "a"},
        "question-answering": {"question": "q", "context": "\n", "answers": ["a"]},
        "token-classification": {"tokens": ["", " "], "tags": ["O", "O"]},
    }[task]
    refused = refusal(tmp_path, [blank] * 3, task)
    assert refused.what == "not one of 3 rows has a text"
    assert str(refused.why).endswith("holds nothing but white space")


@pytest.mark.parametrize("task", ["sentence-similarity", "feature-extraction"])
def test_sentence_pairs_with_a_score(tmp_path: Path, task: str) -> None:
    rows = load(tmp_path, [{"sentence1": "a", "sentence2": "b", "label": 4}], task)
    assert rows.rows == [{"text": "a", "text_pair": "b", "score": 4.0}]


@pytest.mark.parametrize("mask", ["[MASK]", "<mask>", "<MASK>"])
def test_masked_text_with_its_token(tmp_path: Path, mask: str) -> None:
    rows = load(tmp_path, [{"text": f"a {mask} c", "label": " b "}], "fill-mask")
    assert rows.rows == [{"text": f"a {MASK} c", "label": "b"}]
    assert rows.mask == MASK


def test_plain_text_is_masked_by_a_seed(tmp_path: Path) -> None:
    plain = [{"text": "The quick brown fox"}, {"text": "= = 1 2 ="}, {"text": "jumps over the lazy dog"}]
    rows = load(tmp_path, plain, "fill-mask")
    assert [row["text"].replace(MASK, row["label"]) for row in rows.rows] == [plain[0]["text"], plain[2]["text"]]
    assert load(tmp_path, plain, "fill-mask").digest == rows.digest


def test_only_words_that_are_one_token_are_masked(tmp_path: Path) -> None:
    plain = [{"text": "The quick brown fox"}] * 3
    for vocabulary in ({"quick"}, {"Ġquick"}, {"▁quick"}):
        assert load(tmp_path, plain, "fill-mask", vocabulary=vocabulary).column("label") == ["quick"] * 3


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "[MASK] [MASK]", "label": "a"}, "the row has 2 masks"),
        ({"text": "[MASK] b"}, "the row has no label"),
        ({"text": "1 2 3"}, "no row has a word that could be masked"),
    ],
)
def test_wrong_masks_are_refused(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    assert refusal(tmp_path, [row], "fill-mask").what == what


# Limits and digests


def test_a_limit_takes_a_fixed_subset_in_order(tmp_path: Path) -> None:
    rows = load(tmp_path, texts(["a", "b"] * 50), limit=10)
    again = load(tmp_path, texts(["a", "b"] * 50), limit=10)
    numbers = [int(text.split()[1]) for text in rows.column("text")]
    assert rows == again
    assert (len(rows), rows.available) == (10, 100)
    assert numbers == sorted(numbers)
    assert numbers != list(range(10))


def test_a_limit_does_not_change_what_labels_mean(tmp_path: Path) -> None:
    rows = load(tmp_path, texts([0] + [1, 2] * 20), labels=["1", "2", "3"], limit=5)
    assert set(rows.column("label")) <= {"2", "3"}


def test_a_limit_beyond_the_data_takes_all(tmp_path: Path) -> None:
    assert len(load(tmp_path, texts(["a", "b"]), limit=10)) == 2


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a limit is at least 1 row"):
        load(tmp_path, texts(["a"]), limit=0)


def test_the_digest_is_sha256_of_canonical_json() -> None:
    text = '[{"label":"ü","text":"a"}]'
    assert Rows.of([{"text": "a", "label": "ü"}], task="x").digest == hashlib.sha256(text.encode()).hexdigest()


@given(st.lists(st.dictionaries(st.sampled_from(["text", "label"]), st.text()), max_size=4))
def test_equal_rows_have_equal_digests_and_others_do_not(rows: list[dict[str, str]]) -> None:
    turned = [dict(reversed(row.items())) for row in rows]
    assert Rows.of(rows, task="x").digest == Rows.of(turned, task="y").digest
    assert Rows.of([*rows, {"text": "more"}], task="x").digest != Rows.of(rows, task="x").digest
