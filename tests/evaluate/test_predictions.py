"""Every task runs through a real Predictor over a tiny table model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploycomp.errors import InputRefused, UsageError, VerificationFailed
from deploycomp.evaluate import Predictions, predict, predictions, score
from tests.evaluate.fakes import classifier, labeled, predictor_of, rows_of

TAGS = ["O", "B-X"]


def test_one_label() -> None:
    rows = labeled([("b more text", "b"), ("a", "b"), ("b", "a")])
    found = predict(classifier(["a", "b"]), rows, batch_size=2)
    assert found == Predictions("label", [1, 0, 1], ("a", "b"))


def test_pairs_go_in_as_pairs() -> None:
    rows = rows_of("text-classification", [{"text": "a", "text_pair": "b", "label": "a"}])
    model = classifier(["a", "b"])
    assert predict(model, rows).values == [0]
    assert model.raw([("a", "b")]).rows[0][0].encoded.parts == [None, 0, None, 1, None]


def test_label_sets() -> None:
    sets = [{"text": "x", "label": ["a"]}, {"text": "y", "label": []}]
    rows = rows_of("text-classification", sets, problem_type="multi_label_classification")
    outputs = {"x": [3.0, -3.0, 3.0], "y": [-3.0, -3.0, -3.0]}
    model = predictor_of(
        "text-classification", outputs, labels=["c", "b", "a"], problem_type="multi_label_classification"
    )
    assert predict(model, rows).values == [(0, 2), ()]


def test_numbers() -> None:
    rows = rows_of(
        "text-classification", [{"text": "x", "label": 1.0}, {"text": "y", "label": 2.0}], problem_type="regression"
    )
    model = predictor_of("text-classification", {"x": [0.25], "y": [4.0]}, problem_type="regression")
    assert predict(model, rows) == Predictions("value", [0.25, 4.0])


def test_tags_for_words_also_for_none() -> None:
    rows = rows_of("token-classification", [{"tokens": [], "tags": []}, {"tokens": ["x", "y"], "tags": ["O", "B-X"]}])
    model = predictor_of("token-classification", {"x": [0.0, 1.0], "y": [1.0, 0.0]}, labels=TAGS)
    assert predict(model, rows).values == [(), ("B-X", "O")]


def test_answers() -> None:
    rows = rows_of("question-answering", [{"question": "q", "context": "c s m e c", "answers": ["s m e"]}])
    model = predictor_of("question-answering", {"q": [0, 0], "c": [0, 0], "s": [9, 0], "m": [0, 0], "e": [0, 9]})
    assert predict(model, rows) == Predictions("answer", ["s m e"])


@pytest.mark.parametrize("task", ["sentence-similarity", "feature-extraction"])
def test_cosines(task: str) -> None:
    pairs = [("x", "x"), ("x", "y"), ("x", "z"), ("x", "0")]
    rows = rows_of(task, [{"text": one, "text_pair": other, "score": 1.0} for one, other in pairs])
    model = predictor_of(task, {"x": [1.0, 0.0], "y": [0.0, 2.0], "z": [-3.0, 0.0], "0": [0.0, 0.0]})
    assert predict(model, rows).values == pytest.approx([1, 0, -1, 0])


def test_masks_are_those_of_the_model() -> None:
    rows = rows_of("fill-mask", [{"text": "x [MASK]", "label": "y"}])
    words = {"x": [0.0, 0, 0, 0, 0, 1, 9, 3], "y": [0.0] * 8, "z": [0.0] * 8}  # after x: y, then z, then x
    found = predict(predictor_of("fill-mask", words), rows)
    assert found.kind == "token"
    assert found.values[0][:3] == ("y", "z", "x")
    assert score(rows, found)["accuracy_at_1"].value == 1


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labeled([(("a", "b", "c")[index % 3], "a") for index in range(50)])
    whole = predict(classifier(["a", "b", "c"]), rows)
    monkeypatch.setattr(predictions, "CHUNK", 7)
    told: list[float] = []
    assert predict(classifier(["a", "b", "c"]), rows, progress=lambda _, share: told.append(share)) == whole
    assert told[-1] == 1
    assert all(0 <= share <= 1 for share in told)


def test_cut_texts_are_counted() -> None:
    model = predictor_of("text-classification", {"a": [1.0, 0.0]}, labels=["a", "b"], max_length=5)
    assert predict(model, labeled([("a " * 9, "a"), ("a", "a")])).truncated == 1


def test_another_task_is_refused() -> None:
    rows = rows_of("fill-mask", [{"text": "[MASK]", "label": "x"}])
    with pytest.raises(UsageError, match="model and data do not fit") as refused:
        predict(classifier(["a", "b"]), rows)
    assert refused.value.why == "the model is made for text-classification, the data was read for fill-mask"


def test_another_kind_of_label_is_refused() -> None:
    rows = rows_of("text-classification", [{"text": "x", "label": ["a"]}], problem_type="multi_label_classification")
    with pytest.raises(UsageError, match="model and data do not fit") as refused:
        predict(classifier(["a", "b"]), rows)
    assert "multi_label_classification" in str(refused.value.why)
    assert "single_label_classification" in str(refused.value.why)


def test_several_numbers_a_row_have_no_metric() -> None:
    rows = rows_of("text-classification", [{"text": "x", "label": 1.0}], problem_type="regression")
    model = predictor_of("text-classification", {"x": [1.0, 2.0]}, problem_type="regression")
    with pytest.raises(InputRefused, match="several numbers a row") as refused:
        predict(model, rows)
    assert refused.value.why == "there are 2"


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_answers_are_refused(bad: float) -> None:
    rows: Any = rows_of(
        "text-classification", [{"text": each, "label": 1.0} for each in "xy"], problem_type="regression"
    )
    model = predictor_of("text-classification", {"x": [1.0], "y": [bad]}, problem_type="regression")
    with pytest.raises(VerificationFailed, match="no finite number") as failed:
        predict(model, rows)
    assert failed.value.where == "set/test.jsonl, row 2"


def test_nan_is_refused_by_the_runtime() -> None:
    model = predictor_of("text-classification", {"a": [np.nan, 0.0]}, labels=["a", "b"])
    with pytest.raises(VerificationFailed, match="NaN"):
        predict(model, labeled([("a", "a")]))
