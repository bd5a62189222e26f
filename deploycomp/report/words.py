"""What each step did, in words, from its facts. Facts are free-form: what is not known here is shown as it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.choices import choice_words, range_words, saturation_words
from deploycomp.report.cuts import COMPRESSION_WORDS
from deploycomp.report.text import shorten
from deploycomp.report.view import Report

__all__ = [
    "NOT_EVALUATED",
    "NOT_MEASURED",
    "as_yaml",
    "batch_words",
    "float_reasons",
    "machine_words",
    "parity_words",
    "recipe_yaml",
    "runtime_words",
    "stage_title",
    "step_choices",
    "step_title",
    "step_words",
    "worst_output",
]

NOT_EVALUATED = "Quality was not evaluated: add --eval DATA to the export."
NOT_MEASURED = "Latency and memory were not measured: export without --no-benchmark, or run deploycomp benchmark."

TITLES = {
    "load": "Load the checkpoint",
    "prune": "Prune heads and neurons",
    "prune_heads": "Prune heads",
    "prune_ffn": "Prune neurons",
    "drop_layers": "Drop layers",
    "prune_vocabulary": "Prune the vocabulary",
    "factorize": "Store matrices in factors",
    "export": "Export to ONNX",
    "int8": "Quantize to INT8",
}
ISA_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""The CPU flags that decide how fast a transformer runs; the page lists these, report.json all."""
NAMED_VERSIONS = ("onnxruntime", "torch", "transformers")
MAX_NOTES = 8


def step_title(step: str) -> str:
    """Name a step for people."""
    return TITLES.get(step) or shorten(step).replace("_", " ").capitalize()


def step_words(step: Mapping[str, Any]) -> list[str]:
    """Say what a step did, one sentence an item."""
    facts = step["facts"]
    known = {"export": _export, "int8": _int8, **COMPRESSION_WORDS}.get(step["step"])
    lines = [*(known(facts) if known else _plain(facts)), *_stored(facts)]
    return lines + [shorten(note, 300) for note in facts.get("notes", [])[:MAX_NOTES]]


def step_choices(step: Mapping[str, Any]) -> list[str]:
    """Say what a step measured and chose, one sentence an item."""
    return list(choice_words(step["facts"])) if step["step"] == "int8" else []


def _stored(facts: Mapping[str, Any]) -> Iterator[str]:
    """What the file holds as factors, and what it does not, with the reason."""
    if not (stored := facts.get("stored")):
        return
    rebuilt = sum(len(group["rebuilt"]) for group in stored["groups"])
    sizes = " → ".join(fmt.megabytes(stored["bytes"][when]) for when in ("before", "after"))
    yield f"{fmt.plural(rebuilt, 'weight')} stored as factors, rebuilt once when a session is created: {sizes}"
    dense = [each for group in stored["groups"] for each in group["dense"]]
    for each in dense[:MAX_NOTES]:
        yield f"{shorten(each['name'], 80)} is stored whole: {shorten(each['reason'], 200)}"


def _export(facts: Mapping[str, Any]) -> Iterator[str]:
    nodes = facts.get("nodes")
    fused = ", ".join(f"{number} {shorten(op)}" for op, number in sorted(facts.get("fused", {}).items()))
    parts = [fmt.plural(nodes, "node")] if isinstance(nodes, int) else []
    parts += [f"emitted fused: {fused}"] if fused else []
    if parts:
        yield "; ".join(parts)
    if attention := facts.get("attention"):
        yield f"{fmt.plural(attention['nodes'], 'attention block')} delivered in the form '{attention['form']}'"
    if unfused := facts.get("unfused_attention", 0):
        yield f"{fmt.plural(unfused, 'attention block')} left unfused"
    rewrites = facts.get("rewrites", {})
    if dropped := rewrites.get("reshapes_dropped"):
        yield f"{fmt.plural(dropped, 'reshape')} dropped"
    if first := rewrites.get("first_token_only"):
        yield f"a [CLS] head: {fmt.plural(first, 'node')} compute{'s' if first == 1 else ''} the first token only"


def _int8(facts: Mapping[str, Any]) -> Iterator[str]:
    if bits := facts.get("weight_bits"):
        why = facts.get("why")
        yield f"{bits}-bit weights" + (f": {shorten(why, 300)}" if why else "")
    yield from saturation_words(facts)
    yield from range_words(facts)
    if nodes := facts.get("nodes"):
        yield "quantized " + ", ".join(
            f"{done} of {every} {shorten(op)}" for op, (done, every) in sorted(nodes.items())
        )
    stored = facts.get("bytes", {})
    if known := stored.get("int8", 0) + stored.get("float", 0):
        share = fmt.percent(stored.get("int8", 0) / known, 1)
        yield f"{share} of the weight bytes are INT8; {fmt.megabytes(stored.get('float', 0))} stay in float"


def _plain(facts: Mapping[str, Any]) -> Iterator[str]:
    """Single values of a step that this file does not know, as they stand."""
    for key, value in sorted(facts.items()):
        if isinstance(value, str | int | float):
            yield f"{shorten(key).replace('_', ' ')}: {shorten(value)}"


def float_reasons(step: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Group the nodes that a step left in float: (reason, operators with counts, names of the nodes)."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in step["facts"].get("left_in_float", []):
        groups.setdefault(each["reason"], []).append(each)
    found: list[tuple[str, str, list[str]]] = []
    for reason, nodes in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        ops = Counter(shorten(each["op"]) for each in nodes)
        words = ", ".join(f"{number} {op}" for op, number in sorted(ops.items()))
        found.append((shorten(reason, 300), words, [shorten(each["node"]) for each in nodes]))
    return found


def worst_output(stage: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the output of a parity stage that came closest to its tolerance."""
    return max(stage["outputs"].items(), key=lambda item: item[1]["worst"] / (item[1]["tolerance"] or 1), default=None)


def parity_words(report: Report) -> list[str]:
    """Say for each stage how near its outputs are to the source's."""
    lines: list[str] = []
    for stage in report["parity"]:
        line = f"{stage_title(stage)}: {fmt.plural(stage['checks'], 'check')} held"
        if worst := worst_output(stage):
            name, output = worst
            shape = "×".join(str(size) for size in output.get("shape", []))
            at = ", ".join([shape] * bool(shape) + ["padded"] * bool(output.get("padded")))
            line += (
                f"; worst {shorten(name)} {fmt.scientific(output['worst'])} of "
                f"{fmt.scientific(output['tolerance'])} allowed" + (f" (at {at})" if at else "")
            )
        lines.append(line + (f"; {shorten(stage['note'], 300)}" if "note" in stage else ""))
    return lines


def batch_words(report: Report) -> str | None:
    """Say what batch mates change in the artifact's answers, where that was measured."""
    evaluation = report.get("evaluation") or {}
    found = (evaluation.get("alone") or {}).get("artifact")
    if not found:
        return None
    metric, same = evaluation["metric"], found["agreement"]
    alone = f"{shorten(fmt.metric_name(metric))} is {fmt.metric_value(metric, found['score']['value'])}"
    share = f"{fmt.metric_value(metric, same['value'])} ({fmt.metric_range(metric, same['low'], same['high'])})"
    return f"one row at a time {alone}, and {share} of the answers are those in batches of {found['batch_size']}"


def stage_title(stage: Mapping[str, Any]) -> str:
    """Name a stage of the parity checks: `export (FP32)`, `INT8`."""
    name, precision = shorten(stage["stage"]), shorten(stage["precision"]).upper()
    return precision if name.upper() == precision else f"{name} ({precision})"


def machine_words(report: Report) -> str:
    """Name the machine and the packages that decide the numbers, in one line."""
    machine, versions = report["machine"], report["versions"]
    parts = [shorten(machine["name"])]
    if "cores" in machine:
        threads = f", {fmt.plural(machine['threads'], 'thread')} used" if "threads" in machine else ""
        parts.append(fmt.plural(machine["cores"], "core") + threads)
    flags = set(machine.get("flags", []))
    if known := [flag for flag in ISA_FLAGS if flag in flags]:
        parts.append(" ".join(known))
    packages = [f"{name} {shorten(versions[name])}" for name in NAMED_VERSIONS if name in versions]
    return " · ".join([*parts, *([", ".join(packages)] if packages else [])])


def runtime_words(report: Report) -> str | None:
    """Say which ONNX Runtime the graph needs, and where padding may lie; None in reports that do not tell."""
    if not (needs := report["artifact"].get("onnxruntime")):
        return None
    padding = "padding on the right only" if needs["padding"] == "right" else "padding anywhere"
    return f"onnxruntime {shorten(needs['lowest'])} or newer, {padding}"


def recipe_yaml(report: Report) -> str:
    """Write the recipe that ran as YAML that `deploycomp export --recipe` reads back."""
    from deploycomp.yamlcore import dump

    return dump(dict(report["recipe"]))


def as_yaml(facts: Mapping[str, Any]) -> str:
    """Write facts as YAML with short lists on one line."""
    import yaml

    return yaml.safe_dump(dict(facts), sort_keys=True, allow_unicode=True, default_flow_style=None, width=110)
