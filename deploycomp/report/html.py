"""report.html: one self-contained page without scripts, fonts or anything else from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.report import format as fmt
from deploycomp.report.choices import ratio_words, restored_layers, tuned_graphs, variant_name
from deploycomp.report.plots import draw_plots
from deploycomp.report.table import table_notes
from deploycomp.report.text import block, shorten
from deploycomp.report.verdict import change_words, headline_shape, shape_words
from deploycomp.report.view import (
    Report,
    Shape,
    Table,
    candidates,
    facts_of,
    label,
    latency,
    peak_bytes,
    read_table,
    shapes,
    size_bytes,
    speed,
)
from deploycomp.report.words import (
    NOT_EVALUATED,
    NOT_MEASURED,
    as_yaml,
    float_reasons,
    recipe_yaml,
    runtime_words,
    stage_title,
    step_choices,
    step_title,
    step_words,
)

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["to_html"]

TEMPLATE = Path(__file__).with_name("report.html.j2")
MAX_LAYERS = 600
MAX_FLOAT_NODES = 1_000
MAX_FACTS = 20_000
MAX_RECIPE = 60_000
"""Limits that keep the page under 1 MB whatever a model's names and numbers of layers are; report.json has it all."""

_UNIT = re.compile(r"(?<=[\d%→]) (?=(?:ms|MB|pt|%|CI|[−+\d]))")
_INTERVAL = re.compile(r"[−+]?\d[\d.]*…[−+]?\d[\d.]*")

SHOWN_ELSEWHERE = frozenset({"left_in_float", "layers", "notes", "why"})
IN_TABLES = frozenset({"tuning", "sensitivity"})
"""Facts of the INT8 step that have tables of their own."""

WHAT = {"graph": "Graph", "session": "Session option"}
LAYER_KEYS = {"activations": "Ranges", "clip": "Clipping", "bias_corrected": "Bias corrected"}
"""What else is known of a layer; a column each, where any layer has it."""


def to_html(report: Report) -> str:
    """Write the report as one page, a function of everything but `created` and the seconds of the run and its steps.

    Args:
        report: As in report.json, with its verdict.

    Returns:
        HTML that makes no request, runs no script and follows light and dark mode.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(_context(report)).rstrip() + "\n"


def _finalize(value: object) -> object:
    """Strip control characters and terminal escapes from every name that reaches the page."""
    return block(value) if type(value) is str else value


def _context(report: Report) -> dict[str, Any]:
    source, table = report["source"], read_table(report)
    return {
        "report": report,
        "name": shorten(source["name"]),
        "mine": label(report, "artifact"),
        "subtitle": [
            shorten(source["task"]),
            f"{shorten(source['model_type'])}, {fmt.count(source['parameters'])} parameters",
            f"for {shorten(report['artifact']['target'])}",
        ],
        "headline": _tied(shorten(report["verdict"]["headline"], 400)),
        "warnings": [_tied(shorten(each, 400)) for each in report["verdict"]["warnings"]],
        "cards": _cards(report),
        "table": table,
        "groups": _groups(table),
        "label": lambda name: label(report, name),
        "notes": table_notes(report),
        "plots": draw_plots(report),
        "missing": _missing(report),
        "steps": [_step(each) for each in report["steps"]],
        "parity": _parity(report),
        "parity_notes": sorted({shorten(each["note"], 300) for each in report["parity"] if "note" in each}),
        "cells": _cells(report),
        "loads": _loads(report),
        "metrics": _metrics(report),
        "tuning": _tuning(report),
        "sensitivity": _sensitivity(report),
        "layers": _layers(report),
        "layer_heads": [LAYER_KEYS[key] for key in _layer_keys(report)],
        "layers_left_out": max(0, len(report["layers"]) - MAX_LAYERS),
        "recipe": _limited(recipe_yaml(report), MAX_RECIPE),
        "machine": _machine(report["machine"]),
        "versions": [(shorten(key), shorten(value)) for key, value in sorted(report["versions"].items())],
        "provenance": _provenance(report),
    }


def _limited(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "\n… the rest is in report.json\n"


def _missing(report: Report) -> list[str]:
    return [NOT_EVALUATED] * (not report["evaluation"]) + [NOT_MEASURED] * (not report["benchmark"])


def _groups(table: Table) -> list[tuple[str, int]]:
    """The first row of the head: (roof, columns under it); columns without a roof span both rows."""
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if column.group and groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group or column.title, 1 if column.group else 0))
    return groups


def _card(title: str, value: str, *notes: str, bad: bool = False) -> dict[str, Any]:
    state = "none" if value == fmt.DASH else "bad" if bad else ""
    return {
        "title": title,
        "value": value[:1].upper() + value[1:],
        "notes": [_tied(note) for note in notes],
        "state": state,
    }


def _tied(text: str) -> Markup:
    """Keep numbers with their units, and the two ends of an interval, on one line."""
    from markupsafe import Markup, escape

    tied = _UNIT.sub("\u00a0", str(escape(block(text))))
    return Markup(_INTERVAL.sub(r'<span class="whole">\g<0></span>', tied))


def _cards(report: Report) -> list[dict[str, Any]]:
    cards = [_size_card(report), _latency_card(report), *_quality_cards(report)]
    peak, before = peak_bytes(report, "artifact"), peak_bytes(report, "source")
    if peak and before:
        note = f"{fmt.megabytes(before)} → {fmt.megabytes(peak)}"
        cards.append(_card("Peak memory", fmt.less(before / peak), note, bad=peak > before))
    else:
        cards.append(_card("Peak memory", fmt.DASH, "not measured"))
    return cards


def _size_card(report: Report) -> dict[str, Any]:
    before, after = size_bytes(report, "source"), size_bytes(report, "artifact")
    value = fmt.smaller(before / after) if after else fmt.DASH
    return _card("Size", value, f"{fmt.megabytes(before)} → {fmt.megabytes(after)}")


def _latency_card(report: Report) -> dict[str, Any]:
    shape = headline_shape(report)
    before, after = (latency(report, name, shape) if shape else None for name in ("source", "artifact"))
    if shape is None or before is None or after is None:
        return _card("Latency", fmt.DASH, "not measured")
    found = speed(report, "artifact", shape)
    times = f"{fmt.milliseconds(before['p50_ms'])} → {fmt.milliseconds(after['p50_ms'])}"
    where = f"at {shape_words(report, shape)}"
    return _card("Latency", found.words, times, where, bad=found.slower)


def _quality_cards(report: Report) -> list[dict[str, Any]]:
    evaluation = report["evaluation"]
    if not evaluation:
        return [_card(title, fmt.DASH, "not evaluated") for title in ("Quality", "Agreement")]
    metric = evaluation["metric"]
    name = shorten(fmt.metric_name(metric), 30)
    drop, agreement = evaluation["drop"].get("artifact"), evaluation["agreement"].get("artifact")
    change, *rest = change_words(evaluation, "artifact").split(", ")
    cards = [_card(name[:1].upper() + name[1:], change, *rest, bad=drop is not None and drop["low"] > 0)]
    if agreement is not None:
        ends = fmt.metric_range(metric, agreement["low"], agreement["high"])
        value = fmt.metric_value(metric, agreement["value"])
        cards.append(_card("Agreement", value, "with PyTorch", f"95 % CI {ends}"))
    return cards


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    hidden = SHOWN_ELSEWHERE | (IN_TABLES if step["step"] == "int8" else frozenset())
    facts = {key: value for key, value in step["facts"].items() if key not in hidden}
    reasons, room = [], MAX_FLOAT_NODES
    for reason, ops, nodes in float_reasons(step):
        reasons.append({"reason": reason, "ops": ops, "nodes": nodes[:room], "more": max(0, len(nodes) - room)})
        room = max(0, room - len(nodes))
    return {
        "title": step_title(step["step"]),
        "words": [*step_words(step), *step_choices(step)],
        "reasons": reasons,
        "left": sum(len(each["nodes"]) + each["more"] for each in reasons),
        "facts": _limited(as_yaml(facts), MAX_FACTS) if facts else "",
    }


def _parity(report: Report) -> list[dict[str, str]]:
    rows = []
    for stage in report["parity"]:
        for name, output in sorted(stage["outputs"].items()):
            shape = " × ".join(str(size) for size in output.get("shape", []))
            rows.append(
                {
                    "stage": stage_title(stage),
                    "checks": f"{stage['checks']:,}",
                    "output": shorten(name),
                    "worst": fmt.scientific(output["worst"]),
                    "tolerance": fmt.scientific(output["tolerance"]),
                    "at": (shape or fmt.DASH) + (", padded" if output.get("padded") else ""),
                    "measure": shorten(output["measure"]),
                }
            )
    return rows


def _cells(report: Report) -> list[list[str]]:
    """Every cell of the benchmark, as text."""
    rows = []
    for shape in shapes(report):
        for name in candidates(report):
            if cell := latency(report, name, shape):
                times = [fmt.significant(cell[key]) for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms")]
                blocks = " · ".join(fmt.significant(each) for each in cell["block_p50_ms"])
                rate = fmt.significant(cell["throughput_per_s"])
                where = [str(shape.threads), shape.short, label(report, name)]
                rows.append([*where, *times, rate, f"{cell['samples']:,}", blocks])
    return rows


def _loads(report: Report) -> list[tuple[str, str]]:
    measured = (report["benchmark"] or {}).get("candidates", {})
    return [
        (label(report, name), fmt.milliseconds(measured[name]["load_ms"]))
        for name in candidates(report)
        if name in measured
    ]


def _metrics(report: Report) -> list[list[str]]:
    """Every metric with its interval: a row a metric, a column a candidate."""
    evaluation = report["evaluation"]
    if not evaluation:
        return []
    names = candidates(report)
    rows = []
    for metric in sorted({metric for scores in evaluation["scores"].values() for metric in scores}):
        fields = [shorten(fmt.metric_name(metric))]
        for name in names:
            value = evaluation["scores"].get(name, {}).get(metric)
            ends = f" ({fmt.metric_range(metric, value['low'], value['high'])})" if value else ""
            fields.append(fmt.metric_value(metric, value["value"]) + ends if value else fmt.DASH)
        rows.append(fields)
    main = evaluation["metric"]
    fields = [f"change of {shorten(fmt.metric_name(main))}, paired"]
    for name in names:
        drop = evaluation["drop"].get(name)
        p_value = f", p = {fmt.significant(drop['p_value'], 2)}" if drop and drop["p_value"] is not None else ""
        fields.append(change_words(evaluation, name) + p_value if drop and name != "source" else fmt.DASH)
    rows.append(fields)
    for name, found in evaluation["alone"].items():
        same, size = found["agreement"], found["batch_size"]
        ends = fmt.metric_range(main, same["low"], same["high"])
        mine = [
            (f"{shorten(fmt.metric_name(main))}, one row at a time", fmt.metric_value(main, found["score"]["value"]))
        ]
        mine += [(f"same answer alone as in batches of {size}", f"{fmt.metric_value(main, same['value'])} ({ends})")]
        rows += [[title, *(words if each == name else fmt.DASH for each in names)] for title, words in mine]
    return rows


def _tuning(report: Report) -> dict[str, Any] | None:
    """Every variant that was measured or refused: a row a variant, a column a shape."""
    facts = facts_of(report, "int8")
    variants = (facts.get("tuning") or {}).get("variants", [])[:MAX_LAYERS]
    if not variants:
        return None
    cells = [{_shape(cell): cell["p50_ms"] for cell in each.get("cells", [])} for each in variants]
    at = sorted({shape for each in cells for shape in each})
    threads = len({shape.threads for shape in at}) > 1
    rows = [
        {
            "name": variant_name(each["name"]),
            "what": WHAT.get(each["what"], shorten(each["what"])),
            "times": [fmt.significant(times.get(shape)) for shape in at],
            "ratio": fmt.DASH if each["ratio"] is None else _tied(ratio_words(each)),
            "why": shorten(each["why"], 300),
            "kept": each["kept"],
        }
        for each, times in zip(variants, cells, strict=True)
    ]
    first = next((variant_name(each["name"]) for each in tuned_graphs(facts)), fmt.DASH)
    return {"shapes": [shape.named(threads=threads) for shape in at], "rows": rows, "first": first}


def _shape(cell: Mapping[str, Any]) -> Shape:
    return Shape(cell["threads"], cell["batch_size"], cell["sequence_length"])


def _sensitivity(report: Report) -> dict[str, Any] | None:
    """What each layer in float would bring and cost, the best first."""
    facts = facts_of(report, "int8")
    table, kept = facts.get("sensitivity") or [], set(restored_layers(facts))
    rows = [
        {
            "layer": shorten(each["layer"]),
            "fields": [fmt.scientific(each["recovered"]), fmt.significant(each["ms"]), fmt.scientific(each["ratio"])],
            "kept": each["layer"] in kept,
        }
        for each in table[:MAX_LAYERS]
    ]
    return {"rows": rows, "left_out": len(table) - len(rows)} if rows else None


def _layer_keys(report: Report) -> list[str]:
    return [key for key in LAYER_KEYS if any(key in each for each in report["layers"])]


def _layer_field(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return fmt.DASH if value is None else shorten(value)


def _layers(report: Report) -> list[list[str]]:
    more = _layer_keys(report)
    ranked = sorted(report["layers"], key=lambda each: (-(each["error"] or 0), each["name"]))[:MAX_LAYERS]
    return [
        [
            shorten(each["name"]),
            shorten(each["op"]),
            fmt.megabytes(each["bytes_before"]),
            fmt.megabytes(each["bytes_after"]),
            fmt.percent(each["error"]),
            *(_layer_field(each.get(key)) for key in more),
        ]
        for each in ranked
    ]


def _machine(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machine's facts as they stand; lists in one line."""
    rows = [("name", shorten(machine["name"]))]
    for key, value in sorted(machine.items()):
        if key == "name" or value is None or isinstance(value, Mapping):
            continue
        words = " ".join(shorten(each) for each in value) if isinstance(value, list | tuple) else shorten(value)
        words = fmt.megabytes(value) if key.endswith("_bytes") and isinstance(value, int) else words
        rows.append((shorten(key).removesuffix("_bytes").replace("_", " "), shorten(words, 4_000)))
    return rows


def _provenance(report: Report) -> list[tuple[str, str]]:
    source, artifact = report["source"], report["artifact"]
    rows = [("source", shorten(source["name"])), ("source digest", source["digest"])]
    rows += [("revision", source["revision"])] if source["revision"] else []
    rows += [("artifact", artifact["model"]), ("artifact digest", artifact["digest"])]
    if words := runtime_words(report):
        rows += [("runs on", words)]
    if evaluation := report["evaluation"]:
        split = f", split {evaluation['split']}" if evaluation["split"] else ""
        rows += [
            ("data", f"{evaluation['data']}{split}, {evaluation['rows']:,} rows"),
            ("data digest", evaluation["digest"]),
        ]
    return [(key, shorten(value)) for key, value in rows]
