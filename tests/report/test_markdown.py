from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.report.markdown import MAX_MARKDOWN, to_markdown
from deploycomp.report.table import build_verdict
from tests.report.example import EXAMPLES, tuned, wins

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("DEPLOYCOMP_UPDATE_GOLDEN") == "1"
"""DEPLOYCOMP_UPDATE_GOLDEN=1 writes the golden files anew; look at the difference before you commit it."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden(name):
    text, path = to_markdown(EXAMPLES[name]()), GOLDEN / f"{name}.md"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_fits_a_comment(name):
    assert len(to_markdown(EXAMPLES[name]())) < 6_000


def test_it_is_one_table_with_a_row_for_each_candidate():
    from markdown_it import MarkdownIt

    html = MarkdownIt().enable("table").render(to_markdown(wins()))
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 4
    assert html.count("<th ") + html.count("<th>") == 9
    assert "<details>" in html


def test_no_times_of_the_run_are_shown():
    report = wins()
    later = {**report, "created": "2031-01-01T00:00:00Z", "seconds": 999.0}
    later["steps"] = [{**step, "seconds": 123.4} for step in report["steps"]]
    assert to_markdown(later) == to_markdown(report)


def hostile(name: str):
    report = tuned()
    report["source"].update(name=name, digest=name, model_type=name, task=name)
    report["artifact"].update(target=name, digest=name)
    report["machine"].update(name=name, flags=[name])
    report["versions"] = {"torch": name, name: name}
    report["recipe"]["model"] = name
    report["steps"] += [{"step": name, "seconds": 0.1, "facts": {name: name, "notes": [name] * 50}}]
    report["steps"][1]["facts"]["left_in_float"] = [
        {"node": f"{name}{index}", "op": name, "reason": f"{name}{index}"} for index in range(60)
    ]
    facts = report["steps"][1]["facts"]
    facts["calibration"].update(data=name, split=name)
    facts["tuning"]["session"] = {name: name}
    for each in facts["tuning"]["variants"]:
        each.update(name=name, why=name)
    facts["tuning"]["variants"].append({"what": name, "name": name, "ratio": None, "kept": False, "why": name})
    facts["restored"]["layers"] = [f"{name}{index}" for index in range(9)]
    for index, each in enumerate(facts["sensitivity"]):
        each["layer"] = f"{name}{index}"
    report["parity"][0]["outputs"] = {name: {**report["parity"][0]["outputs"]["logits"], "measure": name}}
    report["layers"] = [{**each, "name": f"{name}{index}", "op": name} for index, each in enumerate(report["layers"])]
    evaluation = report["evaluation"]
    evaluation.update(data=name, digest=name, metric=name or "m")
    for scores in evaluation["scores"].values():
        scores[name or "m"] = scores["accuracy"]
    report["verdict"] = build_verdict(report)
    return report


HOSTILE = "|<script>alert(1)</script>`\n\x1b[31m@all #1 ![x](http://evil/p.png) ```\n</details>"


def test_hostile_names_are_escaped():
    text = to_markdown(hostile(HOSTILE))
    outside, _, rest = text.partition("```yaml")
    outside += rest.rpartition("````")[2] if "````" in rest else rest.rpartition("```")[2]
    for bad in ("<script", "\x1b", "@all", "://"):
        assert bad not in outside, bad
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert not re.search(r"(?<!&)#1", outside)
    assert "\x1b" not in text


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.text(max_size=40), st.sampled_from(["x" * 200_000, "`" * 500, "|" * 500, "\n" * 99, "@" * 99])))
def test_any_name_keeps_the_table_and_the_limit(name):
    from markdown_it import MarkdownIt

    text = to_markdown(hostile(name))
    assert len(text) < MAX_MARKDOWN
    html = MarkdownIt().enable("table").render(text)
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 4
    assert html.count("<script") == 0
