"""Load a checkpoint safely, and know its anatomy.

    source = resolve("path/to/model")              # audited: nothing of it was executed, no torch imported
    model = deploycomp.models.load.load(source)    # a TorchModel: FP32, eval, strict

`resolve` reads plain JSON and safetensors headers only. `load` is a module of its own because it imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.models.anatomy import Anatomy, LayerAnatomy
    from deploycomp.models.model import TorchModel, forward_module
    from deploycomp.models.sentence import SentencePooling
    from deploycomp.models.source import Source, resolve
    from deploycomp.models.tasks import check_task, infer_task

__all__ = [
    "Anatomy",
    "LayerAnatomy",
    "SentencePooling",
    "Source",
    "TorchModel",
    "check_task",
    "forward_module",
    "infer_task",
    "resolve",
]

_HOME = {
    "Anatomy": "anatomy",
    "LayerAnatomy": "anatomy",
    "SentencePooling": "sentence",
    "Source": "source",
    "TorchModel": "model",
    "check_task": "tasks",
    "forward_module": "model",
    "infer_task": "tasks",
    "resolve": "source",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
