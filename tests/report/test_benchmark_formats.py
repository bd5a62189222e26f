from __future__ import annotations

import copy
import json
import statistics
from typing import Any

import jsonschema
import pytest

from deploycomp.measure.figures import ratios, summary
from deploycomp.report.benchmark_formats import (
    BENCHMARK_SCHEMA,
    FORMATS,
    comparison_lines,
    document,
    load_benchmark_schema,
    profile_lines,
    to_bencher,
    to_github_action,
    to_markdown_table,
    to_pytest_benchmark,
    warning_lines,
)
from deploycomp.report.schema import load_schema

MS = 1_000_000
BLOCKS = {
    "int8": [[4 * MS, 5 * MS, 6 * MS], [4 * MS, 4 * MS], [5 * MS, 5 * MS, 30 * MS]],
    "a|b": [[9 * MS, 9 * MS], [10 * MS, 10 * MS], [11 * MS, 11 * MS]],
}
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
    cells = [
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
        "cells": cells,
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
        "copies": {},
        "products": {"CPUExecutionProvider": 3},
    }
    return {**made(), "profile": [profile]}


# ------------------------------------------------------------ the published schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(load_benchmark_schema())
    return jsonschema.Draft202012Validator(load_benchmark_schema())


@pytest.mark.parametrize("value", [made(), made(blocks=2), profiled()], ids=["three blocks", "two", "profiled"])
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


def test_a_cell_is_the_same_in_both_schemas_but_for_names_and_samples():
    mine = load_benchmark_schema()["properties"]["cells"]["items"]["properties"]
    report = load_schema()["$defs"]["benchmark"]["properties"]["cells"]["items"]["properties"]
    assert {**mine, "candidate": 0, "block_samples_ns": 0} == {**report, "candidate": 0, "block_samples_ns": 0}


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


# ------------------------------------------------------------ people


def test_markdown_is_one_table_that_names_cannot_break():
    head, rule, first, second, empty, ratio, warning = to_markdown_table(made()).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|") == 10
    assert first.startswith("| int8 | 1 | 2×16 | 5.00 (4.00…5.00) | – | – | – |")
    assert empty == ""
    assert "0.45× of the time" in ratio
    assert warning.startswith("- warning: int8")


def test_the_first_candidate_is_compared_with_every_other():
    (line,) = comparison_lines(made())
    assert line.startswith("int8 / a|b at 2×16, threads 1: 0.45× of the time (95 % ")
    assert line.endswith(": faster")
    assert comparison_lines({**made(), "ratios": {}}) == []


def test_warnings_and_profiles_are_spoken():
    assert warning_lines(made()) == ["warning: int8, 2×16, threads 1: something caches"]
    assert profile_lines(profiled()) == ["int8 at 2×16, threads 1: MatMul 75 %, Gelu 25 %"]
    assert profile_lines(made()) == []
