from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError
from deploycomp.measure.candidate import DEFAULT_VOCABULARY, Candidate, examine, examine_all, variants
from tests.measure.models import artifact, onnx_model


def test_an_artifact_tells_length_session_and_vocabulary(tmp_path: Path):
    runtime = {"max_length": 77, "session": {"session.intra_op.allow_spinning": "0"}}
    subject = examine(Candidate("a", "onnx", artifact(tmp_path / "a", runtime=runtime)))
    assert subject.model == tmp_path / "a" / "model.onnx"
    assert subject.max_length == 77
    assert subject.session == {"session.intra_op.allow_spinning": "0"}
    assert subject.vocabulary == 64
    assert subject.request()["session"] == subject.session


@pytest.mark.parametrize("name", ["model.onnx.data", "model.onnx_data"])
def test_bytes_count_the_weights_beside_the_model(tmp_path: Path, name: str):
    model = onnx_model(tmp_path)
    (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "other.onnx").write_bytes(b"x" * 1000)
    assert examine(Candidate("a", "onnx", model)).bytes == model.stat().st_size + 1000


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [
        ({}, {}, None),
        ({"max_position_embeddings": 514}, {"model_max_length": 512}, 512),
        ({"max_position_embeddings": 128}, {"model_max_length": 1e30}, 128),
        ({"max_position_embeddings": 0}, {"model_max_length": "many"}, None),
    ],
)
def test_a_plain_model_takes_its_length_from_the_files_beside_it(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any], expected: int | None
):
    model = onnx_model(tmp_path, config=config)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    subject = examine(Candidate("a", "onnx", model))
    assert subject.max_length == expected
    assert subject.vocabulary == DEFAULT_VOCABULARY


def test_a_torch_folder_counts_its_safetensors(tmp_path: Path):
    for index in range(2):
        (tmp_path / f"model-{index}.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "config.json").write_text('{"vocab_size": 30522}')
    subject = examine(Candidate("a", "torch", tmp_path))
    assert (subject.bytes, subject.vocabulary, subject.model) == (20, 30522, tmp_path)


def test_paths_are_absolute_for_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    onnx_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert examine(Candidate("a", "onnx", Path("model.onnx"))).model == tmp_path / "model.onnx"


def test_nothing_to_measure_is_refused():
    with pytest.raises(UsageError, match="nothing to measure") as caught:
        examine_all([])
    assert caught.value.why == "no candidates were given"


def test_two_candidates_of_one_name_are_refused(tmp_path: Path):
    same = Candidate("fp32", "onnx", onnx_model(tmp_path))
    with pytest.raises(UsageError, match="two candidates are called 'fp32'"):
        examine_all([same, same])


def refusal(tmp_path: Path, kind: Any, name: str) -> str:
    with pytest.raises(InputRefused) as caught:
        examine(Candidate("mine", kind, tmp_path / name))
    return str(caught.value)


def test_refusals_name_candidate_and_reason(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "model.bin").write_bytes(b"")
    assert "candidate 'mine' does not exist" in refusal(tmp_path, "onnx", "gone")
    assert "folder without deploycomp.json" in refusal(tmp_path, "onnx", "folder")
    assert "not an .onnx file" in refusal(tmp_path, "onnx", "model.bin")
    assert "no safetensors weights" in refusal(tmp_path, "torch", "folder")
    (artifact(tmp_path / "broken", runtime={}) / "model.onnx").unlink()
    assert "lacks its model" in refusal(tmp_path, "onnx", "broken")
    onnx_model(tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(tmp_path, "onnx", "config/model.onnx")


# ------------------------------------------------------------ providers, types, torch.compile

ONNX, TORCH = Candidate("int8", "onnx", Path("int8")), Candidate("source", "torch", Path("source"))


def test_a_plain_candidate_keeps_its_name():
    assert variants([ONNX, TORCH]) == [ONNX, TORCH]


def test_what_differs_from_plain_stands_behind_the_name():
    found = variants([ONNX, TORCH], providers=["cpu", "cuda", "cpu"], dtypes=["fp32", "bf16"])
    assert [each.name for each in found] == [
        *("int8", "int8@cuda"),
        *("source", "source@bf16", "source@cuda", "source@cuda@bf16"),
    ]
    assert {each.dtype for each in found if each.kind == "onnx"} == {"fp32"}
    assert all(("@cuda" in each.name) == (each.provider == "cuda") for each in found)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"providers": ["gpu"]}, "--provider takes cpu and cuda, not 'gpu'"),
        ({"dtypes": [""]}, "--dtype takes fp32 and"),
    ],
)
def test_unknown_providers_and_types_are_refused(asked: dict[str, Any], why: str):
    with pytest.raises(UsageError, match=why):
        variants([TORCH], **asked)


def test_compiling_without_a_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiled = Candidate("source@compile", "torch", tmp_path, compiled=True)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFailed, match=r"'source@compile' needs a C\+\+ compiler, and there is none"):
        examine(compiled)
    (tmp_path / "g++").write_text("#!/bin/sh")
    (tmp_path / "g++").chmod(0o755)
    with pytest.raises(InputRefused, match="no safetensors weights"):  # the next check
        examine(compiled)
    monkeypatch.setenv("CXX", "/nowhere/icpx")
    with pytest.raises(EnvironmentFailed, match="C\\+\\+ compiler") as caught:
        examine(compiled)
    assert "looked for /nowhere/icpx" in str(caught.value.why)


def test_a_graph_is_not_compiled(tmp_path: Path):
    with pytest.raises(UsageError, match=r"torch\.compile takes PyTorch models"):
        examine(Candidate("a", "onnx", onnx_model(tmp_path), compiled=True))
