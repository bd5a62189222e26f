from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from deploycomp.report.benchmark_words import (
    comparison_lines,
    device_lines,
    profile_lines,
    tables,
    to_markdown_table,
    warning_lines,
)
from tests.report.test_benchmark_formats import made, on_device, profiled


def shown(result: dict[str, Any], *, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables(result):
        console.print(table)
    return console.file.getvalue()


def wide() -> dict[str, Any]:
    """Names and numbers as long as they come."""
    result = made()
    for cell in result["cells"]:
        cell.update(batch_size=128, sequence_length=512, threads=128, cv=0.1234, throughput_per_s=123_456.0)
        cell.update(p50_ms=1_234.0, p90_ms=12_345.0, p95_ms=12_345.0, p99_ms=12_345.0)
        cell["intervals"]["p50_ms"] = [1_200.0, 1_300.0]
        cell["candidate"] = "a-model-of-a-very-long-name-indeed-int8-dynamic@cuda"
    return result


def test_the_table_shows_every_figure_with_the_interval_of_the_median():
    row = next(line for line in shown(made(), width=200).splitlines() if "2×16" in line)
    assert row.split() == ["int8", "1", "2×16", "5.00", "ms", "(4.00…5.00)", "–", "–", "–", "106.5", "%", "254"]
    result = made()
    result["cells"][0].update(p90_ms=7.0, p95_ms=8.0, p99_ms=9.0)
    row = next(line for line in shown(result, width=200).splitlines() if "2×16" in line)
    assert row.split()[6:9] == ["7.00", "8.00", "9.00"]
    head = next(line for line in shown(made(), width=200).splitlines() if "p50" in line)
    assert [word for word in head.split() if word.startswith("p") or word == "CV"] == ["p50", "p90", "p95", "p99", "CV"]


def test_the_table_takes_110_columns_at_most():
    lines = shown(wide(), width=200).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 110
    assert "1,234 ms (1,200…1,300)" in shown(wide(), width=200)


def test_a_narrow_terminal_folds_and_cuts_nothing():
    assert "…)" not in shown(made(), width=60)
    folded = "".join(shown(made(), width=60).split())
    assert "(4.00…5.00)" in folded


def test_names_are_no_markup():
    result = made()
    result["candidates"]["[red]x[/]"] = result["candidates"].pop("int8")
    assert "[red]x[/]" in shown(result, width=200)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (on_device(), "p50 2.50 ms (2.00…3.00), p95 4.00 ms (2.00…4.00)"),
        (on_device(blocks=2), "p50 2.50 ms, p95 –"),
        (on_device(note="torch sees no CUDA device"), "not known: torch sees no CUDA device"),
    ],
)
def test_the_device_has_a_line_of_its_own(result: dict[str, Any], words: str):
    line = f"int8 at 2×16, threads 1: on the device {words}"
    assert device_lines(result) == [line]
    assert f"- {line}" in to_markdown_table(result)
    assert device_lines(made()) == []


def test_markdown_is_one_table_that_names_cannot_break():
    head, rule, first, second, empty, ratio, warning = to_markdown_table(made()).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|") == 10
    assert first.startswith("| int8 | 1 | 2×16 | 5.00 ms (4.00…5.00) | – | – | – |")
    assert empty == ""
    assert "0.45× of the time" in ratio
    assert warning.startswith("- warning: int8")


def test_the_first_candidate_is_compared_with_every_other():
    (line,) = comparison_lines(made())
    assert line.startswith("int8 / a|b at 2×16, threads 1: 0.45× of the time (95 % ")
    assert line.endswith(": faster")
    assert comparison_lines({**made(), "ratios": {}}) == []


def test_warnings_and_profiles_are_spoken():
    assert warning_lines(made()) == ["warning: int8, 2×16, threads 1: something caches"]
    assert profile_lines(profiled()) == ["int8 at 2×16, threads 1: MatMul 75 %, Gelu 25 %"]
    assert profile_lines(made()) == []
