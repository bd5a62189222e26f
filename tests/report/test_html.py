from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from deploycomp.report.html import to_html
from deploycomp.report.plots import draw_plots, role_of
from deploycomp.report.table import build_verdict
from tests.report.example import EXAMPLES, cell, wins
from tests.report.test_markdown import HOSTILE, hostile

VOID = {"meta", "link", "br", "img", "input", "hr"}
LINKING = {"href", "src", "xlink:href", "action", "data", "srcset", "poster", "background", "cite", "formaction"}


class Page(HTMLParser):
    """Checks the nesting and collects tags, attributes, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_small_well_nested_and_self_contained(name):
    text = to_html(EXAMPLES[name]())
    page = Page(text)
    assert len(text.encode()) < 1_000_000
    assert not {"script", "iframe", "object", "embed", "form", "img"} & set(page.tags)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    for key, value in page.attributes:
        if key in LINKING:
            assert value.startswith(("#", "data:")), (key, value)
    assert "@import" not in text
    assert all(part.startswith("#") for part in text.split("url(")[1:])
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_is_accessible(name):
    page = Page(to_html(EXAMPLES[name]()))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert set(page.all("aria-labelledby")) <= set(ids)
    assert page.all("lang") == ["en"]
    assert page.tags.count("svg") == page.all("role").count("img")
    assert page.tags.count("th") == len(page.all("scope"))
    assert page.tags.count("h1") == 1


def test_nothing_that_differs_between_runs_is_shown():
    report = wins()
    later = {**report, "created": "2031-01-01T00:00:00Z", "seconds": 999.0}
    later["steps"] = [{**step, "seconds": 123.4} for step in report["steps"]]
    assert to_html(later) == to_html(report)


def test_missing_parts_say_which_flag_brings_them():
    text = to_html(EXAMPLES["bare"]())
    assert "add --eval DATA to the export" in text
    assert "export without --no-benchmark" in text
    assert "not measured" in text
    assert [plot.name for plot in draw_plots(EXAMPLES["bare"]())] == ["size"]
    assert "--no-benchmark" not in to_html(wins())


def test_hostile_names_are_text():
    text = to_html(hostile(HOSTILE))
    page = Page(text)
    assert "script" not in page.tags
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text


def test_a_huge_model_stays_under_the_limit():
    report = wins()
    name = "n" * 500
    report["layers"] = [{**report["layers"][0], "name": f"{name}.{index}.{name}"} for index in range(5_000)]
    report["steps"][1]["facts"]["left_in_float"] = [
        {"node": f"{name}{index}", "op": "MatMul", "reason": f"{name}{index % 7}"} for index in range(5_000)
    ]
    report["steps"][0]["facts"]["operators"] = {f"{name}{index}": index for index in range(500)}
    report["recipe"]["evaluate"]["columns"] = {f"c{index}": name for index in range(500)}
    text = to_html(report)
    assert len(text.encode()) < 1_000_000
    assert "4400 more with smaller errors are in report.json." in text
    assert "more, in report.json" in text


def test_plots_are_valid_and_carry_no_fixed_colours():
    for plot in draw_plots(wins()):
        root = ElementTree.fromstring(plot.svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
        assert root.get("viewBox")
        assert root.get("width") is None
        assert len(root.get("aria-label")) > 20
        assert "var(--" in plot.svg
        fills = [part.split(";")[0].split('"')[0].strip() for part in plot.svg.split("fill:")[1:]]
        assert {each for each in fills if not each.startswith("var(")} <= {"none"}, plot.name
        assert "<metadata" not in plot.svg


def test_every_plot_is_drawn_from_its_part_of_the_report():
    assert [plot.name for plot in draw_plots(wins())] == ["size", "latency", "coverage", "quality", "layers"]
    report = wins()
    report["steps"][1]["facts"] = {}
    report["layers"] = []
    report["benchmark"] = None
    assert [plot.name for plot in draw_plots(report)] == ["size", "quality"]


def test_odd_numbers_are_drawn_too():
    report = wins()
    report["benchmark"]["cells"] = [cell("artifact", 1, length, 0.5) for length in range(1, 12)]
    report["layers"] = [{**each, "error": 0.0} for each in report["layers"][:1]]
    report["evaluation"]["metric"] = "spearman"
    exact = {"value": 1.0, "low": 1.0, "high": 1.0}
    report["evaluation"]["scores"] = {"source": {"spearman": exact}, "artifact": {"spearman": exact}}
    report["evaluation"]["drop"] = {"artifact": {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": None}}
    report["verdict"] = build_verdict(report)
    Page(to_html(report))


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("bert.encoder.layer.0.attention.self.query", "attention.self.query"),
        ("bert.pooler.dense", "pooler.dense"),
        ("bert.embeddings.word_embeddings", "word_embeddings"),
        ("layers.3", "layers.3"),
        ("", ""),
    ],
)
def test_roles(name, role):
    assert role_of(name) == role
