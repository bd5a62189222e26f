"""Which kernels a session runs: ONNX Runtime's own profile of one call.

An operator without a kernel is not an error where the standard defines it as a function: ONNX Runtime then runs the
function's many small operators instead, with the same answers and a multiple of the time.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["FUSED", "expanded", "kernels_run"]

FUSED = ("Attention", "MultiHeadAttention", "Gelu", "FastGelu", "QuickGelu")
"""Operators that stand for many, by what a kernel of theirs is called: `BiasGelu` is one of Gelu."""

_KERNEL = "_kernel_time"


def kernels_run(session: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> Counter[str]:
    """Call a session once and count its kernels by operator; after that it records no more.

    Args:
        session: Opened with `profile`.
        feeds: Of the smallest batch that there is.
    """
    session.run(None, dict(feeds))
    path = Path(session.end_profiling())
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return Counter(str(each["args"]["op_name"]) for each in events if str(each.get("name", "")).endswith(_KERNEL))


def expanded(written: Mapping[str, int], run: Mapping[str, int]) -> dict[str, int]:
    """Return which fused operators run as many small ones: operator → how many of them.

    Args:
        written: Operators in the graph, with their number.
        run: What `kernels_run` found.
    """
    kernels: Counter[str] = Counter()
    for name, number in run.items():
        kernels[max((op for op in FUSED if name.endswith(op)), key=len, default=name)] += number
    return {op: missing for op in FUSED if (missing := written.get(op, 0) - kernels[op]) > 0}
