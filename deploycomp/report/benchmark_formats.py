"""A benchmark in the words of other tools; nothing is measured here.

    document ─┬─ json                      our own, with raw samples: benchmark.schema.json
              ├─ pytest-benchmark          seconds;      pytest-benchmark compare
              ├─ github-action-benchmark   milliseconds; tool: customSmallerIsBetter
              ├─ bencher                   nanoseconds;  bencher run --adapter json (Bencher Metric Format)
              └─ markdown                  one table, see benchmark_words.py

Sources: pytest-benchmark's docs and `BenchmarkSession.save`; the README of benchmark-action/github-action-benchmark;
Bencher's reference of its JSON adapter.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from deploycomp.report.benchmark_words import Cell, Result, to_markdown_table
from deploycomp.report.text import shorten

__all__ = [
    "BENCHMARK_SCHEMA",
    "FORMATS",
    "document",
    "load_benchmark_schema",
    "name_of",
    "to_bencher",
    "to_github_action",
    "to_pytest_benchmark",
]

BENCHMARK_SCHEMA = Path(__file__).with_name("benchmark.schema.json")
"""JSON Schema 2020-12 of what `deploycomp benchmark --output` writes."""

PYTEST_BENCHMARK = "5.1.0"
"""The version of pytest-benchmark whose file is written."""
NS_PER_SECOND, NS_PER_MS = 1_000_000_000, 1_000_000
WHISKER = 1.5
"""Tukey's fences, in interquartile ranges."""


@cache
def load_benchmark_schema() -> dict[str, Any]:
    """Return the schema of a benchmark document."""
    return json.loads(BENCHMARK_SCHEMA.read_text(encoding="utf-8"))


def document(result: Result, *, version: str, created: str) -> dict[str, Any]:
    """Wrap a benchmark as a file of its own.

    Args:
        result: What `deploycomp.measure.benchmark.benchmark` returned, with samples.
        version: Of deploycomp.
        created: When, in ISO 8601.
    """
    return {"schema_version": 1, "deploycomp": version, "created": created, **result}


def name_of(cell: Cell) -> str:
    """Name a cell for tools that follow it over time: `my-model/batch1/length128/threads2`."""
    shape = f"batch{cell['batch_size']}/length{cell['sequence_length']}/threads{cell['threads']}"
    return f"{shorten(cell['candidate'])}/{shape}"


# ------------------------------------------------------------ other tools


def to_pytest_benchmark(result: Result) -> dict[str, Any]:
    """Write a document as pytest-benchmark stores its runs; a group is one shape, so that candidates are compared."""
    context = result["context"]
    cpu = context.get("cpu") or {}
    return {
        "machine_info": {
            "node": "",
            "processor": cpu.get("arch", ""),
            "machine": cpu.get("arch", ""),
            "python_implementation": "CPython",
            "python_version": context.get("python", ""),
            "system": str(context.get("system", "")).partition(" ")[0],
            "release": str(context.get("system", "")).partition(" ")[2],
            "cpu": {"brand_raw": cpu.get("name", ""), "arch": cpu.get("arch", ""), "count": cpu.get("cores")},
        },
        "commit_info": {"id": "unversioned", "time": None, "author_time": None, "dirty": False, "branch": "(unknown)"},
        "benchmarks": [_pytest_entry(cell) for cell in result["cells"]],
        "datetime": result["created"],
        "version": PYTEST_BENCHMARK,
    }


def _pytest_entry(cell: Cell) -> dict[str, Any]:
    seconds = [each / NS_PER_SECOND for block in cell["block_samples_ns"] for each in block]
    params = {key: cell[key] for key in ("batch_size", "sequence_length", "threads")}
    name = name_of(cell)
    return {
        "group": name.partition("/")[2],
        "name": name,
        "fullname": f"deploycomp benchmark::{name}",
        "params": params,
        "param": None,
        "extra_info": {"throughput_per_s": cell["throughput_per_s"], "intervals": cell["intervals"]},
        "options": {
            "disable_gc": True,
            "timer": "perf_counter_ns",
            "min_rounds": 3,
            "max_time": None,
            "min_time": None,
            "warmup": True,
        },
        "stats": _pytest_stats(seconds),
    }


def _pytest_stats(seconds: Sequence[float]) -> dict[str, Any]:
    """The statistics that pytest-benchmark's own `Stats` would give, in seconds."""
    ordered, mean = sorted(seconds), statistics.fmean(seconds)
    deviation = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else [mean] * 3
    low, high = q1 - WHISKER * (q3 - q1), q3 + WHISKER * (q3 - q1)
    far = sum(not low <= each <= high for each in ordered)
    odd = sum(abs(each - mean) > deviation for each in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": len(ordered),
        "median": median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": far,
        "stddev_outliers": odd,
        "outliers": f"{odd};{far}",
        "ld15iqr": next(each for each in ordered if each >= low),
        "hd15iqr": next(each for each in reversed(ordered) if each <= high),
        "ops": 1 / mean,
        "total": math.fsum(ordered),
        "data": list(seconds),
        "iterations": 1,
    }


def to_github_action(result: Result) -> list[dict[str, Any]]:
    """Write a document as a list of `customSmallerIsBetter`: median latency, peak memory and size."""
    found: list[dict[str, Any]] = []
    for cell in result["cells"]:
        ends = (cell["intervals"] or {}).get("p50_ms")
        entry = {"name": f"{name_of(cell)} p50", "unit": "ms", "value": cell["p50_ms"]}
        if ends:
            entry["range"] = f"± {max(cell['p50_ms'] - ends[0], ends[1] - cell['p50_ms']):.3g}"
        samples = f"{cell['samples']} calls in {len(cell['block_p50_ms'])} processes"
        found.append({**entry, "extra": f"{samples}\n{cell['throughput_per_s']:.1f} rows/s"})
    for name, facts in result["candidates"].items():
        for key, what in (("peak_rss_bytes", "peak memory"), ("bytes", "size")):
            found.append({"name": f"{shorten(name)} {what}", "unit": "bytes", "value": facts[key]})
    return found


def to_bencher(result: Result) -> dict[str, dict[str, dict[str, float]]]:
    """Write a document in the Bencher Metric Format: latency in nanoseconds, throughput in rows a second, bytes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in result["cells"]:
        ends = cell["intervals"] or {}
        found[name_of(cell)] = {
            "latency": _metric(cell["p50_ms"], ends.get("p50_ms"), scale=NS_PER_MS),
            "throughput": _metric(cell["throughput_per_s"], ends.get("throughput_per_s")),
        }
    for name, facts in result["candidates"].items():
        load = _metric(facts["load_ms"], facts["intervals"].get("load_ms"), scale=NS_PER_MS)
        found[shorten(name)] = {
            "load-time": load,
            "peak-memory": _metric(facts["peak_rss_bytes"], None),
            "file-size": _metric(facts["bytes"], None),
        }
    return found


def _metric(value: float, ends: Sequence[float] | None, *, scale: float = 1) -> dict[str, float]:
    metric = {"value": value * scale}
    return {**metric, "lower_value": ends[0] * scale, "upper_value": ends[1] * scale} if ends else metric


FORMATS: dict[str, Callable[[Result], Any]] = {
    "pytest-benchmark": to_pytest_benchmark,
    "github-action-benchmark": to_github_action,
    "bencher": to_bencher,
    "markdown": to_markdown_table,
}
"""Name of a format → document to text, or to what is written as JSON."""
