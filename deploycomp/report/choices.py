"""What the INT8 step chose and why, in words: ranges, smoothing, what was measured here, what stays in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.text import shorten

__all__ = [
    "calibrated_on_nothing",
    "choice_words",
    "fp32_was_faster",
    "goal_missed",
    "range_words",
    "ratio_words",
    "restored_layers",
    "saturates",
    "saturation_words",
    "tuned_graphs",
    "variant_name",
]

Facts = Mapping[str, Any]

SATURATING = frozenset({"portable", "x86-avx2", "x86-avx512"})
"""Targets with x86 CPUs that lack VNNI: they add pairs of products in saturating int16 (VPMADDUBSW)."""

EIGHT = 8
MAX_NAMES = 4
MAX_REFUSED = 8
RANDOM_DATA = "random tokens"


def range_words(facts: Facts) -> Iterator[str]:
    """Say where the ranges of the activations come from, and what was smoothed."""
    kind, rows = facts.get("activations"), _rows(facts.get("calibration") or {})
    if kind == "dynamic" and rows:
        yield f"dynamic ranges; weights calibrated on {rows}"
    elif kind == "dynamic":
        why = facts.get("uncalibrated")
        yield f"dynamic ranges: {shorten(why, 300)}" if why else "dynamic ranges"
    elif kind:
        yield f"{shorten(kind)} ranges" + (f" from {rows}" if rows else "")
    if smoothing := facts.get("smoothing"):
        yield _smoothing(smoothing)


def _rows(calibration: Facts) -> str:
    """`256 rows of sst2/train.jsonl`."""
    if not calibration:
        return ""
    split = f", split {shorten(calibration['split'])}" if calibration.get("split") else ""
    return f"{fmt.plural(calibration['rows'], 'row')} of {shorten(calibration['data'])}{split}"


def _smoothing(smoothing: Sequence[Facts]) -> str:
    done = [each for each in smoothing if each["alpha"]]
    own = sum(each["fold"] == "explicit" for each in done)
    if not done:
        return f"smoothed none of {fmt.plural(len(smoothing), 'activation')}: none gained enough"
    whose = f", {own} with a multiplication of {'its' if own == 1 else 'their'} own" if own else ""
    return f"smoothed {fmt.plural(len(done), 'activation')}{whose}"


def saturation_words(facts: Facts) -> Iterator[str]:
    """Say how many pair sums saturate, where CPUs may add them in int16 or the weights were made safe for that."""
    found, target = facts.get("saturation") or {}, str(facts.get("target", ""))
    if not found.get("pairs") or target.startswith("arm64"):
        return
    if found["weight_bits"] < EIGHT or target in SATURATING:
        least = "at least " if found["saturated"] and facts.get("activations") == "dynamic" else ""
        count = f"{least}{fmt.spoken(found['saturated'])} of {fmt.spoken(found['pairs'])}"
        yield f"{count} pair sums saturate on CPUs without VNNI (calibration rows)"


def saturates(facts: Facts) -> str | None:
    """Return the sentence on wrong answers where the target's CPUs may saturate."""
    found = facts.get("saturation") or {}
    if not found.get("saturated") or facts.get("target") not in SATURATING:
        return None
    words = "".join(saturation_words(facts))
    return f"{words[:1].upper()}{words[1:]}: answers there are silently wrong. Export with 7-bit weights."


def calibrated_on_nothing(facts: Facts) -> bool:
    """Say whether the calibration rows were random tokens."""
    calibration = facts.get("calibration") or {}
    return calibration.get("data") == RANDOM_DATA and calibration.get("digest") is None


def choice_words(facts: Facts) -> Iterator[str]:
    """Say what was measured and kept, and which layers had to stay in float."""
    yield from _tuning(facts)
    yield from _restored(facts)


def tuned_graphs(facts: Facts) -> list[Facts]:
    """Return the variants of the graph that were measured; the first is what the others' ratios refer to."""
    rows = (facts.get("tuning") or {}).get("variants", [])
    return [each for each in rows if each["what"] == "graph" and each["ratio"] is not None]


def variant_name(name: str) -> str:
    """Name a variant for people."""
    return "FP32" if name == "fp32" else shorten(name)


def ratio_words(row: Facts, unit: str = "") -> str:
    """Write a variant's ratio with its interval: `1.07× (0.86…1.43)`."""
    low, high = row.get("low"), row.get("high")
    ends = "" if low == high else f" ({fmt.ratio_range(low, high)})"
    return f"{fmt.ratio(row['ratio'])}{unit}{ends}"


def _tuning(facts: Facts) -> Iterator[str]:
    graphs = tuned_graphs(facts)
    if not graphs:
        return
    tuning, first = facts["tuning"], graphs[0]
    kept = next((each for each in graphs if each["kept"]), first)
    of = " its time" if kept is first else f" the time of {variant_name(first['name'])}"
    others = [f"{variant_name(each['name'])} {ratio_words(each, of)}" for each in graphs[1:2]]
    others += [f"{variant_name(each['name'])} {ratio_words(each)}" for each in graphs[2:]]
    seconds = f"{max(1, round(tuning['seconds'])):,} s"
    yield f"tuned here in {seconds}: {variant_name(kept['name'])} kept" + (f"; {', '.join(others)}" if others else "")
    for each in [each for each in tuning["variants"] if each["ratio"] is None][:MAX_REFUSED]:
        yield f"{variant_name(each['name'])} refused: {shorten(each['why'], 300)}"
    options = [each for each in tuning["variants"] if each["what"] == "session"]
    if options:
        yield _session(options, tuning["session"])


def _session(options: Sequence[Facts], entries: Mapping[str, str]) -> str:
    kept = next((each for each in options if each["kept"]), None)
    if kept is None:
        return f"{fmt.plural(len(options), 'session option')} tried, none clearly faster"
    words = ", ".join(f"{shorten(key)} = {shorten(value)}" for key, value in sorted(entries.items()))
    return f"session option kept: {shorten(kept['name'])}, {ratio_words(kept, ' the time without')}" + (
        f": {words}" if words else ""
    )


def restored_layers(facts: Facts) -> list[str]:
    """Return the layers that were put back to float so that the goal holds."""
    return list((facts.get("restored") or {}).get("layers", []))


def _restored(facts: Facts) -> Iterator[str]:
    restored, layers = facts.get("restored"), restored_layers(facts)
    if not restored:
        return
    rows = fmt.plural(restored["rows"], "held-out row")
    if restored.get("attention") is not None:
        yield f"attention went back to float first: the goal did not hold on {rows} with it in INT8"
    if goal_missed(facts):
        yield f"the goal does not hold on {rows} whichever layers stay in float, so none was put back"
    elif layers:
        names = ", ".join(shorten(each, 60) for each in layers[:MAX_NAMES])
        more = f" and {len(layers) - MAX_NAMES} more" if len(layers) > MAX_NAMES else ""
        yield f"kept in float so that the goal holds on {rows}: {fmt.plural(len(layers), 'layer')} ({names}{more})"
    else:
        yield f"the goal holds on {rows} without a layer in float"


def goal_missed(facts: Facts) -> bool:
    """Say whether no number of layers in float made the goal hold on the held-out rows."""
    trail = (facts.get("restored") or {}).get("trail", [])
    return bool(trail) and not any(each["good"] for each in trail)


def fp32_was_faster(facts: Facts) -> Facts | None:
    """Return the FP32 graph's row of the tuning where its interval lies below that of the kept INT8 graph."""
    graphs = tuned_graphs(facts)
    kept = next((each for each in graphs if each["kept"]), None)
    plain = next((each for each in graphs if each["name"] == "fp32"), None)
    return plain if kept and plain and plain["high"] < kept["low"] else None
