"""Which ONNX Runtime a graph needs to answer rightly, as measured (docs/versions.md), and what to say to older ones."""

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
    "version_hint",
]

MEASURED = ("1.18.1", "1.20.1", "1.22.1", "1.24.4", "1.25.1", "1.31.1", "1.32.0")
"""The versions on which every kind of graph was opened, and its answers compared (`make test-versions`)."""

PADDING_GUARD = "TensorScatter"
"""The operator with which a graph refuses padding elsewhere than on the right, see `export.emit`."""

OPSETS = ((26, "1.25"), (24, "1.24"), (23, "1.23"), (22, "1.21"), (18, "1.18"))
"""(lowest opset of ai.onnx, the first version that reads it); older versions than 1.18 were not tried."""

IR_VERSIONS = {8: "1.18", 9: "1.18", 10: "1.18", 11: "1.22", 12: "1.25", 13: "1.25"}
"""Version of the file format → an ONNX Runtime that reads it; 1.25 is the oldest tried with 12 and 13."""

OPERATORS = {
    PADDING_GUARD: "1.25",  # no kernel before, and Attention does not heed the number of tokens
    "MultiHeadAttention": "1.21",  # with a padding mask, 1.18 to 1.20 answer wrongly
}
"""Operator → the first version in which it is there and right."""


_OPSET = re.compile(r"Opset (\d+) is under development")
_IR = re.compile(r"Unsupported model IR version: (\d+)")
_UNKNOWN = re.compile(r"not a registered function/op|No Op registered", re.IGNORECASE)


def lowest_onnxruntime(opset: int, operators: Iterable[str]) -> str:
    """Return the first version of ONNX Runtime that answers a graph rightly.

    Args:
        opset: Of ai.onnx.
        operators: Names of the operators in the graph.
    """
    return max([_reads(opset), *(OPERATORS[each] for each in operators if each in OPERATORS)], key=_numbers)


def _reads(opset: int) -> str:
    """The first version that reads an opset."""
    return next((version for lowest, version in OPSETS if opset >= lowest), OPSETS[-1][1])


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


def version_hint(text: str, *, found: str) -> str | None:
    """Say which version would do.

    Args:
        text: What ONNX Runtime said.
        found: Its version.

    Returns:
        What to do next, with the version found and the one needed; None where the version is not the reason.
    """
    if match := _OPSET.search(text):
        opset = int(match[1])
        version = _reads(opset) if opset <= OPSETS[0][0] else None
        return _needed(f"opset {opset}", version, found) + ", or export with --opset 18"
    if match := _IR.search(text):
        return _needed(f"IR version {match[1]}", IR_VERSIONS.get(int(match[1])), found)
    if _UNKNOWN.search(text):
        return f"this is onnxruntime {found}; a newer one may know the operator: pip install --upgrade onnxruntime"
    return None


def _needed(what: str, version: str | None, found: str) -> str:
    if version is None:
        return f"this is onnxruntime {found}, which does not know {what}: pip install --upgrade onnxruntime"
    return f'this is onnxruntime {found}, {what} needs {version}: pip install "onnxruntime>={version}"'


def _numbers(version: str) -> tuple[int, ...]:
    """The release as numbers: 1.25.1 → (1, 25, 1)."""
    return tuple(int(each) for each in re.findall(r"\d+", version)[:3])
