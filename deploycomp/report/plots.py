"""The plots of the page: size, latency by shape, units, coverage, quality, error by layer, sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploycomp.report import format as fmt
from deploycomp.report.choices import restored_layers
from deploycomp.report.cuts import matrix_form, units_left
from deploycomp.report.drawing import (
    AXIS,
    BAR,
    COLOURS,
    FONT,
    LEFT,
    RIGHT,
    ROW,
    WIDTH,
    Bar,
    Dot,
    add_rows,
    draw_bars,
    draw_dots,
    new_figure,
    style,
    to_svg,
)
from deploycomp.report.text import shorten
from deploycomp.report.verdict import shape_words
from deploycomp.report.view import (
    Report,
    Shape,
    block_range,
    candidates,
    facts_of,
    label,
    latency,
    shapes,
    size_bytes,
    speed,
    table_shapes,
)

__all__ = ["Plot", "draw_plots", "role_of"]

GROUP_STEP = 1.4
"""Rows for the head of a group of bars and the gap above it."""
MAX_PLOT_SHAPES = 8
MAX_ROLES = 14
MAX_RANKED = 14
MAX_DOTS = 1_000
"""Only the largest errors are drawn of a model with more layers than this."""
ROLE_LEFT = 148.0


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    svg: str
    """An `<svg>` element that says what it shows to those who cannot see it."""


def draw_plots(report: Report) -> list[Plot]:
    """Draw what the report holds, and leave out what is missing.

    Args:
        report: As in report.json.

    Returns:
        The plots in the order of the page, the same bytes for the same report.
    """
    drawers: tuple[Callable[[Report], Plot | None], ...]
    drawers = (_size, _latency, _units, _matrices, _coverage, _quality, _layers, _sensitivity)
    with style():
        return [plot for drawer in drawers if (plot := drawer(report)) is not None]


def _size(report: Report) -> Plot:
    names = candidates(report)
    sizes = {name: size_bytes(report, name) for name in names}
    rows: list[Bar] = []
    for y, name in enumerate(names):
        words = fmt.megabytes(sizes[name])
        if name != "source" and sizes[name]:
            words += f" · {fmt.smaller(sizes['source'] / sizes[name])}"
        rows.append(Bar(y, label(report, name), sizes[name], name, words))
    figure = new_figure(len(names) * ROW + 4)
    draw_bars(add_rows(figure, top=2, rows=len(names)), rows)
    caption = "MB of 10⁶ bytes; PyTorch is its parameters in FP32, the others their files."
    return Plot("size", "Size", caption, to_svg(figure, "size", f"Size: {_said(rows)}."))


def _said(rows: Sequence[Bar]) -> str:
    return "; ".join(f"{bar.name} {bar.words}" for bar in rows)


def _latency(report: Report) -> Plot | None:
    found = shapes(report)
    heads: list[tuple[float, str]] = []
    rows: list[Bar] = []
    y = 0.0
    for shape in found if len(found) <= MAX_PLOT_SHAPES else table_shapes(report):
        if bars := _latency_bars(report, shape, y + 1):
            heads.append((y, shape_words(report, shape)))
            rows += bars
            y += len(bars) + GROUP_STEP
    if not rows:
        return None
    figure = new_figure(y * ROW + 2)
    axes = add_rows(figure, top=0, rows=y)
    draw_bars(axes, rows)
    edge = -LEFT / (WIDTH - LEFT - RIGHT)
    for place, words in heads:
        axes.text(edge, place, words, transform=axes.get_yaxis_transform(), weight="bold", va="center_baseline")
    caption = (
        "Median at rows × tokens. Bars share one scale within a shape, PyTorch is the full length; the thin line spans "
        "the medians of the blocks."
    )
    return Plot("latency", "Latency by shape", caption, to_svg(figure, "latency", f"Latency by shape: {_said(rows)}."))


def _latency_bars(report: Report, shape: Shape, y: float) -> list[Bar]:
    """Bars of one shape, one below the other from *y*, in units of the first candidate's median."""
    measured = [(name, cell) for name in candidates(report) if (cell := latency(report, name, shape))]
    unit = measured[0][1]["p50_ms"] if measured else 0
    if not unit:
        return []
    bars: list[Bar] = []
    for place, (name, cell) in enumerate(measured):
        low, high = (end / unit for end in block_range(cell))
        words = _latency_words(report, name, shape, cell["p50_ms"])
        bars.append(Bar(y + place, label(report, name), cell["p50_ms"] / unit, name, words, low, high))
    return bars


def _latency_words(report: Report, name: str, shape: Shape, p50: float) -> str:
    return fmt.milliseconds(p50) + ("" if name == "source" else f" · {speed(report, name, shape).words}")


def _quality(report: Report) -> Plot | None:
    evaluation = report.get("evaluation")
    values, changes = _score_dots(report), _change_dots(report)
    if not evaluation or not values:
        return None
    name, goal = shorten(fmt.metric_name(evaluation["metric"])), evaluation["max_drop"]
    unit, of_points = ("", "") if fmt.is_plain(evaluation["metric"]) else (", %", ", percentage points")
    top = len(values) * ROW + AXIS + 14
    figure = new_figure(top + len(changes) * ROW + AXIS if changes else top - 14)
    axes = add_rows(figure, top=2, rows=len(values))
    draw_dots(axes, values)
    axes.set_xlabel(f"{name}, 95 % interval{unit}")
    if changes:
        below = add_rows(figure, top=top, rows=len(changes))
        limits = [0.0] if goal is None else [0.0, -goal * _factor(evaluation)]
        draw_dots(below, changes, include=limits)
        below.axvline(0, color=COLOURS["ink"], linewidth=1)
        for limit in limits[1:]:
            below.axvline(limit, color=COLOURS["warn"], linewidth=1.2, linestyle=(0, (3, 2)))
        below.set_xlabel(f"change against PyTorch, paired{of_points}")
    said = "; ".join(f"{row[1]} {row[5]}" for row in [*values, *changes])
    caption = f"{evaluation['rows']:,} rows of {shorten(evaluation['data'])}. The paired change is the one to judge by."
    caption += " The dashed line is the goal." if goal is not None else ""
    return Plot("quality", name[:1].upper() + name[1:], caption, to_svg(figure, "quality", f"{name}: {said}."))


def _factor(evaluation: dict[str, Any]) -> int:
    """Fractions are drawn in percent, correlations as they are."""
    return 1 if fmt.is_plain(evaluation["metric"]) else 100


def _score_dots(report: Report) -> list[Dot]:
    evaluation = report.get("evaluation") or {"scores": {}, "metric": ""}
    metric, rows = evaluation["metric"], []
    for each in candidates(report):
        if score := evaluation["scores"].get(each, {}).get(metric):
            value, low, high = (score[end] * _factor(evaluation) for end in ("value", "low", "high"))
            rows.append((each, label(report, each), value, low, high, fmt.metric_value(metric, score["value"])))
    return rows


def _change_dots(report: Report) -> list[Dot]:
    evaluation = report.get("evaluation") or {"drop": {}, "metric": ""}
    metric, rows = evaluation["metric"], []
    for each in candidates(report)[1:]:
        if drop := evaluation["drop"].get(each):
            value, low, high = (0.0 - drop[end] * _factor(evaluation) for end in ("value", "high", "low"))
            words = fmt.metric_change(metric, 0.0 - drop["value"])
            rows.append((each, label(report, each), value, low, high, words))
    return rows


def _units(report: Report) -> Plot | None:
    units = units_left(report["steps"])
    if not units:
        return None
    rows = [(name.replace(".", " "), unit["kept"], unit["of"]) for name, unit in units.items()]
    words = [f"{kept} of {of}" for _, kept, of in rows]
    svg = _shares("units", [(name, kept / max(of, 1)) for name, kept, of in rows], words, "Units that stay")
    return Plot("units", "What is left", "Attention heads and feed-forward neurons that stay, by layer.", svg)


def _matrices(report: Report) -> Plot | None:
    matrices = facts_of(report, "factorize").get("matrices", {})
    if not matrices:
        return None
    rows = [(name.replace(".", " "), each["numbers"] / max(each["of"], 1)) for name, each in matrices.items()]
    words = [matrix_form(each) for each in matrices.values()]
    svg = _shares("matrices", rows, words, "Numbers that are stored")
    return Plot("matrices", "What is stored", "Numbers that are stored of each matrix, or group of them.", svg)


def _shares(name: str, rows: Sequence[tuple[str, float]], words: Sequence[str], said: str) -> str:
    """Draw shares of a whole: what is named, and how much of its track is full."""
    figure = new_figure(len(rows) * ROW + 4)
    axes = add_rows(figure, top=2, rows=len(rows))
    tracks = [Bar(y, each, 1.0, "track", text) for y, ((each, _), text) in enumerate(zip(rows, words, strict=True))]
    draw_bars(axes, tracks)
    axes.barh(range(len(rows)), [share for _, share in rows], height=BAR, color=COLOURS["artifact"])
    return to_svg(figure, name, f"{said}: {_said(tracks)}.")


def _coverage(report: Report) -> Plot | None:
    facts = facts_of(report, "int8")
    rows: list[tuple[str, float]] = []
    words: list[str] = []
    stored = facts.get("bytes", {})
    if known := stored.get("int8", 0) + stored.get("float", 0):
        share = stored.get("int8", 0) / known
        rows.append(("Weight bytes", share))
        words.append(f"{fmt.percent(share, 1)} of {fmt.megabytes(known)}")
    for op, (done, every) in sorted(facts.get("nodes", {}).items()):
        if every:
            rows.append((shorten(op, 12), done / every))
            words.append(f"{done} of {every}")
    if not rows:
        return None
    caption = "Share in INT8: of the stored weights, and of the nodes by operator."
    return Plot("coverage", "Coverage", caption, _shares("coverage", rows, words, "In INT8"))


def role_of(name: str) -> str:
    """Return what a layer is for: its name without the prefix and the number of its block.

    `bert.encoder.layer.0.attention.self.query` is `attention.self.query`; a name without a number keeps its last two
    parts, an embedding its last one.
    """
    parts = shorten(name).split(".")
    numbers = [position for position, part in enumerate(parts) if part.isdigit()]
    rest = parts[numbers[-1] + 1 :] if numbers else []
    return ".".join(rest or (parts[-1:] if "embed" in parts[-1] else parts[-2:]))


def _layers(report: Report) -> Plot | None:
    known = [each for each in report["layers"] if each["error"] is not None]
    roles: dict[str, list[float]] = {}
    for layer in sorted(known, key=lambda each: -each["error"])[:MAX_DOTS]:
        roles.setdefault(role_of(layer["name"]), []).append(layer["error"] * 100)
    if not roles:
        return None
    ranked = sorted(roles.items(), key=lambda item: (-max(item[1]), item[0]))
    shown = ranked[:MAX_ROLES]
    left = ROLE_LEFT
    figure = new_figure(len(shown) * ROW + AXIS + 2)
    axes = add_rows(figure, top=2, rows=len(shown), left=left)
    axes.set_xlim(0, max(max(errors) for _, errors in shown) * 1.06 or 1.0)
    for y, (_, errors) in enumerate(shown):
        axes.plot([min(errors), max(errors)], [y, y], color=COLOURS["line"], linewidth=1)
        axes.plot(
            errors, [y] * len(errors), "o", color=COLOURS["artifact"], alpha=0.65, markersize=5, markeredgewidth=0
        )
    axes.set_yticks(range(len(shown)), [shorten(role, 26) for role, _ in shown])
    axes.tick_params(axis="y", labelsize=FONT - 1)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("relative error of the weights, %")
    worst = max(known, key=lambda each: each["error"])
    words = f"{shorten(worst['name'])} with {fmt.percent(worst['error'])}"
    caption = f"‖Wq − W‖ / ‖W‖, a dot for each layer, by role. Largest: {words}."
    caption += f" {len(ranked) - len(shown)} more roles are in the table below." if len(ranked) > len(shown) else ""
    said = f"Quantization error of {len(known)} layers by role; largest {words}."
    return Plot("layers", "Error by layer", caption, to_svg(figure, "layers", said))


def _sensitivity(report: Report) -> Plot | None:
    facts = facts_of(report, "int8")
    table, kept = facts.get("sensitivity") or [], set(restored_layers(facts))
    gains = [row for row in table if row["ratio"] > 0]
    if not gains:
        return None
    shown, largest = gains[:MAX_RANKED], max(row["ratio"] for row in gains)
    rows: list[Bar] = []
    for y, row in enumerate(shown):
        inside = row["layer"] in kept
        words = fmt.scientific(row["ratio"]) + (" · in float" if inside else "")
        name = shorten(_place_of(row["layer"]), 26)
        rows.append(Bar(y, name, row["ratio"] / largest, "fp32" if inside else "artifact", words))
    figure = new_figure(len(shown) * ROW + 4)
    axes = add_rows(figure, top=2, rows=len(shown), left=ROLE_LEFT)
    draw_bars(axes, rows)
    axes.tick_params(axis="y", labelsize=FONT - 1)
    caption = (
        "Divergence from FP32 that a layer in float recovers, for each millisecond given up; layers kept in float are "
        "marked."
    )
    more = len(table) - len(shown)
    caption += f" {more} more {'is' if more == 1 else 'are'} in the table." if more else ""
    said = f"Recovered divergence per millisecond, best layers first: {_said(rows)}."
    return Plot("sensitivity", "Sensitivity", caption, to_svg(figure, "sensitivity", said))


def _place_of(name: str) -> str:
    """A layer's role with the number of its block: `0.attention.self.query`."""
    role = role_of(name)
    number = shorten(name).removesuffix(role).rstrip(".").rpartition(".")[2]
    return f"{number}.{role}" if number.isdigit() else role
