"""How a plot is drawn: rows of bars or dots, and an SVG whose bytes are the same every time.

Matplotlib draws with marker colours that no one would choose; each becomes a CSS variable of the page afterwards, so
one drawing serves light mode, dark mode and print. A plot is 360 units wide, a phone's width at full size.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "AXIS",
    "BAR",
    "COLOURS",
    "FONT",
    "LEFT",
    "RIGHT",
    "ROW",
    "WIDTH",
    "Bar",
    "Dot",
    "add_rows",
    "draw_bars",
    "draw_dots",
    "new_figure",
    "style",
    "to_svg",
]

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
SHORTEST = 0.2
"""The longest bar keeps this share of the width, whatever its label is."""
BAR = 0.62
LABEL_GAP = 6
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


@contextmanager
def style() -> Iterator[None]:
    """Draw in the page's style; a glyph that matplotlib's font lacks is the browser's to find."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context(cast(Any, RC)):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        yield


def new_figure(height: float) -> Figure:
    """Make an empty figure as wide as a phone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / POINTS_PER_INCH, height / POINTS_PER_INCH), facecolor="none")


def add_rows(figure: Figure, *, top: float, rows: float, left: float = LEFT) -> Axes:
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
class Bar:
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


def draw_bars(axes: Axes, rows: Sequence[Bar]) -> None:
    """Draw bars with their names left and their labels right."""
    width = axes.get_position().width * WIDTH
    needed = (
        max(bar.length, bar.high) / max(SHORTEST, 1 - (LABEL_GAP + GLYPH * len(bar.words)) / width) for bar in rows
    )
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


Dot = tuple[str, str, float, float, float, str]
"""An interval with a dot: candidate, name, value, low, high, label."""


def draw_dots(axes: Axes, rows: Sequence[Dot], *, include: Sequence[float] = ()) -> None:
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


def to_svg(figure: Figure, name: str, description: str) -> str:
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
