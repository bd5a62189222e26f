"""Run an artifact with onnxruntime, numpy and tokenizers only; torch and transformers are never imported.

    from deploycomp.runtime import Predictor
    Predictor.load("artifact")(["a text"])

The public names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.runtime.cpu import CpuFacts, default_threads, detect, has_int8_dot, resolve_target
    from deploycomp.runtime.decode import similarity
    from deploycomp.runtime.predictor import Predictor
    from deploycomp.runtime.raw import Raw, Row
    from deploycomp.runtime.results import Classification, Entity, Fill, Labels, Span, Tags
    from deploycomp.runtime.session import open_session, providers_available

__all__ = [
    "Classification",
    "CpuFacts",
    "Entity",
    "Fill",
    "Labels",
    "Predictor",
    "Raw",
    "Row",
    "Span",
    "Tags",
    "default_threads",
    "detect",
    "has_int8_dot",
    "open_session",
    "providers_available",
    "resolve_target",
    "similarity",
]

_HOME = {
    "cpu": ("CpuFacts", "default_threads", "detect", "has_int8_dot", "resolve_target"),
    "decode": ("similarity",),
    "predictor": ("Predictor",),
    "raw": ("Raw", "Row"),
    "results": ("Classification", "Entity", "Fill", "Labels", "Span", "Tags"),
    "session": ("open_session", "providers_available"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
