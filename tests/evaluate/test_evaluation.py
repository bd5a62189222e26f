"""Several candidates on the same rows, as report.json keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploycomp.data import Rows
from deploycomp.errors import GateFailed, InputRefused, UsageError, VerificationFailed
from deploycomp.evaluate import check_evaluation, evaluate_candidates
from deploycomp.runtime import Predictor
from tests.evaluate.fakes import classifier, labeled, predictor_of, rows_of

LABELS = ["a", "b"]


def rows(count: int = 40) -> Rows:
    return labeled([(LABELS[index % 2], LABELS[index % 2]) for index in range(count)])


def worse() -> Predictor:
    """Answers a to everything."""
    return predictor_of("text-classification", {"a": [5.0, 0.0], "b": [5.0, 0.0]}, labels=LABELS)


def test_the_evaluation_part_of_the_report() -> None:
    candidates = {"artifact": worse(), "source": classifier(LABELS), "fp32": classifier(LABELS)}
    data = rows()
    found = evaluate_candidates(candidates, data, batch_size=4)
    keys = ["data", "split", "digest", "rows", "metric", "scores", "agreement", "drop", "max_drop"]
    assert list(found) == [*keys, "null_score_diff_threshold", "alone"]
    assert list(found["scores"]) == ["source", "artifact", "fp32"]
    assert (found["data"], found["rows"], found["digest"]) == ("set/test.jsonl", 40, data.digest)
    assert found["metric"] == "accuracy"
    assert found["scores"]["source"]["accuracy"]["value"] == 1
    assert found["scores"]["artifact"]["accuracy"]["value"] == 0.5
    assert found["agreement"]["artifact"]["value"] == 0.5
    assert found["agreement"]["fp32"]["value"] == 1
    assert found["drop"]["artifact"]["value"] == 0.5
    assert found["drop"]["fp32"]["p_value"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert evaluate_candidates(candidates, data, batch_size=4) == found


def test_one_row_is_judged_with_the_interval_that_one_row_has() -> None:
    found = evaluate_candidates({"source": classifier(LABELS), "artifact": worse()}, rows(1))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    score = found["scores"]["source"]["accuracy"]
    assert (score["value"], score["high"]) == (1, 1)
    assert score["low"] == pytest.approx(0.2065, abs=1e-4)  # Wilson's interval of 1 of 1
    assert (found["drop"]["artifact"]["value"], found["agreement"]["artifact"]["value"]) == (0, 1)
    with pytest.raises(UsageError, match="cannot be decided on 1 rows"):
        evaluate_candidates({"source": classifier(LABELS), "artifact": worse()}, rows(1), max_drop=0.5)


def test_one_row_has_no_correlation() -> None:
    data = rows_of("sentence-similarity", [{"text": "a", "text_pair": "b", "score": 0.5}])
    model = predictor_of("sentence-similarity", {"a": [1.0, 0.0], "b": [0.0, 1.0]})
    with pytest.raises(InputRefused, match="a correlation needs rows with different labels") as refused:
        evaluate_candidates({"artifact": model}, data)
    assert refused.value.where == "set/test.jsonl"


def reader() -> Predictor:
    """A model of SQuAD 2: the null answer has 0 + 0, the word "ada" more, every other word less."""
    words = {
        "ada": [2.0, 2.0],
        "who": [-1.0, -1.0],
        "lives": [-1.0, -1.0],
        "nobody": [-1.0, -1.0],
        "here": [-1.5, -1.5],
    }
    return predictor_of("question-answering", words)


def asked(*contexts: str) -> Rows:
    rows = [{"question": "who", "context": each, "answers": ["ada"] if "ada" in each else []} for each in contexts]
    return rows_of("question-answering", rows)


ANSWERABLE = ["ada lives here", "here lives ada"]
UNANSWERABLE = ["nobody lives here", "lives here nobody"]


def test_a_model_that_abstains_rightly_is_right() -> None:
    found = evaluate_candidates({"artifact": reader()}, asked(*ANSWERABLE, *UNANSWERABLE))
    assert found["null_score_diff_threshold"] == 0
    assert {name: each["value"] for name, each in found["scores"]["artifact"].items()} == {
        "f1": 1, "exact_match": 1, "has_answer_f1": 1, "has_answer_exact_match": 1, "no_answer_accuracy": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("threshold", "right"), [(-5.0, 0.5), (0.0, 1.0), (1.9, 1.0), (2.1, 0.5)])
def test_the_threshold_that_was_asked_for_decides(threshold: float, right: float) -> None:
    """Null beats the best word of an unanswerable context by 2, and loses to "ada" by 4."""
    found = evaluate_candidates(
        {"source": reader(), "artifact": reader()},
        asked(*ANSWERABLE, *UNANSWERABLE),
        null_score_diff_threshold=threshold,
        alone=["artifact"],
    )
    assert found["null_score_diff_threshold"] == threshold
    assert found["scores"]["artifact"]["exact_match"]["value"] == right
    assert found["alone"]["artifact"]["score"]["value"] == right


def test_without_unanswerable_rows_every_question_is_answered() -> None:
    """SQuAD 1.1: a model is judged by its spans, however sure it is of nothing."""
    data = rows_of("question-answering", [{"question": "who", "context": UNANSWERABLE[0], "answers": ["nobody"]}])
    found = evaluate_candidates({"artifact": reader()}, data)
    assert found["null_score_diff_threshold"] is None
    assert found["scores"]["artifact"]["exact_match"]["value"] == 1
    assert list(found["scores"]["artifact"]) == ["f1", "exact_match"]


def test_the_threshold_is_for_question_answering() -> None:
    with pytest.raises(UsageError, match="null_score_diff_threshold is for question answering") as refused:
        evaluate_candidates({"artifact": classifier(LABELS)}, rows(), null_score_diff_threshold=0.0)
    assert refused.value.why == "the task is text-classification"


def test_it_fits_the_published_schema() -> None:
    import jsonschema

    path = Path(__file__).parents[2] / "deploycomp" / "report" / "report.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    tags = rows_of("token-classification", [{"tokens": ["x", "y"], "tags": ["O", "B-X"]}] * 3)
    tagger = predictor_of("token-classification", {"x": [1.0, 0.0], "y": [0.0, 1.0]}, labels=["O", "B-X"])
    questions = asked(*ANSWERABLE, *UNANSWERABLE)
    for data, model in ((rows(), classifier(LABELS)), (tags, tagger), (questions, reader())):
        found = evaluate_candidates({"source": model, "artifact": model}, data, alone=["artifact"])
        jsonschema.validate(found, {**schema["$defs"]["evaluation"], "$defs": schema["$defs"]})


def test_without_a_source_there_are_only_scores() -> None:
    found = evaluate_candidates({"artifact": classifier(LABELS)}, rows(), max_drop=0.1)
    assert list(found["scores"]) == ["artifact"]
    assert (found["agreement"], found["drop"], found["max_drop"]) == ({}, {}, 0.1)


def test_what_batch_mates_change_is_measured() -> None:
    """A model that is wrong about "b" in company, as a range over the whole batch can make it."""
    model = classifier(LABELS)

    def sociable(feeds: Any, names: Any) -> Any:
        outputs = model._run(feeds, names)
        return [each[:, ::-1] if len(feeds["input_ids"]) > 1 else each for each in outputs]

    moody = Predictor(model.tokenizer, model.manifest, sociable)
    found = evaluate_candidates({"source": model, "artifact": moody}, rows(), batch_size=4, alone=["artifact"])
    assert found["scores"]["artifact"]["accuracy"]["value"] == 0
    assert found["alone"]["artifact"]["batch_size"] == 4
    assert found["alone"]["artifact"]["score"]["value"] == 1
    assert found["alone"]["artifact"]["agreement"]["value"] == 0
    steady = evaluate_candidates({"source": model, "artifact": model}, rows(), alone=["artifact"])
    assert steady["alone"]["artifact"]["agreement"]["value"] == 1


def test_tags_also_say_how_many_rows_are_unchanged() -> None:
    data = rows_of(
        "token-classification", [{"tokens": ["x", "y"], "tags": ["O", "B-X"]}, {"tokens": ["x"], "tags": ["O"]}]
    )
    outputs = {"x": [1.0, 0.0], "y": [0.0, 1.0]}
    source = predictor_of("token-classification", outputs, labels=["O", "B-X"])
    other = predictor_of("token-classification", {**outputs, "y": [1.0, 0.0]}, labels=["O", "B-X"])
    found = evaluate_candidates({"source": source, "artifact": other}, data)
    assert found["agreement"]["artifact"]["value"] == pytest.approx(2 / 3)
    assert found["scores"]["artifact"]["rows_unchanged"]["value"] == 0.5
    assert "rows_unchanged" not in found["scores"]["source"]


def test_progress_and_warnings_are_told() -> None:
    told: list[tuple[str, float]] = []
    warnings: list[str] = []
    model = predictor_of("text-classification", {"a": [1.0, 0.0]}, labels=LABELS, max_length=5)
    data = labeled([("a " * 9, "a"), ("a", "b"), ("a", "b")])
    evaluate_candidates(
        {"source": model, "artifact": model}, data, progress=lambda *each: told.append(each), warn=warnings.append
    )
    assert [name for name, _ in told if name not in ("evaluate source", "evaluate artifact")] == []
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[-1] == ("evaluate artifact", 1.0)
    assert len(warnings) == 2
    assert "less accurate than always answering the most frequent label" in warnings[0]
    assert warnings[1] == "texts of set/test.jsonl that were cut to the model's maximum length: 1"


def test_permuted_labels_stop_everything() -> None:
    with pytest.raises(VerificationFailed, match="labels look permuted"):
        evaluate_candidates({"source": classifier(LABELS, order=[1, 0])}, rows())


# The goal


def test_a_broken_goal_fails() -> None:
    with pytest.raises(GateFailed, match="accuracy falls by 50 pt") as failed:
        evaluate_candidates({"source": classifier(LABELS), "artifact": worse()}, rows(), max_drop=0.1)
    assert failed.value.where == "artifact on set/test.jsonl"


def test_only_what_is_delivered_is_held_to_the_goal() -> None:
    candidates = {"source": classifier(LABELS), "fp32": worse(), "artifact": classifier(LABELS)}
    assert evaluate_candidates(candidates, rows(), max_drop=0.1)["max_drop"] == 0.1
    del candidates["artifact"]
    with pytest.raises(GateFailed, match="accuracy falls"):
        evaluate_candidates(candidates, rows(), max_drop=0.1)


def test_a_goal_that_cannot_be_decided_is_refused_before_any_row_is_run() -> None:
    broken: Any = None
    with pytest.raises(UsageError, match="cannot be decided on 5 rows"):
        evaluate_candidates({"source": broken}, rows(5), max_drop=0.005)


def test_without_a_goal_nothing_is_checked() -> None:
    check_evaluation({"drop": {"artifact": {}}, "max_drop": None})


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, deploycomp.evaluate\n"
        "heavy = {'torch', 'scipy', 'sklearn', 'seqeval', 'datasets', 'onnxruntime', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
