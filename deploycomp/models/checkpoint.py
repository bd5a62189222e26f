"""Save a model that was cut as a folder that loads again: config.json, surgery.json, model.safetensors, tokenizer.

Weights keep the type that the source stores them in: a compressed FP16 checkpoint would else be larger than its source.
What a config can tell (layers, vocabulary) it tells; a folder whose cuts are all of that kind also loads in plain
transformers. Other cuts need `deploycomp.load`, which repeats them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deploycomp.models.model import TorchModel
from deploycomp.models.plan import SURGERY
from deploycomp.models.weights import SINGLE

__all__ = ["round_weights", "save", "save_tensors"]

_PRIVATE_KEYS = ("_name_or_path",)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".data", ".h5", ".msgpack", ".index.json")
"""Endings of files that hold the weights before the cuts, in whatever form."""


_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16}
_WHOLE = {"I64", "I32", "I16", "I8", "U8", "BOOL"}
"""Positions and the like, in older files."""


def round_weights(model: TorchModel) -> None:
    """Round every weight, in place, to what `save` will store, so that the model is what loads again."""
    stored = _stored_type(model)
    for each in model.module.parameters():
        if each.is_floating_point():
            each.data = each.data.to(stored).to(each.dtype)


def _stored_type(model: TorchModel) -> torch.dtype:
    """The half precision that all weights of the source have, unless one would overflow now; else FP32."""
    from safetensors import safe_open

    found: set[str] = set()
    for name in model.source.files:
        if name.endswith(".safetensors"):
            with safe_open(model.source.path / name, "pt") as file:
                found |= {file.get_slice(key).get_dtype() for key in file.keys()} - _WHOLE  # noqa: SIM118 (no mapping)
    stored = _TYPES.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32
    largest = max((float(each.detach().abs().max()) for each in model.module.parameters() if each.numel()), default=0.0)
    return stored if largest < torch.finfo(stored).max else torch.float32


def save(model: TorchModel, folder: Path) -> None:
    """Write a model to an empty folder, laid out as its source is.

    Args:
        model: The model, cut or not.
        folder: An existing folder.
    """
    source = model.source
    for name in source.files:  # only what was audited: no Python, no pickles
        if not name.endswith(_WEIGHTS) and not name.endswith(SURGERY):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, folder / name)
    for name, kept in source.settings.items():  # without what the audit dropped; as it was written, if that is nothing
        path = folder / source.encoder.relative_to(source.path) / name
        if json.loads(path.read_text(encoding="utf-8")) != kept:
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    encoder = folder / source.encoder.relative_to(source.path)
    encoder.mkdir(parents=True, exist_ok=True)
    stored = _stored_type(model)
    (encoder / "config.json").write_text(_config(model, stored), encoding="utf-8")
    if model.plan:
        (encoder / SURGERY).write_text(model.plan.to_json(), encoding="utf-8")
    if not (encoder / "tokenizer.json").exists():
        model.tokenizer.backend_tokenizer.save(str(encoder / "tokenizer.json"))
    save_tensors(_unique(model.module, stored), encoder / SINGLE, metadata={"format": "pt"})
    (encoder / SINGLE).chmod((encoder / "config.json").stat().st_mode)  # the library writes it for its owner alone


def save_tensors(tensors: Mapping[str, Tensor], file: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OSError: It cannot be written: a full disk is an error of its own to the library, which names only the number.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(
            {name: each.detach().contiguous() for name, each in tensors.items()},
            file,
            metadata=dict(metadata) if metadata else None,
        )
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error


def _config(model: TorchModel, stored: torch.dtype) -> str:
    """The source's config with what the cuts changed, and the class that the weights belong to."""
    config: dict[str, Any] = {key: value for key, value in model.source.config.items() if key not in _PRIVATE_KEYS}
    now: Any = model.module.config  # the one that cuts change; a step that cuts a copy leaves the source's as it was
    for name in model.plan.base:
        config[name] = getattr(now, name)
    for name in config:
        if name.endswith("_token_id"):
            config[name] = getattr(now, name)
    for name in {"dtype", "torch_dtype"} & config.keys():
        config[name] = str(stored).removeprefix("torch.")
    config["architectures"] = [type(model.module).__name__]
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _unique(module: nn.Module, stored: torch.dtype) -> dict[str, Tensor]:
    """The state under one name a tensor, as safetensors stores no tensor twice."""
    every = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in every.items():
        first.setdefault(id(tensor), name)
    kept = {name: every[name] for name in first.values()}
    return {name: (each.to(stored) if each.is_floating_point() else each) for name, each in kept.items()}
