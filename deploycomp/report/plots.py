"""Inline SVG plots: deterministic bytes, colours that follow the page's light and dark mode.

Matplotlib draws with marker colours that no one would choose; each becomes a CSS variable of the page afterwards, so
one drawing serves both modes and print. A plot is 360 units wide, which is a phone's width at full size.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from deploycomp.report import format as fmt
from deploycomp.report.text import shorten
from deploycomp.report.verdict import shape_words
from deploycomp.report.view import (
    Report,
    Shape,
    block_range,
    candidates,
    facts_of,
    gain,
    label,
    latency,
    shapes,
    size_bytes,
    table_shapes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Plot", "draw_plots", "role_of"]

COLOURS = {
    "ink": "#010001",
    "muted": "#020002",
    "line": "#030003",
    "source": "#040004",
    "fp32": "#050005",
    "artifact": "#060006",
    "warn": "#070007",
    "track": "#080008",
}
"""Marker colour in the drawing of each CSS variable of the page."""

POINTS_PER_INCH = 72
WIDTH = 360.0
ROW = 19.0
"""Height of one row, in units of 1/72 inch."""
LEFT, RIGHT = 80.0, 6.0
AXIS = 32.0
"""Height below the rows for ticks and the axis' name."""
GLYPH = 6.2
"""Width of a character of the widest common font at `FONT`, so that the label of the longest bar fits beside it."""
BAR = 0.62
LABEL_GAP = 6
GROUP_STEP = 1.4
"""Rows for the head of a group of bars and the gap above it."""
MAX_PLOT_SHAPES = 8
MAX_ROLES = 14
ROLE_LEFT = 148.0
FONT = 10.0

RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": FONT - 1,
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": FONT - 1,
    "ytick.labelcolor": COLOURS["ink"],
    "ytick.labelsize": FONT,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
}


@dataclass(frozen=True)
class Plot:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    svg: str
    """An `<svg>` element that says what it shows to those who cannot see it."""


def draw_plots(report: Report) -> list[Plot]:
    """Draw what the report holds: size, latency, coverage, quality, error by layer; what is missing is left out.

    Args:
        report: As in report.json.

    Returns:
        The plots in the order of the page, the same bytes for the same report.
    """
    import matplotlib

    drawers: tuple[Callable[[Report], Plot | None], ...] = (_size, _latency, _coverage, _quality, _layers)
    with warnings.catch_warnings(), matplotlib.rc_context(cast(Any, RC)):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        return [plot for drawer in drawers if (plot := drawer(report)) is not None]


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH), facecolor="none")


def _axes(figure: Figure, *, top: float, rows: float, left: float = LEFT) -> Axes:
    """Place axes whose rows are `ROW` high and start *top* units below the figure's top."""
    height = figure.get_figheight() * POINTS_PER_INCH
    axes = figure.add_axes(
        (left / WIDTH, 1 - (top + rows * ROW) / height, (WIDTH - left - RIGHT) / WIDTH, rows * ROW / height)
    )
    axes.set_facecolor("none")
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3)
    return axes


@dataclass(frozen=True)
class _Bar:
    """One bar: where, whose, how long, in which colour, with which label, and the spread of its blocks."""

    y: float
    name: str
    length: float
    colour: str
    words: str
    low: float = 0.0
    high: float = 0.0


def _label(axes: Axes, words: str, x: float, y: float) -> None:
    axes.annotate(words, (x, y), (LABEL_GAP, 0), textcoords="offset points", va="center_baseline")


def _bars(axes: Axes, rows: Sequence[_Bar]) -> None:
    """Draw bars with their names left and their labels right."""
    width = axes.get_position().width * WIDTH
    needed = (max(bar.length, bar.high) / (1 - (LABEL_GAP + GLYPH * len(bar.words)) / width) for bar in rows)
    axes.set_xlim(0, max(needed) or 1.0)
    for bar in rows:
        axes.barh(bar.y, bar.length, height=BAR, color=COLOURS[bar.colour])
        if bar.high > bar.low:
            axes.plot([bar.low, bar.high], [bar.y] * 2, color=COLOURS["ink"], linewidth=1.2, solid_capstyle="butt")
        _label(axes, bar.words, max(bar.length, bar.high), bar.y)
    axes.set_yticks([bar.y for bar in rows], [bar.name for bar in rows])
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.axvline(0, color=COLOURS["line"], linewidth=1)


def _svg(figure: Figure, name: str, description: str) -> str:
    """Render a figure and turn its colours into the page's, its size into a box, its ids into its own."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for variable, marker in COLOURS.items():
        svg = svg.replace(marker, f"var(--{variable})")
    svg = re.sub(r"\bid=\"", f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = re.sub(
        r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg class="plot" viewBox="\1" {_aria(description)}>', svg, count=1
    )
    return re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).strip()


def _aria(description: str) -> str:
    from markupsafe import escape

    return f'role="img" aria-label="{escape(description)}"'.replace("\\", "\\\\")


def _size(report: Report) -> Plot:
    names = candidates(report)
    sizes = {name: size_bytes(report, name) for name in names}
    rows: list[_Bar] = []
    for y, name in enumerate(names):
        words = fmt.megabytes(sizes[name])
        if name != "source" and sizes[name]:
            words += f" · {fmt.smaller(sizes['source'] / sizes[name])}"
        rows.append(_Bar(y, label(report, name), sizes[name], name, words))
    figure = _figure(len(names) * ROW + 4)
    _bars(_axes(figure, top=2, rows=len(names)), rows)
    caption = "MB of 10⁶ bytes; PyTorch is its parameters in FP32, the others their files."
    return Plot("size", "Size", caption, _svg(figure, "size", f"Size: {_said(rows)}."))


def _said(rows: Sequence[_Bar]) -> str:
    return "; ".join(f"{bar.name} {bar.words}" for bar in rows)


def _latency(report: Report) -> Plot | None:
    found = shapes(report)
    heads: list[tuple[float, str]] = []
    rows: list[_Bar] = []
    y = 0.0
    for shape in found if len(found) <= MAX_PLOT_SHAPES else table_shapes(report):
        if bars := _latency_bars(report, shape, y + 1):
            heads.append((y, shape_words(report, shape)))
            rows += bars
            y += len(bars) + GROUP_STEP
    if not rows:
        return None
    figure = _figure(y * ROW + 2)
    axes = _axes(figure, top=0, rows=y)
    _bars(axes, rows)
    edge = -LEFT / (WIDTH - LEFT - RIGHT)
    for place, words in heads:
        axes.text(edge, place, words, transform=axes.get_yaxis_transform(), weight="bold", va="center_baseline")
    caption = (
        "Median at rows × tokens. Bars share one scale within a shape, PyTorch is the full length; the thin line spans "
        "the medians of the blocks."
    )
    return Plot("latency", "Latency by shape", caption, _svg(figure, "latency", f"Latency by shape: {_said(rows)}."))


def _latency_bars(report: Report, shape: Shape, y: float) -> list[_Bar]:
    """Bars of one shape, one below the other from *y*, in units of the first candidate's median."""
    measured = [(name, cell) for name in candidates(report) if (cell := latency(report, name, shape))]
    unit = measured[0][1]["p50_ms"] if measured else 0
    if not unit:
        return []
    bars: list[_Bar] = []
    for place, (name, cell) in enumerate(measured):
        low, high = (end / unit for end in block_range(cell))
        words = _latency_words(report, name, shape, cell["p50_ms"])
        bars.append(_Bar(y + place, label(report, name), cell["p50_ms"] / unit, name, words, low, high))
    return bars


def _latency_words(report: Report, name: str, shape: Shape, p50: float) -> str:
    value = None if name == "source" else gain(report, "source", name, shape)
    return fmt.milliseconds(p50) + (f" · {fmt.faster(value)}" if value is not None else "")


def _dots(axes: Axes, rows: Sequence[_Dot], *, include: Sequence[float] = ()) -> None:
    """Draw intervals with a dot each, and room for the values in *include*."""
    ends = [value for row in rows for value in row[2:5]] + list(include)
    low, high = min(ends), max(ends)
    room = (high - low) or 1.0
    axes.set_xlim(low - 0.06 * room, high + 0.62 * room)
    for y, (name, _, value, start, end, words) in enumerate(rows):
        axes.plot([start, end], [y, y], color=COLOURS[name], linewidth=2, solid_capstyle="round")
        axes.plot([value], [y], "o", color=COLOURS[name], markersize=6, markeredgewidth=0)
        _label(axes, words, max([end, *include]), y)
    axes.set_yticks(range(len(rows)), [row[1] for row in rows])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=6)


_Dot = tuple[str, str, float, float, float, str]
"""An interval with a dot: candidate, name, value, low, high, label."""


def _quality(report: Report) -> Plot | None:
    evaluation = report.get("evaluation")
    values, changes = _score_dots(report), _change_dots(report)
    if not evaluation or not values:
        return None
    name, goal = shorten(fmt.metric_name(evaluation["metric"])), evaluation["max_drop"]
    unit, of_points = ("", "") if fmt.is_plain(evaluation["metric"]) else (", %", ", percentage points")
    top = len(values) * ROW + AXIS + 14
    figure = _figure(top + len(changes) * ROW + AXIS if changes else top - 14)
    axes = _axes(figure, top=2, rows=len(values))
    _dots(axes, values)
    axes.set_xlabel(f"{name}, 95 % interval{unit}")
    if changes:
        below = _axes(figure, top=top, rows=len(changes))
        limits = [0.0] if goal is None else [0.0, -goal * _factor(evaluation)]
        _dots(below, changes, include=limits)
        below.axvline(0, color=COLOURS["ink"], linewidth=1)
        for limit in limits[1:]:
            below.axvline(limit, color=COLOURS["warn"], linewidth=1.2, linestyle=(0, (3, 2)))
        below.set_xlabel(f"change against PyTorch, paired{of_points}")
    said = "; ".join(f"{row[1]} {row[5]}" for row in [*values, *changes])
    caption = f"{evaluation['rows']:,} rows of {shorten(evaluation['data'])}. The paired change is the one to judge by."
    caption += " The dashed line is the goal." if goal is not None else ""
    return Plot("quality", name[:1].upper() + name[1:], caption, _svg(figure, "quality", f"{name}: {said}."))


def _factor(evaluation: dict[str, Any]) -> int:
    """Fractions are drawn in percent, correlations as they are."""
    return 1 if fmt.is_plain(evaluation["metric"]) else 100


def _score_dots(report: Report) -> list[_Dot]:
    evaluation = report.get("evaluation") or {"scores": {}, "metric": ""}
    metric, rows = evaluation["metric"], []
    for each in candidates(report):
        if score := evaluation["scores"].get(each, {}).get(metric):
            value, low, high = (score[end] * _factor(evaluation) for end in ("value", "low", "high"))
            rows.append((each, label(report, each), value, low, high, fmt.metric_value(metric, score["value"])))
    return rows


def _change_dots(report: Report) -> list[_Dot]:
    evaluation = report.get("evaluation") or {"drop": {}, "metric": ""}
    metric, rows = evaluation["metric"], []
    for each in candidates(report)[1:]:
        if drop := evaluation["drop"].get(each):
            value, low, high = (0.0 - drop[end] * _factor(evaluation) for end in ("value", "high", "low"))
            words = fmt.metric_change(metric, 0.0 - drop["value"])
            rows.append((each, label(report, each), value, low, high, words))
    return rows


def _coverage(report: Report) -> Plot | None:
    facts = facts_of(report, "int8")
    rows: list[tuple[str, float, str]] = []
    stored = facts.get("bytes", {})
    if known := stored.get("int8", 0) + stored.get("float", 0):
        share = stored.get("int8", 0) / known
        rows.append(("Weight bytes", share, f"{fmt.percent(share, 1)} of {fmt.megabytes(known)}"))
    for op, (done, every) in sorted(facts.get("nodes", {}).items()):
        if every:
            rows.append((shorten(op, 12), done / every, f"{done} of {every}"))
    if not rows:
        return None
    figure = _figure(len(rows) * ROW + 4)
    axes = _axes(figure, top=2, rows=len(rows))
    tracks = [_Bar(y, name, 1.0, "track", words) for y, (name, _, words) in enumerate(rows)]
    _bars(axes, tracks)
    axes.barh(range(len(rows)), [share for _, share, _ in rows], height=BAR, color=COLOURS["artifact"])
    caption = "Share in INT8: of the stored weights, and of the nodes by operator."
    return Plot("coverage", "Coverage", caption, _svg(figure, "coverage", f"In INT8: {_said(tracks)}."))


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
    roles: dict[str, list[float]] = {}
    for layer in report["layers"]:
        if layer["error"] is not None:
            roles.setdefault(role_of(layer["name"]), []).append(layer["error"] * 100)
    if not roles:
        return None
    ranked = sorted(roles.items(), key=lambda item: (-max(item[1]), item[0]))
    shown = ranked[:MAX_ROLES]
    left = ROLE_LEFT
    figure = _figure(len(shown) * ROW + AXIS + 2)
    axes = _axes(figure, top=2, rows=len(shown), left=left)
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
    worst = max((each for each in report["layers"] if each["error"] is not None), key=lambda each: each["error"])
    words = f"{shorten(worst['name'])} with {fmt.percent(worst['error'])}"
    caption = f"‖Wq − W‖ / ‖W‖, a dot for each layer, by role. Largest: {words}."
    caption += f" {len(ranked) - len(shown)} more roles are in the table below." if len(ranked) > len(shown) else ""
    said = f"Quantization error of {len(report['layers'])} layers by role; largest {words}."
    return Plot("layers", "Error by layer", caption, _svg(figure, "layers", said))
