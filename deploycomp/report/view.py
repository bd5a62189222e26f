"""What the pages show, read from the report once: candidates, shapes, the one table.

The table has a row for each candidate and, where they were measured, a column for each of size, latency by shape, peak
memory, the task's metric and agreement. Markdown, HTML and the terminal draw this same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.text import shorten

__all__ = [
    "Cell",
    "Column",
    "Report",
    "Shape",
    "Speed",
    "Table",
    "block_range",
    "candidates",
    "facts_of",
    "label",
    "latency",
    "peak_bytes",
    "read_table",
    "shapes",
    "size_bytes",
    "speed",
    "table_shapes",
]

Report = Mapping[str, Any]
"""A report as in report.json, with or without `verdict` and `rendered`."""

MAX_TABLE_SHAPES = 4
"""Latency columns that fit a pull-request comment and a terminal of 80 columns."""


@dataclass(frozen=True, order=True)
class Shape:
    """Where latency was measured: threads, and rows times tokens."""

    threads: int
    batch_size: int
    sequence_length: int

    @property
    def short(self) -> str:
        """Rows × tokens: `1×128`."""
        return f"{self.batch_size}×{self.sequence_length}"

    def named(self, *, threads: bool) -> str:
        """Rows × tokens, with the threads where several were measured: `1×128, 2 threads`."""
        return f"{self.short}, {fmt.plural(self.threads, 'thread')}" if threads else self.short


UNSTEADY = 1.0
"""Blocks of one cell that lie further apart than their median: what was measured there is the machine's other work."""

WIDE = 2.0
"""An interval around 1 whose ends are further apart than this factor does not even say that two are alike."""


@dataclass(frozen=True)
class Speed:
    """A candidate's speed beside PyTorch's, in words: `at least 2.4× faster`."""

    words: str
    brief: str
    """The same for narrow tables: `≥2.4×`."""
    joint: str = ""
    """What leads on to PyTorch: `than`; empty where the words compare nothing."""
    slower: bool = False


@dataclass(frozen=True)
class Cell:
    """One field of the table: the number, and what stands under it."""

    main: str
    note: str = ""
    """In full words: `at least 2.4× faster`, a confidence interval."""
    brief: str = ""
    """The same for narrow tables: `≥2.4×`."""


@dataclass(frozen=True)
class Column:
    """A column's head: what, under which roof, in which unit."""

    title: str
    group: str = ""


@dataclass(frozen=True)
class Table:
    """The one table; `rows` pairs a candidate's key with its fields."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def candidates(report: Report) -> list[str]:
    """Return the candidates in the order in which they are shown; an artifact that was not quantized stands alone."""
    whole = report["artifact"]["precision"] in ("fp32", "fp16")
    return ["source", "artifact"] if whole else ["source", "fp32", "artifact"]


def label(report: Report, name: str) -> str:
    """Name a candidate for people: `PyTorch`, `ONNX FP32`, `ONNX INT8`."""
    if name == "source":
        return "PyTorch"
    return f"ONNX {name if name == 'fp32' else report['artifact']['precision']}".upper()


def size_bytes(report: Report, name: str) -> int:
    """Return a candidate's size: the parameters in FP32 for the source, the file for an ONNX."""
    if name == "source":
        return report["source"]["bytes"]
    return report["artifact"]["fp32_bytes" if name == "fp32" else "bytes"]


def peak_bytes(report: Report, name: str) -> int | None:
    """Return the peak resident memory of a candidate's process, where it was measured."""
    benchmark = report.get("benchmark") or {}
    return benchmark.get("candidates", {}).get(name, {}).get("peak_rss_bytes")


def shapes(report: Report) -> list[Shape]:
    """Return every shape that was measured, sorted by threads, rows, tokens."""
    cells = (report.get("benchmark") or {}).get("cells", [])
    return sorted({Shape(each["threads"], each["batch_size"], each["sequence_length"]) for each in cells})


def table_shapes(report: Report) -> list[Shape]:
    """Return the shapes that the one table shows: at most four of the largest number of threads, evenly spread."""
    found = shapes(report)
    most = [each for each in found if each.threads == max(shape.threads for shape in found)]
    if len(most) <= MAX_TABLE_SHAPES:
        return most
    last = len(most) - 1
    return [most[round(position * last / (MAX_TABLE_SHAPES - 1))] for position in range(MAX_TABLE_SHAPES)]


def latency(report: Report, name: str, shape: Shape) -> dict[str, Any] | None:
    """Return the measurements of one candidate at one shape."""
    for cell in (report.get("benchmark") or {}).get("cells", []):
        at = Shape(cell["threads"], cell["batch_size"], cell["sequence_length"])
        if cell["candidate"] == name and at == shape:
            return cell
    return None


def block_range(cell: Mapping[str, Any]) -> tuple[float, float]:
    """Return the lowest and highest median of a cell's blocks, ms: what the noise of the machine did to it."""
    blocks = cell.get("block_p50_ms") or [cell["p50_ms"]]
    return min(blocks), max(blocks)


def speed(report: Report, name: str, shape: Shape) -> Speed:
    """Say how fast a candidate is beside PyTorch at a shape: by the end of the ratio's interval that is worst for it.

    The middle of an interval is a number that half of all repetitions would not reach.

    Args:
        report: The report.
        name: `fp32` or `artifact`.
        shape: Where both were measured.
    """
    benchmark = report.get("benchmark") or {}
    entries = benchmark.get("ratios", {}).get("source", ()) if name == "artifact" else benchmark.get("fp32_ratios", ())
    at = {"threads": shape.threads, "batch_size": shape.batch_size, "sequence_length": shape.sequence_length}
    low, high = next(((each["low"], each["high"]) for each in entries if each["cell"] == at), (None, None))
    steady = all(_steady(latency(report, each, shape)) for each in ("source", name))
    if low is None or high is None or not steady or (low <= 1 <= high and high > WIDE * low):
        return Speed("not measurable here", fmt.DASH)
    bound = fmt.ratio(1 / high)
    words, slower = fmt.faster(1 / high), low > 1
    if low <= 1 <= high:
        return Speed("no clear difference", f"≥{bound}")
    if words == fmt.faster(1):
        return Speed(words, f"≥{bound}", "as")
    return Speed(f"{'up to' if slower else 'at least'} {words}", f"≥{bound}", "than", slower=slower)


def _steady(cell: Mapping[str, Any] | None) -> bool:
    """Whether the blocks of a cell tell one time."""
    if cell is None or not cell["p50_ms"]:
        return False
    low, high = block_range(cell)
    return high - low <= UNSTEADY * cell["p50_ms"]


def facts_of(report: Report, step: str) -> dict[str, Any]:
    """Return the facts of a step, empty where it did not run."""
    return next((dict(each["facts"]) for each in report["steps"] if each["step"] == step), {})


def read_table(report: Report) -> Table:
    """Read the one table from a report."""
    names, at = candidates(report), table_shapes(report)
    columns = [Column("Size")]
    fields = {name: [_size(report, name)] for name in names}
    for shape in at:
        columns.append(Column(shape.short, "Latency p50, rows × tokens"))
        for name in names:
            fields[name].append(_latency(report, name, shape))
    if report.get("benchmark"):
        columns.append(Column("Peak memory"))
        for name in names:
            fields[name].append(_memory(report, name))
    if evaluation := report.get("evaluation"):
        columns += [Column(_capital(shorten(fmt.metric_name(evaluation["metric"])))), Column("Agreement")]
        for name in names:
            fields[name] += [_metric(evaluation, name), _agreement(evaluation, name)]
    return Table(tuple(columns), tuple((name, tuple(fields[name])) for name in names))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _size(report: Report, name: str) -> Cell:
    size = size_bytes(report, name)
    if name == "source" or not size:
        return Cell(fmt.megabytes(size))
    value = size_bytes(report, "source") / size
    return Cell(fmt.megabytes(size), fmt.smaller(value), fmt.ratio(value))


def _latency(report: Report, name: str, shape: Shape) -> Cell:
    cell = latency(report, name, shape)
    if cell is None:
        return Cell(fmt.DASH)
    if name == "source":
        return Cell(fmt.milliseconds(cell["p50_ms"]))
    found = speed(report, name, shape)
    return Cell(fmt.milliseconds(cell["p50_ms"]), found.words, found.brief)


def _memory(report: Report, name: str) -> Cell:
    peak, source = peak_bytes(report, name), peak_bytes(report, "source")
    if not peak or not source or name == "source":
        return Cell(fmt.megabytes(peak))
    return Cell(fmt.megabytes(peak), fmt.less(source / peak), fmt.ratio(source / peak))


def _metric(evaluation: Mapping[str, Any], name: str) -> Cell:
    metric = evaluation["metric"]
    value = evaluation["scores"].get(name, {}).get(metric)
    if value is None:
        return Cell(fmt.DASH)
    ends = fmt.metric_range(metric, value["low"], value["high"])
    return Cell(fmt.metric_value(metric, value["value"]), ends, ends)


def _agreement(evaluation: Mapping[str, Any], name: str) -> Cell:
    """A share of answers, or the correlation of both outputs where the metric is one too."""
    value, metric = evaluation["agreement"].get(name), evaluation["metric"]
    if value is None:
        return Cell(fmt.DASH)
    ends = fmt.metric_range(metric, value["low"], value["high"])
    return Cell(fmt.metric_value(metric, value["value"]), ends, ends)
