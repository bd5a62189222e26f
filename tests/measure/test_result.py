from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploycomp.errors import VerificationFailed
from deploycomp.measure.candidate import Candidate, Subject
from deploycomp.measure.result import (
    Answers,
    caching_warnings,
    candidate_facts,
    cells,
    check_caching,
    check_digests,
    children,
    repeated,
)
from deploycomp.measure.rounds import Bench, Plan

MS = 1_000_000
SHAPE = {"batch_size": 2, "sequence_length": 8}
BASELINE = {"peak_rss_bytes": 10, "pss_bytes": 5}


def bench(*, threads: int = 1, provider: str = "cpu") -> Bench:
    candidate = Candidate("a", "onnx", Path("a.onnx"), provider=provider)
    plan = Plan([(2, 8)], [threads], [0, 1], 0.5, seed=0, child_seconds=10)
    return Bench({"a": Subject(candidate, Path("a.onnx"), bytes=7)}, plan, BASELINE)


def answer(
    *,
    ms: float = 10,
    repeated_ms: float | None = 10,
    fresh_ms: float = 10,
    digests: list[str] | None = None,
    **more: Any,
) -> Any:
    cell = {
        **SHAPE,
        "samples_ns": [int(ms * MS)] * 4,
        "repeated_ns": None if repeated_ms is None else [int(repeated_ms * MS)] * 3,
        "fresh_ns": None if repeated_ms is None else [int(fresh_ms * MS)] * 3,
        "settled": True,
        "verified": 4,
        "digests": ["d0", "d1"] if digests is None else digests,
    }
    facts = {"load_ms": 3.0, "cold_start_ms": 200.0, "import_ms": 90.0, "peak_rss_bytes": 110, "pss_bytes": 55}
    return {**facts, "vocabulary": 64, "gpu": None, "cells": [cell], "skipped": [], **more}


def answers(*each: Any, threads: int = 1) -> Answers:
    return {("a", threads): list(each)}


def test_candidates_have_medians_over_their_children_and_the_memory_over_the_baseline():
    three = answers(answer(), answer(load_ms=5.0, cold_start_ms=300.0), answer(load_ms=4.0, peak_rss_bytes=130))
    facts = candidate_facts(bench(), three)["a"]
    assert (facts["load_ms"], facts["cold_start_ms"]) == (4.0, 200.0)
    assert (facts["peak_rss_bytes"], facts["peak_rss_over_baseline_bytes"]) == (110, 100)
    assert (facts["pss_bytes"], facts["pss_over_baseline_bytes"]) == (55, 50)
    assert facts["intervals"] == {"load_ms": (3.0, 5.0), "cold_start_ms": (200.0, 300.0)}


def test_what_a_system_does_not_tell_is_none():
    facts = candidate_facts(bench(), answers(answer(pss_bytes=None, cold_start_ms=None), answer(pss_bytes=None)))["a"]
    assert facts["pss_bytes"] is facts["pss_over_baseline_bytes"] is None
    assert facts["cold_start_ms"] == 200.0


def test_raw_samples_stay_only_where_they_are_wanted():
    two = answers(answer(ms=10), answer(ms=12))
    (cell,) = cells(bench(), two, samples=True)
    assert cell["block_samples_ns"] == [[10 * MS] * 4, [12 * MS] * 4]
    assert cell["digest"] == "d0"
    assert cell["throughput_per_s"] == pytest.approx(2 / 0.011)
    assert "block_samples_ns" not in cells(bench(), two)[0]


def test_equal_digests_are_quiet_and_only_common_batches_count():
    assert check_digests(bench(), answers(answer(), answer(digests=["d0"]), answer(digests=["d0", "d1", "d2"]))) == []


def test_other_outputs_of_another_process_are_refused_with_one_thread_on_a_cpu():
    with pytest.raises(VerificationFailed, match="a, 2×8, threads 1: processes answered differently") as caught:
        check_digests(bench(), answers(answer(), answer(), answer(digests=["d0", "x"])))
    assert "blocks 0 and 2, batch 1" in caught.value.what


@pytest.mark.parametrize("where", [{"threads": 2}, {"provider": "cuda"}])
def test_elsewhere_they_are_a_warning(where: dict[str, Any]):
    mixed = answers(answer(), answer(digests=["x", "d1"]), threads=where.get("threads", 1))
    (warning,) = check_digests(bench(**where), mixed)
    assert "processes answered differently" in warning


@pytest.mark.parametrize(
    ("same", "cached"),
    [
        ((10.0, 10.0, 10.0), False),
        ((9.2, 9.2, 9.2), False),  # clearly faster, but by less than 10 %
        ((8.0, 8.1, 7.9), True),
        ((4.0, 14.0, 8.0), False),  # noise
    ],
)
def test_a_cache_is_more_than_ten_percent_and_more_than_noise(same: tuple[float, ...], cached: bool):
    (entry,) = repeated(bench(), answers(*(answer(repeated_ms=each) for each in same)))
    assert entry["cached"] == cached
    warnings = caching_warnings([entry])
    assert len(warnings) == cached
    assert all("a, 2×8, threads 1: a repeated input takes 0.80 of the time" in each for each in warnings)


@pytest.mark.parametrize(
    ("timed", "refused"),
    [((10.0, 10.0, 10.0), False), ((6.0, 6.0, 6.0), False), ((4.0, 4.1, 3.9), True), ((1.0, 14.0, 4.0), False)],
)
def test_timed_calls_far_below_fresh_ones_are_refused(timed: tuple[float, ...], refused: bool):
    three = answers(*(answer(ms=each) for each in timed))
    if not refused:
        check_caching(bench(), three)
        return
    with pytest.raises(VerificationFailed, match="a, 2×8, threads 1: timed calls were answered from a cache") as caught:
        check_caching(bench(), three)
    assert caught.value.why == "they took 0.4 of the time of inputs that no call had seen"


def test_without_fresh_calls_nothing_is_refused():
    check_caching(bench(), answers(*(answer(ms=1, repeated_ms=None) for _ in range(3))))


def test_cells_without_repeated_calls_are_left_out():
    assert repeated(bench(), answers(answer(repeated_ms=None), answer(repeated_ms=None))) == []


def test_the_children_s_gpu_stands_beside_its_placement():
    gpu = bench(provider="cuda")
    gpu.placement["a"] = [{"providers": {"CUDAExecutionProvider": 3}, "copies": {"host_to_device": 1}}]
    told = children(gpu, answers(answer(gpu={"memory_bytes": None}), answer(gpu={"memory_bytes": 9})))["children"]["a"]
    assert told["gpu_memory_bytes"] == 9
    assert told["placement"][0]["copies"] == {"host_to_device": 1}
