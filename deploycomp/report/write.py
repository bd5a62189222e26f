"""Write the evidence of a run into its artifact: report.md, report.html, then report.json, which knows their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploycomp.artifact import sha256, translate_os_error
from deploycomp.report.html import to_html
from deploycomp.report.markdown import to_markdown

__all__ = ["write_report"]


def write_report(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the three files of a report.

    Args:
        report: As in report.json, with its verdict and without `rendered`.
        folder: Where they are written; it exists.

    Returns:
        The report with `rendered`, as it stands in report.json.

    Raises:
        EnvironmentFailed: The folder cannot be written.
    """
    pages = {"report.md": to_markdown(report), "report.html": to_html(report)}
    with translate_os_error(folder):
        rendered: dict[str, str] = {}
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
            rendered[name] = sha256(folder / name)
        full = {**report, "rendered": rendered}
        text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8", newline="\n")
    return full
