"""How much rows to learn from differ: what is learned on one text said a hundred times holds for that text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from deploycomp.errors import InputRefused

__all__ = ["Variety", "variety_of"]

DISTINCT = 0.5
"""Share of the rows that must be different ones: of published training data 97 to 100 % are (SST-2 to WNUT17)."""

COMMON = 0.5
"""Share of a row's different tokens that may stand in most rows: 0 to 20 % do in 8 to 256 rows of SST-2, CLINC150,
SQuAD and QNLI; four of five in "review number 17 is good"."""
LEAST = 8
"""Fewer rows are few, whatever they say."""

BARE = 0.1
"""Share of the rows that may hold no token of text before it is said."""

ENOUGH = 0.5
"""Share of the rows that were wanted, below which it is said that there are fewer."""


@dataclass(frozen=True)
class Variety:
    """What was counted on the tokens of some rows.

    Args:
        rows: How many rows.
        distinct: Different ones among them.
        bare: Rows with no token of text: empty, or padding, special and unknown tokens alone.
        common: Of a row's different tokens, the share that stands in half of the rows or more: 1 where all are one.
    """

    rows: int
    distinct: int
    bare: int
    common: float

    def warnings(self, data: str, *, wanted: int) -> list[str]:
        """Say in sentences why these rows are poor ones to learn from; none where they are not.

        Args:
            data: Where they come from.
            wanted: How many there should be.
        """
        found: list[str] = []
        if self.rows < ENOUGH * wanted:
            found.append(f"Calibrated on {_rows(self.rows)} of {data} where {wanted:,} are wanted: too few to be sure.")
        if self.distinct == 1 < self.rows:
            found.append(
                f"All {self.rows:,} calibration rows of {data} are the same: what is learned holds for it alone."
            )
        elif self.distinct < DISTINCT * self.rows:
            found.append(f"Only {self.distinct:,} of {_rows(self.rows)} of {data} to calibrate on are different ones.")
        elif self.rows >= LEAST and self.common > COMMON:
            found.append(
                f"The {self.rows:,} calibration rows of {data} are nearly equal: {self.common:.0%} of a row's tokens "
                "stand in most of them."
            )
        if self.bare > BARE * self.rows:
            found.append(f"{self.bare:,} of {_rows(self.rows)} of {data} to calibrate on hold no token of text.")
        return found


def variety_of(rows: Iterable[Any], *, special: Collection[int], where: str) -> Variety:
    """Count how much rows differ.

    Args:
        rows: Token ids of each.
        special: Ids that say nothing: padding, ends, unknown.
        where: The data, for errors.

    Raises:
        InputRefused: Not one row holds a token of text.
    """
    texts = [tuple(int(token) for token in row if int(token) not in special) for row in rows]
    bare = sum(not text for text in texts)
    if bare == len(texts):
        raise InputRefused(
            "no row to calibrate on holds a token of text",
            where=where,
            why=f"{_rows(len(texts))}: all of them empty, or padding, special and unknown tokens alone",
            hint="--calibration with texts that the model reads",
        )
    own = [set(text) for text in texts if text]
    counts = Counter(token for tokens in own for token in tokens)
    most = {token for token, count in counts.items() if 2 * count >= len(own)}
    common = sum(len(tokens & most) / len(tokens) for tokens in own) / len(own)
    return Variety(len(texts), len(set(texts)), bare, common)


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
