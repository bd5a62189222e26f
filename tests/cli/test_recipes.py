"""Every flag is a short way to write a recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.cli.recipes import default_output, list_recipes, read_named
from deploycomp.errors import InputRefused, UsageError
from deploycomp.recipe import Calibrate, Export, Int8, Recipe, find_recipes
from tests.cli import made

DEFAULT = Recipe(model="m")
INT8: list[dict[str, Any]] = [{"step": "export"}, {"step": "int8"}]


def planned(run: Callable[..., Any], *arguments: object) -> Recipe:
    """What `export --dry-run` says it would do, read back from YAML and the same from JSON."""
    done = run("export", *arguments, "--dry-run")
    assert done.code == 0, done.err
    recipe = Recipe.parse(done.out)
    assert Recipe.check(run("export", *arguments, "--dry-run", "--json").json) == recipe
    return recipe


@pytest.mark.parametrize(
    ("flags", "recipe"),
    [
        ([], {}),
        (["--int8"], {"steps": [{"step": "export"}, {"step": "int8"}]}),
        (["--fp16"], {"steps": [{"step": "export", "dtype": "fp16"}], "target": "cuda"}),
        (["--fp16", "--target", "portable"], {"steps": [{"step": "export", "dtype": "fp16"}], "target": "portable"}),
        (["--target", "auto", "--task", "fill-mask"], {"target": "auto", "task": "fill-mask"}),
        (["--ops", "standard", "--opset", "20"], {"steps": [{"step": "export", "ops": "standard", "opset": 20}]}),
        (["--fixed", "batch=1,sequence=16"], {"steps": [{"step": "export", "fixed": {"batch": 1, "sequence": 16}}]}),
        (["--external-data-bytes", "0"], {"steps": [{"step": "export", "external_data_bytes": 0}]}),
        (["--no-benchmark"], {"benchmark": None}),
        (["--batch-size", "2", "--threads", "1,2"], {"benchmark": {"batch_size": [2], "threads": [1, 2]}}),
        (["--keep-fp32", "--layout", "transformers.js"], {"keep_fp32": True, "layout": "transformers.js"}),
        (["--revision", "v1"], {"revision": "v1"}),
        (["--tune"], {"tune": True}),
        (["--no-tune", "--target", "auto"], {"tune": False, "target": "auto"}),
        (
            ["--int8", "--calibration", "t.jsonl", "--calibration-rows", "9"],
            {"steps": INT8, "calibrate": {"data": "t.jsonl", "rows": 9}},
        ),
        (["--int8", "--allow-random-calibration"], {"steps": INT8, "calibrate": {"allow_random": True}}),
        (
            ["--int8", "--calibration-method", "entropy", "--activations", "static"],
            {"steps": [INT8[0], {**INT8[1], "ranges": "entropy", "activations": "static"}]},
        ),
        (
            ["--int8", "--keep-float", "*.output.dense", "--keep-float", "classifier"],
            {"steps": [INT8[0], {**INT8[1], "keep_float": ["*.output.dense", "classifier"]}]},
        ),
        (
            ["--eval", "d.jsonl", "--split", "s", "--column", "text=t", "--limit", "5", "--max-drop", "0.5%"],
            {"evaluate": {"data": "d.jsonl", "split": "s", "columns": {"text": "t"}, "limit": 5, "max_drop": 0.005}},
        ),
        (
            ["--eval", "d.jsonl", "--null-score-diff-threshold", "-1.5"],
            {"evaluate": {"data": "d.jsonl", "null_score_diff_threshold": -1.5}},
        ),
    ],
)
def test_flags_write_a_recipe(run: Callable[..., Any], flags: list[str], recipe: dict[str, Any]):
    assert planned(run, "m", *flags) == Recipe.check({"model": "m", **recipe})


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_shipped_recipes_by_name(run: Callable[..., Any], name: str):
    expected = Recipe.read(find_recipes()[name]).model_copy(update={"model": "m"})
    assert planned(run, "m", "--recipe", name) == expected


def test_flags_overrule_a_recipe(run: Callable[..., Any], tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text(
        "model: theirs\ntarget: cuda\nsteps: [{step: export, opset: 20, ops: standard}, {step: int8, weight_bits: 8}]\n"
        "evaluate: {data: old.jsonl, max_drop: 0.01, limit: 7}\nbenchmark: {threads: [4]}"
    )
    recipe = planned(
        run, "mine", "--recipe", path, "--int8", "--opset", "19", "--eval", "new.jsonl", "--batch-size", "3"
    )
    assert (recipe.model, recipe.target) == ("mine", "cuda")
    assert recipe.steps == (Export(opset=19, ops="standard"), Int8(weight_bits=8))
    assert recipe.evaluate is not None
    assert (recipe.evaluate.data, recipe.evaluate.max_drop, recipe.evaluate.limit) == ("new.jsonl", 0.01, 7)
    assert recipe.benchmark is not None
    assert (recipe.benchmark.batch_size, recipe.benchmark.threads) == ((3,), (4,))
    flags = ("--activations", "dynamic", "--keep-float", "a", "--calibration", "t.csv")
    quantized = planned(run, "--recipe", path, *flags)
    assert quantized.steps[1] == Int8(weight_bits=8, activations="dynamic", keep_float=("a",))
    assert quantized.calibrate == Calibrate(data="t.csv")
    assert planned(run, "--recipe", path).model == "theirs"
    assert planned(run, "--recipe", path, "--no-benchmark").benchmark is None


def test_a_benchmark_that_a_recipe_leaves_out_comes_back_with_its_flags(run: Callable[..., Any], tmp_path: Path):
    (tmp_path / "my.yaml").write_text("benchmark: null")
    assert planned(run, "m", "--recipe", tmp_path / "my.yaml").benchmark is None
    benchmark = planned(run, "m", "--recipe", tmp_path / "my.yaml", "--threads", "1").benchmark
    assert benchmark is not None
    assert benchmark.threads == (1,)


def test_an_artifact_is_a_recipe(run: Callable[..., Any]):
    folder = made.exported().artifact.path
    assert planned(run, "--recipe", folder) == planned(run, "--recipe", folder / "deploycomp.json") == made.recipe()


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [({"recipe": {"steps": 3}}, "steps"), ({"recipe": {"new": 1}}, "new")],
)
def test_a_damaged_manifest_is_no_recipe(run: Callable[..., Any], tmp_path: Path, manifest: Any, reason: str):
    sealed = {"schema_version": 1, "model": "model.onnx", "files": {"model.onnx": {"sha256": "0" * 64, "bytes": 1}}}
    (tmp_path / "deploycomp.json").write_text(json.dumps({**sealed, **manifest}))
    done = run("export", "m", "--recipe", tmp_path)
    assert done.code == 2
    assert reason in done.err
    (tmp_path / "deploycomp.json").write_text("{")
    assert run("export", "m", "--recipe", tmp_path).code == InputRefused.exit_code


def test_a_dry_run_writes_nothing(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run("export", made.model(), "--int8", "--dry-run", "-o", tmp_path / "out")
    assert made.entries(tmp_path) == []


def test_a_dry_run_is_a_recipe_file(run: Callable[..., Any], tmp_path: Path):
    """`export … --dry-run > my.yaml` and then `--recipe my.yaml`."""
    arguments = ("m", "--int8", "--target", "x86-vnni", "--max-drop", "1%", "--eval", "d.csv")
    (tmp_path / "my.yaml").write_text(run("export", *arguments, "--dry-run").out)
    assert planned(run, "--recipe", tmp_path / "my.yaml") == planned(run, *arguments)


# ------------------------------------------------------------ the command


def test_the_list_has_every_recipe_with_its_first_line(run: Callable[..., Any]):
    done = run("recipes")
    assert done.code == 0
    assert {line.split()[0] for line in done.out.splitlines()} == set(find_recipes())
    assert "INT8 for any CPU" in done.out
    assert run("recipes", "--json").json == list_recipes()
    assert run("recipes", "-q").out == ""


@pytest.mark.parametrize("name", sorted(find_recipes()))
def test_a_recipe_is_printed_as_it_is(run: Callable[..., Any], name: str):
    text = find_recipes()[name].read_text(encoding="utf-8")
    assert run("recipes", name).out.rstrip("\n") == text.rstrip("\n")
    assert run("recipes", name, "--json").json == {"name": name, "recipe": text}


def test_a_file_that_is_no_text_is_refused(run: Callable[..., Any], tmp_path: Path):
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    done = run("recipes", tmp_path / "x")
    assert done.code == 2
    assert "the recipe cannot be read" in done.err


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read_named("int8") == find_recipes()["int8"]
    with pytest.raises(UsageError, match="there is no such recipe") as caught:
        read_named("int9")
    assert "int8-guarded" in str(caught.value.why)
    shutil.copyfile(find_recipes()["fp32"], tmp_path / "int8")  # what lies here wins
    assert read_named("int8") == Path("int8")


@pytest.mark.parametrize(
    ("model", "steps", "name"),
    [
        ("owner/name", (Export(),), "name-fp32"),
        ("owner/name", (Export(), Int8()), "name-int8"),
        ("plain", (Export(dtype="fp16"),), "plain-fp16"),
        ("./here/", (Export(), Int8()), "here-int8"),
    ],
)
def test_the_default_output_is_named_after_model_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, steps: tuple[Any, ...], name: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert default_output(Recipe(model=model, steps=steps)) == Path(name)


def test_the_default_output_of_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "sub")
    assert default_output(Recipe(model=".", steps=(Export(), Int8()))) == Path("sub-int8")
    assert default_output(Recipe(model="..", steps=(Export(), Int8()))) == Path("mine-int8")
