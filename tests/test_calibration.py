"""Which rows are calibrated on: none of those that are judged, one at a time, drawn with a seed."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp.calibration import Calibration, find_calibration
from deploycomp.data import Rows, load_rows
from deploycomp.errors import InputRefused, UsageError
from deploycomp.evaluate import inputs_of
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.pipeline import export_model
from deploycomp.recipe import Calibrate, Evaluate, Export, Fixed, Int8, Recipe
from tests import tiny
from tests.cli import made

TASK = "text-classification"
TEXTS = tiny.texts(60, seed=11, high=12)
ROWS = [{"text": text, "label": tiny.TEXT_LABELS[index % 3]} for index, text in enumerate(TEXTS)]
OTHERS = [{"text": text, "label": "neutral"} for text in tiny.texts(9, seed=12, low=13, high=20)]
"""Rows that are none of those."""


@functools.cache
def model(task: str = TASK) -> Any:
    """A loaded tiny model; it is only tokenized with."""
    return load(resolve(made.model("bert", task)), task)


def train(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    return str(made.write_rows(folder / "train.jsonl", rows))


def find(asked: Calibrate | None, *, judged: Rows | None = None, task: str = TASK, **recipe: Any) -> Calibration:
    found, why = find_calibration(Recipe(calibrate=asked, **recipe), model(task), judged)
    assert why == ""
    assert found is not None
    return found


def ids(calibration: Calibration) -> list[list[int]]:
    return [feeds["input_ids"][0].tolist() for feeds in calibration.feeds]


# ------------------------------------------------------------ where they come from


def test_the_train_split_beside_the_evaluation_data_is_taken(tmp_path: Path):
    train(tmp_path)
    judged = made.write_rows(tmp_path / "validation.jsonl", OTHERS)
    found = find(None, evaluate=Evaluate(data=str(judged)), judged=load_rows(str(judged), task=TASK))
    assert found.facts["data"] == f"{tmp_path.name}/train.jsonl"
    assert found.facts["rows"] == 0.75 * len(ROWS)  # the rest is held out


def test_columns_of_the_evaluation_data_hold_for_its_train_split(tmp_path: Path):
    renamed = [{"a": row["text"], "b": row["label"]} for row in ROWS]
    train(tmp_path, renamed)
    judged = made.write_rows(tmp_path / "test.jsonl", renamed[:9])
    found = find(None, evaluate=Evaluate(data=str(judged), columns={"text": "a", "label": "b"}))
    assert found.facts["rows"] == 0.75 * len(ROWS)  # the rest is held out


def test_without_any_data_the_reason_is_said():
    assert find_calibration(Recipe(), model(), None) == (
        None,
        "no calibration data was given, and the evaluation data has no train split beside it",
    )


def test_a_train_split_that_is_judged_on_calibrates_nothing(tmp_path: Path):
    train(tmp_path)
    judged = load_rows(str(tmp_path), task=TASK, split="train")
    found, why = find_calibration(Recipe(evaluate=Evaluate(data=str(tmp_path), split="train")), model(), judged)
    assert found is None
    assert "no train split" in why


def test_a_broken_train_split_that_nobody_asked_for_calibrates_nothing(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text("not JSON", encoding="utf-8")
    judged = made.write_rows(tmp_path / "validation.jsonl", ROWS[:9])
    found, why = find_calibration(Recipe(evaluate=Evaluate(data=str(judged))), model(), None)
    assert found is None
    assert why == "the train split beside the evaluation data cannot be used: the data cannot be read"


def test_ranges_need_no_labels(tmp_path: Path):
    bare = made.write_rows(tmp_path / "train.jsonl", [{"text": text} for text in TEXTS])
    assert len(find(Calibrate(data=str(bare), rows=10)).feeds) == 10


def test_rows_that_are_judged_on_are_refused(tmp_path: Path):
    judged = load_rows(train(tmp_path), task=TASK)
    with pytest.raises(UsageError, match="calibration and evaluation use the same rows") as caught:
        find(Calibrate(data=train(tmp_path)), judged=judged)
    assert caught.value.why == "what is chosen on rows cannot be judged on them"
    assert caught.value.where == f"{tmp_path.name}/train.jsonl and {tmp_path.name}/train.jsonl"
    assert caught.value.hint == "--calibration train.jsonl, or --eval with rows that are not in it"


def test_a_copy_of_the_rows_that_are_judged_on_is_refused(tmp_path: Path):
    judged = load_rows(str(made.write_rows(tmp_path / "other.jsonl", ROWS)), task=TASK)
    with pytest.raises(UsageError, match="the same rows"):
        find(Calibrate(data=train(tmp_path)), judged=judged)


def test_some_of_the_rows_that_are_judged_on_are_refused(tmp_path: Path):
    """The draw of --limit is another one than that of calibration: both may hold a row."""
    judged = load_rows(train(tmp_path), task=TASK, limit=5)
    with pytest.raises(UsageError, match="the same rows"):
        find(Calibrate(data=train(tmp_path)), judged=judged)


SHUFFLED = random.Random(1).sample(ROWS, len(ROWS))
SPELLED = [{"text": f"  {row['text'].upper()} ", "label": "neutral"} for row in SHUFFLED]
LONGER = [{"text": text, "label": "neutral"} for text in tiny.texts(900, seed=13, low=13, high=20)]


@pytest.mark.parametrize(
    ("calibration", "counts"),
    [
        (SHUFFLED, "60 of 60 that are judged stand among 60 to learn from"),
        (SPELLED, "60 of 60 that are judged stand among 60 to learn from"),
        (SHUFFLED[:30], "30 of 60 that are judged stand among 30 to learn from"),
        (SHUFFLED[:1], "1 of 60 that are judged stand among 1 to learn from"),
        (SHUFFLED[:30] + LONGER, "30 of 60 that are judged stand among 930 to learn from"),
        (SHUFFLED[:6] + LONGER, "6 of 60 that are judged stand among 906 to learn from"),
        (SHUFFLED[:3] + LONGER[:20], "3 of 60 that are judged stand among 23 to learn from"),
    ],
    ids=["shuffled", "in other spelling", "half", "one and no other", "half and others", "a tenth", "a tenth of few"],
)
def test_many_rows_in_common_are_refused_with_their_number(
    tmp_path: Path, calibration: list[dict[str, Any]], counts: str
):
    judged = load_rows(str(made.write_rows(tmp_path / "other.jsonl", ROWS)), task=TASK)
    with pytest.raises(UsageError, match="calibration and evaluation use the same rows") as caught:
        find(Calibrate(data=train(tmp_path, calibration)), judged=judged)
    assert counts in caught.value.what


def test_a_few_rows_in_common_are_left_out_and_that_is_said(tmp_path: Path):
    judged = load_rows(str(made.write_rows(tmp_path / "other.jsonl", ROWS)), task=TASK)
    found = find(Calibrate(data=train(tmp_path, ROWS[:5] + LONGER), rows=600), judged=judged)
    assert found.facts["left_out"] == 5
    assert found.facts["warnings"] == [
        f"5 rows that are judged on stood in {tmp_path.name}/train.jsonl too: left out of what is learned from."
    ]
    assert found.rows is not None
    assert found.held_out is not None
    learned = {*found.rows.column("text"), *found.held_out.column("text")}
    assert len(learned) == 900
    assert not learned & {row["text"] for row in ROWS}


def test_two_files_of_one_name_are_two(tmp_path: Path):
    """Their short names are the same: rows tell, names do not."""
    for parent, rows in (("a", ROWS), ("b", OTHERS)):
        (tmp_path / parent / "x").mkdir(parents=True)
        made.write_rows(tmp_path / parent / "x" / "d.jsonl", rows)
    judged = load_rows(str(tmp_path / "b" / "x" / "d.jsonl"), task=TASK)
    found = find(Calibrate(data=str(tmp_path / "a" / "x" / "d.jsonl")), judged=judged)
    assert found.facts["data"] == judged.name == "x/d.jsonl"
    assert (found.facts["left_out"], found.facts["rows"]) == (0, 45)


def test_held_out_rows_are_none_that_were_learned_from(tmp_path: Path):
    """Training data says some rows twice."""
    found = find(Calibrate(data=train(tmp_path, ROWS * 2), rows=60, held_out=60))
    assert found.rows is not None
    assert found.held_out is not None
    assert not {*found.rows.column("text")} & {*found.held_out.column("text")}
    assert 10 < len(found.held_out) < 60


# ------------------------------------------------------------ which say too little


def test_the_same_text_again_and_again_is_said_aloud(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path, ROWS[:1] * 300)))
    assert found.facts["distinct"] == 1
    assert found.facts["warnings"] == [
        f"All 225 calibration rows of {tmp_path.name}/train.jsonl are the same: what is learned holds for it alone."
    ]


def test_nearly_equal_texts_are_said_aloud(tmp_path: Path):
    rows = [{"text": f"the good film is no {word} , the bad film is so {word}"} for word in tiny.WORDS]
    found = find(Calibrate(data=train(tmp_path, rows), rows=60))
    assert len(found.facts["warnings"]) == 1
    assert "60 calibration rows" in found.facts["warnings"][0]
    assert "are nearly equal" in found.facts["warnings"][0]


def test_five_rows_where_256_are_wanted_are_said_aloud(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path, ROWS[:6]), held_out=1))
    assert found.facts["rows"] == 5
    assert found.facts["warnings"] == [
        f"Calibrated on 5 rows of {tmp_path.name}/train.jsonl where 256 are wanted: too few to be sure."
    ]
    assert find(Calibrate(data=train(tmp_path, ROWS), rows=5)).facts["warnings"] == []  # as asked


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["", "  ", "\n"] * 20, "not one of 60 rows has a text"),
        (["\u200b", "\x00"] * 20, "no row to calibrate on holds a token of text"),
        (["[PAD] [PAD]", "[PAD]"] * 20, "no row to calibrate on holds a token of text"),
        (["\u6f22\u5b57"] * 20, "no row to calibrate on holds a token of text"),
    ],
    ids=["white space", "control characters", "padding", "unknown"],
)
def test_rows_that_say_nothing_are_refused_before_anything_is_computed(tmp_path: Path, texts: list[str], what: str):
    data = train(tmp_path, [{"text": text, "label": "neutral"} for text in texts])
    with pytest.raises(InputRefused, match=what) as caught:
        export_model(made.recipe(calibrate={"data": data}), tmp_path / "out", progress=_no_step)
    assert caught.value.where == f"{tmp_path.name}/train.jsonl"
    assert not (tmp_path / "out").exists()


def _no_step(message: str, _share: float) -> None:
    assert not message.startswith(("export", "int8")), message


def test_some_rows_that_say_nothing_are_counted_aloud(tmp_path: Path):
    blank = [{"text": " " * count, "label": "neutral"} for count in range(20)]
    found = find(Calibrate(data=train(tmp_path, ROWS + blank), rows=80))
    assert found.facts["warnings"] == [
        f"20 of 80 rows of {tmp_path.name}/train.jsonl to calibrate on hold no token of text."
    ]


# ------------------------------------------------------------ which are drawn


def test_calibration_and_held_out_rows_are_disjoint(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path), rows=20, held_out=30))
    assert found.held_out is not None
    assert (len(found.feeds), len(found.held_out)) == (20, 30)
    predictor = made_predictor()
    held = [next(predictor.feeds([text]))["input_ids"][0].tolist() for text in inputs_of(found.held_out, predictor)]
    assert not {tuple(each) for each in ids(found)} & {tuple(each) for each in held}


def made_predictor() -> Any:
    from deploycomp.assess import source_predictor

    return source_predictor(model())


def test_the_draw_is_seeded_and_not_the_head(tmp_path: Path):
    asked = Calibrate(data=train(tmp_path), rows=10, held_out=10)
    first, second = find(asked), find(asked)
    assert ids(first) == ids(second)
    assert first.held_out is not None
    assert second.held_out is not None
    assert first.held_out.digest == second.held_out.digest
    assert first.facts == second.facts
    head = [next(made_predictor().feeds([text]))["input_ids"][0].tolist() for text in TEXTS[:10]]
    assert ids(first) != head


def test_a_quarter_of_what_is_too_little_for_both_is_held_out(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path), held_out=1000))
    assert found.held_out is not None
    assert (len(found.feeds), len(found.held_out)) == (45, 15)


def test_few_rows_calibrate_and_none_are_held_out(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path), rows=1000))
    assert found.facts["rows"] == len(found.feeds) == len(ROWS)
    assert found.held_out is None


# ------------------------------------------------------------ what the graph is fed


def test_feeds_are_one_row_each_without_padding(tmp_path: Path):
    found = find(Calibrate(data=train(tmp_path), rows=20))
    for feeds in found.feeds:
        assert set(feeds) == set(model().inputs)
        assert {array.shape for array in feeds.values()} == {(1, feeds["input_ids"].shape[1])}
        assert feeds["attention_mask"].all()
    assert len({feeds["input_ids"].shape for feeds in found.feeds}) > 3
    assert ids(found)[7] == found.feeds[7]["input_ids"][0].tolist()


def test_fixed_dimensions_are_filled(tmp_path: Path):
    steps = (Export(fixed=Fixed(batch=2, sequence=16)), Int8())
    found = find(Calibrate(data=train(tmp_path), rows=5), steps=steps)
    assert {feeds["input_ids"].shape for feeds in found.feeds} == {(2, 16)}


def test_pairs(tmp_path: Path):
    rows = [{**row, "text_pair": f"{row['text']} too"} for row in ROWS]
    found = find(Calibrate(data=train(tmp_path, rows), rows=8))
    assert all(feeds["token_type_ids"].any() for feeds in found.feeds)


def test_words(tmp_path: Path):
    rows = [{"tokens": ["paris", "likes", word], "tags": ["B-LOC", "O", "B-PER"]} for word in tiny.WORDS[:9]]
    found = find(Calibrate(data=train(tmp_path, rows), rows=4, held_out=5), task="token-classification")
    assert len(list(found.feeds)) == 4
    assert found.held_out is not None
    assert all(words[:2] == ["paris", "likes"] for words in found.held_out.column("tokens"))


def test_a_long_context_gives_several_windows(tmp_path: Path):
    answers = {"text": ["paris"], "answer_start": [0]}
    rows = [{"question": "where ?", "context": "paris " + "river " * 300, "answers": answers}] * 3
    found = find(Calibrate(data=train(tmp_path, rows), rows=3, held_out=0), task="question-answering")
    shapes = [feeds["input_ids"].shape for feeds in found.feeds]
    assert len(shapes) > 6
    assert max(length for _, length in shapes) == tiny.MAX_LENGTH
    assert {batch for batch, _ in shapes} == {1}


def test_both_sentences_of_a_similarity_are_fed(tmp_path: Path):
    rows = [{"text": text, "text_pair": "a lamp", "score": 0.5} for text in TEXTS[:6]]
    found = find(Calibrate(data=train(tmp_path, rows), rows=6), task="sentence-similarity")
    assert len(found.feeds) == 12


# ------------------------------------------------------------ random tokens


def test_random_tokens_only_when_allowed():
    assert find_calibration(Recipe(calibrate=Calibrate(rows=3)), model(), None)[0] is None
    found = find(Calibrate(rows=3, allow_random=True))
    assert found.facts == {"data": "random tokens", "split": None, "rows": 3, "digest": None}
    assert found.held_out is None
    assert [feeds["input_ids"].shape for feeds in found.feeds] == [(1, 32)] * 3
    assert all((feeds["input_ids"] < len(model().tokenizer)).all() for feeds in found.feeds)
    again = find(Calibrate(rows=3, allow_random=True))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(found.feeds, again.feeds, strict=True))


def test_data_goes_before_random_tokens(tmp_path: Path):
    train(tmp_path)
    judged = made.write_rows(tmp_path / "validation.jsonl", ROWS[:9])
    found = find(Calibrate(allow_random=True), evaluate=Evaluate(data=str(judged)))
    assert found.facts["data"] == f"{tmp_path.name}/train.jsonl"


def test_random_tokens_fill_fixed_dimensions():
    steps = (Export(fixed=Fixed(batch=2, sequence=16)), Int8())
    found = find(Calibrate(rows=2, allow_random=True), steps=steps)
    assert {feeds["input_ids"].shape for feeds in found.feeds} == {(2, 16)}
