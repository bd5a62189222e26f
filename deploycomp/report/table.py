"""The one table on a terminal, and as plain lines where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploycomp.report.text import shorten
from deploycomp.report.verdict import build_verdict, headline
from deploycomp.report.view import Report, Table, label, read_table, shapes, table_shapes

if TYPE_CHECKING:
    import rich.table

__all__ = ["build_verdict", "headline", "plain_lines", "summary_table", "table_notes"]

GAP = "  "


def summary_table(report: Report) -> rich.table.Table:
    """Draw the one table for a terminal of 80 columns or more.

    Args:
        report: As in report.json.

    Returns:
        A rich table; nothing in it is read as markup.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    content = read_table(report)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column("")
    for column in content.columns:
        unit = "\nms" if column.group else ""
        table.add_column(
            Text(_head(column.title) + unit, justify="right"), justify="right", no_wrap=True, overflow="fold"
        )
    for name, cells in content.rows:
        style = "bold" if name == "artifact" else ""
        fields = [Text(label(report, name), style=style)]
        for column, cell in zip(content.columns, cells, strict=True):
            main = cell.main.removesuffix(" ms") if column.group else cell.main
            fields.append(Text(main, style=style).append(f"\n{cell.brief}" if cell.brief else "", style="not bold dim"))
        table.add_row(*fields)
    if len(content.columns) > 1:
        table.caption = Text(" ".join(table_notes(report)), style="dim", justify="left")
    return table


def _head(title: str) -> str:
    """Break a long column head, so that it does not widen its column."""
    return shorten(title, 24).replace(" ", "\n", 1)


def table_notes(report: Report) -> list[str]:
    """Explain what the table's numbers mean, one sentence an item."""
    at = table_shapes(report)
    notes = ["× is against PyTorch: above 1 is smaller" + (", faster or less memory." if at else ".")]
    notes += ["Of speed it is the end of the 95 % interval that is worst."] if at else []
    if at:
        threads = f"{at[0].threads} thread{'s' if at[0].threads > 1 else ''}"
        notes.append(f"Latency is the median at rows × tokens, {threads}.")
    if report.get("evaluation"):
        notes.append("Ranges are 95 % confidence intervals.")
    if more := len(shapes(report)) - len(at):
        notes.append(f"{more} more shape{'s' if more > 1 else ''} in report.html.")
    return notes


def plain_lines(report: Report) -> list[str]:
    """Write the headline, the table in aligned columns, and the warnings, for logs and pipes."""
    content = read_table(report)
    rows = [["", *(_plain_head(content))]]
    for name, cells in content.rows:
        rows.append([label(report, name), *(f"{c.main} ({c.brief})" if c.brief else c.main for c in cells)])
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    verdict = report.get("verdict") or build_verdict(report)
    lines = [shorten(verdict["headline"], 400), ""]
    for row in rows:
        fields = [
            row[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append(GAP.join(fields).rstrip())
    lines += ["", *table_notes(report)]
    return lines + [f"warning: {shorten(each, 400)}" for each in verdict["warnings"]]


def _plain_head(content: Table) -> list[str]:
    return [f"p50 {column.title}" if column.group else shorten(column.title) for column in content.columns]
