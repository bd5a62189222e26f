"""Hub or local data → rows in our own columns, with labels in the model's words.

sources (which file, which split) ─ columns (which is the text) ─ labels (which is which) ─ Rows
"""

from __future__ import annotations

from deploycomp.data.columns import columns_of
from deploycomp.data.rows import MASK, Rows, load_rows
from deploycomp.data.sources import find_training

__all__ = ["MASK", "Rows", "columns_of", "find_training", "load_rows"]
