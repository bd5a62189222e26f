"""Hub or local data → rows in our own columns, with labels in the model's words.

sources (which file, which split) ─ columns (which is the text) ─ labels (which is which) ─ Rows
                                                      overlap (rows in two data sets), variety (rows that differ) ┘
"""

from __future__ import annotations

from deploycomp.data.columns import columns_of
from deploycomp.data.overlap import unlike, without_judged
from deploycomp.data.rows import MASK, Rows, load_rows
from deploycomp.data.sources import find_training
from deploycomp.data.variety import Variety, variety_of

__all__ = [
    "MASK",
    "Rows",
    "Variety",
    "columns_of",
    "find_training",
    "load_rows",
    "unlike",
    "variety_of",
    "without_judged",
]
