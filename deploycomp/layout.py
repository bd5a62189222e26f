"""File names of an artifact, in our own layout and in those that other loaders look for, and the files beside it.

default                 model.onnx                              (with --keep-fp32 also model_fp32.onnx)
transformers.js         onnx/model_quantized.onnx               (onnx/model.onnx, onnx/model_fp16.onnx)
sentence-transformers   onnx/model_qint8_avx512_vnni.onnx       (onnx/model.onnx, onnx/model_fp16.onnx)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploycomp.recipe import Recipe

__all__ = ["copy_side_files", "model_names", "write_ort_config", "write_tokenizer"]

_QINT8_SUFFIX = {
    "x86-vnni": "_avx512_vnni",
    "x86-avx512": "_avx512",
    "x86-avx2": "_avx2",
    "arm64": "_arm64",
    "arm64-dotprod": "_arm64",
}
"""sentence-transformers names the instruction set that a quantized file is for."""

_VOCABULARIES = (
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_SENTENCE_FILES = {
    "modules.json": "model",
    "config_sentence_transformers.json": "model",
    "sentence_bert_config.json": "encoder",
}
"""File of sentence-transformers → where it lies."""
_PRIVATE_KEYS = ("_name_or_path",)
"""Keys that hold a path of the machine they were written on."""


def model_names(recipe: Recipe, target: str) -> dict[str, str]:
    """Return where each step's graph goes in the artifact: name of the step → path."""
    last = recipe.steps[-1].step
    if recipe.layout == "default":
        names = {"export": "model_fp32.onnx", "int8": "model.onnx"}
        return {**names, last: "model.onnx"}
    int8 = "model_quantized" if recipe.layout == "transformers.js" else f"model_qint8{_QINT8_SUFFIX.get(target, '')}"
    fp = "model_fp16" if recipe.export.dtype == "fp16" else "model"
    return {"export": f"onnx/{fp}.onnx", "int8": f"onnx/{int8}.onnx"}


def copy_side_files(
    source: Path,
    folder: Path,
    *,
    encoder: Path,
    settings: Mapping[str, dict[str, Any]],
    tokenizer: Any,
    layout: str,
) -> None:
    """Copy what a loader needs beside the graph: config, tokenizer, and the folders of sentence-transformers.

    Args:
        source: The checkpoint; it is only read.
        folder: The staged artifact.
        encoder: Where its tokenizer is: *source* itself, or `0_Transformer` in it.
        settings: What model and tokenizer were loaded with, by file: the source's without what was dropped.
        tokenizer: The loaded tokenizer: what it does is published, which settings may have made another thing than the
            checkpoint's own tokenizer.json.
        layout: The recipe's layout.
    """
    for name, values in settings.items():
        _write_json(folder / name, {key: value for key, value in values.items() if key not in _PRIVATE_KEYS})
    for name in _VOCABULARIES:
        if (encoder / name).is_file():
            shutil.copyfile(encoder / name, folder / name)
    write_tokenizer(tokenizer, folder / "tokenizer.json")
    if layout == "sentence-transformers":
        _copy_sentence_files(source, folder, encoder)


def write_tokenizer(tokenizer: Any, file: Path) -> None:
    """Write what a loaded tokenizer does as a tokenizer.json, without what the last call left: padding, truncation."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.save(str(file))


def _copy_sentence_files(source: Path, folder: Path, encoder: Path) -> None:
    """Copy what sentence-transformers reads; an encoder in a folder of its own moves to the root, as its graph does."""
    for name, home in _SENTENCE_FILES.items():
        path = (encoder if home == "encoder" else source) / name
        if path.is_file():
            shutil.copyfile(path, folder / name)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    if encoder != source:
        _write_json(folder / "modules.json", [{**modules[0], "path": ""}, *modules[1:]])
    for module in modules[1:]:  # those were audited, and no other folder was
        config_file = source / module["path"] / "config.json"
        if config_file.is_file():
            (folder / module["path"]).mkdir(parents=True)
            shutil.copyfile(config_file, folder / module["path"] / "config.json")


def write_ort_config(folder: Path, recipe: Recipe, steps: list[dict[str, Any]], *, external: bool) -> None:
    """Write `ort_config.json`, which optimum's `ORTModel…` classes read."""
    facts = next((step["facts"] for step in steps if step["step"] == "int8"), None)
    quantization = {
        "is_static": False,
        "format": "QOperator",
        "mode": "IntegerOps",
        "activations_dtype": "QUInt8",
        "activations_symmetric": False,
        "weights_dtype": "QInt8",
        "weights_symmetric": True,
        "per_channel": True,
        "reduce_range": facts is not None and facts["weight_bits"] == 7,
        "operators_to_quantize": sorted(facts["nodes"]) if facts else [],
    }
    config = {
        "opset": recipe.opset,
        "optimization": {},
        "quantization": quantization if facts else {},
        "use_external_data_format": external,
        "one_external_file": True,
    }
    _write_json(folder / "ort_config.json", config)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
