"""Rows of a data set in our columns, checked one by one, with a digest of exactly the rows that are used.

task                                    a row
text-classification                     {text, text_pair?, label: a name | sorted names | a number}
token-classification                    {tokens, tags}
question-answering                      {question, context, answers: texts; none means unanswerable}
sentence-similarity, feature-extraction {text, text_pair, score}
fill-mask                               {text with one [MASK], label}
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploycomp.data.columns import find_columns
from deploycomp.data.reader import MASK, SEED, Reader
from deploycomp.data.sources import open_table
from deploycomp.errors import UsageError

__all__ = ["MASK", "Rows", "load_rows"]


@dataclass(frozen=True)
class Rows:
    """Rows to judge a model on.

    Args:
        task: The task they are for.
        name: The data, without anybody's home directory.
        split: The split, where the data has some.
        rows: The rows, see the head of this file.
        columns: Our column → the one of the data.
        digest: SHA-256 over the canonical JSON of the rows.
        labels: The labels in the order of the model's outputs, for tasks that have labels.
        problem_type: transformers' name for what kind of text classification it is.
        available: How many rows the data had before `limit`.
    """

    task: str
    name: str
    split: str | None
    rows: list[dict[str, Any]]
    columns: dict[str, str]
    digest: str
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None
    available: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mask(self) -> str:
        """How the rows write a masked token."""
        return MASK

    def column(self, name: str) -> list[Any]:
        """One column of every row."""
        return [row[name] for row in self.rows]

    def take(self, places: Iterable[int]) -> Rows:
        """Some of the rows, in the order of *places*, with a digest of their own."""
        rows = [self.rows[place] for place in places]
        return Rows.of(
            rows,
            task=self.task,
            name=self.name,
            split=self.split,
            columns=self.columns,
            labels=self.labels,
            problem_type=self.problem_type,
            available=self.available,
        )

    @staticmethod
    def of(
        rows: Sequence[Mapping[str, Any]],
        *,
        task: str,
        name: str = "rows",
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        labels: Sequence[str] | None = None,
        problem_type: str | None = None,
        available: int | None = None,
    ) -> Rows:
        """Build rows from values that are already in our columns, and compute their digest."""
        plain = [dict(row) for row in rows]
        text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return Rows(
            task=task,
            name=name,
            split=split,
            rows=plain,
            columns=dict(columns or {}),
            digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            labels=None if labels is None else tuple(labels),
            problem_type=problem_type,
            available=len(plain) if available is None else available,
        )


def load_rows(
    data: str,
    *,
    task: str,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    vocabulary: Collection[str] | None = None,
    labeled: bool = True,
) -> Rows:
    """Load the rows to judge a model on, or to show it.

    Args:
        data: A .jsonl, .json, .csv, .tsv or .parquet file, a folder of split files, or a hub data set
            (`name` or `name:config`).
        task: What the model does.
        split: Which split of a folder or hub data set; without it validation, then test, never train.
        columns: Our column → the one of the data, where the usual names do not tell.
        limit: Take this many rows at most: a subset with a fixed seed, in the order of the data.
        labels: The model's labels in the order of its outputs; None takes those of the data.
        problem_type: As in the model's config; None looks at the labels.
        vocabulary: Tokens of the model; for fill-mask only words that are one token are masked in plain text.
        labeled: False reads the inputs only: nothing asks for labels, or that the model knows them.

    Returns:
        The rows, every one of them checked.

    Raises:
        UsageError: No such data, split or column, or a column is ambiguous.
        InputRefused: Corrupt or empty data, a row without text or label, a label unknown to the model.
        EnvironmentFailed: The hub cannot be reached.
    """
    if limit is not None and limit < 1:
        raise UsageError("a limit is at least 1 row", where=f"limit: {limit}")
    with open_table(data, split=split) as table:
        chosen = find_columns(table.columns, task=task, named=columns, labeled=labeled, where=table.name)
        raw = table.read(list(dict.fromkeys(chosen.values())))
        values = {ours: [row[theirs] for row in raw] for ours, theirs in chosen.items()}
        reader = Reader(table, chosen, values, labels, problem_type, vocabulary)
        rows = reader.read(task) if labeled else reader.read_inputs(task)
    available = len(rows)
    if limit is not None and limit < available:
        kept = sorted(random.Random(SEED).sample(range(available), limit))
        rows = [rows[index] for index in kept]
    return Rows.of(
        rows,
        task=task,
        name=table.name,
        split=table.split,
        columns=chosen,
        labels=reader.labels,
        problem_type=reader.problem_type,
        available=available,
    )
