from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploycomp.measure.candidate import Candidate, Subject
from deploycomp.measure.figures import ratios, summary
from deploycomp.measure.result import cells
from deploycomp.measure.rounds import Bench, Plan
from deploycomp.report.benchmark_formats import (
    BENCHMARK_SCHEMA,
    FORMATS,
    document,
    load_benchmark_schema,
    to_bencher,
    to_github_action,
    to_pytest_benchmark,
)
from deploycomp.report.schema import load_schema

MS = 1_000_000
BLOCKS = {
    "int8": [[4 * MS, 5 * MS, 6 * MS], [4 * MS, 4 * MS], [5 * MS, 5 * MS, 30 * MS]],
    "a|b": [[9 * MS, 9 * MS], [10 * MS, 10 * MS], [11 * MS, 11 * MS]],
}
DEVICE = [[2 * MS] * 40, [3 * MS] * 40, [2 * MS, 4 * MS] * 20]
"""Nanoseconds on the device; p95 has its five calls above."""
PLAN = Plan([(2, 16)], [1], [0], 0.5, seed=0, child_seconds=10)
WHERE = "batch2/length16/threads1"


def facts(kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "provider": "cpu",
        "dtype": "fp32" if kind == "torch" else None,
        "compiled": False,
        "bytes": 1000,
        "load_ms": 20.0,
        "cold_start_ms": 300.5,
        "intervals": {"load_ms": [19.0, 22.0], "cold_start_ms": None},
        "peak_rss_bytes": 90,
        "peak_rss_over_baseline_bytes": 80,
        "pss_bytes": None,
        "pss_over_baseline_bytes": None,
    }


def made(blocks: int = 3) -> dict[str, Any]:
    at = {"threads": 1, "batch_size": 2, "sequence_length": 16}
    found = [
        {
            "candidate": name,
            **at,
            **summary(each[:blocks], batch_size=2),
            "digest": "0" * 64,
            "block_samples_ns": each[:blocks],
        }
        for name, each in BLOCKS.items()
    ]
    result: dict[str, Any] = {
        "settings": {"blocks": blocks},
        "context": {
            "cpu": {"name": "Some CPU", "arch": "x86_64", "cores": 2},
            "python": "3.11.9",
            "system": "Linux 6.1",
            "warnings": ["int8, 2×16, threads 1: something caches"],
        },
        "candidates": {"int8": facts("onnx"), "a|b": facts("torch")},
        "cells": found,
    }
    result["ratios"] = {"a|b": ratios(result, "int8", "a|b")}
    return document(result, version="0.1.0", created="2026-11-20T10:00:00+00:00")


def profiled() -> dict[str, Any]:
    entry = {"name": "MatMul", "share": 0.75, "ms": 3.0}
    profile = {
        "candidate": "int8",
        "threads": 1,
        "batch_size": 2,
        "sequence_length": 16,
        "calls": 10,
        "operators": [entry, {"name": "Gelu", "share": 0.25, "ms": 1.0}],
        "nodes": [{**entry, "name": "/layer.0/MatMul", "operator": "MatMul"}],
        "providers": {"CPUExecutionProvider": 9},
        "provider_shares": {"CPUExecutionProvider": 1.0},
        "copies": {},
        "products": {"CPUExecutionProvider": 3},
    }
    return {**made(), "profile": [profile]}


def on_device(blocks: int = 3, note: str | None = None) -> dict[str, Any]:
    """One candidate on a GPU, made into a document the way a benchmark does it."""
    candidate = Candidate("int8", "onnx", Path("int8.onnx"), provider="cuda")
    bench = Bench({"int8": Subject(candidate, Path("int8.onnx"), bytes=1000)}, PLAN, {})
    times = [{"device_ns": None, "device_note": note} if note else {"device_ns": each} for each in DEVICE[:blocks]]
    shape = {"batch_size": 2, "sequence_length": 16}
    walls = [{**shape, "samples_ns": each, "digests": ["0" * 64]} for each in BLOCKS["int8"]]
    answers = [{"cells": [{"device_note": None, **wall, **each}]} for wall, each in zip(walls, times, strict=False)]
    result = made(blocks)
    result["cells"] = cells(bench, {("int8", 1): answers}, samples=True)
    result["candidates"] = {"int8": {**facts("onnx"), "provider": "cuda"}}
    result["context"]["children"] = {"int8": {"gpu_memory_bytes": 2_000_000}}
    result["ratios"] = {}
    return result


# ------------------------------------------------------------ the published schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(load_benchmark_schema())
    return jsonschema.Draft202012Validator(load_benchmark_schema())


DOCUMENTS = {
    "three blocks": made(),
    "two": made(blocks=2),
    "profiled": profiled(),
    "gpu": on_device(),
    "gpu, two": on_device(blocks=2),
    "gpu without events": on_device(note="no CUDA"),
}


@pytest.mark.parametrize("value", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_are_valid(value: dict[str, Any], validator: jsonschema.Draft202012Validator):
    assert BENCHMARK_SCHEMA.is_file()
    validator.validate(json.loads(json.dumps(value, allow_nan=False)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("surprise", 1),
        ("created", "yesterday"),
        ("cells/0/block_samples_ns/0/0", -1),
        ("cells/0/block_samples_ns/0", []),
        ("cells/0/digest", "abc"),
        ("cells/0/p75_ms", 1.0),
        ("cells/0/intervals/p50_ms", [1.0]),
        ("cells/0/intervals/p42_ms", [1.0, 2.0]),
        ("candidates/int8/provider", "tpu"),
        ("ratios/a|b/0/verdict", "maybe"),
        ("profile/0/operators/0/share", 1.5),
    ],
)
def test_wrong_documents_are_refused(path: str, value: Any, validator: jsonschema.Draft202012Validator):
    wrong = copy.deepcopy(profiled())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place: Any = wrong
    for part in parents:
        place = place[part]
    place[last] = value
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [("device_p50_ms", -1.0), ("device_p95_ms", "fast"), ("device_note", 7), ("block_device_ns", [[]])],
)
def test_wrong_times_on_a_device_are_refused(name: str, value: Any, validator: jsonschema.Draft202012Validator):
    wrong = on_device()
    wrong["cells"][0][name] = value
    assert not validator.is_valid(wrong)


def test_a_time_on_a_device_comes_with_its_note(validator: jsonschema.Draft202012Validator):
    wrong = on_device()
    del wrong["cells"][0]["device_note"]
    assert not validator.is_valid(wrong)


def test_a_cell_is_the_same_in_both_schemas_but_for_names_samples_and_the_device():
    """A report's artifact is measured on the CPU."""
    mine = copy.deepcopy(load_benchmark_schema()["properties"]["cells"]["items"]["properties"])
    report = copy.deepcopy(load_schema()["$defs"]["benchmark"]["properties"]["cells"]["items"]["properties"])
    both: list[dict[str, Any]] = []
    for each in (mine, report):
        names = each["intervals"]["anyOf"][1]["propertyNames"]
        names["enum"] = [name for name in names["enum"] if "device" not in name]
        other = ("candidate", "block_samples_ns")
        both.append({key: value for key, value in each.items() if key not in other and "device" not in key})
    assert both[0] == both[1]


def test_the_time_on_the_device_has_the_intervals_of_its_blocks():
    (cell,) = on_device()["cells"]
    assert (cell["device_p50_ms"], cell["device_p95_ms"], cell["device_note"]) == (2.5, 4.0, None)
    assert cell["intervals"]["device_p50_ms"] == [2.0, 3.0]
    assert cell["block_device_ns"] == DEVICE
    (cell,) = on_device(note="no CUDA")["cells"]
    assert (cell["device_p50_ms"], cell["device_p95_ms"], cell["device_note"]) == (None, None, "no CUDA")
    assert "block_device_ns" not in cell


# ------------------------------------------------------------ other tools


def test_pytest_benchmark_has_seconds_and_every_field_of_its_files():
    run = to_pytest_benchmark(made())
    assert set(run) == {"machine_info", "commit_info", "benchmarks", "datetime", "version"}
    entry = run["benchmarks"][0]
    assert set(entry) == {"group", "name", "fullname", "params", "param", "extra_info", "options", "stats"}
    assert (entry["name"], entry["group"]) == (f"int8/{WHERE}", WHERE)
    assert set(entry["options"]) == {"disable_gc", "timer", "min_rounds", "max_time", "min_time", "warmup"}
    stats = entry["stats"]
    seconds = [0.004, 0.005, 0.006, 0.004, 0.004, 0.005, 0.005, 0.03]
    assert stats["data"] == seconds
    assert (stats["min"], stats["max"], stats["rounds"], stats["iterations"]) == (0.004, 0.03, 8, 1)
    for name, function in (("mean", statistics.fmean), ("median", statistics.median), ("stddev", statistics.stdev)):
        assert stats[name] == pytest.approx(function(seconds))
    assert stats["q1"] <= stats["median"] <= stats["q3"]
    assert stats["iqr"] == pytest.approx(stats["q3"] - stats["q1"])
    assert stats["outliers"] == "1;1"  # the call of 30 ms
    assert stats["hd15iqr"] == 0.006
    assert stats["ops"] == pytest.approx(1 / stats["mean"])
    assert stats["total"] == pytest.approx(sum(seconds))


def test_pytest_benchmark_takes_a_single_call():
    one = made()
    one["cells"][0]["block_samples_ns"] = [[7 * MS]]
    stats = to_pytest_benchmark(one)["benchmarks"][0]["stats"]
    assert stats["stddev"] == stats["iqr"] == 0
    assert stats["min"] == stats["median"] == stats["max"] == 0.007


def test_github_action_takes_smaller_as_better():
    entries = to_github_action(made())
    assert all(set(each) <= {"name", "unit", "value", "range", "extra"} for each in entries)
    assert all(isinstance(each["name"], str) and isinstance(each["unit"], str) for each in entries)
    assert entries[0] == {
        "name": f"int8/{WHERE} p50",
        "unit": "ms",
        "value": 5.0,
        "range": "± 1",
        "extra": "8 calls in 3 processes\n254.0 rows/s",
    }
    assert {"name": "int8 peak memory", "unit": "bytes", "value": 90} in entries
    assert {"name": "int8 size", "unit": "bytes", "value": 1000} in entries
    assert "range" not in to_github_action(made(blocks=2))[0]


def test_bencher_has_nanoseconds_rows_a_second_and_bytes():
    found = to_bencher(made())
    assert set(found) == {f"int8/{WHERE}", f"a|b/{WHERE}", "int8", "a|b"}
    assert found[f"int8/{WHERE}"]["latency"] == {"value": 5e6, "lower_value": 4e6, "upper_value": 5e6}
    throughput = found[f"int8/{WHERE}"]["throughput"]
    assert throughput["lower_value"] <= throughput["value"] <= throughput["upper_value"]
    assert found["int8"] == {
        "load-time": {"value": 20e6, "lower_value": 19e6, "upper_value": 22e6},
        "peak-memory": {"value": 90},
        "file-size": {"value": 1000},
    }
    assert set(to_bencher(made(blocks=2))[f"int8/{WHERE}"]["latency"]) == {"value"}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "markdown"])
def test_formats_are_json(name: str):
    made_so = FORMATS[name](made())
    assert json.loads(json.dumps(made_so, allow_nan=False)) == made_so
