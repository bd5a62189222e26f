"""Graphs in turns: what all calls of a round share is taken out, and what is left is each graph's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.measure.alternate import LEAST_ROUNDS, levels
from deploycomp.measure.candidate import Candidate
from deploycomp.measure.rounds import open_bench
from deploycomp.recipe import Benchmark
from tests.measure.models import onnx_model

positive = st.floats(0.1, 10)


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


def test_a_child_times_all_graphs_in_turns(tmp_path: Path):
    models = [onnx_model(tmp_path / name) for name in ("one", "other")]
    settings = Benchmark(batch_size=(2,), sequence_length=(8,), threads=(1,), block_seconds=0.05)
    bench = open_bench([Candidate(model.parent.name, "onnx", model) for model in models], settings)
    rounds = bench.alternate(threads=1, block=0)
    assert len(rounds) >= LEAST_ROUNDS
    assert all(len(each) == 2 and min(each) > 0 for each in rounds)


def test_a_graph_that_does_not_open_is_named(tmp_path: Path):
    model = onnx_model(tmp_path)
    settings = Benchmark(batch_size=(1,), sequence_length=(8,), threads=(1,), block_seconds=0.05)
    bench = open_bench([Candidate("good", "onnx", model), Candidate("gone", "onnx", model)], settings)
    model.write_bytes(b"")
    with pytest.raises(InputRefused, match="gone"):
        bench.alternate(threads=1, block=0)
