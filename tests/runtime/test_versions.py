"""Which ONNX Runtime a graph needs, and the refusal of an older one, with both versions in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from deploycomp.errors import EnvironmentFailed
from deploycomp.runtime import versions
from deploycomp.runtime.versions import check_onnxruntime, lowest_onnxruntime, requirements


@pytest.mark.parametrize(
    ("opset", "operators", "lowest"),
    [
        (18, {"MatMul", "Softmax", "Gelu"}, "1.18"),
        (21, {"MatMul"}, "1.18"),
        (22, {"MatMul"}, "1.21"),
        (23, {"MatMul"}, "1.23"),
        (18, {"MultiHeadAttention"}, "1.21"),
        (24, {"MultiHeadAttention"}, "1.24"),
        (24, {"MatMul", "Softmax"}, "1.24"),
        (24, {"Attention", "TensorScatter"}, "1.25"),
        (26, {"MatMul"}, "1.25"),
    ],
)
def test_the_lowest_version(opset: int, operators: set[str], lowest: str):
    assert lowest_onnxruntime(opset, operators) == lowest


def test_requirements_name_the_padding_and_what_was_measured():
    assert requirements(24, {"Attention", "TensorScatter"}) == {
        "lowest": "1.25",
        "padding": "right",
        "measured": list(versions.MEASURED),
    }
    assert requirements(18, {"Softmax"})["padding"] == "any"


@pytest.mark.parametrize("found", ["1.24.4", "1.9.0"])
def test_an_older_runtime_is_refused_by_name(found: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "__version__", found)
    with pytest.raises(EnvironmentFailed, match=f"needs onnxruntime 1.25 or newer, this is {found}") as caught:
        check_onnxruntime({"runtime": {"onnxruntime": {"lowest": "1.25"}}}, where="made")
    assert caught.value.where == "made"
    assert "pip install 'onnxruntime>=1.25'" in str(caught.value.hint)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("found", ["1.25.0", "1.25", "1.32.0", "2.0.0+cpu", "1.26.0.dev20260101"])
def test_the_version_itself_and_newer_ones_are_taken(found: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "__version__", found)
    check_onnxruntime({"runtime": {"onnxruntime": {"lowest": "1.25"}}}, where="made")


@pytest.mark.parametrize("manifest", [{}, {"runtime": {}}, {"runtime": {"onnxruntime": None}}])
def test_a_manifest_from_before_passes(manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.0")
    check_onnxruntime(manifest, where="made")


def test_predictor_and_manifest_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.pipeline import export_model
    from deploycomp.recipe import Recipe
    from deploycomp.runtime import Predictor
    from tests import tiny

    source = tiny.build(tmp_path / "model", "bert", "text-classification")
    made = export_model(Recipe.check({"model": str(source), "benchmark": None}), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "deploycomp.json").read_text(encoding="utf-8"))
    needs = manifest["runtime"]["onnxruntime"]
    assert needs == {"lowest": "1.25", "padding": "right", "measured": list(versions.MEASURED)}
    assert made.report["artifact"]["onnxruntime"] == needs
    for name in ("report.md", "report.html"):
        assert "onnxruntime 1.25 or newer, padding on the right only" in (tmp_path / "out" / name).read_text("utf-8")
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.4")
    with pytest.raises(EnvironmentFailed, match=r"needs onnxruntime 1\.25 or newer, this is 1\.24\.4"):
        Predictor.load(tmp_path / "out")
