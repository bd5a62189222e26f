"""Columns are found by their usual names, or named; what is ambiguous or missing is refused with what to type."""

from __future__ import annotations

import json
import re

import pytest

from deploycomp.data.columns import columns_of, find_columns
from deploycomp.errors import UsageError


def find(found: list[str], task: str = "text-classification", **named: str) -> dict[str, str]:
    return find_columns(found, task=task, named=named, where="data")


@pytest.mark.parametrize(
    ("task", "found", "expected"),
    [
        ("text-classification", "text label", "text=text label=label"),
        ("text-classification", "idx sentence label", "text=sentence label=label"),
        ("text-classification", "text intent", "text=text label=intent"),
        ("text-classification", "text label title", "text=text label=label"),
        ("text-classification", "sentence1 sentence2 label idx", "text=sentence1 text_pair=sentence2 label=label"),
        ("text-classification", "premise hypothesis label", "text=premise text_pair=hypothesis label=label"),
        ("text-classification", "question sentence label idx", "text=question text_pair=sentence label=label"),
        ("text-classification", "question1 question2 label", "text=question1 text_pair=question2 label=label"),
        ("text-classification", "query category", "text=query label=category"),
        ("token-classification", "id tokens ner_tags pos_tags", "tokens=tokens tags=ner_tags"),
        ("token-classification", "words labels", "tokens=words tags=labels"),
        ("question-answering", "id context question answers", "question=question context=context answers=answers"),
        ("sentence-similarity", "text text_pair label", "text=text text_pair=text_pair score=label"),
        ("sentence-similarity", "sentence1 sentence2 score", "text=sentence1 text_pair=sentence2 score=score"),
        ("feature-extraction", "text1 text2 similarity", "text=text1 text_pair=text2 score=similarity"),
        ("fill-mask", "text", "text=text"),
        ("fill-mask", "premise hypothesis sentence label", "text=sentence label=label"),
    ],
)  # fmt: skip
def test_usual_names_are_found(task: str, found: str, expected: str) -> None:
    columns = dict(pair.split("=") for pair in expected.split())
    assert find(found.split(), task) == columns
    assert find(found.split()[::-1], task) == columns


def test_named_columns_are_not_guessed() -> None:
    assert find(["text", "title", "label", "topic"], text="title", label="topic") == {"text": "title", "label": "topic"}


def test_a_named_first_sentence_brings_its_second() -> None:
    found = ["premise", "hypothesis", "sentence1", "sentence2", "label"]
    assert find(found, text="premise")["text_pair"] == "hypothesis"
    assert "text_pair" not in find(["premise", "label"], text="premise")


def test_a_named_second_sentence_is_kept() -> None:
    assert find(["sentence1", "sentence2", "other", "label"], text_pair="other")["text_pair"] == "other"


@pytest.mark.parametrize(
    ("task", "found", "ours", "candidates"),
    [
        ("text-classification", "sentence review label", "text", "sentence, review"),
        ("text-classification", "text intent category", "label", "intent, category"),
        ("text-classification", "premise hypothesis text1 text2 x", "text", r"text1 \+ text2, premise \+ hypothesis"),
        ("text-classification", "premise hypothesis review label", "text", "premise \\+ hypothesis, review"),
        ("token-classification", "tokens ner_tags labels", "tags", "ner_tags, labels"),
    ],
)  # fmt: skip
def test_ambiguity_is_refused(task: str, found: str, ours: str, candidates: str) -> None:
    with pytest.raises(UsageError, match=f"more than one column could be '{ours}': {candidates}") as refused:
        find(found.split(), task)
    assert refused.value.why == f"columns found: {', '.join(found.split())}"
    assert str(refused.value.hint).startswith(f"name it: --column {ours}=")


@pytest.mark.parametrize(
    ("task", "found", "missing"),
    [
        ("text-classification", "a label", "text"),
        ("text-classification", "text b", "label"),
        ("text-classification", "a b", "text label"),
        ("token-classification", "text label", "tokens"),
        ("question-answering", "question context x", "answers"),
        ("sentence-similarity", "text score x", "text_pair"),
        ("sentence-similarity", "a b score", "text text_pair"),
        ("sentence-similarity", "anchor positive x", "text text_pair score"),
        ("sentence-similarity", "sentence1 sentence2 x", "score"),
        ("fill-mask", "a", "text"),
    ],
)
def test_a_missing_column_is_refused_with_what_to_type_and_typing_it_works(task: str, found: str, missing: str) -> None:
    named = {"text": "text"} if missing == "text_pair" else {}
    said = " and ".join(f"'{name}'" for name in missing.split())
    with pytest.raises(UsageError, match=f"no column for {said} was found") as refused:
        find(found.split(), task, **named)
    assert f"columns found: {', '.join(found.split())}" in str(refused.value.why)
    typed = re.findall(r"--column (\w+)=(\w+)", str(refused.value.hint))
    assert [ours for ours, _ in typed] == missing.split()
    assert {theirs for _, theirs in typed} <= set(found.split())
    assert find(found.split(), task, **named, **dict(typed)).items() >= dict(typed).items()


@pytest.mark.parametrize(
    ("task", "found", "missing"),
    [
        ("sentence-similarity", "text label", "text' and 'text_pair"),
        ("sentence-similarity", "anchor positive", "text' and 'text_pair' and 'score"),
        ("sentence-similarity", "sentence1 sentence2", "score"),
        ("feature-extraction", "sentence1 sentence2", "score"),
        ("question-answering", "question context", "answers"),
        ("text-classification", "text", "label"),
        ("token-classification", "tokens", "tags"),
    ],
)
def test_where_too_few_columns_are_there_a_row_is_shown_and_such_rows_work(task: str, found: str, missing: str) -> None:
    """No column is named that is something else: `--column score=sentence2` would lead nowhere."""
    with pytest.raises(UsageError, match=f"no column for '{missing}' was found") as refused:
        find(found.split(), task)
    start, row = str(refused.value.hint).split(": ", 1)
    assert start == "a row needs every column"
    assert find(list(json.loads(row)), task)


def test_what_is_named_must_be_there_and_be_read() -> None:
    with pytest.raises(UsageError, match="the data has no column 'sentense'") as refused:
        find(["sentence", "label"], text="sentense")
    assert refused.value.why == "columns found: sentence, label"
    with pytest.raises(UsageError, match="'tokens' is not a column that this task reads") as refused:
        find(["sentence", "label"], tokens="sentence")
    assert refused.value.why == "it reads: text, label, text_pair"


def test_a_task_without_a_metric_is_refused() -> None:
    with pytest.raises(UsageError, match="task 'image-to-text' has no metric"):
        columns_of("image-to-text")
