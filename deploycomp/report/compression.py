"""What `deploycomp compress` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.cuts import COMPRESSION_WORDS, calibration_warnings, matrix_lines, unit_lines
from deploycomp.report.terminal import evaluation_lines
from deploycomp.report.text import shorten

__all__ = ["compression_lines"]


def compression_lines(report: Mapping[str, Any]) -> list[str]:
    """Write what `deploycomp compress` did as lines: sizes, each step, what is left of every layer, quality."""
    before, after = report["source"]["parameters"], report["result"]["parameters"]
    lines = [f"{fmt.count(before)} parameters → {fmt.count(after)} ({fmt.percent(after / before, 1)})"]
    for step in report["steps"]:
        lines += [f"{step['step']}: {line}" for line in COMPRESSION_WORDS[step["step"]](step["facts"])]
        lines += unit_lines(step["facts"].get("units", {})) + matrix_lines(step["facts"].get("matrices", {}))
    if report["evaluation"] is not None:
        lines += evaluation_lines(report["evaluation"])
    return lines + [f"warning: {shorten(each, 400)}" for each in calibration_warnings(report["steps"])]
