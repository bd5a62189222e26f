"""One Markdown table for a model: a row for each cell, then stream, memory, size, metric and agreement."""

from __future__ import annotations

from typing import Any

from deploycomp.measure.figures import ratios
from deploycomp.report import format as fmt

__all__ = ["compared", "losses", "table"]

Result = dict[str, Any]
INT8, ALL = "fastest INT8 peer", "fastest peer"
"""Whom we are compared with, in every cell anew."""


def compared(result: Result) -> list[Result]:
    """Our latency over that of the peer that is fastest in the cell, for cells and stream, for each of our candidates.

    Returns:
        {"candidate", "against": `INT8` or `ALL`, "peer", "cell", "ratio", "low", "high", "verdict"}; the fastest
        peer is the one with the largest ratio.
    """
    about = result["candidates"]
    found: list[Result] = []
    for own in (name for name, each in about.items() if each["ours"]):
        peers = [name for name, each in about.items() if not each["ours"]]
        for part in (result["cells"], result["stream"]["cells"]):
            for against, names in ((INT8, [name for name in peers if about[name]["int8"]]), (ALL, peers)):
                entries = [{"peer": peer, **entry} for peer in names for entry in ratios({"cells": part}, own, peer)]
                found += [{"candidate": own, "against": against, **entry} for entry in _largest(entries)]
    return found


def _largest(entries: list[Result]) -> list[Result]:
    """Of each cell the entry with the largest ratio."""
    best: dict[tuple[Any, ...], Result] = {}
    for entry in entries:
        key = _key(entry["cell"])
        if key not in best or entry["ratio"] > best[key]["ratio"]:
            best[key] = entry
    return list(best.values())


def losses(model: str, ours: str, ratio: list[Result]) -> list[str]:
    """Cells where an INT8 peer is faster than *ours*."""
    return [
        f"{model}, {_label(entry['cell'])}: {entry['ratio']:.3f} of {entry['peer']} ({entry['verdict']})"
        for entry in ratio
        if entry["candidate"] == ours and entry["against"] == INT8 and entry["ratio"] > 1
    ]


def table(result: Result) -> str:
    """Draw one model."""
    names = list(result["candidates"])
    own = [name for name in names if result["candidates"][name]["ours"]]
    versus = [(name, against) for name in own for against in (INT8, ALL)]
    rows = [["", *names, *(f"{name} / {against}" for name, against in versus)]]
    rows.append(["---"] * len(rows[0]))
    rows += _timed(result, result["cells"], names, versus)
    rows += _timed(result, result["stream"]["cells"], names, versus)
    rows.append(["peak memory, serving", *(_megabytes(result, name, "peak_rss_bytes") for name in names)])
    rows.append(["size on disk", *(_megabytes(result, name, "bytes") for name in names)])
    if (result["evaluation"] or {}).get("scores"):
        rows += _accuracy(result["evaluation"], names)
    return "\n".join(f"| {' | '.join([*row, *[''] * (len(rows[0]) - len(row))])} |" for row in rows)


def _timed(result: Result, part: list[Result], names: list[str], versus: list[tuple[str, str]]) -> list[list[str]]:
    """A row for each cell: what it takes, then the ratios."""
    by_key: dict[tuple[Any, ...], dict[str, Result]] = {}
    for cell in sorted(part, key=lambda cell: cell["threads"]):
        by_key.setdefault(_key(cell), {})[cell["candidate"]] = cell
    ratio = {(each["candidate"], each["against"], _key(each["cell"])): each for each in result["ratios"]}
    return [
        [
            _label(next(iter(cells.values()))),
            *(_speed(cells.get(name)) for name in names),
            *(_ratio(ratio.get((*pair, key))) for pair in versus),
        ]
        for key, cells in by_key.items()
    ]


def _speed(cell: Result | None) -> str:
    if cell is None:
        return fmt.DASH
    if "policy" in cell:
        return f"{cell['batch_size'] * 1000 / cell['p50_ms']:,.0f} rows/s ({cell['policy']})"
    return fmt.milliseconds(cell["p50_ms"])


def _ratio(entry: Result | None) -> str:
    if entry is None:
        return fmt.DASH
    low, high = entry["low"], entry["high"]
    interval = f" ({low:.2f}…{high:.2f})" if low is not None else ""
    return f"**{entry['ratio']:.2f}**{interval} {entry['peer']}"


def _key(cell: Result) -> tuple[Any, ...]:
    return cell["threads"], cell["batch_size"], cell["sequence_length"]


def _label(cell: Result) -> str:
    length = cell["sequence_length"]
    shape = f"{cell['batch_size']}×{length}" if length else f"stream of {cell['batch_size']} rows"
    return f"{fmt.plural(cell['threads'], 'thread')}, {shape}"


def _megabytes(result: Result, name: str, what: str) -> str:
    return fmt.megabytes(result["candidates"][name][what])


def _accuracy(evaluation: Result, names: list[str]) -> list[list[str]]:
    metric = evaluation["metric"]
    scores, agreed = evaluation["scores"], evaluation["agreement"]
    head = f"{fmt.metric_name(metric)} (PyTorch {fmt.metric_value(metric, evaluation['source']['value'])})"
    return [
        [head, *(_interval(metric, scores.get(name)) for name in names)],
        ["agreement with PyTorch", *(_interval(metric, agreed.get(name)) for name in names)],
    ]


def _interval(metric: str, value: Result | None) -> str:
    if value is None:
        return fmt.DASH
    return f"{fmt.metric_value(metric, value['value'])} ({fmt.metric_range(metric, value['low'], value['high'])})"
