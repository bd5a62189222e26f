"""The table in the README: size, accuracy and latency of the real models before and after, as Markdown on stdout.

    .venv/bin/python benchmarks/readme_table.py                   # exports, judges and measures; about 4 minutes
    .venv/bin/python benchmarks/readme_table.py A/report.json …   # only prints what these reports say

Every number comes from the `report.json` of `deploycomp export MODEL --int8 --target auto --eval DATA`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import BATCH_SIZES, CELLS, LENGTHS, Real, export_int8, machine, real_models

from deploycomp.report import format as fmt
from deploycomp.report.view import Shape, candidates, label, latency, shapes, size_bytes, speed

Report = dict[str, Any]


def export(real: Real, output: Path) -> Report:
    """Run the main job as a user does, with data and all shapes."""
    return export_int8(
        real.path,
        output,
        "--eval",
        str(real.data),
        "--batch-size",
        ",".join(map(str, BATCH_SIZES)),
        "--sequence-length",
        ",".join(map(str, LENGTHS)),
    )


def rows(report: Report) -> list[str]:
    """Three rows of one model: PyTorch, FP32 ONNX, INT8 ONNX."""
    lines: list[str] = []
    for name in candidates(report):
        times = [_latency(report, name, *cell) for cell in CELLS]
        first = report["source"]["name"] if name == "source" else ""
        fields = [first, label(report, name), _size(report, name), *_accuracy(report, name), *times]
        bold = name == "artifact"
        lines.append(" | ".join(f"**{field}**" if bold and field not in ("", fmt.DASH) else field for field in fields))
    return lines


def _size(report: Report, name: str) -> str:
    size = size_bytes(report, name)
    smaller = f" ({fmt.ratio(size_bytes(report, 'source') / size)})" if name == "artifact" else ""
    return fmt.megabytes(size) + smaller


def _accuracy(report: Report, name: str) -> tuple[str, str]:
    """The metric with its interval, and the agreement with PyTorch."""
    judged = report["evaluation"]
    metric = judged["metric"]
    value, agreed = judged["scores"][name][metric], judged["agreement"].get(name)
    ends = fmt.metric_range(metric, value["low"], value["high"])
    score = f"{fmt.metric_name(metric)} {fmt.metric_value(metric, value['value'])} ({ends})"
    return score, fmt.metric_value(metric, agreed["value"]) if agreed else fmt.DASH


def _latency(report: Report, name: str, batch: int, tokens: int) -> str:
    """p50, and how many times faster than PyTorch at least."""
    shape = Shape(_threads(report), batch, tokens)
    cell = latency(report, name, shape)
    if cell is None:
        return fmt.DASH
    gain = f" ({speed(report, name, shape).brief})" if name == "artifact" else ""
    return fmt.milliseconds(cell["p50_ms"]) + gain


def _threads(report: Report) -> int:
    return max(shape.threads for shape in shapes(report))


def table(reports: list[Report]) -> str:
    """Draw the table and, under it, on what and how it was measured."""
    heads = ["model", "", "size", "on its data", "agreement", *(f"{batch}×{tokens}" for batch, tokens in CELLS)]
    lines = [" | ".join(heads), " | ".join(["---"] * 5 + ["---:"] * len(CELLS))]
    for report in reports:
        lines += rows(report)
    one = reports[0]
    here, settings = one["benchmark"]["context"], one["benchmark"]["settings"]
    notes = (
        f"Latency is the median at rows × tokens, {fmt.plural(_threads(one), 'thread')}, fresh processes, "
        f"{settings['blocks']} interleaved blocks; brackets hold 95 % intervals and gains over PyTorch, of "
        "speed the lower end of its interval; agreement is the share of answers that PyTorch gives too.\n"
        f"Measured on {machine(here)}, {one['created'][:10]}, by `benchmarks/readme_table.py`."
    )
    return "\n".join(f"| {line} |" for line in lines) + f"\n\n{notes}"


def main() -> None:
    """Export the real models, or read reports, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="*", type=Path, metavar="REPORT", help="report.json files to print")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="real models by name; default: all three")
    asked = parser.parse_args()
    if asked.reports:
        found = [json.loads(path.read_text(encoding="utf-8")) for path in asked.reports]
    else:
        with tempfile.TemporaryDirectory(prefix="deploycomp-readme-") as scratch:
            found = [export(real, Path(scratch) / real.name) for real in real_models(asked.models)]
    print(table(found))


if __name__ == "__main__":
    main()
