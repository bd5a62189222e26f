"""The published schema of report.json, and what it says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA", "load_schema"]

SCHEMA = Path(__file__).with_name("report.schema.json")
"""JSON Schema 2020-12 of report.json; it is part of the package."""


@cache
def load_schema() -> dict[str, Any]:
    """Return the schema of report.json."""
    return json.loads(SCHEMA.read_text(encoding="utf-8"))
