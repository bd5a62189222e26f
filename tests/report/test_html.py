from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from deploycomp.report.html import to_html
from deploycomp.report.plots import draw_plots, role_of
from deploycomp.report.table import build_verdict
from tests.report.example import EXAMPLES, cell, factorized, pruned, tuned, wins
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
    report = tuned()
    name = "n" * 500
    report["layers"] = [{**report["layers"][0], "name": f"{name}.{index}.{name}"} for index in range(5_000)]
    report["steps"][1]["facts"]["left_in_float"] = [
        {"node": f"{name}{index}", "op": "MatMul", "reason": f"{name}{index % 7}"} for index in range(5_000)
    ]
    row = report["steps"][1]["facts"]["sensitivity"][0]
    names = [f"{name}.{index}.{name}" for index in range(5_000)]
    report["steps"][1]["facts"]["sensitivity"] = [{**row, "layer": each} for each in names]
    report["steps"][1]["facts"]["restored"]["layers"] = names
    report["steps"][0]["facts"]["operators"] = {f"{name}{index}": index for index in range(500)}
    report["recipe"]["evaluate"]["columns"] = {f"c{index}": name for index in range(500)}
    text = to_html(report)
    assert len(text.encode()) < 1_000_000
    assert "4400 more with smaller errors are in report.json." in text
    assert "4400 more that bring less are in report.json." in text
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


def test_the_plot_of_what_is_left():
    plot = next(each for each in draw_plots(pruned()) if each.name == "units")
    assert "0 heads 9 of 12; 0 neurons 992 of 1536; 1 heads 12 of 12; 1 neurons 0 of 1536" in plot.svg
    assert plot.svg.count("fill: var(--track)") == 4
    assert "units" not in [each.name for each in draw_plots(wins())]


def test_the_plot_of_what_is_stored():
    plot = next(each for each in draw_plots(factorized()) if each.name == "matrices")
    assert (
        "embeddings low rank, rank 168; 0 query+key+value dense; 0 ffn_in low rank, rank 224, two products" in plot.svg
    )
    assert plot.svg.count("fill: var(--track)") == 4
    assert "matrices" not in [each.name for each in draw_plots(wins())]


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the table of a section, as text."""
    section = page.split(f'<h2 id="{heading}">')[1].split("</section>")[0]
    rows = section.split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
    return [[re.sub(r"<[^>]+>", "", each).strip() for each in re.split(r"</t[hd]>", f"<tr{row}")[:-1]] for row in rows]


def test_the_table_of_the_tuning():
    facts = tuned()["steps"][1]["facts"]["tuning"]
    rows = table(to_html(tuned()), "tuning")
    assert rows[0] == ["static", "Graph", "0.507", "3.00", "2.88", "22.1", "1.00×", "kept"]
    assert rows[1][6:] == ["1.07× (1.02…1.13)", "not clearly faster: 1.07 of the default&#39;s time (1.02 to 1.13)"]
    assert rows[2] == ["FP32", "Graph", "1.37", "8.10", "7.78", "59.7", "2.7× (2.1…3.1)", "for comparison"]
    assert rows[3][:2] == ["denormals are zero", "Session option"]
    assert len(rows) == len(facts["variants"])
    assert to_html(tuned()).count('<tr class="kept"><th scope="row">') == 2


def test_a_refused_variant_and_several_threads():
    report = tuned()
    variants = report["steps"][1]["facts"]["tuning"]["variants"]
    variants[0]["cells"].append({"threads": 1, "batch_size": 1, "sequence_length": 16, "p50_ms": 0.9})
    variants.append({"what": "graph", "name": "dynamic", "ratio": None, "kept": False, "why": "logits differ"})
    rows = table(to_html(report), "tuning")
    assert rows[-1] == ["dynamic", "Graph", "–", "–", "–", "–", "–", "–", "logits differ"]
    assert rows[1][2] == "–"
    assert "1×16, 1 thread,&nbsp;ms" in to_html(report)


def test_the_table_of_the_sensitivity():
    rows = table(to_html(tuned()), "sensitivity")
    assert rows[0] == ["bert.pooler.dense", "3.2e−4", "0.0210", "0.015", "float, so that the goal holds"]
    assert rows[2] == ["bert.encoder.layer.0.output.dense", "4.1e−5", "0.0940", "4.4e−4", "INT8"]
    assert rows[-1][1] == "−1.3e−6"


def test_the_plot_of_the_sensitivity():
    plot = draw_plots(tuned())[-1]
    assert plot.name == "sensitivity"
    assert "pooler.dense 0.015 · in float; 5.attention.output.dense 0.0088 · in float; 0.output.dense" in plot.svg
    assert "6 more are in the table." in plot.caption
    assert plot.svg.count("fill: var(--fp32)") == 2
    report = tuned()
    for each in report["steps"][1]["facts"]["sensitivity"]:
        each["ratio"] = -1.0
    assert "sensitivity" not in [each.name for each in draw_plots(report)]


@pytest.mark.parametrize("name", ["wins", "bare", "loses"])
def test_what_was_not_tuned_has_no_tables(name):
    text = to_html(EXAMPLES[name]())
    assert 'id="tuning"' not in text
    assert 'id="sensitivity"' not in text
    assert ">Ranges</th>" not in text


def test_what_is_known_of_each_layer():
    text = to_html(tuned())
    assert '<th scope="col">Ranges</th><th scope="col">Clipping</th><th scope="col">Bias corrected</th>' in text
    rows = table(text, "numbers")
    assert rows  # the metrics; the layers stand last
    last = text.split('aria-label="Every quantized layer"')[1]
    assert "<td>static</td><td>max</td><td>yes</td></tr>" in last
    assert "<td>–</td><td>max</td><td>–</td></tr>" in last


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
