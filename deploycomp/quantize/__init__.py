"""onnx → onnx: INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.quantize.int8 import quantize

__all__ = ["quantize"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deploycomp.quantize import int8

        return getattr(int8, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
