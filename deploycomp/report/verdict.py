"""The result in one sentence, and everything that must be said aloud, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.choices import (
    calibrated_on_nothing,
    fp32_was_faster,
    goal_missed,
    ratio_words,
    saturates,
    tuned_graphs,
)
from deploycomp.report.cuts import calibration_warnings
from deploycomp.report.text import shorten
from deploycomp.report.view import (
    Report,
    Shape,
    block_range,
    candidates,
    facts_of,
    label,
    latency,
    peak_bytes,
    shapes,
    size_bytes,
    speed,
)
from deploycomp.report.words import batch_words

__all__ = ["build_verdict", "change_words", "headline", "headline_shape", "shape_words"]

INT8_DOT_FLAGS = frozenset(
    (
        *("avx512_vnni", "avx512vnni", "avx_vnni", "avxvnni", "amx_int8"),
        *("asimddp", "dotprod", "i8mm", "feat_dotprod", "feat_i8mm"),
    )
)
"""CPU flags that promise an INT8 dot product; without one, INT8 multiplies are little cheaper than FP32."""

FEW_TOKENS = 64
"""Up to so many tokens in a batch, quantizing the activations weighs as much as the multiplications (facts.md)."""

NOISY_SPREAD = 0.10
"""Blocks of one cell whose medians differ by more than this make its latency a rough number."""

BUSY_SHARE = 0.10
"""Share of the CPU that others may take during a benchmark before it is worth a sentence."""

LOW_COVERAGE = 0.5
"""An INT8 model with fewer of its weight bytes in INT8 than this deserves a warning."""

SAME_ALONE = 0.99
"""A model that gives fewer of its answers alone and in a batch alike is not one model to its users."""


def build_verdict(report: Report) -> dict[str, Any]:
    """Write the report's `verdict` from the rest of it.

    Args:
        report: As in report.json; `verdict` and `rendered` are not read.

    Returns:
        `headline`, one sentence, and `warnings`, a list of sentences.
    """
    rooms = (_slower, _quality, _batch_mates, _calibration, _choices, _coverage, _footprint, _noise)
    warnings = [sentence for room in rooms for sentence in room(report)]
    return {"headline": headline(report), "warnings": warnings}


def headline(report: Report) -> str:
    """Say in one sentence how much smaller, faster and different the artifact is than the source."""
    source, size = size_bytes(report, "source"), size_bytes(report, "artifact")
    parts = [fmt.smaller(source / size) if size else "size unknown"]
    parts.append(_speed_words(report))
    parts.append(_quality_words(report))
    sentence = ", ".join(parts)
    return sentence[:1].upper() + sentence[1:]


def _speed_words(report: Report) -> str:
    shape = headline_shape(report)
    if shape is None:
        return "latency not measured"
    found = speed(report, "artifact", shape)
    at = f"PyTorch at {shape_words(report, shape)}"
    return f"{found.words} {found.joint} {at}" if found.joint else f"speed beside {at}: {found.words}"


def headline_shape(report: Report) -> Shape | None:
    """Return the shape that stands in the headline: the longest single row (or smallest batch), most threads."""
    found = [each for each in shapes(report) if latency(report, "artifact", each) and latency(report, "source", each)]
    return max(found, key=lambda each: (-each.batch_size, each.threads, each.sequence_length), default=None)


def shape_words(report: Report, shape: Shape) -> str:
    """Name a shape, with its threads where several numbers of threads were measured."""
    return shape.named(threads=len({each.threads for each in shapes(report)}) > 1)


def change_words(evaluation: dict[str, Any], name: str) -> str:
    """Write a candidate's change of the main metric: `−0.11 pt, 95 % CI −0.46…+0.23, within noise`."""
    metric, drop = evaluation["metric"], evaluation["drop"].get(name)
    if drop is None:
        return "change unknown"
    if drop["value"] == drop["low"] == drop["high"] == 0:
        return "no change"
    low, high = (fmt.metric_change(metric, -drop[end], unit=False) for end in ("high", "low"))
    noise = ", within noise" if drop["low"] <= 0 <= drop["high"] else ""
    return f"{fmt.metric_change(metric, _negated(drop['value']))}, 95 % CI {low}…{high}{noise}"


def _negated(value: float) -> float:
    return 0.0 - value


def _quality_words(report: Report) -> str:
    evaluation = report.get("evaluation")
    if not evaluation:
        return "quality not evaluated"
    metric, scores = evaluation["metric"], evaluation["scores"]
    before, after = (
        fmt.metric_value(metric, scores.get(name, {}).get(metric, {}).get("value")) for name in ("source", "artifact")
    )
    return f"{shorten(fmt.metric_name(metric))} {before} → {after} ({change_words(evaluation, 'artifact')})"


def _slower(report: Report) -> Iterator[str]:
    """INT8 or FP16 that loses to FP32, and any artifact that loses to the source: where the interval proves it."""
    for reference in [name for name in ("fp32", "source") if name in candidates(report)]:
        slower: dict[str, list[str]] = {}
        close: list[str] = []
        for entry in (report.get("benchmark") or {}).get("ratios", {}).get(reference, []):
            shape = Shape(*(entry["cell"][key] for key in ("threads", "batch_size", "sequence_length")))
            words = f"{shape_words(report, shape)} ({fmt.ratio(entry['ratio'])})"
            if entry["verdict"] == "slower":
                slower.setdefault(_why_slower(report, shape), []).append(words)
            elif entry["ratio"] > 1:
                close.append(words)
        mine, other = label(report, "artifact"), label(report, reference)
        for why, where in slower.items():
            yield f"{mine} is slower than {other} on this machine at {_listed(where)}: {why}."
        if close:
            noise = "the interval of the ratio includes 1, so this is noise or no gain"
            yield f"{mine} is no faster than {other} at {_listed(close)}: {noise}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _why_slower(report: Report, shape: Shape) -> str:
    """The likeliest reason that the facts of this report give."""
    if report["artifact"]["precision"] == "fp16":
        return "CPUs compute FP16 by casting to FP32; FP16 is for GPUs"
    if report["artifact"]["precision"] == "fp32":
        return "nothing was quantized, and at this shape ONNX Runtime gains nothing over PyTorch"
    flags = report["machine"].get("flags")
    if flags and not INT8_DOT_FLAGS & set(flags):
        return "this CPU has no INT8 dot product (VNNI, SDOT), so an INT8 product costs about as much as an FP32 one"
    if shape.batch_size * shape.sequence_length <= FEW_TOKENS:
        return "with so few tokens, quantizing the activations probably costs more than the INT8 products save"
    share = _int8_share(report)
    if share is not None and share < LOW_COVERAGE:
        return f"only {fmt.percent(share, 0)} of the weight bytes are INT8; the rest still computes in float"
    return "the facts of this run do not say why; look at the nodes left in float and at other load on this machine"


def _int8_share(report: Report) -> float | None:
    stored = facts_of(report, "int8").get("bytes", {})
    known = stored.get("int8", 0) + stored.get("float", 0)
    return stored.get("int8", 0) / known if known else None


def _quality(report: Report) -> Iterator[str]:
    """A drop that is no noise, and a goal that these data cannot prove."""
    evaluation = report.get("evaluation")
    drop = evaluation["drop"].get("artifact") if evaluation else None
    if not evaluation or drop is None:
        return
    metric, goal = evaluation["metric"], evaluation["max_drop"]
    name = shorten(fmt.metric_name(metric))
    if drop["low"] > 0:
        yield f"The loss of {name} is real, not noise: {change_words(evaluation, 'artifact')}."
    if goal is not None and drop["value"] <= goal < drop["high"]:
        allowed, possible = (fmt.metric_change(metric, value).lstrip("+") for value in (goal, drop["high"]))
        yield (
            f"The loss of {name} is within the goal of {allowed}, but {evaluation['rows']:,} rows cannot exclude one "
            f"of {possible}: evaluate on more rows to be sure."
        )


def _batch_mates(report: Report) -> Iterator[str]:
    """Answers that depend on what else is in the batch."""
    found = ((report.get("evaluation") or {}).get("alone") or {}).get("artifact")
    if found and found["agreement"]["value"] < SAME_ALONE and (words := batch_words(report)):
        yield (f"Answers depend on batch mates: {words}. Ranges from --calibration DATA are the same for every batch.")


def _calibration(report: Report) -> Iterator[str]:
    """Rows that are poor ones to learn from."""
    yield from calibration_warnings(report["steps"])


def _choices(report: Report) -> Iterator[str]:
    """What the INT8 step could not choose well: rows of no text, sums that saturate, a goal missed, FP32 faster."""
    facts = facts_of(report, "int8")
    if calibrated_on_nothing(facts):
        yield (
            "Calibrated on random tokens: what was learned there fits no text that anybody writes, so judge the "
            "quality before use, or export with --calibration DATA."
        )
    if words := saturates(facts):
        yield words
    if goal_missed(facts):
        rows = fmt.plural(facts["restored"]["rows"], "held-out row")
        yield f"No choice of layers to keep in float reached the goal on {rows}."
    compared = "fp32" in (report.get("benchmark") or {}).get("ratios", {})
    if not compared and (plain := fp32_was_faster(facts)):
        of = f" the time of the {shorten(tuned_graphs(facts)[0]['name'])} INT8 graph"
        yield f"INT8 is slower than FP32 on this machine: while tuning, FP32 took {ratio_words(plain, of)}."


def _coverage(report: Report) -> Iterator[str]:
    export = facts_of(report, "export")
    unfused = export.get("unfused_attention", 0)
    if unfused and export.get("ops") != "standard":
        yield f"{fmt.plural(unfused, 'attention block')} could not be fused and will run slower than they could."
    share = _int8_share(report)
    if share is not None and share < LOW_COVERAGE:
        yield f"Only {fmt.percent(share, 0)} of the weight bytes are INT8; see the nodes left in float."


def _footprint(report: Report) -> Iterator[str]:
    """An artifact that is not smaller, or needs more memory than the source."""
    mine = label(report, "artifact")
    if "fp32" in candidates(report) and size_bytes(report, "artifact") >= size_bytes(report, "fp32"):
        yield f"{mine} is no smaller than ONNX FP32."
    peak, source = peak_bytes(report, "artifact"), peak_bytes(report, "source")
    if peak and source and peak > source:
        yield f"{mine} needs {fmt.ratio(peak / source)} the memory of PyTorch ({fmt.megabytes(peak)})."


def _noise(report: Report) -> Iterator[str]:
    """What makes the benchmark less than it seems: noise, other work on the machine, shapes that did not run."""
    worst, where = 0.0, ""
    for shape in shapes(report):
        for name in candidates(report):
            cell = latency(report, name, shape)
            if cell is None or not cell["p50_ms"]:
                continue
            low, high = block_range(cell)
            if (spread := (high - low) / cell["p50_ms"]) > worst:
                worst, where = spread, f"{label(report, name)} at {shape_words(report, shape)}"
    if worst > NOISY_SPREAD:
        yield (
            f"The machine was noisy: the blocks of {where} differ by {fmt.percent(worst, 0)}, so take differences "
            "of that size as noise."
        )
    context = (report.get("benchmark") or {}).get("context", {})
    taken = context.get("steal_share", 0.0) + context.get("foreign_share", 0.0)
    if taken > BUSY_SHARE:
        yield f"Other work took {fmt.percent(taken, 0)} of the CPU while latency was measured."
    skipped: dict[str, set[str]] = {}
    for each in context.get("skipped", []):
        shape = f"{each['batch_size']}×{each['sequence_length']}"
        skipped.setdefault(f"{label(report, each['candidate'])}: {shorten(each['reason'])}", set()).add(shape)
    for why, where in skipped.items():
        yield f"Not measured at {_listed(sorted(where))}, {why}."
