"""What `evaluate`, `inspect` and `doctor` print for people; `--json` prints the same facts as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.cuts import matrix_lines, unit_lines
from deploycomp.report.text import shorten
from deploycomp.report.verdict import change_words
from deploycomp.report.words import parity_words

__all__ = ["doctor_lines", "evaluation_lines", "inspection_lines"]

MOST_LABELS = 8
"""Labels that `inspect` prints; the rest is counted."""


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Write the `evaluation` part of a report as lines: every metric of every candidate, agreement, change."""
    split = f", split {shorten(evaluation['split'])}" if evaluation["split"] else ""
    lines = [f"{shorten(evaluation['data'])}{split}: {fmt.plural(evaluation['rows'], 'row')}"]
    for name, scores in evaluation["scores"].items():
        lines.append(shorten(name))
        for metric, value in scores.items():
            ends = fmt.metric_range(metric, value["low"], value["high"])
            words = fmt.metric_value(metric, value["value"])
            lines.append(f"  {shorten(fmt.metric_name(metric))} {words} (95 % CI {ends})")
        if name in evaluation["agreement"]:
            same, metric = evaluation["agreement"][name], evaluation["metric"]
            ends = fmt.metric_range(metric, same["low"], same["high"])
            lines.append(f"  agreement with the source {fmt.metric_value(metric, same['value'])} (95 % CI {ends})")
        if name in evaluation["drop"]:
            main = shorten(fmt.metric_name(evaluation["metric"]))
            lines.append(f"  change of {main} against the source {change_words(dict(evaluation), name)}")
    return lines + parity_words({"parity": evaluation.get("parity", [])})


def doctor_lines(facts: Mapping[str, Any]) -> list[str]:
    """Write what `doctor` found as lines: the machine, what will be fast and what not, versions, warnings."""
    cpu, memory = facts["cpu"], facts["memory_bytes"]
    lines = [
        f"CPU       {shorten(cpu['name'])}, {fmt.plural(cpu['cores'], 'core')}, {' '.join(cpu['flags'])}",
        f"target    {facts['target']}",
        f"threads   {facts['threads']['count']}: {facts['threads']['why']}",
        f"weights   {facts['weights']['bits']} bits: {facts['weights']['why']}",
        f"memory    {fmt.megabytes(memory['total'])}, {fmt.megabytes(memory['available'])} available",
        f"disk      {fmt.megabytes(facts['disk_free_bytes'])} free",
        f"providers {' '.join(facts['onnxruntime']['providers'])}",
    ]
    lines += [f"{'yes' if each['good'] else 'no '} {each['claim']}: {each['reason']}" for each in facts["claims"]]
    lines += [f"python {facts['python']}"]
    lines += [f"{name} {version or 'not installed'}" for name, version in facts["versions"].items()]
    return lines + [f"warning: {shorten(each, 400)}" for each in facts["warnings"]]


def inspection_lines(found: Mapping[str, Any]) -> list[str]:
    """Write what `inspect` found in a checkpoint, an artifact or an ONNX file."""
    return _model_lines(found) if found["kind"] == "model" else _graph_lines(found)


def _model_lines(found: Mapping[str, Any]) -> list[str]:
    flops = found["flops"]
    shape = f"{flops['batch']}×{flops['sequence']}"
    lines = [
        f"{shorten(found['name'])}: {shorten(found['model_type'])}, {found['task']}",
        f"  {fmt.count(found['parameters'])} parameters, {fmt.megabytes(found['fp32_bytes'])} in FP32",
        f"  {flops['total'] / 1e9:.3g} GFLOP at {shape} (encoder)",
        f"  {fmt.plural(found['layers'], 'layer')} of width {found['hidden_size']}: {found['heads']} heads of "
        f"{found['head_dim']}, FFN {found['intermediate_size']}, up to {found['max_length']} tokens",
    ]
    if any(each["kept"] < each["of"] for each in found["units"].values()):
        lines += unit_lines(found["units"])
    lines += matrix_lines(found["matrices"])
    for part, number in found["parts"].items():
        lines.append(f"  {part:<16} {fmt.count(number):>10}  {fmt.percent(number / found['parameters'], 1)}")
    fused = "goes through transformers' attention interface: exported fused"
    lines.append(f"  attention {fused if found['fused_attention'] else 'is exported unfused'}")
    if found["labels"]:
        labels = ", ".join(shorten(label) for label in found["labels"][:MOST_LABELS])
        more = len(found["labels"]) - MOST_LABELS
        lines.append(f"  labels: {labels}{f' and {more} more' if more > 0 else ''}")
    return lines + [f"  note: {shorten(note, 400)}" for note in found["notes"]]


def _graph_lines(found: Mapping[str, Any]) -> list[str]:
    lines = [f"{shorten(found['name'])}: {fmt.megabytes(found['bytes'])}, {fmt.plural(found['nodes'], 'node')}"]
    if found["kind"] == "artifact":
        lines.append(f"  {found['task']}, {found['precision']}, target {found['target']}")
        lines.append(f"  made from {shorten(found['source']['name'])}, digest {found['digest'][:12]}")
    products = found["coverage"]
    total = products["integer_products"] + products["float_products"]
    lines.append(f"  {products['integer_products']} of {total} products with weights are INT8")
    kinds = (f"{kind} {fmt.megabytes(size)}" for kind, size in found["weight_bytes"].items())
    lines.append(f"  weights: {', '.join(kinds)}")
    lines.append("  operators: " + ", ".join(f"{shorten(op)} {number}" for op, number in found["operators"].items()))
    return lines
