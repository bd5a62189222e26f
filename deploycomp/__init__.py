"""Offline compression, ONNX export and honest measurement for fine-tuned transformers.

    import deploycomp
    result = deploycomp.export_model(deploycomp.Recipe(model="my-model"), Path("out"))
    predict = deploycomp.Predictor.load("out")

Names are imported when they are first used: `import deploycomp` loads nothing, and `Predictor` needs no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.artifact import Artifact
    from deploycomp.assess import judge
    from deploycomp.compression import Compressed, compress_model
    from deploycomp.errors import DeploycompError
    from deploycomp.inspection import inspect_path
    from deploycomp.models.reload import load
    from deploycomp.pipeline import ExportResult, export_model
    from deploycomp.recipe import Recipe
    from deploycomp.runtime.predictor import Predictor

__all__ = [
    "Artifact",
    "Compressed",
    "DeploycompError",
    "ExportResult",
    "Predictor",
    "Recipe",
    "compress_model",
    "export_model",
    "inspect_path",
    "judge",
    "load",
]

# ONNX Runtime's Linux wheels report usage to their maker unless this is set before they are imported. Nothing that runs
# here may call home; whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Artifact": "artifact",
    "Compressed": "compression",
    "DeploycompError": "errors",
    "ExportResult": "pipeline",
    "Predictor": "runtime.predictor",
    "Recipe": "recipe",
    "compress_model": "compression",
    "export_model": "pipeline",
    "inspect_path": "inspection",
    "judge": "assess",
    "load": "models.reload",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
