"""A benchmark for people: tables for a terminal, one Markdown table, and lines; nothing is measured or computed here.

cells ──► rows of text ─┬─ terminal
                        ├─ Markdown
                        └─ benchmark_page.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deploycomp.report import format as fmt
from deploycomp.report.text import markdown, shorten

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "CANDIDATE_HEADS",
    "CELL_HEADS",
    "SHAPE",
    "Cell",
    "Result",
    "candidate_rows",
    "cell_rows",
    "comparison_lines",
    "device_lines",
    "ordered_cells",
    "profile_lines",
    "tables",
    "time_words",
    "to_markdown_table",
    "warning_lines",
]

Result = Mapping[str, Any]
Cell = Mapping[str, Any]

SHAPE = ("threads", "batch_size", "sequence_length")
SHOWN_OPERATORS = 5

CANDIDATE_HEADS = ("", "size", "load", "peak memory")
CELL_HEADS = ("", "threads", "rows × tokens", "p50 (95 %)", "p90 ms", "p95 ms", "p99 ms", "CV", "rows/s")
NAME_WIDTH = 20
"""Columns of a terminal for a candidate's name, longer ones are folded: the table of the cells takes 110 at most."""


def tables(result: Result) -> list[Table]:
    """Draw a result for a terminal: the candidates, then every cell."""
    return [_table(CANDIDATE_HEADS, candidate_rows(result)), _table(CELL_HEADS, cell_rows(result))]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(heads[0], overflow="fold", max_width=NAME_WIDTH)
    for head in heads[1:]:
        table.add_column(head, justify="right", overflow="fold")  # never cut: a pipe has 80 columns
    for row in rows:
        table.add_row(*(Text(each) for each in row))  # Text: nothing of a name is read as markup
    return table


def to_markdown_table(result: Result) -> str:
    """Write a document as one Markdown table, with the lines for people below."""
    heads = ("candidate", *CELL_HEADS[1:])
    rows = [heads, ("---", *("---:" for _ in heads[1:]))]
    rows += [(markdown(name), *fields) for name, *fields in cell_rows(result)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = (*comparison_lines(result), *device_lines(result), *warning_lines(result))
    below = [f"- {markdown(line)}" for line in lines]
    return "\n".join([table, *(["", *below] if below else [])]) + "\n"


def candidate_rows(result: Result) -> list[tuple[str, ...]]:
    """Write what is measured once for each candidate, in the columns of `CANDIDATE_HEADS`."""
    return [
        (
            shorten(name),
            fmt.megabytes(facts["bytes"]),
            fmt.milliseconds(facts["load_ms"]),
            fmt.megabytes(facts["peak_rss_bytes"]),
        )
        for name, facts in result["candidates"].items()
    ]


def cell_rows(result: Result) -> list[tuple[str, ...]]:
    """Write every cell in the columns of `CELL_HEADS`, the candidates of a shape below one another."""
    return [
        (
            shorten(cell["candidate"]),
            str(cell["threads"]),
            f"{cell['batch_size']}×{cell['sequence_length']}",
            time_words(cell, "p50_ms"),
            *(fmt.significant(cell[key]) for key in ("p90_ms", "p95_ms", "p99_ms")),
            fmt.percent(cell["cv"], 1),
            fmt.significant(cell["throughput_per_s"]),
        )
        for cell in ordered_cells(result)
    ]


def ordered_cells(result: Result) -> list[Cell]:
    """Sort cells by shape; the candidates keep their order."""
    return sorted(result["cells"], key=lambda cell: [cell[key] for key in SHAPE])


def time_words(cell: Cell, key: str) -> str:
    """Write a time of a cell with its interval where it has one: `3.21 ms (3.18…3.25)`."""
    ends = (cell["intervals"] or {}).get(key)
    spread = f" ({fmt.significant(ends[0])}…{fmt.significant(ends[1])})" if ends else ""
    return fmt.milliseconds(cell[key]) + spread


def device_lines(result: Result) -> list[str]:
    """Say what each call took on a CUDA device, or why that is not known; nothing of cells on a CPU."""
    lines: list[str] = []
    for cell in ordered_cells(result):
        if "device_p50_ms" not in cell:
            continue
        words = f"p50 {time_words(cell, 'device_p50_ms')}, p95 {time_words(cell, 'device_p95_ms')}"
        said = f"not known: {shorten(cell['device_note'], 400)}" if cell["device_note"] else words
        lines.append(f"{_spoken(shorten(cell['candidate']), cell)}: on the device {said}")
    return lines


def _spoken(who: str, cell: Cell) -> str:
    return f"{who} at {cell['batch_size']}×{cell['sequence_length']}, threads {cell['threads']}"


def comparison_lines(result: Result) -> list[str]:
    """Say for each cell how the first candidate's latency compares with every other: ratio, interval, verdict."""
    first = next(iter(result["candidates"]), "")
    lines: list[str] = []
    for other, entries in (result.get("ratios") or {}).items():
        for entry in entries:
            ratio, ends = fmt.ratio(entry["ratio"]), fmt.ratio_range(entry["low"], entry["high"])
            who = _spoken(f"{shorten(first)} / {shorten(other)}", entry["cell"])
            lines.append(f"{who}: {ratio} of the time (95 % {ends}): {entry['verdict']}")
    return lines


def warning_lines(result: Result) -> list[str]:
    """Say what makes a benchmark doubtful."""
    return [f"warning: {shorten(each, 400)}" for each in result["context"].get("warnings", ())]


def profile_lines(result: Result) -> list[str]:
    """Say where the time of each profiled cell goes."""
    lines: list[str] = []
    for each in result.get("profile", ()):
        shares = ", ".join(
            f"{shorten(entry['name'])} {fmt.percent(entry['share'], 0)}"
            for entry in each["operators"][:SHOWN_OPERATORS]
        )
        lines.append(f"{_spoken(shorten(each['candidate']), each)}: {shares}")
    return lines
