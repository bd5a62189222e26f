"""Facts in, pages out: report.json, Markdown, HTML and a terminal table; nothing is measured or computed here.

The public names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploycomp.report.compression import compression_lines
    from deploycomp.report.html import to_html
    from deploycomp.report.markdown import to_markdown
    from deploycomp.report.schema import SCHEMA, load_schema
    from deploycomp.report.table import plain_lines, summary_table
    from deploycomp.report.terminal import doctor_lines, evaluation_lines, inspection_lines
    from deploycomp.report.verdict import build_verdict, headline
    from deploycomp.report.write import write_report

__all__ = [
    "SCHEMA",
    "build_verdict",
    "compression_lines",
    "doctor_lines",
    "evaluation_lines",
    "headline",
    "inspection_lines",
    "load_schema",
    "plain_lines",
    "summary_table",
    "to_html",
    "to_markdown",
    "write_report",
]

_HOME = {
    "compression": ("compression_lines",),
    "html": ("to_html",),
    "markdown": ("to_markdown",),
    "schema": ("SCHEMA", "load_schema"),
    "table": ("plain_lines", "summary_table"),
    "terminal": ("doctor_lines", "evaluation_lines", "inspection_lines"),
    "verdict": ("build_verdict", "headline"),
    "write": ("write_report",),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
