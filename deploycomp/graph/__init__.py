"""onnx → onnx: exact rewrites, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.graph.passes import rewrite

__all__ = ["rewrite"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deploycomp.graph.passes import rewrite

        return rewrite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
