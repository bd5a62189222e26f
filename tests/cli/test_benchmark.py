from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploycomp.report.benchmark_formats import load_benchmark_schema
from tests import tiny
from tests.cli import made

Run = Callable[..., Any]
SMALL = ("--batch-size", "1", "--sequence-length", "8", "--threads", "1", "--blocks", "2", "--block-seconds", "0.01")


@pytest.fixture
def graph() -> Path:
    return made.exported().artifact.model


def test_output_is_a_valid_document_with_raw_samples(run: Run, tmp_path: Path, graph: Path):
    file = tmp_path / "result.json"
    page = tmp_path / "page.html"
    done = run("benchmark", graph, graph, *SMALL, "--profile", "-o", file, "--html", page)
    assert done.code == 0, done.err
    document = json.loads(file.read_text())
    jsonschema.validate(document, load_benchmark_schema())
    assert all(len(cell["block_samples_ns"]) == 2 for cell in document["cells"])
    assert len(document["profile"]) == 2
    assert list(document["ratios"]) == ["model.onnx#2"]
    assert "model.onnx / model.onnx#2 at 1×8, threads 1: " in done.out
    assert "model.onnx at 1×8, threads 1: " in done.out  # its operators
    assert made.entries(tmp_path) == ["page.html", "result.json"]
    text = page.read_text(encoding="utf-8")
    assert "<title>model.onnx, model.onnx#2 · deploycomp benchmark</title>" in text
    for name in ("latency", "distribution", "memory"):
        assert f'id="plot-{name}"' in text


def test_formats_go_to_files_and_one_to_stdout(run: Run, tmp_path: Path, graph: Path):
    bencher, pytest_file = tmp_path / "bencher.json", tmp_path / "pytest.json"
    targets = ("--format", f"bencher={bencher}", "--format", f"pytest-benchmark={pytest_file}")
    done = run("benchmark", graph, *SMALL, *targets, "--format", "github-action-benchmark")
    assert done.code == 0, done.err
    assert [each["unit"] for each in done.json] == ["ms", "bytes", "bytes"]
    assert set(json.loads(bencher.read_text())) == {"model.onnx/batch1/length8/threads1", "model.onnx"}
    assert json.loads(pytest_file.read_text())["benchmarks"][0]["stats"]["rounds"] >= 6


def test_real_rows_of_an_artifact_as_markdown(run: Run, tmp_path: Path):
    rows = made.write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in tiny.texts(6)])
    options = ("--batch-size", "2", "--threads", "1", "--blocks", "2", "--block-seconds", "0.01")
    done = run("benchmark", made.exported().artifact.path, "--rows", rows, *options, "--format", "markdown")
    assert done.code == 0, done.err
    assert done.out.startswith("| candidate | threads |")
    assert "| 2×" in done.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--format", "csv"], "--format takes pytest-benchmark, github-action-benchmark, bencher, markdown"),
        (["--format", "bencher="], "--format takes"),
        (["--format", "bencher", "--format", "markdown"], "stdout takes one format"),
        (["--format", "bencher", "--rows", "x", "--sequence-length", "8"], "contradict each other"),
        (["--provider", "tpu"], "--provider takes cpu and cuda, not 'tpu'"),
        (["--dtype", "fp8"], "--dtype takes fp32 and bf16, not 'fp8'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(run: Run, graph: Path, arguments: list[str], why: str):
    done = run("benchmark", graph, *arguments)
    assert done.code == 2
    assert why in done.err


def test_a_format_on_stdout_and_json_contradict(run: Run, graph: Path):
    done = run("benchmark", graph, "--json", "--format", "bencher")
    assert done.code == 2
    assert "stdout takes one format" in done.json["what"]


@pytest.mark.parametrize("option", ["-o", "--html"])
def test_a_file_that_cannot_be_written_is_named(run: Run, tmp_path: Path, graph: Path, option: str):
    done = run("benchmark", graph, *SMALL, option, tmp_path / "none" / "result")
    assert done.code == 5
    assert "the output cannot be written" in done.err


def test_compiling_without_a_compiler_is_the_environment_s_fault(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    done = run("benchmark", f"{made.model()}@compile", *SMALL)
    assert done.code == 5
    assert "needs a C++ compiler, and there is none" in done.err


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_pytorch_compiled_and_in_bf16(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    done = run("benchmark", f"{made.model()}@compile", *SMALL, "--dtype", "bf16", "--json")
    assert done.code == 0, done.out
    (facts,) = done.json["candidates"].values()
    assert list(done.json["candidates"]) == [f"{made.model().name}@compile@bf16"]
    assert (facts["kind"], facts["dtype"], facts["compiled"]) == ("torch", "bf16", True)
    (cell,) = done.json["cells"]
    assert cell["p50_ms"] > 0
    assert done.json["context"]["children"][f"{made.model().name}@compile@bf16"]["verified_batches"] >= 6
    assert any(tmp_path.iterdir())  # it was really compiled
