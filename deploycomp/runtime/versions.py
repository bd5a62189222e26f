"""Which ONNX Runtime reads a graph, when the one that is here refuses it."""

from __future__ import annotations

import re

__all__ = ["version_hint"]

OPSETS = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22", 24: "1.23", 25: "1.24", 26: "1.25"}
"""ai.onnx opset → the first ONNX Runtime that supports it officially.

Source: onnxruntime.ai/docs/reference/compatibility and the release notes.
"""
IR_VERSIONS = {8: "1.10", 9: "1.16", 10: "1.18", 11: "1.22", 12: "1.25", 13: "1.25"}
"""Version of the file format → an ONNX Runtime that reads it; 1.25 is the oldest tried with 12 and 13."""

_OPSET = re.compile(r"Opset (\d+) is under development")
_IR = re.compile(r"Unsupported model IR version: (\d+)")
_UNKNOWN = re.compile(r"not a registered function/op|No Op registered", re.IGNORECASE)


def version_hint(text: str, *, found: str) -> str | None:
    """Say which version would do.

    Args:
        text: What ONNX Runtime said.
        found: Its version.

    Returns:
        What to do next, with the version found and the one needed; None where the version is not the reason.
    """
    if match := _OPSET.search(text):
        return _needed(f"opset {match[1]}", OPSETS.get(int(match[1])), found) + ", or export with --opset 18"
    if match := _IR.search(text):
        return _needed(f"IR version {match[1]}", IR_VERSIONS.get(int(match[1])), found)
    if _UNKNOWN.search(text):
        return f"this is onnxruntime {found}; a newer one may know the operator: pip install --upgrade onnxruntime"
    return None


def _needed(what: str, version: str | None, found: str) -> str:
    if version is None:
        return f"this is onnxruntime {found}, which does not know {what}: pip install --upgrade onnxruntime"
    return f'this is onnxruntime {found}, {what} needs {version}: pip install "onnxruntime>={version}"'
