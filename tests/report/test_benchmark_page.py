from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from deploycomp.report import benchmark_page
from deploycomp.report.benchmark_page import draw_benchmark, to_benchmark_html
from deploycomp.report.drawing import add_rows, new_figure
from tests.report.test_benchmark_formats import DOCUMENTS, made, on_device, profiled
from tests.report.test_browser import browser, visit  # noqa: F401  a fixture
from tests.report.test_html import LINKING, Page, table

EVIL = "<script>alert(1)</script>\x1b[31m"


def renamed(name: str) -> dict[str, Any]:
    result = copy.deepcopy(made())
    result["candidates"] = {name if key == "int8" else key: value for key, value in result["candidates"].items()}
    for cell in result["cells"]:
        cell["candidate"] = name if cell["candidate"] == "int8" else cell["candidate"]
    return result


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_page_is_well_nested_self_contained_and_accessible(name: str):
    text = to_benchmark_html(DOCUMENTS[name])
    page = Page(text)
    assert len(text.encode()) < 1_000_000
    assert not {"script", "iframe", "object", "embed", "form", "img"} & set(page.tags)
    for key, value in page.attributes:
        if key in LINKING:
            assert value.startswith(("#", "data:")), (key, value)
    assert "@import" not in text
    assert all(part.startswith("#") for part in text.split("url(")[1:])
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert set(page.all("aria-labelledby")) <= set(ids)
    assert page.tags.count("svg") == page.all("role").count("img")
    assert page.tags.count("th") == len(page.all("scope"))
    assert page.tags.count("h1") == page.tags.count("title") == 1


def test_the_shell_is_that_of_the_report():
    text = to_benchmark_html(made())
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "<title>int8, a|b · deploycomp benchmark</title>" in text
    assert "deploycomp report" not in text


def test_the_tables_hold_the_figures_of_the_document():
    text = to_benchmark_html(made())
    assert table(text, "times")[0] == ["int8", "1", "2×16", "5.00 ms (4.00…5.00)", "–", "–", "–", "106.5 %", "254"]
    assert [row[0] for row in table(text, "candidates")] == ["int8", "a|b"]
    assert "int8 / a|b at 2×16, threads 1: 0.45× of the time" in text
    assert "<li>int8, 2×16, threads 1: something caches</li>" in text
    assert "MatMul 75 %, Gelu 25 %" in to_benchmark_html(profiled())


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (made(), ["latency", "distribution", "memory"]),
        (on_device(), ["latency", "distribution", "memory", "device"]),
        (on_device(note="no CUDA"), ["latency", "distribution", "memory"]),
    ],
)
def test_every_picture_is_drawn_from_its_part(result: dict[str, Any], names: list[str]):
    assert [plot.name for plot in draw_benchmark(result)] == names
    for plot in draw_benchmark(result):
        ElementTree.fromstring(plot.svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
        fills = [part.split(";")[0].split('"')[0].strip() for part in plot.svg.split("fill:")[1:]]
        assert {each for each in fills if not each.startswith("var(")} <= {"none"}, plot.name
        assert plot.title in to_benchmark_html(result)


def test_a_document_without_samples_has_no_distribution():
    result = copy.deepcopy(made())
    for cell in result["cells"]:
        del cell["block_samples_ns"]
    assert [plot.name for plot in draw_benchmark(result)] == ["latency", "memory"]


def test_the_bars_are_in_the_proportion_of_the_medians_with_their_intervals():
    latency = draw_benchmark(made())[0].svg
    assert "int8 5.00 ms (4.00…5.00); a|b 10.0 ms (9.00…11.0)" in latency
    widths = [
        max(xs) - min(xs)
        for path in re.findall(
            r'<g id="latency-patch_\d+">\s*<path d="([^"]*)"[^>]*var\(--(?:artifact|source)', latency
        )
        if (xs := [float(x) for x in re.findall(r"[ML] ([\d.]+)", path)])
    ]
    assert len(widths) == 2
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.02)
    memory = draw_benchmark(on_device())[2].svg
    assert "int8 2.00 MB" in memory  # of the device


def test_a_curve_goes_through_its_calls_from_nothing_to_all_and_is_thinned():
    many = copy.deepcopy(made())
    many["cells"][0]["block_samples_ns"] = [list(range(1_000_000, 1_050_000))] * 3
    axes = add_rows(new_figure(100), top=0, rows=5)
    benchmark_page._curves(axes, many, many["cells"])
    thinned, whole = axes.get_lines()
    assert len(thinned.get_xdata()) <= benchmark_page.CURVE_POINTS + 1
    assert list(whole.get_xdata()) == [9, 9, 9, 10, 10, 11, 11]
    assert list(whole.get_ydata()) == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    for line in (thinned, whole):
        assert (line.get_ydata()[0], line.get_ydata()[-1]) == (0, 1)
    svg = draw_benchmark(many)[1].svg
    assert len(svg) < 60_000
    assert "Distribution of the latency of int8, a|b at 2×16." in svg


def test_more_shapes_than_fit_are_counted():
    result = copy.deepcopy(made())
    first = result["cells"][0]
    result["cells"] = [{**first, "sequence_length": length} for length in range(1, 12)]
    plots = draw_benchmark(result)
    assert plots[0].caption.endswith("3 more shapes stand in the table.")
    assert plots[0].svg.count("5.00 ms") > plots[0].svg.count("2×9")


def test_hostile_names_are_text():
    text = to_benchmark_html(renamed(EVIL))
    assert "script" not in Page(text).tags
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text


def test_the_same_document_gives_the_same_page():
    assert to_benchmark_html(made()) == to_benchmark_html(made())


def test_the_page_in_a_browser(browser: str, tmp_path: Path):  # noqa: F811
    page = tmp_path / "page.html"
    page.write_text(to_benchmark_html(on_device()), encoding="utf-8")
    seen = visit(browser, page, tmp_path)
    assert seen.dom.count('<svg class="plot"') == 4
    assert seen.console == []
    assert seen.hosts == set()
    assert "on the device p50 2.50 ms (2.00…3.00)" in seen.text
