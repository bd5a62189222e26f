"""File names that loaders look for, and the files beside the graph."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploycomp.layout import copy_side_files, model_names, write_ort_config
from deploycomp.recipe import TARGETS, Export, Int8, Layout, Recipe
from deploycomp.runtime.encode import load_tokenizer
from tests.cli.made import files
from tests.runtime.graphs import wordpiece

FP32, FP16, INT8 = (Export(),), (Export(dtype="fp16"),), (Export(), Int8())


@pytest.mark.parametrize(
    ("layout", "steps", "target", "names"),
    [
        ("default", FP32, "portable", {"export": "model.onnx"}),
        ("default", FP16, "cuda", {"export": "model.onnx"}),
        ("default", INT8, "portable", {"export": "model_fp32.onnx", "int8": "model.onnx"}),
        ("transformers.js", FP32, "portable", {"export": "onnx/model.onnx"}),
        ("transformers.js", FP16, "cuda", {"export": "onnx/model_fp16.onnx"}),
        ("transformers.js", INT8, "x86-vnni", {"export": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}),
        ("sentence-transformers", FP32, "portable", {"export": "onnx/model.onnx"}),
        ("sentence-transformers", INT8, "portable", {"export": "onnx/model.onnx", "int8": "onnx/model_qint8.onnx"}),
        ("sentence-transformers", INT8, "x86-vnni", {"int8": "onnx/model_qint8_avx512_vnni.onnx"}),
        ("sentence-transformers", INT8, "x86-avx512", {"int8": "onnx/model_qint8_avx512.onnx"}),
        ("sentence-transformers", INT8, "x86-avx2", {"int8": "onnx/model_qint8_avx2.onnx"}),
        ("sentence-transformers", INT8, "arm64", {"int8": "onnx/model_qint8_arm64.onnx"}),
        ("sentence-transformers", INT8, "arm64-dotprod", {"int8": "onnx/model_qint8_arm64.onnx"}),
    ],
)
def test_names(layout: Layout, steps: tuple[Any, ...], target: str, names: dict[str, str]):
    found = model_names(Recipe(steps=steps, layout=layout), target)
    assert found.items() >= names.items()


@pytest.mark.parametrize("layout", ["default", "transformers.js", "sentence-transformers"])
@pytest.mark.parametrize("target", TARGETS)
def test_two_graphs_never_share_a_name(layout: Layout, target: str):
    names = model_names(Recipe(steps=INT8, layout=layout), target)
    assert len(set(names.values())) == len(names)


def side_files(source: Path, folder: Path, *, layout: str = "default", encoder: Path | None = None) -> None:
    home = encoder or source
    settings = {"config.json": json.loads((home / "config.json").read_text()), "tokenizer_config.json": {"a": 1}}
    copy_side_files(source, folder, encoder=home, settings=settings, tokenizer=LOADED, layout=layout)


LOADED = SimpleNamespace(backend_tokenizer=wordpiece())
"""A loaded tokenizer, whose last call cut and padded."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "1_Pooling").mkdir(parents=True)
    config = {"model_type": "bert", "_name_or_path": "/home/ada/secret", "label": "grün"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling" / "config.json").write_text("{}")
    for name in ("tokenizer_config.json", "vocab.txt", "modules.json", "config_sentence_transformers.json",
                 "sentence_bert_config.json", "modeling_evil.py", "model.safetensors", "README.md"):  # fmt: skip
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("layout", ["default", "transformers.js"])
def test_only_what_a_loader_needs_is_copied(tmp_path: Path, checkpoint: Path, layout: str):
    before = files(checkpoint)
    (tmp_path / "out").mkdir()
    side_files(checkpoint, tmp_path / "out", layout=layout)
    assert set(files(tmp_path / "out")) == {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert files(checkpoint) == before


def test_paths_of_the_machine_are_left_out(tmp_path: Path, checkpoint: Path):
    (tmp_path / "out").mkdir()
    side_files(checkpoint, tmp_path / "out")
    text = (tmp_path / "out" / "config.json").read_text(encoding="utf-8")
    assert "secret" not in text
    assert "grün" in text


def test_the_tokenizer_that_was_loaded_is_published_and_not_the_file_it_was_made_of(tmp_path: Path, checkpoint: Path):
    (tmp_path / "out").mkdir()
    (checkpoint / "tokenizer.json").write_text("before settings were laid over it")
    side_files(checkpoint, tmp_path / "out")
    published = load_tokenizer(tmp_path / "out" / "tokenizer.json")
    assert LOADED.backend_tokenizer.truncation is not None
    assert (published.truncation, published.padding) == (None, None)
    LOADED.backend_tokenizer.no_truncation()
    LOADED.backend_tokenizer.no_padding()
    text = "The GREAT cat runs in the river " * 3
    assert published.encode(text).ids == LOADED.backend_tokenizer.encode(text).ids


def test_sentence_transformers_get_their_folders(tmp_path: Path, checkpoint: Path):
    (tmp_path / "out").mkdir()
    (checkpoint / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    (checkpoint / "9_Other").mkdir()
    (checkpoint / "9_Other" / "config.json").write_text("what nobody audited")
    side_files(checkpoint, tmp_path / "out", layout="sentence-transformers")
    assert set(files(tmp_path / "out")) >= {
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    assert "9_Other/config.json" not in files(tmp_path / "out")


def test_the_settings_that_the_model_was_loaded_with_are_published(tmp_path: Path, checkpoint: Path):
    (tmp_path / "out").mkdir()
    (checkpoint / "special_tokens_map.json").write_text("dropped")
    settings = {
        "config.json": {"model_type": "bert", "_name_or_path": "/home/me"},
        "tokenizer_config.json": {"do_lower_case": True},
    }
    copy_side_files(
        checkpoint, tmp_path / "out", encoder=checkpoint, settings=settings, tokenizer=LOADED, layout="default"
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "bert"}
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {"do_lower_case": True}
    assert "special_tokens_map.json" not in files(tmp_path / "out")


def test_an_encoder_in_a_folder_moves_to_the_root(tmp_path: Path, checkpoint: Path):
    (tmp_path / "out").mkdir()
    encoder = checkpoint / "0_Transformer"
    encoder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "vocab.txt", "sentence_bert_config.json"):
        (checkpoint / name).rename(encoder / name)
    modules = [{"idx": 0, "path": "0_Transformer"}, {"idx": 1, "path": "1_Pooling"}]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    side_files(checkpoint, tmp_path / "out", layout="sentence-transformers", encoder=encoder)
    assert set(files(tmp_path / "out")) == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    written = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [each["path"] for each in written] == ["", "1_Pooling"]


def ort_config(folder: Path, steps: list[dict[str, Any]], *, external: bool = False) -> dict[str, Any]:
    write_ort_config(folder, Recipe(steps=INT8 if len(steps) > 1 else FP32), steps, external=external)
    return json.loads((folder / "ort_config.json").read_text())


@pytest.mark.parametrize(("bits", "reduced"), [(7, True), (8, False)])
def test_ort_config_tells_how_it_was_quantized(tmp_path: Path, bits: int, reduced: bool):
    facts = {"weight_bits": bits, "nodes": {"MatMul": [2, 2], "Gather": [1, 3]}}
    config = ort_config(tmp_path, [{"step": "export", "facts": {}}, {"step": "int8", "facts": facts}], external=True)
    assert config["quantization"]["reduce_range"] is reduced
    assert config["quantization"]["operators_to_quantize"] == ["Gather", "MatMul"]
    assert config["quantization"]["is_static"] is False
    assert config["use_external_data_format"] is True


def test_ort_config_of_a_float_graph_has_no_quantization(tmp_path: Path):
    config = ort_config(tmp_path, [{"step": "export", "facts": {}}])
    assert config["quantization"] == {}
    assert config["opset"] == 24
