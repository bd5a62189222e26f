"""Factorization end to end: what is published loads, answers, exports small in either form, or is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploycomp import factorizestep, ranktable
from deploycomp.assess import source_predictor
from deploycomp.compress.factorize import factorize
from deploycomp.compression import compress_model
from deploycomp.errors import DeploycompError, GateFailed, InputRefused, UsageError
from deploycomp.inspection import inspect_path
from deploycomp.models import resolve
from deploycomp.models.factors import FactoredLinear, factored
from deploycomp.models.load import load
from deploycomp.pipeline import export_model
from deploycomp.recipe import Calibrate, Export, Factorize, Int8, Method, Prune, Recipe
from deploycomp.runtime import Predictor
from tests import tiny
from tests.cli import made

TEXTS = tiny.texts(120, seed=5)
METHODS = [each for each in Method.__args__ if each != "auto"]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    return made.write_rows(folder / "train.jsonl", [{"text": text} for text in TEXTS])


def recipe(rows: Path, *steps: Any, model: Path | None = None, **changes: Any) -> Recipe:
    calibrate = Calibrate(data=str(rows), rows=80, held_out=40)
    ends = () if any(isinstance(step, Export) for step in steps) else (Export(),)
    values = {"model": str(model or made.model()), "steps": (*steps, *ends), "benchmark": None}
    return Recipe.model_validate({**values, "calibrate": calibrate, **changes})


def small(**changes: Any) -> Factorize:
    return Factorize.model_validate({"size": 0.6, "form": "smaller", **changes})


def refused(kind: type[DeploycompError], asked: Recipe, folder: Path) -> DeploycompError:
    with pytest.raises(kind) as caught:
        compress_model(asked, folder / "out")
    assert not (folder / "out").exists()
    return caught.value


@pytest.fixture(scope="module")
def factorized(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with 60 % of its numbers; never change it."""
    return compress_model(recipe(rows, small()), tmp_path_factory.mktemp("factorized") / "out").path


def facts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compression.json").read_text(encoding="utf-8"))["steps"][0]["facts"]


def test_the_share_is_what_was_asked_for(factorized: Path):
    facts = facts_of(factorized)
    share = facts["parameters"]["after"] / facts["parameters"]["before"]
    assert 0.5 < share <= 0.6
    assert sum(each["of"] - each["numbers"] for each in facts["matrices"].values()) == pytest.approx(
        facts["parameters"]["before"] - facts["parameters"]["after"]
    )


def test_the_count_is_that_of_the_file(factorized: Path):
    from safetensors.torch import load_file

    report = json.loads((factorized / "compression.json").read_text(encoding="utf-8"))
    stored = load_file(factorized / "model.safetensors")
    numbers = {name: value.numel() for name, value in stored.items() if value.is_floating_point()}
    assert sum(numbers.values()) == report["result"]["parameters"]
    counted = sum(each["numbers"] for each in facts_of(factorized)["matrices"].values() if "rule" in each)
    factors = ("latents", "norms", "basis", "shift")
    assert sum(count for name, count in numbers.items() if name.endswith(factors)) == counted


def test_it_loads_as_an_ordinary_model_that_trains(factorized: Path):
    import deploycomp

    model = deploycomp.load(factorized)
    logits = model(input_ids=torch.arange(5, 17)[None]).logits
    logits.square().sum().backward()
    every = [value for each in factored(model).values() for value in each.parameters()]
    assert every
    assert all(value.grad is not None for value in every)


def test_inspect_draws_what_is_stored(factorized: Path):
    found = inspect_path(str(factorized))
    assert sum(found["parts"].values()) == found["parameters"]
    assert found["parts"]["head and other"] < found["parts"]["embeddings"]
    assert {each["rule"] for each in found["matrices"].values()} == {"low_rank"}
    assert found["flops"] == inspect_path(str(made.model()))["flops"]  # rebuilt, it multiplies as much as before


def test_the_exported_file_is_small_and_answers_the_same(factorized: Path, tmp_path: Path):
    whole = export_model(Recipe.model_validate({"model": str(made.model()), "benchmark": None}), tmp_path / "whole")
    small_one = export_model(Recipe.model_validate({"model": str(factorized), "benchmark": None}), tmp_path / "small")
    facts = small_one.report["steps"][-1]["facts"]["stored"]
    saved = sum(each["of"] - each["numbers"] for each in facts_of(factorized)["matrices"].values()) * 4
    before, after = whole.artifact.model.stat().st_size, small_one.artifact.model.stat().st_size
    assert before - after == pytest.approx(saved, rel=0.1)
    assert facts["bytes"]["after"] < facts["bytes"]["before"]
    torch_answers = source_predictor(load(resolve(factorized)))(TEXTS[:5])
    for ours, theirs in zip(Predictor.load(tmp_path / "small")(TEXTS[:5]), torch_answers, strict=True):
        assert ours.label == theirs.label
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_int8_stores_factors_in_int8(rows: Path, factorized: Path, tmp_path: Path):
    result = export_model(recipe(rows, Export(), Int8(), model=factorized), tmp_path / "small")
    stored = result.report["steps"][-1]["facts"]["stored"]
    assert all(group["dense"] == [] for group in stored["groups"]), stored
    assert all(group["bits"] == 8 for group in stored["groups"])
    assert stored["bytes"]["after"] < stored["bytes"]["before"]  # nodes of a graph so tiny weigh more than its weights
    assert len(Predictor.load(tmp_path / "small")(TEXTS[:3])) == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stores_what_the_ratio_says(
    method: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(factorize, "ALL_STEPS", 200)
    grouping = "joint" if method == "kfac" else "concatenated"
    step = Factorize.model_validate(
        {"ratio": 2.5, "method": method, "grouping": grouping, "matrices": ["key", "ffn_out"], "form": "smaller"}
    )
    out = compress_model(recipe(rows, step), tmp_path / "out").path
    for each in facts_of(out)["matrices"].values():
        assert 0.4 * each["of"] < 2.5 * each["numbers"] <= each["of"]
    model = load(resolve(out))
    decoders = {id(each.decoder) for each in factored(model.module).values()}
    assert len(decoders) == (2 if grouping == "concatenated" else 2 * tiny.LAYERS)


def test_a_ratio_by_kind_leaves_the_others_alone(rows: Path, tmp_path: Path):
    step = Factorize.model_validate({"ratio": {"key": 2, "ffn_out": 4}, "method": "svd", "grouping": "separated"})
    facts = facts_of(compress_model(recipe(rows, step), tmp_path / "out").path)
    assert set(facts["matrices"]) == {f"{layer}.{kind}" for layer in range(tiny.LAYERS) for kind in ("key", "ffn_out")}
    for name, each in facts["matrices"].items():
        ratio = 2 if name.endswith("key") else 4
        assert 0.5 * each["of"] < ratio * each["numbers"] <= each["of"]


def test_row_weights_change_what_is_kept(rows: Path, tmp_path: Path):
    given = {"ratio": 3, "method": "svd", "matrices": ["ffn_in"], "form": "smaller"}
    stored: list[bytes] = []
    for number, weights in enumerate(("none", "fisher")):
        step = Factorize.model_validate({**given, "row_weights": weights})
        out = compress_model(recipe(rows, step), tmp_path / str(number)).path
        stored.append((out / "model.safetensors").read_bytes())
    assert stored[0] != stored[1]


def test_fitting_what_drifted_is_nearer_than_svd(rows: Path, tmp_path: Path):
    ours = compress_model(recipe(rows, small(size=0.7)), tmp_path / "ours").report
    plain = compress_model(recipe(rows, small(size=0.7, method="svd")), tmp_path / "svd").report
    first, second = (each["steps"][0]["facts"]["divergence"] for each in (ours, plain))
    assert first < 0.7 * second


def test_the_same_recipe_gives_the_same_bytes(rows: Path, factorized: Path, tmp_path: Path):
    again = compress_model(recipe(rows, small()), tmp_path / "again").path
    for name in ("surgery.json", "model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (factorized / name).read_bytes()


def test_it_goes_on_from_a_pruned_model(rows: Path, tmp_path: Path):
    asked = recipe(rows, Prune(parameters=0.9), small(size=0.7), Export(), Int8())
    result = export_model(asked, tmp_path / "out")
    assert [step["step"] for step in result.report["steps"]] == ["prune", "factorize", "export", "int8"]
    assert "Store matrices in factors" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("arch", [each for each in tiny.ARCHITECTURES if each != "bert"])
def test_other_architectures(arch: str, rows: Path, tmp_path: Path):
    source = tiny.build(tmp_path / "source", arch, "text-classification")
    result = export_model(recipe(rows, small(size=0.8), model=source), tmp_path / "out")
    assert result.report["steps"][-1]["facts"]["stored"]["groups"]


@pytest.mark.parametrize(("faster", "form"), [(1.2, "faster"), (0.9, "smaller")])
def test_the_form_that_is_faster_is_taken(
    faster: float, form: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def ratios(models: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, tuple[float, float, float]]:
        return {"faster": (faster, faster - 0.05, faster + 0.05)}

    monkeypatch.setattr(factorizestep, "measure_ratios", ratios)
    monkeypatch.setattr(ranktable, "MOST", 0.9)
    out = compress_model(recipe(rows, small(size=0.7, form="auto")), tmp_path / "out")
    layers = [each for each in factored(load(resolve(out.path)).module).values() if isinstance(each, FactoredLinear)]
    assert (form in {each.form for each in layers}) == (form == "smaller" or faster > 1)
    assert any(each.form == form for each in layers)
    assert out.report["steps"][0]["facts"]["forms"]["chosen"] == form


def clock(graphs: Mapping[str, Path], *_: Any) -> dict[str, float]:
    """A machine on which a rank takes a hundredth of a millisecond, and a dense matrix one."""
    times = {"short": 10.0, "whole": 10.0}
    for name in graphs:
        _, _, rank = name.rpartition("-")
        if rank == "last":
            times[name] = 9.0
        elif rank.isdigit():
            times[name] = 10.0 - (1.0 - 0.01 * int(rank))
    return times


def speed_up(
    rows: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, measured: list[float], goal: float = 1.2
) -> Any:
    shown = itertools.chain(measured, itertools.repeat(measured[-1]))

    def ratios(models: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, tuple[float, float, float]]:
        value = next(shown)
        return {list(models)[-1]: (value, value - 0.01, value + 0.01)}

    monkeypatch.setattr(factorizestep, "measure_ratios", ratios)
    monkeypatch.setattr(ranktable, "table_times", clock)
    monkeypatch.setattr(ranktable, "export_graph", lambda _model, _setting, folder, **_: folder)
    monkeypatch.setattr(ranktable, "MULTIPLE", 4)
    return compress_model(recipe(rows, Factorize(speedup=goal)), folder / "out")


def test_a_speedup_is_met_as_measured(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = speed_up(rows, tmp_path, monkeypatch, [1.1, 1.2])
    facts = out.report["steps"][0]["facts"]
    assert [round(each["speedup"], 2) for each in facts["measured"]] == [1.1, 1.2]
    assert facts["measured"][1]["predicted"] > facts["measured"][0]["predicted"]
    layers = list(factored(load(resolve(out.path)).module).values())
    assert all(isinstance(each, FactoredLinear) and each.form == "faster" for each in layers)
    assert facts["table"]["saved_ms"]["ffn_in"]
    logits = Predictor.load(
        export_model(
            Recipe.model_validate({"model": str(out.path), "benchmark": None}), tmp_path / "onnx"
        ).artifact.path
    )(TEXTS[:2])
    assert len(logits) == 2


def test_a_speedup_that_ranks_cannot_reach_is_refused(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GateFailed) as caught:
        speed_up(rows, tmp_path, monkeypatch, [1.1], goal=50)
    assert "the table predicts" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_slower_model_is_refused(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(GateFailed) as caught:
        speed_up(rows, tmp_path, monkeypatch, [0.9])
    assert "no rank makes the model faster" in str(caught.value)


def test_a_size_that_nothing_reaches_is_refused(rows: Path, tmp_path: Path):
    error = refused(GateFailed, recipe(rows, small(size=0.01)), tmp_path)
    assert "cannot be reached" in str(error)
    assert error.exit_code == GateFailed.exit_code


def test_a_factorized_model_is_neither_factorized_nor_pruned(rows: Path, factorized: Path, tmp_path: Path):
    for step in (small(), Prune(flops=0.5)):
        error = refused(InputRefused, recipe(rows, step, model=factorized), tmp_path)
        assert "factor" in str(error)


def test_without_rows_it_is_refused(tmp_path: Path):
    values = {"model": str(made.model()), "steps": (small(), Export()), "benchmark": None}
    assert "rows to learn from" in str(refused(UsageError, Recipe.model_validate(values), tmp_path))


def test_a_speedup_on_a_gpu_is_refused(rows: Path, tmp_path: Path):
    asked = recipe(rows, Factorize(speedup=1.1), target="cuda")
    assert "cuda" in str(refused(UsageError, asked, tmp_path))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({}, "one goal"),
        ({"size": 0.5, "ratio": 3}, "one goal"),
        ({"speedup": 1.2, "method": "autoencoder"}, "two factors"),
        ({"speedup": 1.2, "grouping": "separated"}, "grouping joint"),
        ({"size": 0.5, "method": "tucker", "form": "faster"}, "form smaller"),
        ({"size": 0.5, "grouping": "concatenated"}, "by itself"),
        ({"size": 0.5, "matrices": ["key", "key"]}, "twice"),
        ({"ratio": {"key": 3}, "matrices": ["value"]}, "names the matrices"),
        ({"size": 0.5, "row_weights": "fisher"}, "weighs rows by itself"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], why: str):
    with pytest.raises(UsageError) as caught:
        Recipe.check({"steps": [{"step": "factorize", **values}, {"step": "export"}]})
    assert why in str(caught.value)


def test_factorizing_comes_after_pruning():
    with pytest.raises(UsageError) as caught:
        Recipe.check(
            {"steps": [{"step": "factorize", "size": 0.5}, {"step": "prune", "flops": 0.5}, {"step": "export"}]}
        )
    assert "must come after" in str(caught.value)


def test_answers_are_those_of_the_rounded_factors(rows: Path, factorized: Path):
    from deploycomp.storing import round_factors, stored_groups

    model = load(resolve(factorized))
    round_factors(model.module)
    once = {name: value.clone() for name, value in model.module.state_dict().items()}
    round_factors(model.module)
    assert all(torch.equal(value, once[name]) for name, value in model.module.state_dict().items())
    for group in stored_groups(model.module, bits=8):
        assert all(np.isfinite(value).all() for each in group.own for value in each.values())
