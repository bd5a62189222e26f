"""A benchmark as one self-contained page: tables and pictures of what the document holds; nothing is computed here.

document ──► benchmark.html.j2 inside the shell (policy, style) of report.html.j2 ──► page
         └─► latency · distribution · memory and size · time on the device
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.report import format as fmt
from deploycomp.report.benchmark_words import (
    CANDIDATE_HEADS,
    CELL_HEADS,
    SHAPE,
    Cell,
    Result,
    candidate_rows,
    cell_rows,
    comparison_lines,
    device_lines,
    ordered_cells,
    profile_lines,
    time_words,
)
from deploycomp.report.drawing import (
    AXIS,
    COLOURS,
    FONT,
    RIGHT,
    ROW,
    WIDTH,
    Bar,
    add_rows,
    draw_bars,
    new_figure,
    style,
    to_svg,
)
from deploycomp.report.html import TEMPLATE as SHELL
from deploycomp.report.plots import GROUP_STEP, MAX_PLOT_SHAPES, ROLE_LEFT, Plot
from deploycomp.report.text import block, shorten
from deploycomp.report.view import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_benchmark", "to_benchmark_html"]

TEMPLATE = Path(__file__).with_name("benchmark.html.j2")

PALETTE = ("artifact", "source", "fp32", "warn")
"""Colours of the candidates in their order; from the fifth on they come again, with other lines."""
LINES = ("-", "--", ":", "-.")
NAME = 22
"""Characters of a candidate's name that fit left of a bar."""
PANEL = 6
"""Rows that one distribution is high."""
KEY = 15.0
"""Height of a line of the key above the distributions."""
CURVE_POINTS = 200
"""A curve has at most this many points; more are not seen."""
HEADROOM = 1.05


def to_benchmark_html(result: Result) -> str:
    """Write a document as one page.

    Args:
        result: As `benchmark_formats.document` made it, with samples.

    Returns:
        HTML that makes no request, runs no script and follows light and dark mode.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize
    )
    shell, _, _ = SHELL.read_text(encoding="utf-8").partition("<main>")
    shell = re.sub("<title>.*</title>", "<title>{{ title }}</title>", shell)
    page = environment.from_string(shell + TEMPLATE.read_text(encoding="utf-8"))
    return page.render(_context(result)).rstrip() + "\n"


def _finalize(value: object) -> object:
    """Strip control characters and terminal escapes from every name that reaches the page."""
    return block(value) if type(value) is str else value


def _context(result: Result) -> dict[str, Any]:
    first, *others = (shorten(name) for name in result["candidates"])
    settings, machine = result["settings"], result["context"]
    return {
        "report": {"deploycomp": result["deploycomp"]},
        "title": f"{', '.join([first, *others][:3])} · deploycomp benchmark",
        "name": first,
        "others": others,
        "subtitle": _subtitle(settings, machine),
        "warnings": [shorten(each, 400) for each in machine.get("warnings", ())],
        "candidate_heads": CANDIDATE_HEADS,
        "candidates": candidate_rows(result),
        "cell_heads": CELL_HEADS,
        "cells": cell_rows(result),
        "lines": [*comparison_lines(result), *device_lines(result)],
        "plots": draw_benchmark(result),
        "profile": profile_lines(result),
        "settings": _facts(settings),
        "machine": [*_facts(machine.get("cpu") or {}), *_facts(machine)],
        "versions": _facts(machine.get("versions") or {}),
    }


def _subtitle(settings: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    rows = settings.get("rows")
    words = [
        (machine.get("cpu") or {}).get("name"),
        f"{fmt.plural(settings['blocks'], 'block')} of fresh processes" if "blocks" in settings else None,
        f"rows of {rows['data']}" if rows else "random tokens, full rows",
    ]
    return [shorten(each) for each in words if each]


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is plain in a mapping, as it stands; bytes as megabytes, lists in one line."""
    found: list[tuple[str, str]] = []
    for key, value in facts.items():
        if value is None or isinstance(value, Mapping):
            continue
        if isinstance(value, list | tuple):
            if any(isinstance(each, Mapping) for each in value) or key == "warnings":
                continue
            value = " ".join(str(each) for each in value)
        words = fmt.megabytes(value) if isinstance(value, int) and key.endswith("_bytes") else shorten(value, 400)
        found.append((shorten(key).removesuffix("_bytes").replace("_", " "), words))
    return found


# ------------------------------------------------------------ pictures


def draw_benchmark(result: Result) -> list[Plot]:
    """Draw what a document holds, and leave out what is missing.

    Args:
        result: As for `to_benchmark_html`.

    Returns:
        The pictures in the order of the page, the same bytes for the same document.
    """
    with style():
        drawn = (_latency(result), _distribution(result), _memory(result), _device(result))
        return [plot for plot in drawn if plot is not None]


def _groups(result: Result) -> Iterator[tuple[str, list[Cell]]]:
    """The name of each shape and its cells, up to `MAX_PLOT_SHAPES` of them."""
    threads = len({cell["threads"] for cell in result["cells"]}) > 1
    found = groupby(ordered_cells(result), lambda cell: tuple(cell[key] for key in SHAPE))
    for _, (shape, cells) in zip(range(MAX_PLOT_SHAPES), found, strict=False):
        yield Shape(*shape).named(threads=threads), list(cells)


def _latency(result: Result) -> Plot | None:
    caption = "Median of all calls at rows × tokens, with its 95 % interval as a thin line. One scale for each shape."
    return _bars("latency", "Latency", caption + _left_out(result), _times(result, "p50_ms"))


def _device(result: Result) -> Plot | None:
    caption = "Median by CUDA events, inputs and outputs staying on the device. One scale for each shape."
    return _bars("device", "Time on the device", caption + _left_out(result), _times(result, "device_p50_ms"))


def _left_out(result: Result) -> str:
    more = len({tuple(cell[key] for key in SHAPE) for cell in result["cells"]}) - MAX_PLOT_SHAPES
    return f" {fmt.plural(more, 'more shape')} stand in the table." if more > 0 else ""


def _times(result: Result, key: str) -> Iterator[tuple[str, list[Bar]]]:
    for words, cells in _groups(result):
        bars: list[Bar] = []
        for cell in cells:
            if cell.get(key) is not None:
                low, high = (cell["intervals"] or {}).get(key) or (0.0, 0.0)
                bars.append(_bar(result, cell["candidate"], cell[key], time_words(cell, key), low=low, high=high))
        yield words, bars


def _memory(result: Result) -> Plot | None:
    children = result["context"].get("children") or {}
    kinds = {
        "Size on disk": {name: facts["bytes"] for name, facts in result["candidates"].items()},
        "Peak memory of the process": {name: facts["peak_rss_bytes"] for name, facts in result["candidates"].items()},
        "Memory of the device": {name: facts.get("gpu_memory_bytes") for name, facts in children.items()},
    }
    groups = [
        (words, [_bar(result, name, size, fmt.megabytes(size)) for name, size in sizes.items() if size is not None])
        for words, sizes in kinds.items()
    ]
    return _bars("memory", "Memory and size", "MB of 10⁶ bytes. One scale for each kind.", groups)


def _colour(result: Result, name: str) -> str:
    return PALETTE[list(result["candidates"]).index(name) % len(PALETTE)]


def _bar(result: Result, name: str, length: float, words: str, *, low: float = 0.0, high: float = 0.0) -> Bar:
    return Bar(0, shorten(name, NAME), length, _colour(result, name), words, low, high)


def _bars(name: str, title: str, caption: str, groups: Iterator[Any] | Sequence[Any]) -> Plot | None:
    """Draw groups of bars, each under its head and on a scale of its own."""
    heads: list[tuple[float, str]] = []
    rows: list[Bar] = []
    y = 0.0
    for words, bars in groups:
        if not bars:
            continue
        heads.append((y, words))
        unit = max(bar.length for bar in bars) or 1.0
        rows += [_scaled(bar, unit, y + 1 + place) for place, bar in enumerate(bars)]
        y += len(bars) + GROUP_STEP
    if not rows:
        return None
    figure = new_figure(y * ROW + 2)
    axes = add_rows(figure, top=0, rows=y, left=ROLE_LEFT)
    draw_bars(axes, rows)
    axes.tick_params(axis="y", labelsize=FONT - 1)
    for place, words in heads:
        edge = -ROLE_LEFT / (WIDTH - ROLE_LEFT - RIGHT)
        axes.text(edge, place, words, transform=axes.get_yaxis_transform(), weight="bold", va="center_baseline")
    said = "; ".join(f"{bar.name} {bar.words}" for bar in rows)
    return Plot(name, title, caption, to_svg(figure, name, f"{title}: {said}."))


def _scaled(bar: Bar, unit: float, y: float) -> Bar:
    return replace(bar, y=y, length=bar.length / unit, low=bar.low / unit, high=bar.high / unit)


def _distribution(result: Result) -> Plot | None:
    groups = [(words, cells) for words, cells in _groups(result) if all("block_samples_ns" in cell for cell in cells)]
    if not groups:
        return None
    step, key = (PANEL + GROUP_STEP) * ROW + AXIS, len(result["candidates"]) * KEY
    figure = new_figure(key + step * len(groups))
    for place, (words, cells) in enumerate(groups):
        axes = add_rows(figure, top=key + place * step + GROUP_STEP * ROW, rows=PANEL, left=AXIS)
        axes.set_title(words, loc="left", fontsize=FONT, fontweight="bold", x=-AXIS / (WIDTH - AXIS - RIGHT))
        _curves(axes, result, cells)
    look = {(line.get_color(), line.get_linestyle()): line for axes in figure.axes for line in axes.get_lines()}
    lines = list(look.values())  # one for each candidate; two long names may be cut to the same
    figure.legend(handles=lines, loc="upper left", frameon=False, fontsize=FONT - 1, borderaxespad=0, borderpad=0)
    caption = (
        "Share of the calls that took at most so long, all blocks together; steeper is steadier. The axis ends at the "
        "slowest p99, or p95, or call."
    )
    names = ", ".join(shorten(name) for name in result["candidates"])
    said = f"Distribution of the latency of {names} at {', '.join(words for words, _ in groups)}."
    svg = to_svg(figure, "distribution", said)
    return Plot("distribution", "Distribution", caption + _left_out(result), svg)


def _curves(axes: Axes, result: Result, cells: Sequence[Cell]) -> None:
    """Draw the empirical distribution of each cell."""
    names, end = list(result["candidates"]), 0.0
    for cell in cells:
        samples = sorted(each / 1e6 for calls in cell["block_samples_ns"] for each in calls)
        count = len(samples)
        shown = sorted({round(place * (count - 1) / (CURVE_POINTS - 1)) for place in range(CURVE_POINTS)})
        turn = names.index(cell["candidate"])
        axes.plot(
            [samples[0], *(samples[place] for place in shown)],
            [0.0, *((place + 1) / count for place in shown)],
            drawstyle="steps-post",
            color=COLOURS[_colour(result, cell["candidate"])],
            linestyle=LINES[turn // len(PALETTE) % len(LINES)],
            linewidth=1.6,
            label=shorten(cell["candidate"], NAME),
        )
        end = max(end, cell["p99_ms"] or cell["p95_ms"] or samples[-1])
    axes.set_xlim(0, end * HEADROOM)
    axes.set_ylim(0, HEADROOM)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("ms")
