"""A recipe runs whole or leaves nothing: what is published, that it repeats, and what stops it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime as ort
import pytest

from deploycomp import pipeline
from deploycomp.artifact import MANIFEST, Artifact, digest_files, sha256
from deploycomp.errors import (
    DeploycompError,
    EnvironmentFailed,
    GateFailed,
    InputRefused,
    UsageError,
    VerificationFailed,
)
from deploycomp.onnxmodel import OnnxModel
from deploycomp.pipeline import ExportResult, export_model
from deploycomp.recipe import Benchmark, Evaluate, Export, Fixed, Int8, Recipe
from deploycomp.report import load_schema
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made
from tests.test_artifact import Disk

SIDE_FILES = {"config.json", "tokenizer.json", "tokenizer_config.json", "ort_config.json"}
PAGES = {"report.json", "report.md", "report.html"}
TEXTS = tiny.texts(12, seed=3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to export; alone in its folder, so that leftovers are seen."""
    (tmp_path / "alone").mkdir()
    return tmp_path / "alone" / "out"


@pytest.fixture(scope="session")
def artifact() -> Artifact:
    return made.exported().artifact


def refused(kind: type[DeploycompError], recipe: Recipe, out: Path, **options: Any) -> DeploycompError:
    """Export, expect a refusal, and check that nothing of it is left."""
    source = made.files(Path(str(recipe.model))) if Path(str(recipe.model)).is_dir() else None
    with pytest.raises(kind) as caught:
        export_model(recipe, out, **options)
    assert made.entries(out.parent) == []
    assert source is None or made.files(Path(str(recipe.model))) == source
    return caught.value


# ------------------------------------------------------------ what is published


def test_the_folder_holds_model_side_files_manifest_and_report(artifact: Artifact):
    assert set(made.files(artifact.path)) == {"model.onnx", MANIFEST} | SIDE_FILES | PAGES
    artifact.verify()


def test_the_manifest_has_every_key_that_readers_rely_on(artifact: Artifact):
    manifest = {**artifact.manifest, "runtime": {**artifact.manifest["runtime"]}}
    assert list(manifest) == [
        "schema_version", "deploycomp", "task", "model", "precision", "target", "signature", "runtime", "source",
        "recipe", "versions", "selftest", "steps", "parity", "evidence", "files",
        "seal",
    ]  # fmt: skip
    assert manifest["task"] == "text-classification"
    assert (manifest["model"], manifest["precision"], manifest["target"]) == ("model.onnx", "int8", "portable")
    batch = ["batch", "sequence"]
    assert manifest["signature"] == {
        "inputs": {"input_ids": batch, "attention_mask": batch, "token_type_ids": batch},
        "outputs": {"logits": ["batch", 3]},
    }
    needs = manifest["runtime"].pop("onnxruntime")
    assert (needs["lowest"], needs["padding"]) == ("1.25", "right")
    assert manifest["runtime"] == {
        "max_length": tiny.MAX_LENGTH,
        "pad_token_id": 0,
        "pad_token_type_id": 0,
        "padding_side": "right",
        "truncation_side": "right",
        "split_special_tokens": False,
        "labels": list(tiny.TEXT_LABELS),
        "problem_type": "single_label_classification",
        "activation": "identity",
        "mask_token": "[MASK]",
        "unk_token_id": 1,
        "prompts": {},
        "default_prompt_name": None,
        "fixed": {"batch": None, "sequence": None},
        "session": {},
    }
    assert [step["step"] for step in manifest["steps"]] == ["export", "int8"]
    assert [(each["stage"], each["precision"]) for each in manifest["parity"]] == [
        ("export", "fp32"), ("int8", "int8"), ("text", "fp32"), ("text", "int8"),
    ]  # fmt: skip
    assert Recipe.check(manifest["recipe"]) == made.recipe()


def test_every_hash_is_right(artifact: Artifact):
    manifest = artifact.manifest
    for name, entry in manifest["files"].items():
        path = artifact.path / name
        assert entry == {"sha256": sha256(path), "bytes": path.stat().st_size}
    source = made.model()
    assert manifest["source"]["files"] == {name: sha256(source / name) for name in manifest["source"]["files"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(manifest["source"]["files"])
    assert manifest["source"]["digest"] == digest_files(manifest["source"]["files"])
    assert manifest["source"]["name"] == source.name


def test_the_manifest_measures_nothing(artifact: Artifact):
    """No duration, no time, no machine: these differ between runs."""
    text = (artifact.path / MANIFEST).read_text(encoding="utf-8")
    for word in ("seconds", "created", "machine", str(Path.cwd()), str(Path.home())):
        if word != "/" and word != "seconds":
            assert word not in text
    assert not any("seconds" in step for step in artifact.manifest["steps"])


def test_the_report_follows_its_schema_and_agrees_with_the_manifest(artifact: Artifact):
    report = json.loads((artifact.path / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, load_schema())
    assert report == made.exported().report
    assert report["artifact"]["digest"] == artifact.digest
    assert report["artifact"]["bytes"] == artifact.model.stat().st_size
    assert report["artifact"]["fp32_bytes"] > 2 * report["artifact"]["bytes"]
    assert report["evaluation"] is report["benchmark"] is None
    assert report["rendered"] == {name: sha256(artifact.path / name) for name in ("report.md", "report.html")}
    assert len(report["layers"]) > 10
    assert "layers" not in report["steps"][1]["facts"]


def test_the_artifact_answers_like_its_source(artifact: Artifact):
    answers = Predictor.load(artifact.path, verify=True)(TEXTS)
    assert [answer.label for answer in answers] == [answer.label for answer in Predictor.load(made.fp32().path)(TEXTS)]
    assert all(abs(sum(answer.scores.values()) - 1) < 1e-5 for answer in answers)


# ------------------------------------------------------------ variants


def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_keep_fp32_with_external_data(out: Path, artifact: Artifact):
    steps = (Export(external_data_bytes=10_000), Int8())
    done = export_model(made.recipe(steps=steps, keep_fp32=True), out)
    payload = {"model.onnx", "model.onnx.data", "model_fp32.onnx", "model_fp32.onnx.data"}
    assert set(made.files(out)) == {MANIFEST} | payload | SIDE_FILES | PAGES
    assert payload < set(done.artifact.manifest["files"])
    assert done.report["artifact"]["bytes"] == sum((out / name).stat().st_size for name in sorted(payload)[:2])
    assert done.report["artifact"]["fp32_bytes"] == sum((out / name).stat().st_size for name in sorted(payload)[2:])
    assert json.loads((out / "ort_config.json").read_text())["use_external_data_format"] is True
    moved = out.parent / "moved"
    out.rename(moved)
    here, plain = Predictor.load(moved, verify=True)(TEXTS), Predictor.load(artifact.path)(TEXTS)
    assert here == plain
    feeds = {name: np.ones((1, 5), np.int64) for name in done.artifact.manifest["signature"]["inputs"]}
    want = session(made.fp32().model).run(["logits"], feeds)[0]
    assert np.allclose(session(moved / "model_fp32.onnx").run(["logits"], feeds)[0], want, atol=1e-6)
    with (moved / "model.onnx.data").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    with pytest.raises(InputRefused, match=r"model\.onnx\.data has changed"):
        Predictor.load(moved, verify=True)


def test_the_layout_of_transformers_js(out: Path):
    done = export_model(made.recipe(layout="transformers.js", keep_fp32=True), out)
    graphs = {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert set(made.files(out)) == {MANIFEST} | graphs | SIDE_FILES | PAGES
    assert done.artifact.manifest["model"] == "onnx/model_quantized.onnx"
    assert Predictor.load(out, verify=True)(TEXTS[0]) == Predictor.load(made.exported().artifact.path)(TEXTS[0])


def test_the_layout_of_sentence_transformers(out: Path):
    model = made.model("bert", "sentence-similarity")
    done = export_model(made.recipe(model=str(model), layout="sentence-transformers", target="x86-vnni"), out)
    folders = {
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    graph = "onnx/model_qint8_avx512_vnni.onnx"
    assert set(made.files(out)) == {MANIFEST, graph} | folders | SIDE_FILES | PAGES
    assert done.artifact.manifest["target"] == "x86-vnni"
    vectors = Predictor.load(out)(TEXTS)
    assert vectors.shape == (len(TEXTS), tiny.HIDDEN)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_sentence_transformer_that_keeps_its_encoder_in_a_folder(tmp_path: Path, out: Path):
    """Older releases wrote 0_Transformer/, with config, weights and tokenizer in it."""
    model = Path(shutil.copytree(made.model("bert", "sentence-similarity"), tmp_path / "model"))
    (model / "0_Transformer").mkdir()
    for path in [each for each in model.iterdir() if each.is_file() and "sentence" not in each.name]:
        if path.name != "modules.json":
            path.rename(model / "0_Transformer" / path.name)
    (model / "sentence_bert_config.json").rename(model / "0_Transformer" / "sentence_bert_config.json")
    modules = json.loads((model / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (model / "modules.json").write_text(json.dumps(modules))
    export_model(made.recipe(model=str(model)), out)
    assert set(made.files(out)) > SIDE_FILES
    assert Predictor.load(out)(TEXTS).shape == (len(TEXTS), tiny.HIDDEN)


def test_fixed_dimensions_are_really_fixed(out: Path):
    export_model(made.recipe(steps=(Export(fixed=Fixed(batch=1, sequence=16)), Int8())), out)
    manifest = Artifact.open(out).manifest
    assert manifest["runtime"]["fixed"] == {"batch": 1, "sequence": 16}
    assert manifest["signature"]["inputs"]["input_ids"] == [1, 16]
    assert manifest["signature"]["outputs"] == {"logits": [1, 3]}
    opened = session(out / "model.onnx")
    assert {tuple(each.shape) for each in opened.get_inputs()} == {(1, 16)}
    names = [each.name for each in opened.get_inputs()]
    for shape in ((2, 16), (1, 15), (1, 17)):
        with pytest.raises(Exception, match="Got invalid dimensions"):
            opened.run(None, {name: np.ones(shape, np.int64) for name in names})
    short = tiny.texts(40, seed=9, high=5)
    whole = [answer.label for answer in Predictor.load(made.exported().artifact.path)(short)]
    assert [answer.label for answer in Predictor.load(out)(short)] == whole


def test_fp16_for_a_gpu(out: Path):
    done = export_model(made.recipe(steps=(Export(dtype="fp16"),), target="cuda"), out)
    assert done.artifact.manifest["precision"] == "fp16"
    assert done.report["artifact"]["bytes"] < 0.7 * made.fp32().model.stat().st_size
    assert done.report["parity"][0]["precision"] == "fp16"


# ------------------------------------------------------------ again, and elsewhere


@pytest.fixture(scope="session")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One export in two processes: other hash seed, TMPDIR, HOME, working directory, time zone and path."""
    running, places = [], []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Kathmandu")):
        place = tmp_path_factory.mktemp(f"run{seed}")
        for name in ("work", "tmp", "home"):
            (place / name).mkdir()
        environment = {"PYTHONHASHSEED": seed, "TZ": zone, "TMPDIR": f"{place}/tmp", "HOME": f"{place}/home"}
        arguments = ("export", made.model(), "--int8", "--no-benchmark", "-q", "-o", place / "out")
        running.append(made.start(*arguments, cwd=place / "work", environment=environment))
        places.append(place)
    for child in running:
        assert child.communicate(timeout=120) == ("", "")
        assert child.returncode == 0
    return places


def test_two_runs_give_the_same_bytes(twice: list[Path], artifact: Artifact):
    payloads = []
    for folder in (artifact.path, *(place / "out" for place in twice)):
        found = made.files(folder)
        assert found.keys() >= PAGES
        payloads.append({name: digest for name, digest in found.items() if name not in PAGES})
    assert payloads[0] == payloads[1] == payloads[2]


def test_nothing_is_written_elsewhere(twice: list[Path]):
    for place in twice:
        assert made.entries(place) == ["home", "out", "tmp", "work"]
        assert made.files(place / "work") == {}
        assert [name for name in made.files(place / "home") if "matplotlib/fontlist" not in name] == []
        assert made.files(place / "tmp") == {}


def test_the_stored_recipe_reproduces_the_artifact(out: Path, artifact: Artifact):
    stored = Recipe.check(json.loads((artifact.path / MANIFEST).read_text(encoding="utf-8"))["recipe"])
    assert export_model(stored, out).artifact.digest == artifact.digest
    assert (out / MANIFEST).read_bytes() == (artifact.path / MANIFEST).read_bytes()


def test_the_source_is_only_read_and_progress_never_goes_back(tmp_path: Path, out: Path):
    model = Path(shutil.copytree(made.model(), tmp_path / "model"))
    for path in [*model.rglob("*"), model]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = made.files(model)
    times = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    told: list[tuple[str, float]] = []
    recipe = made.recipe(model=str(model), steps=(Export(),))
    export_model(recipe, out, progress=lambda message, share: told.append((message, share)))
    assert made.files(model) == before
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == times
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert [message for message, _ in told] == [
        "reading the checkpoint", "loading the model", "export", "asking the source's library", "publishing",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["model", "model/inside", "."])
def test_the_source_is_never_the_output(tmp_path: Path, place: str):
    model = Path(shutil.copytree(made.model(), tmp_path / "model"))
    before = made.files(tmp_path)
    with pytest.raises(UsageError, match="may not be, contain or lie inside the source"):
        export_model(made.recipe(model=str(model)), tmp_path / place, overwrite=True)
    assert made.files(tmp_path) == before


# ------------------------------------------------------------ refused before the work


@pytest.mark.parametrize(
    ("recipe", "kind", "reason"),
    [
        ({"model": None}, UsageError, "no model was named"),
        ({"target": "cuda"}, UsageError, "INT8 is for CPUs"),
        ({"steps": (Export(dtype="fp16"),)}, UsageError, "FP16 artifacts are for GPUs"),
        ({"model": "./nowhere/at-all"}, InputRefused, "there is no such folder"),
        ({"model": __file__}, InputRefused, "the model is a file, not a folder"),
        ({"revision": "main"}, UsageError, "a local folder has no revision"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    out: Path, recipe: dict[str, Any], kind: type[DeploycompError], reason: str, monkeypatch: pytest.MonkeyPatch
):
    import deploycomp.models.load

    monkeypatch.setattr(deploycomp.models.load, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(kind, match=reason) as caught:
        export_model(made.recipe(**recipe), out)
    assert made.entries(out.parent) == []
    assert caught.value.hint


def test_a_missing_head_is_refused(out: Path):
    error = refused(InputRefused, made.recipe(task="question-answering"), out)
    assert "was made for text-classification, not for question-answering" in str(error)


def test_a_longer_fixed_sequence_than_the_model_has(out: Path):
    recipe = made.recipe(steps=(Export(fixed=Fixed(sequence=tiny.MAX_LENGTH + 1)),))
    error = refused(InputRefused, recipe, out)
    assert error.hint == f"--fixed sequence={tiny.MAX_LENGTH}"


def test_data_is_read_before_the_work(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "_steps", lambda *_: pytest.fail("the work began"))
    error = refused(UsageError, made.recipe(evaluate=Evaluate(data="nowhere.jsonl")), out)
    assert "nowhere.jsonl" in str(error)


def test_a_goal_that_so_few_rows_cannot_decide_is_refused_before_the_work(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "_steps", lambda *_: pytest.fail("the work began"))
    asked = Evaluate(data=str(made.labelled()), max_drop=0.0001)
    error = refused(UsageError, made.recipe(evaluate=asked), out)
    assert "cannot be decided on" in str(error)


# ------------------------------------------------------------ verified, judged, measured, or nothing


def test_a_wrong_graph_is_never_published(out: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.export import torch_export

    tidy = torch_export._tidy

    def poke(model: Any, *arguments: Any) -> None:
        import onnx_ir as ir

        tidy(model, *arguments)
        value = model.graph.initializers["classifier.bias"]
        value.const_value = ir.tensor(value.const_value.numpy() + 0.01, name="classifier.bias")

    monkeypatch.setattr(torch_export, "_tidy", poke)
    error = refused(VerificationFailed, made.recipe(), out)
    assert "does not compute what the source model computes" in str(error)
    assert "output logits" in str(error)
    assert error.exit_code == 4


def test_wrongly_quantized_weights_are_never_published(out: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.quantize import rewrite

    right = rewrite.quantize_weight
    monkeypatch.setattr(
        rewrite,
        "quantize_weight",
        lambda weight, **options: (right(weight, **options)[0][::-1], right(weight, **options)[1]),
    )
    error = refused(VerificationFailed, made.recipe(), out)
    assert "the int8 graph does not compute what the source model computes" in str(error)


def test_int8_that_changes_nothing_is_an_error_with_reasons(out: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.quantize import products, rewrite

    for module in (products, rewrite):
        monkeypatch.setattr(module, "MIN_WEIGHTS", 10**9)
    error = refused(VerificationFailed, made.recipe(), out)
    assert "nodes were quantized" in error.what
    assert "too few to pay" in str(error.why)
    assert error.hint == "export without --int8"


def test_int8_that_says_it_did_nothing_is_an_error(out: Path, monkeypatch: pytest.MonkeyPatch):
    import deploycomp.quantize

    def nothing(model: OnnxModel, *_: Any, **__: Any) -> tuple[OnnxModel, dict[str, Any]]:
        return model, {"nodes": {"MatMul": [0, 12]}, "left_in_float": [], "layers": []}

    monkeypatch.setattr(deploycomp.quantize, "quantize", nothing)
    assert "INT8 quantized 0 nodes" in str(refused(VerificationFailed, made.recipe(), out))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, artifact: Artifact) -> Callable[..., ExportResult]:
    """An export whose model and graph are there already: all its writes, none of its seconds."""
    import deploycomp.models.load
    from deploycomp.models import resolve

    graphs = {"export": made.fp32().model, "int8": artifact.model}
    loaded = deploycomp.models.load.load(resolve(made.model()))
    page = (artifact.path / "report.html").read_text(encoding="utf-8")

    def steps(run: Any) -> dict[str, Any]:
        for (name, path), place in zip(graphs.items(), ("graph.onnx", "model.onnx"), strict=True):
            (run.context.work / name).mkdir()
            shutil.copyfile(path, run.context.work / name / place)
        run.steps += [{**step, "seconds": 0.0} for step in artifact.manifest["steps"]]
        run.context.parity += artifact.manifest["parity"]
        return artifact.manifest["signature"]

    monkeypatch.setattr(deploycomp.models.load, "load", lambda *_: loaded)

    def texts(_run: Any, manifest: dict[str, Any]) -> None:
        manifest["selftest"] = artifact.manifest["selftest"]

    monkeypatch.setattr(pipeline, "_steps", steps)
    monkeypatch.setattr(pipeline, "_check_texts", texts)
    monkeypatch.setattr("deploycomp.report.write.to_html", lambda _: page)
    return lambda out, **changes: export_model(made.recipe(**changes), out, overwrite=True)


def test_a_kept_goal_and_a_benchmark_stand_in_the_report(out: Path):
    """The whole way, with everything on."""
    asked = Evaluate(data=str(made.labelled()), max_drop=1.0, batch_size=4)
    shapes = Benchmark(batch_size=(1,), sequence_length=(8,), threads=(1,), blocks=2, block_seconds=0.02)
    told: list[float] = []
    done = export_model(
        made.recipe(evaluate=asked, benchmark=shapes), out, progress=lambda _, share: told.append(share)
    )
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, load_schema())
    assert told[-1] == 1.0
    judged = report["evaluation"]
    assert set(judged["scores"]) == {"source", "fp32", "artifact"}
    assert judged["scores"]["source"]["accuracy"]["value"] == 1.0
    assert judged["scores"]["fp32"]["accuracy"]["value"] == 1.0
    assert judged["agreement"]["artifact"]["value"] == judged["scores"]["artifact"]["accuracy"]["value"] < 1.0
    assert judged["drop"]["artifact"]["value"] > 0
    assert judged["max_drop"] == 1.0
    assert judged["alone"]["artifact"]["batch_size"] == 4
    measured = report["benchmark"]
    assert set(measured["candidates"]) == {"source", "fp32", "artifact"}
    assert [cell["candidate"] for cell in measured["cells"]] == ["source", "fp32", "artifact"]
    assert all(cell["p50_ms"] > 0 for cell in measured["cells"])
    assert done.artifact.digest == Artifact.open(out).digest
    done.artifact.verify()
    assert made.entries(out.parent) == ["out"]


@pytest.mark.parametrize("existing", [True, False])
def test_a_broken_goal_leaves_the_old_artifact_or_nothing(
    quick: Callable[..., ExportResult], tmp_path: Path, existing: bool
):
    if existing:
        shutil.copytree(made.fp32().path, tmp_path / "out")
    before = made.files(tmp_path)
    rows = len(made.labelled().read_text().splitlines())
    with pytest.raises(GateFailed, match="accuracy falls by") as caught:
        quick(tmp_path / "out", evaluate=Evaluate(data=str(made.labelled()), max_drop=1 / rows))
    assert caught.value.exit_code == 1
    assert "more than the accepted" in caught.value.what
    assert "95 % CI" in str(caught.value.why)
    assert made.files(tmp_path) == before
    assert made.leftovers(tmp_path) == []


# ------------------------------------------------------------ disk


def test_the_quick_export_writes_what_the_real_one_does(quick: Callable[..., ExportResult], out: Path):
    assert made.files(quick(out).artifact.path).keys() == made.files(made.exported().artifact.path).keys()
    assert Artifact.open(out).digest == made.exported().artifact.digest


def test_a_disk_that_fills_up_anywhere_leaves_the_old_artifact(quick: Callable[..., ExportResult], tmp_path: Path):
    for number in range(1, 1000):
        parent = tmp_path / str(number)
        (parent / "out").mkdir(parents=True)
        shutil.copyfile(made.exported().artifact.path / MANIFEST, parent / "out" / MANIFEST)
        before, disk = made.files(parent), Disk(number, errno.ENOSPC)
        error = None
        try:
            with disk.installed():
                quick(parent / "out")
        except EnvironmentFailed as caught:
            error = caught
        assert made.entries(parent) == ["out"]
        if error is None:
            Artifact.open(parent / "out").verify()
            assert (parent / "out" / "model.onnx").exists()
        else:
            assert made.files(parent) == before, f"write {number}"
            assert "free some space there" in str(error.hint)
        if disk.count < number:
            break
    assert number > 30


def test_a_disk_that_fills_up_while_a_graph_is_written(out: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("deploycomp.steps.save_graph", full)
    error = refused(EnvironmentFailed, made.recipe(), out)
    assert "free some space there" in str(error.hint)


# ------------------------------------------------------------ evidence from the text on


def test_parity_from_the_text_on_is_a_row_of_the_report(artifact: Artifact):
    stages = [(each["stage"], each["precision"]) for each in artifact.manifest["parity"]]
    assert stages[-2:] == [("text", "fp32"), ("text", "int8")]
    assert len(artifact.manifest["selftest"]) > 15


def overridden(tmp_path: Path) -> Path:
    """A cased tokenizer.json whose settings say lower case, which transformers lays over it."""
    folder = tiny.build(tmp_path / "model", "bert", "text-classification")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "do_lower_case": False}))
    return folder


def test_the_published_folder_answers_as_transformers_answers_for_the_source(tmp_path: Path, out: Path):
    from transformers import pipeline as library

    model = overridden(tmp_path)
    export_model(Recipe(model=str(model), benchmark=None), out)
    texts = ["The GOOD film", "Anna Was In LONDON", "bad day"]
    wanted = library("text-classification", model=str(model), top_k=None)(texts)
    for answer, scores in zip(Predictor.load(out)(texts), wanted, strict=True):
        assert answer.scores == pytest.approx({each["label"]: each["score"] for each in scores}, abs=1e-4)


def test_a_tokenizer_that_is_not_the_one_that_answers_is_not_published(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    model = overridden(tmp_path)
    raw = (model / "tokenizer.json").read_bytes()
    monkeypatch.setattr("deploycomp.layout.write_tokenizer", lambda _tokenizer, file: file.write_bytes(raw))
    failed = refused(VerificationFailed, Recipe(model=str(model), benchmark=None), out)
    assert failed.what == "the artifact reads a text otherwise than its source does"
    assert "the source's library makes" in str(failed.why)


def test_rows_of_the_users_data_are_asked_too(tmp_path: Path, out: Path):
    data = tmp_path / "rows.jsonl"
    rows = [{"text": text, "label": tiny.TEXT_LABELS[index % 3]} for index, text in enumerate(tiny.texts(40, seed=5))]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    recipe = Recipe(model=str(made.model()), benchmark=None, evaluate=Evaluate(data=str(data)))
    manifest = export_model(recipe, out).artifact.manifest
    (text,) = [each for each in manifest["parity"] if each["stage"] == "text"]
    assert text["checks"] > len(manifest["selftest"]) + 35
    assert not any(row["text"] in json.dumps(manifest["selftest"]) for row in rows), "no data of a user is published"


def test_evaluate_asks_an_artifact_its_own_texts_first(tmp_path: Path, artifact: Artifact):
    from deploycomp.assess import judge

    data = tmp_path / "rows.jsonl"
    rows = [{"text": text, "label": tiny.TEXT_LABELS[index % 3]} for index, text in enumerate(tiny.texts(40, seed=5))]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    found = judge(str(artifact.path), str(data), against=str(made.model()))
    assert [each["stage"] for each in found["parity"]] == ["text", "text"]
    broken = tmp_path / "broken"
    shutil.copytree(artifact.path, broken)
    made.edit_manifest(broken, lambda manifest: manifest["runtime"].update(max_length=60))
    with pytest.raises(VerificationFailed, match="reads a text otherwise"):
        judge(str(broken), str(data))
