"""Which ONNX Runtime a graph needs to answer rightly, as measured (docs/versions.md), and a refusal of older ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from deploycomp.errors import EnvironmentFailed

__all__ = [
    "MEASURED",
    "OPERATORS",
    "PADDING_GUARD",
    "check_onnxruntime",
    "lowest_onnxruntime",
    "padding_side",
    "requirements",
]

MEASURED = ("1.18.1", "1.20.1", "1.22.1", "1.24.4", "1.25.1", "1.31.1", "1.32.0")
"""The versions on which every kind of graph was opened, and its answers compared (`make test-versions`)."""

PADDING_GUARD = "TensorScatter"
"""The operator with which a graph refuses padding elsewhere than on the right, see `export.emit`."""

OPSETS = ((26, "1.25"), (24, "1.24"), (23, "1.23"), (22, "1.21"), (18, "1.18"))
"""(lowest opset of ai.onnx, the first version that reads it); older versions than 1.18 were not tried."""

OPERATORS = {
    PADDING_GUARD: "1.25",  # no kernel before, and Attention does not heed the number of tokens
    "MultiHeadAttention": "1.21",  # with a padding mask, 1.18 to 1.20 answer wrongly
}
"""Operator → the first version in which it is there and right."""


def lowest_onnxruntime(opset: int, operators: Iterable[str]) -> str:
    """Return the first version of ONNX Runtime that answers a graph rightly.

    Args:
        opset: Of ai.onnx.
        operators: Names of the operators in the graph.
    """
    read = next((version for lowest, version in OPSETS if opset >= lowest), OPSETS[-1][1])
    return max([read, *(OPERATORS[each] for each in operators if each in OPERATORS)], key=_numbers)


def padding_side(operators: Iterable[str]) -> str:
    """Return `right` for a graph that refuses other padding, else `any`."""
    return "right" if PADDING_GUARD in operators else "any"


def requirements(opset: int, operators: Iterable[str]) -> dict[str, Any]:
    """Describe what a graph asks of its runtime: a manifest's `runtime.onnxruntime`."""
    found = set(operators)
    return {
        "lowest": lowest_onnxruntime(opset, found),
        "padding": padding_side(found),
        "measured": list(MEASURED),
    }


def check_onnxruntime(manifest: Mapping[str, Any], *, where: str) -> None:
    """Refuse an artifact that this ONNX Runtime would answer wrongly, or not at all.

    Args:
        manifest: One without `runtime.onnxruntime` was written before that was known, and passes.
        where: The artifact, for the message.

    Raises:
        EnvironmentFailed: With the version found and the one needed.
    """
    asked = (manifest.get("runtime") or {}).get("onnxruntime")
    lowest = asked.get("lowest") if isinstance(asked, Mapping) else None
    if not isinstance(lowest, str):
        return
    import onnxruntime

    if _numbers(onnxruntime.__version__) < _numbers(lowest):
        raise EnvironmentFailed(
            f"this artifact needs onnxruntime {lowest} or newer, this is {onnxruntime.__version__}",
            where=where,
            why="older ones have no kernel for its operators, or answer wrongly for padded rows",
            hint=f"pip install 'onnxruntime>={lowest}', or export it again with --opset 18, which every one since "
            f"{OPSETS[-1][1]} answers rightly",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers: 1.25.1 → (1, 25, 1)."""
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])
