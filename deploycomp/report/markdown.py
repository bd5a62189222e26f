"""report.md: one page that fits a pull-request comment."""

from __future__ import annotations

from collections.abc import Iterator

from deploycomp.report.table import table_notes
from deploycomp.report.text import fenced, markdown
from deploycomp.report.view import Report, label, read_table
from deploycomp.report.words import (
    NOT_EVALUATED,
    NOT_MEASURED,
    batch_words,
    float_reasons,
    machine_words,
    parity_words,
    recipe_yaml,
    runtime_words,
    step_choices,
    step_title,
    step_words,
)

__all__ = ["MAX_MARKDOWN", "to_markdown"]

MAX_MARKDOWN = 65_536
"""GitHub's limit of a comment, characters."""

MAX_SENTENCE = 400
MAX_RECIPE = 20_000
MAX_WARNINGS = 20
FEW_WARNINGS = 5
MAX_STAGES = 4
MAX_REASONS = 6
DIGEST_SHOWN = 12


def to_markdown(report: Report) -> str:
    """Write the report as Markdown, a function of everything but `created` and the seconds of the run and its steps.

    Args:
        report: As in report.json, with its verdict.

    Returns:
        Less than 65,536 characters of GitHub-flavoured Markdown; names in it are escaped.
    """
    full = _page(report, recipe=True, steps=True, warnings=MAX_WARNINGS)
    if len(full) < MAX_MARKDOWN:
        return full
    brief = _page(report, recipe=False, steps=True, warnings=MAX_WARNINGS)
    return brief if len(brief) < MAX_MARKDOWN else _page(report, recipe=False, steps=False, warnings=FEW_WARNINGS)


def _page(report: Report, *, recipe: bool, steps: bool, warnings: int) -> str:
    verdict = report["verdict"]
    name, mine = markdown(report["source"]["name"]), label(report, "artifact")
    parts = [f"### {name} → {mine}", f"**{markdown(verdict['headline'], MAX_SENTENCE)}**"]
    if verdict["warnings"]:
        lines = [f"> - {markdown(each, MAX_SENTENCE)}" for each in verdict["warnings"][:warnings]]
        parts.append("\n".join(["> [!WARNING]", *lines]))
    parts += ["\n".join(_table(report)), f"<sub>{' '.join(table_notes(report))}</sub>"]
    missing = [NOT_EVALUATED] * (not report["evaluation"]) + [NOT_MEASURED] * (not report["benchmark"])
    parts += ["  \n".join(f"*{each}*" for each in missing)] if missing else []
    if parity := parity_words(report):
        words = "; ".join(markdown(each, MAX_SENTENCE) for each in parity[:MAX_STAGES])
        parts.append(f"**Parity with the source:** {words}.")
    if batch := batch_words(report):
        parts.append(f"**Batch mates:** {markdown(batch, MAX_SENTENCE)}.")
    parts += ["**What was done**", "\n".join(_steps(report))] if steps else []
    parts += [_recipe(report)] if recipe else []
    return "\n\n".join([*parts, _footer(report)]) + "\n"


def _table(report: Report) -> Iterator[str]:
    """The one table; the artifact's row in bold."""
    table = read_table(report)
    heads = [f"p50 at {column.title}" if column.group else markdown(column.title) for column in table.columns]
    yield f"| | {' | '.join(heads)} |"
    yield "|:--|" + "--:|" * len(heads)
    for name, cells in table.rows:
        strong = "**" if name == "artifact" else ""
        fields = [f"{strong}{cell.main}{strong}" + (f"<br>{cell.brief}" if cell.brief else "") for cell in cells]
        yield f"| {strong}{label(report, name)}{strong} | {' | '.join(fields)} |"


def _steps(report: Report) -> Iterator[str]:
    for number, step in enumerate(report["steps"], start=1):
        words = "; ".join(markdown(each, MAX_SENTENCE) for each in step_words(step))
        yield f"{number}. **{markdown(step_title(step['step']))}**" + (f": {words}" if words else "")
        yield from (f"   - {markdown(each, MAX_SENTENCE)}" for each in step_choices(step))
        reasons = float_reasons(step)
        for reason, ops, _ in reasons[:MAX_REASONS]:
            yield f"   - in float: {markdown(ops)}, because {markdown(reason, MAX_SENTENCE)}"
        if len(reasons) > MAX_REASONS:
            yield f"   - {len(reasons) - MAX_REASONS} more reasons in report.html"


def _recipe(report: Report) -> str:
    text = recipe_yaml(report)
    body = fenced(text, "yaml") if len(text) <= MAX_RECIPE else "The recipe is long; it stands in `deploycomp.json`."
    return f"<details><summary>Recipe</summary>\n\n{body}\n\n</details>"


def _footer(report: Report) -> str:
    source, artifact = report["source"], report["artifact"]
    digests = (
        f"deploycomp {markdown(report['deploycomp'])} · source {markdown(source['digest'][:DIGEST_SHOWN])} "
        f"· artifact {markdown(artifact['digest'][:DIGEST_SHOWN])} · target {markdown(artifact['target'])}"
    )
    if needs := runtime_words(report):
        digests += f" · {markdown(needs, MAX_SENTENCE)}"
    return f"<sub>{markdown(machine_words(report), MAX_SENTENCE)}<br>{digests}</sub>"
