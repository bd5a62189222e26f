from __future__ import annotations

import io

from deploycomp.report import plain_lines, summary_table
from deploycomp.report.view import Shape, read_table, table_shapes
from deploycomp.report.words import step_words
from tests.report.example import bare, cell, loses, wins


def printed(report, width: int = 80) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(summary_table(report))
    return console.file.getvalue()


def test_the_table_fits_80_columns_and_cuts_no_number():
    for report in (wins(), loses(), bare()):
        text = printed(report)
        assert max(len(line) for line in text.splitlines()) <= 80
        for _, cells in read_table(report).rows:
            for each in cells:
                assert each.main.removesuffix(" ms") in text
                assert each.brief in text


def test_the_table_reads_no_markup():
    report = wins()
    report["evaluation"]["metric"] = "[red]acc[/]\x1b[31m"
    for scores in report["evaluation"]["scores"].values():
        scores["[red]acc[/]\x1b[31m"] = scores["accuracy"]
    text = printed(report, 120)
    assert "[red]" in text
    assert "\x1b" not in text


def test_one_row_for_each_candidate_and_columns_only_for_what_was_measured():
    assert [name for name, _ in read_table(wins()).rows] == ["source", "fp32", "artifact"]
    assert [name for name, _ in read_table(bare()).rows] == ["source", "artifact"]
    assert [column.title for column in read_table(bare()).columns] == ["Size"]
    assert [column.title for column in read_table(wins()).columns] == [
        *("Size", "1×16", "1×128", "8×16", "8×128", "Peak memory", "Accuracy", "Agreement"),
    ]


def test_many_shapes_are_thinned_and_the_rest_is_announced():
    report = wins()
    report["benchmark"]["cells"] = [
        cell(name, 1, length, length / 10, threads=threads)
        for name in ("source", "fp32", "artifact")
        for length in (8, 16, 32, 64, 128, 256, 512)
        for threads in (1, 2)
    ]
    assert table_shapes(report) == [Shape(2, 1, length) for length in (8, 32, 128, 512)]
    assert "10 more shapes in report.html." in "\n".join(plain_lines(report))


def test_a_candidate_without_a_measurement_has_a_dash():
    report = wins()
    report["benchmark"]["cells"] = [each for each in report["benchmark"]["cells"] if each["candidate"] != "fp32"]
    del report["benchmark"]["candidates"]["fp32"]
    del report["evaluation"]["scores"]["fp32"], report["evaluation"]["drop"]["fp32"]
    report["evaluation"]["agreement"] = {}
    cells = dict(read_table(report).rows)["fp32"]
    assert [each.main for each in cells] == ["90.9 MB", *["–"] * 7]


def test_plain_lines_hold_headline_table_and_warnings():
    lines = plain_lines(loses())
    assert lines[0].startswith("3.9× smaller")
    assert any(line.startswith("ONNX INT8") and "22.4 ms (≥1.79×)" in line for line in lines)
    assert sum(line.startswith("warning: ") for line in lines) == 6
    assert "\x1b" not in "\n".join(lines)


def test_steps_that_are_not_known_are_told_as_they_stand():
    step = {"step": "distil", "seconds": 1.0, "facts": {"heads_kept": 40, "how": "by loss", "deep": {}, "notes": ["n"]}}
    assert step_words(step) == ["heads kept: 40", "how: by loss", "n"]
