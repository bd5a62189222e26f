"""torch → onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.export.torch_export import export

__all__ = ["export"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deploycomp.export import torch_export

        return getattr(torch_export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
