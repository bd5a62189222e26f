"""Rows → batches → `run` → raw outputs without padding, each with its row, in the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from deploycomp.errors import VerificationFailed
from deploycomp.runtime.encode import Encoded, Progress, Settings, make_feeds, plan_batches, row_slice
from deploycomp.runtime.inputs import check_count
from deploycomp.runtime.session import Run

__all__ = ["OUTPUTS", "PER_TEXT", "Raw", "Row", "run_rows"]

OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "feature-extraction": ("last_hidden_state",),
    "sentence-similarity": ("sentence_embedding",),
    "fill-mask": ("logits",),
}
"""The outputs that are asked of the graph; others are not computed where the runtime can skip them."""

PER_TEXT = frozenset({"text-classification", "sentence-similarity"})
"""Tasks whose output has one value for a row; the others have one for each token."""


@dataclass(frozen=True)
class Row:
    """One row of the graph with its raw outputs, in float32 and without padding."""

    encoded: Encoded
    outputs: dict[str, np.ndarray]
    """name → [labels] or [d] for tasks in `PER_TEXT`, [tokens, …] for the others, and for fill-mask
    [masked positions, vocabulary]."""


_Found = list[tuple[int, Row]]
"""Place of a row and the row, for one batch."""


@dataclass(frozen=True)
class Raw:
    """The raw outputs of every input, in the order of the inputs."""

    inputs: list[Any]
    rows: list[list[Row]]
    """For each input its rows: one, or the windows of a long context in question answering."""
    truncated: int
    """Inputs that were cut to the maximum length."""


def run_rows(
    run: Run,
    encoded: Sequence[Encoded],
    *,
    task: str,
    names: Sequence[str],
    settings: Settings,
    keep: Sequence[np.ndarray | None],
    batch_size: int,
    streams: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Run rows in batches of similar length.

    Args:
        run: (feeds, names of outputs) → outputs.
        encoded: The rows.
        task: A key of `OUTPUTS`.
        names: The graph's inputs.
        settings: See `Settings`; a fixed batch overrules *batch_size*.
        keep: For each row the tokens whose outputs are kept, None for all.
        batch_size: Rows in a batch at most.
        streams: Batches that run at once, each in a thread of its own.
        progress: Called with ("predict", fraction of the tokens).

    Returns:
        One `Row` for each of *encoded*, in the same order.

    Raises:
        UsageError: *batch_size* is no whole number of at least one.
        VerificationFailed: An output of a real token is NaN.
    """
    batch_size = check_count("batch_size", batch_size)
    lengths = [settings.fixed_sequence or len(row) for row in encoded]
    batches = plan_batches(lengths, settings.fixed_batch or batch_size, fixed=settings.fixed_batch is not None)

    def answer(batch: list[int]) -> list[tuple[int, Row]]:
        feeds = make_feeds([encoded[index] for index in batch], names, settings)
        outputs = dict(zip(OUTPUTS[task], run(feeds, OUTPUTS[task]), strict=True))
        found: list[tuple[int, Row]] = []
        for place, index in enumerate(batch):
            mine = {name: array[place] for name, array in outputs.items()}
            if task not in PER_TEXT:
                mine = _unpad(mine, encoded[index], keep[index], settings)
            found.append((index, Row(encoded[index], _checked(mine, item=encoded[index].item))))
        return found

    rows: dict[int, Row] = {}
    done, total = 0, sum(lengths)
    for found in _spread(answer, batches, streams):
        rows.update(found)
        done += sum(lengths[index] for index, _ in found)
        if progress:
            progress("predict", done / total if total else 1.0)
    return [rows[index] for index in range(len(encoded))]


def _spread(answer: Callable[[list[int]], _Found], batches: list[list[int]], streams: int) -> Iterator[_Found]:
    """The answers to every batch, in order; some batches at once where that was asked for."""
    if streams < 2:
        yield from map(answer, batches)
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="deploycomp") as pool:
        futures = [pool.submit(answer, batch) for batch in batches]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _unpad(
    outputs: dict[str, np.ndarray], row: Encoded, keep: np.ndarray | None, settings: Settings
) -> dict[str, np.ndarray]:
    """Drop the padding of one row, and the tokens that nobody asked for."""
    real = {name: array[row_slice(len(row), len(array), settings)] for name, array in outputs.items()}
    return real if keep is None else {name: array[keep] for name, array in real.items()}


def _checked(outputs: dict[str, np.ndarray], *, item: int) -> dict[str, np.ndarray]:
    """Copy to float32 (a view would keep the padded batch alive), and refuse NaN."""
    copies = {name: np.array(array, dtype=np.float32) for name, array in outputs.items()}
    for name, array in copies.items():
        if np.isnan(array).any():
            raise VerificationFailed(
                "the model returned NaN",
                where=f"output {name}, input {item}",
                why="a weight is not finite, or FP16 has overflowed",
                hint="export it again without --fp16, and look at the parity in report.md",
            )
    return copies
