"""What the gate says to people and to CI systems: lines for a log, JUnit XML, a GitHub summary, annotations.

Everything here is a function of the gate's result (gate.schema.json) alone. Nothing that did not pass may look green:
an inconclusive check is an `<error>` in JUnit and a warning on GitHub, and a gate whose verdict no single check shows
gets an entry of its own.
"""

import itertools
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.text import clean, markdown, shorten

__all__ = ["GATE_SCHEMA", "annotations", "gate_lines", "junit", "load_gate_schema", "step_summary"]

GATE_SCHEMA = Path(__file__).with_name("gate.schema.json")
"""JSON Schema 2020-12 of the gate's result; it is part of the package."""

Result = Mapping[str, Any]
Check = Mapping[str, Any]

SHOUTED = {"pass": "pass", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "skipped": "skipped"}
HEADS = ("verdict", "check", "baseline", "candidate", "change (interval)", "limit")
LEFT = 2
"""Columns that are words; the rest are numbers and stand to the right."""

MAX_SENTENCE = 400
MAX_ANNOTATIONS = 10
"""GitHub shows at most ten annotations of each level a step, the rest is dropped silently."""

ADVISORY = "Advisory: the baseline was measured on another machine or in another setting."
TITLE = "deploycomp gate"


@cache
def load_gate_schema() -> dict[str, Any]:
    """Return the schema of the gate's result."""
    return json.loads(GATE_SCHEMA.read_text(encoding="utf-8"))


def gate_lines(result: Result) -> list[str]:
    """Write the checks as a table in aligned columns, then why the verdict is what it is, and what to do next.

    Args:
        result: As in gate.schema.json.

    Returns:
        Lines without markup, terminal escapes or line breaks; the verdict stands first in each row.
    """
    rows = [HEADS, *(_row(check) for check in result["checks"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines += ["", *_notes(result), f"{SHOUTED[result['verdict']]}: {shorten(result['why'], MAX_SENTENCE)}"]
    return lines + ([f"next: {shorten(result['next'], MAX_SENTENCE)}"] if result["next"] else [])


def _aligned(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    for place, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if place < LEFT else text.rjust(width)


def _row(check: Check) -> tuple[str, ...]:
    """The fields of a check in the order of HEADS, not escaped for anything yet."""
    change, ends = _change(check)
    values = (_value(check[side], check["unit"]) for side in ("baseline", "candidate"))
    changed = f"{change} ({ends})" if ends else change
    return (SHOUTED[check["verdict"]], shorten(check["name"]), *values, changed, _limit(check))


def _value(value: float | None, unit: str | None) -> str:
    if value is None:
        return fmt.DASH
    known = {"ms": fmt.milliseconds, "bytes": fmt.megabytes, "pt": fmt.percent}
    return known[unit](value) if unit in known else fmt.significant(value)


def _change(check: Check) -> tuple[str, str]:
    """Write how far the candidate is from the baseline, and the interval where there is one; above zero is more."""
    low, high, ratio = check["low"], check["high"], check["ratio"]
    if ratio is not None:
        return f"{_grown(ratio)} %", "" if low == high else f"{_grown(low)}…{_grown(high)}"
    if check["kind"] == "accuracy" and None not in (check["baseline"], check["candidate"]):
        # The interval is that of the drop, so its ends change places when it is written as a change.
        ends = "" if low == high else f"{_fallen(high, check)}…{_fallen(low, check)}"
        return _points(check["candidate"] - check["baseline"], check), ends
    return fmt.DASH, ""


def _grown(ratio: float | None) -> str:
    """Write a ratio in the unit of the goals: 1.0821 is `+8.21`."""
    return fmt.DASH if ratio is None else fmt.points(ratio - 1, unit=False)


def _fallen(drop: float | None, check: Check) -> str:
    return fmt.DASH if drop is None else _points(-drop, check).removesuffix(" pt")


def _points(change: float, check: Check) -> str:
    """Write a change of a metric: points where it is a fraction of a whole, a plain decimal (Pearson's r) elsewhere."""
    return fmt.points(change) if check["unit"] == "pt" else fmt.metric_change("correlation", change)


def _limit(check: Check) -> str:
    limit = check["limit"]
    if limit is None:
        return fmt.DASH
    if check["ratio"] is not None or check["kind"] in ("size", "latency", "memory"):
        return f"{_trimmed((limit - 1) * 100)} %"
    if check["kind"] == "accuracy":
        return f"{_trimmed(-limit * 100)} pt" if check["unit"] == "pt" else _trimmed(-limit)
    return fmt.scientific(limit)


def _trimmed(value: float) -> str:
    """Write a limit as it was typed: `+5`, `−0.5`."""
    return f"{round(value, 6) + 0.0:+.6g}".replace("-", fmt.MINUS)


def _notes(result: Result) -> list[str]:
    """Say what the figures mean, one sentence an item."""
    notes = [ADVISORY] if result["advisory"] else []
    if result["rounds"]:
        notes.append(
            f"{fmt.plural(result['rounds'], 'round')} in {result['seconds']:.0f} s. "
            f"The chance of a false FAIL is at most {_rate(result['false_alarm'])}, for all checks together."
        )
    return notes


def _rate(share: float) -> str:
    return f"{share * 100:.4g} %"


# ------------------------------------------------------------ JUnit


def junit(result: Result) -> str:
    """Write the result as JUnit XML: one suite, one case a check.

    A check that failed is a `<failure>`, an inconclusive one an `<error type="inconclusive">` (`<skipped>` would look
    harmless), one that was skipped a `<skipped>`.

    Args:
        result: As in gate.schema.json.

    Returns:
        XML with its declaration. The names of cases are unique, because GitLab reads only the first of two namesakes.
    """
    checks = [*result["checks"], *_unseen(result)]
    counted = Counter(check["verdict"] for check in checks)
    numbers = {
        "tests": str(len(checks)),
        "failures": str(counted["fail"]),
        "errors": str(counted["inconclusive"]),
        "skipped": str(counted["skipped"]),
        "time": f"{result['seconds']:.3f}",
    }
    root = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(root, "testsuite", {"name": TITLE, **numbers})
    properties = ElementTree.SubElement(suite, "properties")
    about = {"advisory": "yes" if result["advisory"] else "no"}
    about |= {name: clean(result[name] or "") for name in ("candidate", "baseline", "why", "next")}
    for name, value in {"verdict": result["verdict"], **about}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for name, check in zip(_unique(checks), checks, strict=True):
        _case(suite, name, check)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


_ELEMENTS = {
    "fail": ("failure", "fail"),
    "inconclusive": ("error", "inconclusive"),
    "skipped": ("skipped", "skipped"),
}


def _case(suite: ElementTree.Element, name: str, check: Check) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"deploycomp.gate.{check['kind']}", name=name)
    reason = clean(check["reason"])
    text = "\n".join([reason, *_figures(check)])
    if check["verdict"] in _ELEMENTS:
        tag, kind = _ELEMENTS[check["verdict"]]
        # GitLab shows the text, Jenkins and GitHub's readers the attribute.
        ElementTree.SubElement(case, tag, type=kind, message=reason).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _figures(check: Check) -> Iterator[str]:
    """Write the numbers of a check in one line, for where there is no table; no line where there are no numbers."""
    _, _, baseline, candidate, change, limit = _row(check)
    if (baseline, candidate) != (fmt.DASH, fmt.DASH):
        yield f"baseline {baseline}, candidate {candidate}, change {change}, limit {limit}"


def _unique(checks: list[Check]) -> Iterator[str]:
    """Number the names that stand twice."""
    taken: set[str] = set()
    for check in checks:
        name = shorten(check["name"])
        numbered = itertools.chain([name], (f"{name} #{number}" for number in itertools.count(2)))
        free = next(each for each in numbered if each not in taken)
        taken.add(free)
        yield free


def _unseen(result: Result) -> list[Check]:
    """Return the gate's own verdict as a check where no check shows it."""
    verdict = result["verdict"]
    if verdict == "pass" or any(check["verdict"] == verdict for check in result["checks"]):
        return []
    nothing: dict[str, Any] = dict.fromkeys(("cell", "ratio", "low", "high", "limit", "baseline", "candidate", "unit"))
    return [{"kind": "gate", "name": "gate", "verdict": verdict, "reason": result["why"], **nothing}]


# ------------------------------------------------------------ GitHub


def step_summary(result: Result) -> str:
    """Write the result as GitHub Markdown for `$GITHUB_STEP_SUMMARY` or a comment.

    Args:
        result: As in gate.schema.json.

    Returns:
        Markdown with one table; names and sentences in it are escaped.
    """
    verdict = SHOUTED[result["verdict"]]
    advisory = " (advisory)" if result["advisory"] else ""
    parts = [f"### {TITLE}: {verdict}{advisory}", f"**{markdown(result['why'], MAX_SENTENCE)}**"]
    if result["checks"]:
        parts.append("\n".join(_table(result)))
    if reasons := [check for check in result["checks"] if check["verdict"] != "pass"]:
        parts.append("\n".join(f"- {markdown(each['name'])}: {_reason(each)}" for each in reasons))
    if result["next"]:
        parts.append(f"**Next:** {markdown(result['next'], MAX_SENTENCE)}")
    return "\n\n".join([*parts, _footer(result)]) + "\n"


def _reason(check: Check) -> str:
    return markdown(check["reason"], MAX_SENTENCE)


def _table(result: Result) -> Iterator[str]:
    yield f"| {' | '.join(HEADS)} |"
    yield "|" + ":--|" * LEFT + "--:|" * (len(HEADS) - LEFT)
    for check in result["checks"]:
        verdict, *fields = _row(check)
        strong = "**" if verdict.isupper() else ""
        yield f"| {strong}{verdict}{strong} | {' | '.join(markdown(field) for field in fields)} |"


def _footer(result: Result) -> str:
    names = f"candidate {markdown(result['candidate'])} against baseline {markdown(result['baseline'])}"
    machine = (result["context"].get("cpu") or {}).get("name")
    lines = [names, *_notes(result), *([markdown(machine)] if machine else [])]
    return f"<sub>{'<br>'.join(lines)}</sub>"


LEVELS = {"fail": "error", "inconclusive": "warning", "skipped": "notice"}


def annotations(result: Result) -> list[str]:
    """Write the result as GitHub workflow commands, which become annotations of the run.

    Args:
        result: As in gate.schema.json.

    Returns:
        `::error`, `::warning` and `::notice` lines, at most ten of each; none for checks that passed, one for a gate
        that did.
    """
    found: dict[str, list[tuple[str, str]]] = {level: [] for level in LEVELS.values()}
    if result["verdict"] == "pass":
        found["notice"].append((TITLE, result["why"]))
    for check in [*result["checks"], *_unseen(result)]:
        if check["verdict"] in LEVELS:
            found[LEVELS[check["verdict"]]].append((f"{TITLE}: {check['name']}", check["reason"]))
    return [_command(level, *each) for level, entries in found.items() for each in _fitting(entries)]


def _fitting(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Count those that GitHub would drop."""
    if len(entries) <= MAX_ANNOTATIONS:
        return entries
    shown = MAX_ANNOTATIONS - 1
    return [*entries[:shown], (TITLE, f"{len(entries) - shown} more; the summary of this step has them all")]


def _command(level: str, title: str, message: str) -> str:
    """Write a workflow command.

    Source: escapeData and escapeProperty of actions/toolkit, packages/core/src/command.ts.
    """
    text = _escaped(shorten(message, MAX_SENTENCE))
    head = _escaped(shorten(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={head}::{text}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
