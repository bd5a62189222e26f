"""What a compressing step cut, in words and bars, from its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.text import shorten

__all__ = ["COMPRESSION_WORDS", "calibration_warnings", "matrix_form", "matrix_lines", "unit_lines", "units_left"]

BAR = 16
"""Letters of a full bar."""


def units_left(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Join what the steps of a report say of units: what there was before the first, and is after the last."""
    found: dict[str, dict[str, int]] = {}
    for step in steps:
        for name, unit in step["facts"].get("units", {}).items():
            whole = found[name]["of"] if name in found else unit["of"]
            found[name] = {**unit, "of": whole}
    return dict(sorted(found.items(), key=lambda item: (int(item[0].partition(".")[0]), item[0])))


def unit_lines(units: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Draw what is left: a line for each layer, a bar for its heads and one for its neurons."""
    layers = sorted({int(name.partition(".")[0]) for name in units})
    lines: list[str] = []
    for layer in layers:
        parts = [
            f"{kind} {_bar(units[f'{layer}.{kind}'])}" for kind in ("heads", "neurons") if f"{layer}.{kind}" in units
        ]
        lines.append(f"  layer {layer:>2}  " + "  ".join(parts))
    return lines


def matrix_lines(matrices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Draw what is stored of matrices: a line for each group, a bar for its numbers, and the form they have."""
    width = max(map(len, matrices), default=0)
    return [
        f"  {name:<{width}}  {_track(each['numbers'], each['of'])} {fmt.percent(each['numbers'] / each['of'], 0):>5}  "
        f"{matrix_form(each)}"
        for name, each in matrices.items()
    ]


def matrix_form(matrix: Mapping[str, Any]) -> str:
    """Say how one group of matrices is stored, and how it is used."""
    if "rule" not in matrix:
        return "dense"
    sizes = ", ".join(f"{name} {size}" for name, size in matrix["sizes"].items() if name not in ("norms", "shift"))
    return f"{matrix['rule'].replace('_', ' ')}, {sizes}" + (", two products" if matrix["form"] == "faster" else "")


def _bar(unit: Mapping[str, int]) -> str:
    return f"{_track(unit['kept'], unit['of'])} {unit['kept']:>4} of {unit['of']:<4}"


def _track(kept: int, of: int) -> str:
    full = round(BAR * kept / of) if of else 0
    return "█" * full + "░" * (BAR - full)


def _prune(facts: Mapping[str, Any]) -> Iterator[str]:
    units, sizes = facts["units"], facts["parameters"]
    for kind in ("heads", "neurons"):
        of = sum(each["of"] for name, each in units.items() if name.endswith(kind))
        kept = sum(each["kept"] for name, each in units.items() if name.endswith(kind))
        if kept < of:
            yield f"{kept} of {of} {kind} stay"
    yield f"{fmt.count(sizes['before'])} parameters became {fmt.count(sizes['after'])}"
    for each in facts["measured"][-1:]:
        ends = f"{each['low']:.2f} to {each['high']:.2f}"
        yield f"measured {each['speedup']:.2f} times faster ({ends}), predicted {each['predicted']:.2f}"
    rows = facts["calibration"]
    yield f"scored on {rows['rows']} rows of {shorten(rows['data'])}, chosen on {rows['held_out_rows']} others"
    yield from _refits(facts)
    if recovery := facts["recovery"]:
        yield (
            f"distilled for {recovery['steps']} steps in {recovery['seconds']:.0f} s: "
            f"divergence {recovery['before']:.4g} → {recovery['after']:.4g}"
        )


def _drop_layers(facts: Mapping[str, Any]) -> Iterator[str]:
    for each in facts["trail"]:
        yield f"layer {each['dropped']} dropped: divergence {each['divergence']:.4g}"


def _vocabulary(facts: Mapping[str, Any]) -> Iterator[str]:
    pieces, held_out = facts["pieces"], facts["held_out"]
    yield f"{pieces['after']:,} of {pieces['before']:,} pieces stay: those that {shorten(facts['corpus'])} needs"
    if facts["left_out"]:
        yield f"left out of it, because they are judged on: {fmt.plural(facts['left_out'], 'row')}"
    if held_out["rows"]:
        share = fmt.percent(held_out["changed"] / held_out["rows"], 1)
        yield f"{held_out['changed']} of {held_out['rows']} judged rows ({share}) are cut into other pieces"


def _factorize(facts: Mapping[str, Any]) -> Iterator[str]:
    sizes, matrices = facts["parameters"], facts["matrices"]
    stored = [each for each in matrices.values() if "rule" in each]
    yield (
        f"{fmt.count(sizes['before'])} parameters became {fmt.count(sizes['after'])}: "
        f"{len(stored)} of {fmt.plural(len(matrices), 'group')} of matrices stored in factors ({facts['method']})"
    )
    rows = facts["calibration"]
    yield f"weighed on {rows['rows']} rows of {shorten(rows['data'])}, judged on {rows['held_out_rows']} others"
    for each in facts["measured"][-1:]:
        ends = f"{each['low']:.2f} to {each['high']:.2f}"
        yield f"measured {each['speedup']:.2f} times faster ({ends}), predicted {each['predicted']:.2f}"
    if forms := facts["forms"]:
        ends = f"{forms['low']:.2f} to {forms['high']:.2f}"
        what = "is taken" if forms["chosen"] == "faster" else "is not: matrices are rebuilt once"
        yield f"multiplying by two factors measured {forms['ratio']:.2f} times as fast ({ends}), so it {what}"
    yield from _refits(facts)


def _refits(facts: Mapping[str, Any]) -> Iterator[str]:
    for refit in facts["refits"]:
        what = "kept" if refit["kept"] else "not kept"
        yield f"{refit['what']} refitted, {what}: divergence {refit['before']:.4g} → {refit['after']:.4g}"


COMPRESSION_WORDS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "prune": _prune,
    "prune_heads": _prune,
    "prune_ffn": _prune,
    "drop_layers": _drop_layers,
    "prune_vocabulary": _vocabulary,
    "factorize": _factorize,
}
"""Name of a step → what its facts say."""


def calibration_warnings(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is said aloud about the rows that the steps learned from, each sentence once."""
    facts = [step["facts"].get("calibration") or {} for step in steps]
    return list(dict.fromkeys(sentence for each in facts for sentence in each.get("warnings", ())))
