"""Torch steps end to end: what is published loads, answers, exports and composes, or nothing is left behind."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import deploycomp
from deploycomp.artifact import COMPRESSION, check_destination
from deploycomp.compression import compress_model
from deploycomp.errors import (
    DeploycompError,
    EnvironmentFailed,
    GateFailed,
    InputRefused,
    UsageError,
    VerificationFailed,
)
from deploycomp.inspection import inspect_path
from deploycomp.models import checkpoint, resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.pipeline import export_model
from deploycomp.recipe import (
    Calibrate,
    DropLayers,
    Evaluate,
    Export,
    Factorize,
    Int8,
    Prune,
    PruneFfn,
    PruneHeads,
    PruneVocabulary,
    Recipe,
)
from deploycomp.report import compression_lines
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made

TEXTS = tiny.texts(120, seed=5)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return made.write_rows(folder / "train.jsonl", [{"text": text} for text in TEXTS])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows, which need a part of the vocabulary."""
    folder = tmp_path_factory.mktemp("corpus")
    return made.write_rows(folder / "train.jsonl", [{"text": text} for text in TEXTS[:4]])


def recipe(rows: Path | None, *steps: Any, model: Path | None = None, **changes: Any) -> Recipe:
    calibrate = None if rows is None else Calibrate(data=str(rows), rows=80, held_out=40)
    values = {"model": str(model or made.model()), "steps": (*steps, Export()), "benchmark": None}
    return Recipe.model_validate({**values, "calibrate": calibrate, **changes})


def refused(kind: type[DeploycompError], asked: Recipe, folder: Path) -> DeploycompError:
    (folder / "alone").mkdir()
    with pytest.raises(kind) as caught:
        compress_model(asked, folder / "alone" / "out")
    assert made.entries(folder / "alone") == []
    return caught.value


@pytest.fixture(scope="module")
def pruned(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier at 60 % of its FLOPs; never change it."""
    return compress_model(recipe(rows, Prune(flops=0.6)), tmp_path_factory.mktemp("pruned") / "out").path


def test_the_folder_is_a_checkpoint_with_its_plan_and_its_report(pruned: Path):
    names = {"config.json", "surgery.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", COMPRESSION}
    assert set(made.files(pruned)) == names
    report = json.loads((pruned / COMPRESSION).read_text(encoding="utf-8"))
    facts = report["steps"][0]["facts"]
    assert report["result"]["parameters"] < report["source"]["parameters"]
    assert facts["trail"][-1]["cost"] <= 0.6 * facts["trail"][0]["cost"]
    assert [each["cost"] for each in facts["trail"]] == sorted((each["cost"] for each in facts["trail"]), reverse=True)
    assert Recipe.check(report["recipe"]).steps[0] == Prune(flops=0.6)
    written = {name: each["sha256"] for name, each in report["files"].items()}
    assert written == {name: digest for name, digest in made.files(pruned).items() if name != COMPRESSION}
    assert check_destination(pruned, overwrite=True) == pruned  # and so it may be replaced


@pytest.mark.parametrize("number", [1, 2, 3, -1], ids=["sums", "teacher", "student", "result"])
def test_a_full_disk_is_said_so_wherever_it_is_met(rows, tmp_path, monkeypatch, number):
    """The library of the files has an exception of its own for it."""
    import safetensors.torch
    from safetensors import SafetensorError

    asked = recipe(rows, Prune(flops=0.6))
    real, written = safetensors.torch.save_file, list[Path]()

    def save_file(tensors: Any, file: Path, metadata: Any = None) -> None:
        written.append(Path(file))
        if len(written) == number or (number < 0 and Path(file).name == "model.safetensors"):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, file, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    error = refused(EnvironmentFailed, asked, tmp_path)
    assert error.why == "No space left on device"
    assert "free some space" in str(error.hint)
    names = ["sums.safetensors", "teacher.safetensors", "student.safetensors", "model.safetensors"]
    assert written[-1].name == names[number if number < 0 else number - 1]


@pytest.mark.parametrize("step", [Prune(flops=0.7), DropLayers(count=1)], ids=lambda step: step.step)
def test_what_was_saved_is_read_back_alone_and_checked(rows, tmp_path, monkeypatch, step):
    """Two copies of a large model would be the most memory that the command takes."""
    saved, save = list[Any](), checkpoint.save

    def keep(model: TorchModel, folder: Path) -> None:
        save(model, folder)
        saved.append(weakref.ref(model.module))

    def change(source: Any, task: str | None = None) -> TorchModel:
        made = load(source, task)
        if saved:
            assert saved[0]() is None
            made.module.get_submodule("classifier").bias.data += 1.0  # type: ignore[operator,union-attr]
        return made

    monkeypatch.setattr(checkpoint, "save", keep)
    monkeypatch.setattr("deploycomp.models.load.load", change)
    error = refused(VerificationFailed, recipe(rows, step), tmp_path)
    assert "answers otherwise: logits by 1" in str(error)


def test_it_loads_as_an_ordinary_model_that_trains_and_saves(pruned: Path):
    model = deploycomp.load(pruned)
    ids = torch.arange(5, 17)[None]
    before = load(resolve(made.model())).module
    logits = model(input_ids=ids).logits
    assert logits.shape == before(input_ids=ids).logits.shape
    logits.square().sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "layer.0" in name)
    assert sum(each.numel() for each in model.parameters()) < sum(each.numel() for each in before.parameters())


def test_export_takes_it_and_answers_the_same(pruned: Path, tmp_path: Path):
    made_of = export_model(Recipe.model_validate({"model": str(pruned), "benchmark": None}), tmp_path / "out")
    predict = Predictor.load(made_of.artifact.path)
    from deploycomp.assess import source_predictor

    torch_answers = source_predictor(load(resolve(pruned)))(TEXTS[:5])
    for ours, theirs in zip(predict(TEXTS[:5]), torch_answers, strict=True):
        assert ours.label == theirs.label
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_one_command_prunes_quantizes_and_exports(rows: Path, tmp_path: Path):
    asked = recipe(rows, Prune(parameters=0.8), steps=(Prune(parameters=0.8), Export(), Int8()))
    result = export_model(asked, tmp_path / "out")
    assert [step["step"] for step in result.report["steps"]] == ["prune", "export", "int8"]
    assert len(Predictor.load(tmp_path / "out")(TEXTS[:3])) == 3
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Prune heads and neurons" in page


def test_counted_goals_give_the_same_bytes_twice(rows: Path, pruned: Path, tmp_path: Path):
    again = compress_model(recipe(rows, Prune(flops=0.6)), tmp_path / "again").path
    names = ("surgery.json", "model.safetensors", "config.json")
    assert all(made.files(pruned)[name] == made.files(again)[name] for name in names)


def test_pruning_a_pruned_model_goes_on_from_it(rows: Path, pruned: Path, tmp_path: Path):
    again = compress_model(recipe(rows, Prune(flops=0.8), model=pruned), tmp_path / "again")
    assert again.report["result"]["parameters"] < inspect_path(str(pruned))["parameters"]
    assert inspect_path(str(again.path))["parameters"] == again.report["result"]["parameters"]


def test_heads_alone_and_neurons_alone(rows: Path, tmp_path: Path):
    heads = compress_model(recipe(rows, PruneHeads(flops=0.85)), tmp_path / "heads").report["steps"][0]["facts"]
    neurons = compress_model(recipe(rows, PruneFfn(flops=0.85)), tmp_path / "neurons").report["steps"][0]["facts"]
    for facts, kind in ((heads, "heads"), (neurons, "neurons")):
        cut = {name for name, each in facts["units"].items() if each["kept"] < each["of"]}
        assert cut
        assert all(name.endswith(kind) for name in cut)


def test_vocabulary_layers_and_width_compose(rows: Path, corpus: Path, tmp_path: Path):
    steps = PruneVocabulary(corpus=str(corpus)), DropLayers(count=1), PruneFfn(flops=0.85)
    done = compress_model(recipe(rows, *steps), tmp_path / "out")
    made_of = load(resolve(done.path))
    assert len(made_of.anatomy.layers) == tiny.LAYERS - 1
    facts = done.report["steps"][0]["facts"]
    assert len(made_of.tokenizer) == facts["pieces"]["after"] < facts["pieces"]["before"]
    from deploycomp.assess import source_predictor

    assert len(source_predictor(made_of)(TEXTS[:4])) == 4


def test_vocabulary_pruning_alone_changes_no_answer_of_the_corpus(rows: Path, corpus: Path, tmp_path: Path):
    done = compress_model(recipe(rows, PruneVocabulary(corpus=str(corpus))), tmp_path / "out")
    from deploycomp.assess import source_predictor

    before = source_predictor(load(resolve(made.model())))
    after = source_predictor(load(resolve(done.path)))
    outputs = [np.array([each.score for each in predict(TEXTS[:4])]) for predict in (before, after)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("arch", ["distilbert", "modernbert", "albert", "mpnet", "deberta-v2"])
def test_other_architectures(arch: str, rows: Path, tmp_path: Path):
    model = made.model(arch)
    done = compress_model(recipe(rows, Prune(flops=0.7), model=model), tmp_path / "out")
    result = export_model(Recipe.model_validate({"model": str(done.path), "benchmark": None}), tmp_path / "onnx")
    assert result.report["source"]["parameters"] == done.report["result"]["parameters"]


def test_evaluation_judges_source_and_result(rows: Path, tmp_path: Path):
    data = made.write_rows(tmp_path / "test.jsonl", [{"text": text, "label": "neutral"} for text in tiny.texts(40)])
    done = compress_model(recipe(rows, Prune(flops=0.7), evaluate=Evaluate(data=str(data))), tmp_path / "out")
    assert set(done.report["evaluation"]["scores"]) == {"source", "artifact"}


# ------------------------------------------------------------ refusals


def test_pruning_without_rows_is_refused(tmp_path: Path):
    error = refused(UsageError, recipe(None, Prune(flops=0.6)), tmp_path)
    assert error.what == "prune needs rows to learn from"
    assert "--calibration" in str(error.hint)


def test_pruning_on_random_tokens_is_refused(tmp_path: Path):
    asked = recipe(None, Prune(flops=0.6), calibrate=Calibrate(allow_random=True))
    assert refused(UsageError, asked, tmp_path).what == "prune needs rows to judge its choices on"


def test_labels_score_where_rows_have_them(rows: Path, tmp_path: Path):
    labelled = made.write_rows(tmp_path / "train.jsonl", [{"text": text, "label": len(text) % 2} for text in TEXTS])
    plain = compress_model(recipe(labelled, Prune(flops=0.6)), tmp_path / "plain").report["steps"][0]["facts"]
    scored = compress_model(recipe(labelled, Prune(flops=0.6, labels=True)), tmp_path / "scored").report
    assert scored["steps"][0]["facts"]["trail"] != plain["trail"]
    assert scored["recipe"]["steps"][0]["labels"] is True
    error = refused(UsageError, recipe(rows, Prune(flops=0.6, labels=True)), tmp_path)
    assert error.what == "no column for 'label' was found"


def test_labels_of_tokens_score_nothing(rows: Path, tmp_path: Path):
    model = made.model("bert", "token-classification")
    error = refused(UsageError, recipe(rows, Prune(flops=0.6, labels=True), model=model), tmp_path)
    assert error.what == "labels score text classification only"


def test_a_goal_in_bytes_is_met(rows: Path, tmp_path: Path):
    report = compress_model(recipe(rows, Prune(bytes=0.8)), tmp_path / "out").report
    assert report["result"]["parameters"] <= 0.8 * report["source"]["parameters"]


def test_a_goal_that_nothing_reaches_is_refused(rows: Path, tmp_path: Path):
    error = refused(GateFailed, recipe(rows, Prune(parameters=0.05)), tmp_path)
    assert error.what == "the goal cannot be reached by pruning"


def test_a_speedup_on_a_gpu_is_refused(rows: Path, tmp_path: Path):
    asked = recipe(rows, Prune(speedup=1.5), target="cuda")
    assert refused(UsageError, asked, tmp_path).why == "the target is cuda"


def test_a_recipe_without_torch_steps_compresses_nothing(tmp_path: Path):
    assert refused(UsageError, recipe(None), tmp_path).what == "nothing compresses the model"


def test_all_layers_cannot_go(rows: Path, tmp_path: Path):
    refused(InputRefused, recipe(rows, DropLayers(count=tiny.LAYERS)), tmp_path)


@pytest.mark.parametrize(
    "step",
    [PruneVocabulary(), DropLayers(count=1), Prune(flops=0.7), Factorize(size=0.5)],
    ids=lambda step: step.step,
)
def test_no_step_learns_from_what_is_judged(step: Any, rows: Path, tmp_path: Path):
    """One rule for whatever learns or chooses: the judged rows, shuffled under another name, and half of them."""
    shuffled = [{"text": text, "label": "neutral"} for text in reversed(TEXTS[:60])]
    judged = Evaluate(data=str(made.write_rows(tmp_path / "other.jsonl", shuffled)))
    error = refused(UsageError, recipe(rows, step, evaluate=judged), tmp_path)
    assert error.what == (
        "calibration and evaluation use the same rows: 60 of 60 that are judged stand among 120 to learn from"
    )


def test_a_few_judged_rows_are_left_out_of_the_corpus_and_said(rows: Path, tmp_path: Path):
    others = [{"text": text, "label": "neutral"} for text in [TEXTS[0], *tiny.texts(30, seed=77, low=31, high=40)]]
    judged = Evaluate(data=str(made.write_rows(tmp_path / "other.jsonl", others)))
    done = compress_model(recipe(rows, PruneVocabulary(), evaluate=judged), tmp_path / "out")
    assert done.report["steps"][0]["facts"]["left_out"] == 1
    assert "prune_vocabulary: left out of it, because they are judged on: 1 row" in compression_lines(done.report)


def test_a_vocabulary_that_is_needed_whole_is_said(rows: Path, tmp_path: Path):
    once = compress_model(recipe(rows, PruneVocabulary()), tmp_path / "once").path
    error = refused(VerificationFailed, recipe(rows, PruneVocabulary(), model=once), tmp_path)
    assert error.what == "prune_vocabulary removed nothing"


def test_two_goals_are_refused():
    with pytest.raises(UsageError, match="needs one goal"):
        Recipe.check({"steps": [{"step": "prune", "flops": 0.5, "speedup": 2.0}, {"step": "export"}]})
