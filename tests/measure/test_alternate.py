"""Graphs in turns: what all calls of a round share is taken out, and what is left is each graph's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.measure.alternate import levels, rounds_of
from deploycomp.measure.candidate import Candidate
from deploycomp.measure.cell import POOL
from deploycomp.measure.rounds import Bench, open_bench
from deploycomp.recipe import Benchmark
from tests.measure.models import onnx_model

positive = st.floats(0.1, 10)
NAMES = ["one", "other"]


@given(st.lists(positive, min_size=1, max_size=6), st.lists(positive, min_size=1, max_size=20))
def test_what_a_round_shares_is_taken_out(graphs: list[float], shared: list[float]):
    found = levels(np.outer(shared, graphs))
    np.testing.assert_allclose(found, np.array(graphs) / graphs[0], rtol=1e-9)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=20))
def test_of_two_graphs_it_is_the_median_of_their_ratios(rounds: list[tuple[float, float]]):
    expected = np.exp(np.median([np.log(other / one) for one, other in rounds]))
    np.testing.assert_allclose(levels(np.array(rounds))[1], expected, rtol=1e-9)


def test_single_calls_that_were_disturbed_change_nothing():
    draw = np.random.default_rng(0)
    rounds = np.outer(np.exp(draw.normal(size=60)), [1.0, 1.1, 0.7])
    rounds *= np.where(draw.random(rounds.shape) < 0.2, 3.0, 1.0)
    np.testing.assert_allclose(levels(rounds), [1.0, 1.1, 0.7], rtol=1e-6)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Two equal graphs, two shapes."""
    models = [onnx_model(tmp_path / name) for name in NAMES]
    settings = Benchmark(batch_size=(2,), sequence_length=(4, 8), threads=(1,), block_seconds=0.05)
    return open_bench([Candidate(model.parent.name, "onnx", model) for model in models], settings)


def test_a_child_times_all_graphs_in_turns(bench: Bench):
    answers = bench.alternate(["other", "one"], threads=1, block=0, least_rounds=9)
    assert list(answers) == ["other", "one"]
    for answer in answers.values():
        assert answer["skipped"] == []
        assert sorted((cell["batch_size"], cell["sequence_length"]) for cell in answer["cells"]) == [(2, 4), (2, 8)]
        assert all(cell["verified"] == POOL - 1 for cell in answer["cells"])
    rounds = rounds_of(list(answers.values()), 1)
    assert len(rounds) >= 9
    assert rounds.shape[1] == 2
    assert rounds.min() > 0


def test_its_answers_are_those_of_a_process_of_its_own(bench: Bench):
    together, alone = bench.alternate(NAMES, threads=1, block=0)["one"], bench.weigh("one", threads=1, block=3)
    digests = [
        {(cell["batch_size"], cell["sequence_length"]): cell["digests"][:3] for cell in answer["cells"]}
        for answer in (together, alone)
    ]
    assert digests[0] == digests[1]
    assert alone["peak_rss_bytes"] > 0


def test_a_shape_that_one_cannot_run_is_run_by_none(tmp_path: Path):
    models = {name: onnx_model(tmp_path / name) for name in ("short", "long")}
    for name, model in models.items():
        settings = {"vocab_size": 50, "max_position_embeddings": 6 if name == "short" else 64}
        model.with_name("config.json").write_text(json.dumps(settings))
    settings = Benchmark(batch_size=(1,), sequence_length=(4, 8), threads=(1,), block_seconds=0.02)
    made = open_bench([Candidate(name, "onnx", model) for name, model in models.items()], settings)
    answers = made.alternate(list(models), threads=1, block=0)
    assert [each["sequence_length"] for each in answers["short"]["skipped"]] == [8]
    assert answers["long"] == {"cells": [], "skipped": []}


def test_a_graph_that_does_not_open_is_named(bench: Bench):
    bench.subjects["other"].model.write_bytes(b"")
    with pytest.raises(InputRefused, match="other"):
        bench.alternate(NAMES, threads=1, block=0)
