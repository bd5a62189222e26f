"""Save a model that was cut as a folder that loads again: config.json, surgery.json, model.safetensors, tokenizer.

What a config can tell (layers, vocabulary) it tells; a folder whose cuts are all of that kind also loads in plain
transformers. Other cuts need `deploycomp.load`, which repeats them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deploycomp.models.model import TorchModel
from deploycomp.models.plan import SURGERY
from deploycomp.models.weights import SINGLE

__all__ = ["save"]

_PRIVATE_KEYS = ("_name_or_path",)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".onnx", ".data", ".h5", ".msgpack", ".index.json")
"""Endings of files that hold the weights before the cuts, in whatever form."""


def save(model: TorchModel, folder: Path) -> None:
    """Write a model to an empty folder, laid out as its source is.

    Args:
        model: The model, cut or not.
        folder: An existing folder.
    """
    from safetensors.torch import save_file

    source = model.source
    for name in source.files:  # only what was audited: no Python, no pickles
        if not name.endswith(_WEIGHTS) and not name.endswith(SURGERY):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, folder / name)
    encoder = folder / source.encoder.relative_to(source.path)
    encoder.mkdir(parents=True, exist_ok=True)
    (encoder / "config.json").write_text(_config(model), encoding="utf-8")
    if model.plan:
        (encoder / SURGERY).write_text(model.plan.to_json(), encoding="utf-8")
    if not (encoder / "tokenizer.json").exists():
        model.tokenizer.backend_tokenizer.save(str(encoder / "tokenizer.json"))
    save_file(_unique(model.module), encoder / SINGLE, metadata={"format": "pt"})
    (encoder / SINGLE).chmod((encoder / "config.json").stat().st_mode)  # the library writes it for its owner alone


def _config(model: TorchModel) -> str:
    """The source's config with what the cuts changed, and the class that the weights belong to."""
    config: dict[str, Any] = {key: value for key, value in model.source.config.items() if key not in _PRIVATE_KEYS}
    now: Any = model.module.config  # the one that cuts change; a step that cuts a copy leaves the source's as it was
    for name in model.plan.base:
        config[name] = getattr(now, name)
    for name in config:
        if name.endswith("_token_id"):
            config[name] = getattr(now, name)
    config["architectures"] = [type(model.module).__name__]
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def _unique(module: nn.Module) -> dict[str, Tensor]:
    """The state under one name a tensor: safetensors stores no tensor twice."""
    every = module.state_dict(keep_vars=True)
    first: dict[int, str] = {}
    for name, tensor in every.items():
        first.setdefault(id(tensor), name)
    return {name: every[name].detach().contiguous() for name in first.values()}
