from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.errors import VerificationFailed
from deploycomp.measure.candidate import Candidate, Subject
from deploycomp.measure.cell import FRESH, measure_cell, unseen
from deploycomp.measure.engines import Engine
from deploycomp.measure.result import caching_warnings, check_caching, repeated
from deploycomp.measure.rounds import Bench, Plan
from deploycomp.measure.stream import Stream

SECONDS_PER_TOKEN = 2e-4
LONGEST = 12
STREAM = [
    {"input_ids": [[2, *range(10, 10 + length), 3]], "attention_mask": [[1] * (length + 2)]} for length in (10, 2, 1)
]
"""Most batches are far shorter than the longest, whose size the fresh inputs have."""

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def model(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    time.sleep(SECONDS_PER_TOKEN * feeds["input_ids"].size)
    return [feeds["input_ids"].astype(np.float32)]


def cached(room: int) -> Run:
    """A model that keeps its last *room* answers."""
    kept: dict[bytes, list[np.ndarray]] = {}

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        key = feeds["input_ids"].tobytes()
        if key not in kept:
            while len(kept) >= room:
                del kept[next(iter(kept))]
            kept[key] = model(feeds)
        return kept[key]

    return run


def measured(made: Callable[[], Run], *, stream: bool) -> tuple[Bench, dict[Any, Any]]:
    """Three blocks of one cell, each with an engine of its own, as the parent gets them."""
    candidate = Candidate("a", "onnx", Path("a.onnx"))
    plan = Plan([(1, LONGEST)], [1], [0], 0.05, seed=0, child_seconds=10)
    rows = Stream("rows", "0", 3, {"a": {1: STREAM}}, {}, {}, LONGEST) if stream else None
    bench = Bench({"a": Subject(candidate, Path("a.onnx"), bytes=7)}, plan, {}, rows)
    answers: list[dict[str, Any]] = []
    for _ in range(3):
        engine = Engine(made(), ("input_ids", "attention_mask"), vocabulary=1000, import_ms=0, load_ms=0, exact=True)
        shape = (1, LONGEST)
        cell = measure_cell(engine, shape, block_seconds=0.05, repeat=True, stream=STREAM if stream else None)
        answers.append({"cells": [{"batch_size": 1, "sequence_length": LONGEST, **cell}]})
    return bench, {("a", 1): answers}


both = pytest.mark.parametrize("stream", [False, True], ids=["shaped", "stream"])


@both
def test_an_honest_engine_is_neither_refused_nor_warned_of(stream: bool):
    bench, answers = measured(lambda: model, stream=stream)
    check_caching(bench, answers)
    (entry,) = repeated(bench, answers)
    assert not entry["cached"]


@both
def test_an_engine_that_caches_every_answer_is_refused(stream: bool):
    bench, answers = measured(lambda: cached(1000), stream=stream)
    with pytest.raises(VerificationFailed, match="a, 1×12, threads 1: timed calls were answered from a cache"):
        check_caching(bench, answers)


@both
def test_a_cache_of_one_answer_is_warned_of(stream: bool):
    bench, answers = measured(lambda: cached(1), stream=stream)
    check_caching(bench, answers)  # timed inputs take turns, so it did not help
    entries = repeated(bench, answers)
    assert [each["cached"] for each in entries] == [True]
    assert "something caches" in caching_warnings(entries)[0]


def test_a_stream_of_one_batch_is_refused_with_a_cache_of_one_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.measure.test_cell.STREAM", STREAM[:1])
    bench, answers = measured(lambda: cached(1), stream=True)
    with pytest.raises(VerificationFailed, match="answered from a cache"):
        check_caching(bench, answers)


def test_no_more_is_called_than_was_asked_for():
    seen: list[bytes] = []

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(feeds["input_ids"].tobytes())
        return [np.zeros(1)]

    engine = Engine(run, ("input_ids", "attention_mask"), vocabulary=1000, import_ms=0, load_ms=0)
    found = measure_cell(engine, (1, 8), block_seconds=0.01, repeat=False)
    assert found["repeated_ns"] is found["fresh_ns"] is None
    assert len(set(seen)) == 8
    found = measure_cell(engine, (1, 8), block_seconds=0.01, repeat=True)
    assert len(found["fresh_ns"]) == min(FRESH, len(found["repeated_ns"]))
    assert len(set(seen)) == 8 + FRESH


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), count=st.integers(1, 5))
def test_fresh_inputs_keep_lengths_and_padding_and_take_known_tokens(lengths: list[int], count: int):
    longest = max(lengths)
    mask = np.array([[1] * length + [0] * (longest - length) for length in lengths])
    ids = np.where(mask == 1, np.arange(mask.size).reshape(mask.shape) + 7, 0)
    batch = {"input_ids": ids, "attention_mask": mask}
    found = unseen([batch], count=count)
    assert len(found) == count
    for each in found:
        assert each["attention_mask"] is mask
        assert (each["input_ids"][mask == 0] == 0).all()
        assert set(each["input_ids"].ravel()) <= set(ids.ravel())
        assert each["input_ids"].dtype == ids.dtype
