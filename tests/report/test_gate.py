from __future__ import annotations

import copy
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.gate import checks as write
from deploycomp.gate.rounds import Rules
from deploycomp.gating import Goals
from deploycomp.report.gate import (
    GATE_SCHEMA,
    MAX_ANNOTATIONS,
    annotations,
    gate_lines,
    junit,
    load_gate_schema,
    step_summary,
)
from tests.report.test_markdown import HOSTILE

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("DEPLOYCOMP_UPDATE_GOLDEN") == "1"
"""DEPLOYCOMP_UPDATE_GOLDEN=1 writes the golden files anew; look at the difference before you commit it."""

Result = dict[str, Any]
VERDICTS = ("pass", "fail", "inconclusive", "skipped")


# ------------------------------------------------------------ results


def check(kind: str, name: str, verdict: str, reason: str, **figures: Any) -> Result:
    nothing = dict.fromkeys(("cell", "ratio", "low", "high", "limit", "baseline", "candidate", "unit"))
    return {"kind": kind, "name": name, "verdict": verdict, "reason": reason, **nothing, **figures}


def latency(
    verdict: str, ratio: float, low: float | None, high: float | None, *, length: int = 128, reason: str = "measured"
) -> Result:
    cell = {"threads": 1, "batch_size": 1, "sequence_length": length}
    name = f"latency, 1 thread, 1×{length}"
    figures = {"baseline": 6.12, "candidate": 6.12 * ratio, "unit": "ms", "cell": cell}
    return check("latency", name, verdict, reason, ratio=ratio, low=low, high=high, limit=1.05, **figures)


def passes() -> Result:
    """Everything holds; nothing says how good the answers are in accuracy."""
    size = {"ratio": 1.0, "low": 1.0, "high": 1.0, "limit": 1.01, "baseline": 23_100_000, "candidate": 23_100_000}
    memory = {"ratio": 1.012, "low": 0.997, "high": 1.031, "limit": 1.05, "baseline": 106e6, "candidate": 107.3e6}
    return {
        "verdict": "pass",
        "advisory": False,
        "goals": {"max_slowdown": 0.05, "max_memory_growth": 0.05, "max_size_growth": 0.01, "max_drop": None},
        "false_alarm": 0.001,
        "missed": 0.05,
        "rounds": 12,
        "looks": [],
        "seconds": 21.4,
        "candidate": "my-model-int8",
        "baseline": "baseline",
        "checks": [
            check("size", "size", "pass", "the size grows by 0 %, the limit is 1 %", **size, unit="bytes"),
            check("answers", "answers", "pass", "both give the same answers on 64 rows"),
            check("accuracy", "accuracy", "skipped", "no evaluation data were given"),
            latency("pass", 0.985, 0.961, 1.012, reason="at most 1.2 % slower, the limit is 5 %"),
            check("memory", "memory", "pass", "at most 3.1 % more, the limit is 5 %", **memory, unit="bytes"),
        ],
        "why": "all 4 checks hold",
        "next": None,
        "context": {"cpu": {"name": "AMD EPYC 7763 64-Core Processor"}, "load": [0.1, 0.2, 0.3]},
        "samples": {},
    }


def fails() -> Result:
    """One cell is slower beyond doubt, and the accuracy fell."""
    result = passes()
    drop = {"low": 0.0061, "high": 0.0178, "limit": 0.005, "baseline": 0.9083, "candidate": 0.8965, "unit": "pt"}
    result["checks"][2] = check("accuracy", "accuracy", "fail", "accuracy falls by at least 0.61 pt", **drop)
    reason = "at least 6.1 % slower, the limit is 5 %"
    result["checks"][3] = latency("fail", 1.082, 1.061, 1.103, reason=reason)
    result["checks"].append(latency("inconclusive", 1.045, 0.993, 1.101, length=16, reason="5 % lies in the interval"))
    return {
        **result,
        "verdict": "fail",
        "why": "accuracy and latency, 1 thread, 1×128 are worse than accepted",
        "next": "find what made it slower: deploycomp benchmark my-model-int8 baseline",
    }


def undecided() -> Result:
    """The budget ended before the interval left the limit; the baseline is a stored number."""
    result = passes()
    result["checks"][3] = latency("inconclusive", 1.041, None, 1.094, reason="the limit of 5 % lies in the interval")
    return {
        **result,
        "verdict": "inconclusive",
        "advisory": True,
        "why": "latency, 1 thread, 1×128 cannot be decided in 60 s on this machine",
        "next": "about 30 more rounds would settle it: --budget 150",
    }


EXAMPLES = {"pass": passes, "fail": fails, "inconclusive": undecided}
FORMS = {
    "txt": lambda result: "\n".join(gate_lines(result)) + "\n",
    "xml": junit,
    "md": step_summary,
    "annotations": lambda result: "\n".join(annotations(result)) + "\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_golden(name, form):
    text, path = FORMS[form](EXAMPLES[name]()), GOLDEN / f"gate-{name}.{form}"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ------------------------------------------------------------ the schema


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(load_gate_schema())
    return jsonschema.Draft202012Validator(load_gate_schema())


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_valid(name, validator):
    validator.validate(EXAMPLES[name]())


def test_the_schema_lies_in_the_package():
    assert GATE_SCHEMA.parent.name == "report"
    assert load_gate_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_what_the_gate_writes_is_valid(validator):
    checks = [write.size(100, 101, 0.01), write.skipped("answers", "not today")]
    result = {**passes(), "goals": asdict(Goals()), **asdict(Rules()), "checks": checks}
    del result["budget"]
    validator.validate({**result, "verdict": write.verdict_of(checks), "why": write.why(checks)})
    assert row(checks[0]).split()[:4] == ["pass", "size", "0.000100", "MB"]


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ((), "verdict", "skipped"),
        ((), "surprise", 1),
        ((), "false_alarm", 0),
        ((), "rounds", 1.5),
        (("goals",), "max_slowdown", -0.1),
        (("goals",), "max_slowdown", None),
        (("goals",), "max_slowness", 0.1),
        (("checks", 0), "kind", "gate"),
        (("checks", 0), "verdict", "green"),
        (("checks", 0), "unit", "s"),
        (("checks", 0), "low", "1.0"),
        (("checks", 3, "cell"), "threads", 0),
    ],
)
def test_wrong_results_are_refused(place, key, value, validator):
    result = fails()
    validator.validate(result)
    inner: Any = result
    for step in place:
        inner = inner[step]
    inner[key] = value
    assert not validator.is_valid(result)


def test_nothing_may_be_left_out(validator):
    for key in passes():
        result = passes()
        del result[key]
        assert not validator.is_valid(result), key
    for key in passes()["checks"][0]:
        result = passes()
        del result["checks"][0][key]
        assert not validator.is_valid(result), key


# ------------------------------------------------------------ figures


def row(entry: Result) -> str:
    return gate_lines({**passes(), "checks": [entry]})[1]


def test_a_change_has_a_sign_an_interval_and_the_unit_of_the_goal():
    assert row(latency("fail", 1.082, 1.061, 1.103)).endswith("+8.20 % (+6.10…+10.30)   +5 %")
    assert row(latency("pass", 0.9, 0.85, 0.95)).endswith("−10.00 % (−15.00…−5.00)   +5 %")
    assert row(latency("inconclusive", 1.04, None, 1.09)).endswith("+4.00 % (–…+9.00)   +5 %")


def test_a_growth_beyond_its_limit_does_not_read_as_the_limit():
    size = {"ratio": 1.0104, "low": 1.0104, "high": 1.0104, "limit": 1.01, "baseline": 1e6, "candidate": 1_010_400}
    assert row(check("size", "size", "fail", "larger", **size, unit="bytes")).endswith("+1.04 %   +1 %")


@pytest.mark.parametrize(
    ("unit", "expected"), [("pt", "−1.18 pt (−1.78…−0.61)  −0.5 pt"), (None, "−0.0118 (−0.0178…−0.0061)  −0.005")]
)
def test_a_fall_of_accuracy_is_negative_and_its_interval_turned(unit, expected):
    entry = {**fails()["checks"][2], "unit": unit}
    assert row(entry).endswith(expected)


def test_what_was_not_measured_is_a_dash():
    assert row(check("memory", "memory", "skipped", "not on this system")).split() == ["skipped", "memory", *"––––"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_verdict_comes_last_and_its_reason_with_it(name):
    result = EXAMPLES[name]()
    lines = gate_lines(result)
    assert any(line.endswith(f": {result['why']}") for line in lines[-2:])
    assert (lines[-1] == f"next: {result['next']}") == (result["next"] is not None)


def test_the_table_is_aligned():
    head, *rows = gate_lines(fails())[:7]
    assert len({len(line) for line in [head, *rows]}) == 1
    start = head.index("check")
    assert all(line[start - 1] == " " and line[start] != " " for line in rows)


# ------------------------------------------------------------ nothing that did not pass looks green

results = st.builds(
    lambda verdict, kinds: {
        **passes(),
        "verdict": verdict,
        "checks": [latency(each, 1.1, 1.0, 1.2, length=place + 1) for place, each in enumerate(kinds)],
    },
    st.sampled_from(VERDICTS[:3]),
    st.lists(st.sampled_from(VERDICTS), max_size=30),
)


@settings(max_examples=40, deadline=None)
@given(results)
def test_junit_is_green_only_where_the_gate_passed(result):
    root = ElementTree.fromstring(junit(result))
    suite = root.find("testsuite")
    assert suite is not None
    for key, tag in {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        assert int(suite.get(key, "")) == int(root.get(key, "")) == len(list(suite.iter(tag)))
    kinds = [each["verdict"] for each in result["checks"]]
    assert len(list(suite.iter("skipped"))) == kinds.count("skipped")
    if result["verdict"] == "pass":
        assert int(suite.get("tests", "")) == len(kinds)
    tag = {"pass": "testsuite", "fail": "failure", "inconclusive": "error"}[result["verdict"]]
    assert list(root.iter(tag))


@settings(max_examples=40, deadline=None)
@given(results)
def test_annotations_name_what_did_not_pass_and_github_drops_none(result):
    lines = annotations(result)
    counts = {level: sum(line.startswith(f"::{level} ") for line in lines) for level in ("error", "warning", "notice")}
    assert sum(counts.values()) == len(lines)
    assert max(counts.values()) <= MAX_ANNOTATIONS
    kinds = [each["verdict"] for each in result["checks"]]
    assert (counts["error"] > 0) == ("fail" in kinds or result["verdict"] == "fail")
    assert (counts["warning"] > 0) == ("inconclusive" in kinds or result["verdict"] == "inconclusive")
    assert (counts["notice"] > 0) == ("skipped" in kinds or result["verdict"] == "pass")


def test_what_does_not_fit_is_counted():
    result = {**fails(), "checks": [latency("fail", 1.2, 1.1, 1.3, length=each + 1) for each in range(14)]}
    lines = annotations(result)
    assert len(lines) == MAX_ANNOTATIONS
    assert "5 more" in lines[-1]


def test_a_skipped_check_keeps_its_reason_in_junit():
    case = ElementTree.fromstring(junit(passes())).find(".//testcase[@name='accuracy']/skipped")
    assert case is not None
    assert case.get("message") == "no evaluation data were given"


def test_namesakes_are_numbered():
    entry = passes()["checks"][0]
    names = [
        each.get("name") for each in ElementTree.fromstring(junit({**passes(), "checks": [entry] * 3})).iter("testcase")
    ]
    assert names == ["size", "size #2", "size #3"]


# ------------------------------------------------------------ hostile names


def hostile(name: str) -> Result:
    result = copy.deepcopy(fails())
    result.update(candidate=name, baseline=name, why=name, next=f"{name}.")
    result["context"] = {"cpu": {"name": name}}
    for each in result["checks"]:
        each.update(name=name, reason=name)
    return result


names = st.one_of(
    st.text(max_size=60),
    st.sampled_from([HOSTILE, "a|b`c", "::error::x", "\n::stop-commands::x", "a\r\nb", "%0A::x", "]]>", "x" * 1_000]),
)


@settings(max_examples=40, deadline=None)
@given(names)
def test_any_name_keeps_the_summary_one_table(name):
    from markdown_it import MarkdownIt

    text = step_summary(hostile(name))
    assert len(text) < 65_536
    html = MarkdownIt().enable("table").render(text)
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 7
    assert html.count("<td") == 6 * 6
    assert "<script" not in text
    assert not re.search(r"@(?=\w)", text)


@settings(max_examples=40, deadline=None)
@given(names)
def test_any_name_is_valid_xml(name):
    root = ElementTree.fromstring(junit(hostile(name)).encode())
    found = [each.get("name") for each in root.iter("testcase")]
    assert len(found) == len(set(found)) == 6


@settings(max_examples=40, deadline=None)
@given(names)
def test_any_name_is_one_annotation(name):
    for line in annotations(hostile(name)):
        assert re.fullmatch(r"::(error|warning) title=([^:,\r\n%]|%25|%3A|%2C)*::([^\r\n%]|%25)*", line)


@settings(max_examples=40, deadline=None)
@given(names)
def test_any_name_is_one_line(name):
    lines = gate_lines(hostile(name))
    assert len(lines) == len(gate_lines(fails()))
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("::") for line in lines)


def test_workflow_commands_are_escaped_as_the_runner_unescapes_them():
    entry = {**latency("fail", 1.1, 1.06, 1.2), "name": "50%: a,b", "reason": "5% at a:b, c"}
    assert annotations({**fails(), "checks": [entry]}) == [
        "::error title=deploycomp gate%3A 50%25%3A a%2C" + "b::5%25 at a:b, c"
    ]
