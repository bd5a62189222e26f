"""Checks and their sentences, fingerprints, and stored baselines."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from deploycomp.errors import DeploycompError, InputRefused, UsageError
from deploycomp.gate import checks
from deploycomp.gate.fingerprint import differences, fingerprint
from deploycomp.gate.rounds import Quantity, Rules
from deploycomp.gate.stored import read_stored, write_samples
from tests.gate.test_rounds import LATENCY, MEMORY, Machine

CONTEXT: dict[str, Any] = {
    "cpu": {"vendor": "GenuineIntel", "name": "Xeon", "arch": "x86_64", "cores": 2, "flags": ["avx2", "fma"]},
    "affinity": [0, 1],
    "cpu_quota": None,
    "governor": "performance",
    "memory_limit_bytes": None,
    "python": "3.11.9",
    "versions": {"onnxruntime": "1.25.0", "numpy": "2.4.0"},
    "load": [0.1, 0.2, 0.3],
}


# ------------------------------------------------------------ checks


def test_size_is_exact():
    held, broken = checks.size(1000, 1010, 0.01), checks.size(1000, 1011, 0.01)
    assert (held["verdict"], broken["verdict"]) == ("pass", "fail")
    assert broken["ratio"] == broken["low"] == broken["high"] == 1.011
    assert broken["reason"] == "+1.1 % on disk, allowed is +1 %"


def test_measured_checks_say_what_was_found():
    found = checks.measured(Machine(1.1).play())
    assert [each["name"] for each in found] == ["latency, 1 thread, 1×128", "peak memory, 1 thread"]
    latency, memory = found
    assert latency["verdict"] == "fail"
    assert latency["limit"] == 1.05
    assert latency["cell"] == {"threads": 1, "batch_size": 1, "sequence_length": 128}
    assert latency["candidate"] / latency["baseline"] == pytest.approx(1.1, rel=0.02)
    assert "allowed is +5 %" in latency["reason"]
    assert (memory["verdict"], memory["unit"], memory["cell"]) == ("pass", "bytes", None)
    assert checks.verdict_of(found) == "fail"
    assert checks.why(found) == f"latency, 1 thread, 1×128: {latency['reason']}"


def test_an_open_check_says_what_would_settle_it():
    played = Machine(1.058, spread=0.015).play(Rules(budget=44))
    found = checks.measured(played)
    assert found[0]["verdict"] == "inconclusive"
    assert "more rounds would settle it" in found[0]["reason"]
    told = checks.advice(played, {}, busy=0.25)
    assert told is not None
    assert float(told.split()[1].rstrip(",")) > 44
    busy = checks.advice(played, {"foreign_share": 0.4}, busy=0.25)
    assert busy == "run it again on a quieter machine: other processes took 40 % of the processor time"


def test_a_change_as_large_as_the_limit_cannot_be_settled():
    played = Machine(1.05, spread=0.05).play()
    played.values["candidate"][LATENCY] = [each * 1.05 for each in played.values["baseline"][LATENCY]]
    played.values["candidate"][LATENCY][::2] = [1.1 * each for each in played.values["candidate"][LATENCY][::2]]
    played.values["candidate"][LATENCY][1::2] = [each / 1.1 for each in played.values["candidate"][LATENCY][1::2]]
    played.look(played.looks[-1])
    assert "no number of rounds would settle it" in checks.measured(played)[0]["reason"]
    assert "--max-slowdown" in (checks.advice(played, {}, busy=0.25) or "")


def test_who_disturbed():
    assert checks.disturbance({}, busy=0.25) is None
    assert checks.disturbance({"foreign_share": 0.2, "steal_share": 0.1}, busy=0.25) is None
    assert "hypervisor took 30 %" in (checks.disturbance({"steal_share": 0.3}, busy=0.25) or "")


def test_skipped_checks_do_not_decide():
    held = [checks.size(1, 1, 0.0), checks.skipped("answers", "none")]
    assert checks.verdict_of(held) == "pass"
    assert checks.why(held) == "all 1 checks hold"


# ------------------------------------------------------------ fingerprints


def test_equal_machines_have_equal_fingerprints_whatever_their_load():
    later = {**CONTEXT, "load": [9.0, 9.0, 9.0], "memory_available_bytes": 5}
    assert differences(fingerprint(CONTEXT, [2, 1]), fingerprint(later, [1, 2])) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"governor": "powersave"}, "governor: performance then, powersave now"),
        ({"governor": None}, "governor: performance then, unknown now"),
        ({"cpu_quota": 1.5}, "cpu_quota: unknown then, 1.5 now"),
        ({"affinity": [0]}, "affinity: 0, 1 then, 0 now"),
        ({"versions": {"onnxruntime": "1.26.0", "numpy": "2.4.0"}}, "onnxruntime: 1.25.0 then, 1.26.0 now"),
        ({"cpu": {**CONTEXT["cpu"], "flags": ["avx2", "avx512f"]}}, "cpu flags: fma then only, avx512f now only"),
        ({"cpu": {**CONTEXT["cpu"], "name": "EPYC"}}, "cpu name: Xeon then, EPYC now"),
    ],
)
def test_what_differs_is_said(change: dict[str, Any], said: str):
    assert differences(fingerprint({**CONTEXT, **change}, [1]), fingerprint(CONTEXT, [1])) == [said]


def test_other_threads_are_another_setting():
    assert differences(fingerprint(CONTEXT, [2]), fingerprint(CONTEXT, [1])) == ["threads: 1 then, 2 now"]


# ------------------------------------------------------------ stored baselines


def stored_gate() -> dict[str, Any]:
    played = Machine().play()
    return {
        "checks": [checks.size(100, 101, 0.05)],
        "context": {**CONTEXT, "fingerprint": fingerprint(CONTEXT, [1])},
        "samples": write_samples(played.values, {1: [2.0] * 7}, seed=0),
    }


def test_what_is_written_is_read_back():
    told = json.loads(json.dumps(stored_gate()))
    found = read_stored(told, where="gate.json")
    assert set(found.values) == {LATENCY, MEMORY}
    assert found.values[LATENCY] == told["samples"]["numbers"][0]["candidate"]
    assert found.reference == {1: [2.0] * 7}
    assert (found.rounds, found.bytes) == (7, 101)
    assert differences(fingerprint(CONTEXT, [1]), found.fingerprint) == []


def stored_benchmark() -> dict[str, Any]:
    cell = {"candidate": "m", "threads": 1, "batch_size": 1, "sequence_length": 128, "block_p50_ms": [5.0, 5.1]}
    return {"context": CONTEXT, "candidates": {"m": {"bytes": 7}}, "cells": [cell]}


def test_a_benchmark_is_a_baseline_too():
    found = read_stored(stored_benchmark(), where="b.json")
    assert found.values == {Quantity("latency", 1, 1, 128): [5.0, 5.1]}
    assert (found.bytes, found.reference, found.rounds) == (7, {}, 2)
    assert found.fingerprint == fingerprint(CONTEXT, [1])


def spoil(path: list[Any], value: Any, data: dict[str, Any]) -> dict[str, Any]:
    spoiled = copy.deepcopy(data)
    inner: Any = spoiled
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return spoiled


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], InputRefused),
        ({}, InputRefused),
        ({"samples": 3}, InputRefused),
        (spoil(["samples", "numbers", 0, "candidate"], [1.0, -1.0], stored_gate()), InputRefused),
        (spoil(["samples", "numbers", 0, "candidate"], ["fast"], stored_gate()), InputRefused),
        (spoil(["samples", "reference_ms", "1"], [float("nan")], stored_gate()), InputRefused),
        (spoil(["context", "fingerprint"], None, stored_gate()), InputRefused),
        (spoil(["samples", "numbers"], [], stored_gate()), UsageError),
        (spoil(["candidates", "n"], {"bytes": 1}, stored_benchmark()), UsageError),
    ],
)
def test_what_is_no_baseline_is_refused(data: Any, error: type[DeploycompError]):
    with pytest.raises(error):
        read_stored(data, where="x.json")
