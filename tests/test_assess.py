"""Source and artifact are judged through the same tokenization, batching and decoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploycomp.assess import candidates_from, judge, source_predictor
from deploycomp.errors import InputRefused, UsageError
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made

TEXTS = tiny.texts(20, seed=11)


def test_the_source_answers_as_its_fp32_graph_does():
    source = source_predictor(load(resolve(made.model())))(TEXTS)
    graph = Predictor.load(made.fp32().path)(TEXTS)
    assert [answer.label for answer in source] == [answer.label for answer in graph]
    for one, other in zip(source, graph, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_judging_a_model_against_itself_finds_no_drop():
    result = judge(str(made.fp32().path), str(made.labelled()), against=str(made.model()), max_drop=0.1)
    assert result["drop"]["artifact"]["value"] == 0
    assert result["agreement"]["artifact"]["value"] == 1
    assert result["rows"] == len(made.labelled().read_text().splitlines())


def test_progress_never_goes_back():
    told: list[float] = []
    judge(str(made.fp32().path), str(made.labelled()), progress=lambda _, share: told.append(share))
    assert told == sorted(told)


def test_batches_do_not_change_what_a_float_graph_answers():
    one, many = (judge(str(made.fp32().path), str(made.labelled()), batch_size=size) for size in (1, 64))
    assert one["scores"]["artifact"] == many["scores"]["artifact"]


def test_an_artifact_against_an_artifact():
    paths = str(made.exported().artifact.path), str(made.fp32().path)
    result = judge(paths[0], str(made.labelled()), against=paths[1])
    assert set(result["scores"]) == {"source", "artifact"}
    assert result["scores"]["source"]["accuracy"]["value"] == 1.0


def test_models_of_other_tasks_are_not_compared(tmp_path: Path):
    other = tiny.build(tmp_path / "other", "bert", "fill-mask")
    with pytest.raises((UsageError, InputRefused), match="text-classification"):
        judge(str(made.exported().artifact.path), str(made.labelled()), against=str(other))


@pytest.mark.parametrize("missing", ["model", "data"])
def test_what_does_not_exist_is_named(missing: str, tmp_path: Path):
    model = tmp_path / "nowhere" if missing == "model" else made.exported().artifact.path
    data = tmp_path / "nowhere.jsonl" if missing == "data" else made.labelled()
    with pytest.raises((UsageError, InputRefused), match="nowhere"):
        judge(str(model), str(data))


def test_candidates_are_told_apart_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    artifact, graph = made.exported().artifact.path, made.fp32().model
    found = candidates_from([str(artifact), str(graph), str(made.model()), f"{artifact}/", str(graph)])
    assert [each.kind for each in found] == ["onnx", "onnx", "torch", "onnx", "onnx"]
    names = [artifact.name, "model.onnx", made.model().name]
    assert [each.name for each in found] == [*names, f"{artifact.name}#2", "model.onnx#2"]
    monkeypatch.chdir(artifact)
    assert candidates_from(["."])[0].name == artifact.name


def test_a_candidate_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="there is no such artifact, ONNX file or model folder"):
        candidates_from([str(tmp_path / "nowhere")])


@pytest.mark.parametrize(("threshold", "used", "abstains"), [(None, 0.0, None), (-1e6, -1e6, True), (1e6, 1e6, False)])
def test_no_answer_is_a_setting_of_what_is_judged(
    tmp_path: Path, threshold: float | None, used: float, abstains: bool | None
):
    rows = [
        {"question": "who ?", "context": "anna was in paris", "answers": {"text": ["anna"], "answer_start": [0]}},
        {"question": "who ?", "context": "the river was cold", "answers": {"text": [], "answer_start": []}},
    ]
    data = str(made.write_rows(tmp_path / "test.jsonl", rows))
    model = str(made.model("bert", "question-answering"))
    found = judge(model, data, null_score_diff_threshold=threshold)
    assert found["null_score_diff_threshold"] == used
    scores = {name: each["value"] for name, each in found["scores"]["artifact"].items()}
    if abstains is not None:
        assert scores["no_answer_accuracy"] == abstains
    if abstains:
        assert (scores["f1"], scores["has_answer_f1"]) == (0.5, 0)
