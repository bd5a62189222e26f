from __future__ import annotations

from pathlib import Path

import pytest

from deploycomp.errors import InputRefused
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.recipe import Benchmark
from tests.tiny import MAX_LENGTH, build

QUICK = Benchmark(batch_size=(1, 2), sequence_length=(8, 2 * MAX_LENGTH), threads=(1,), blocks=2, block_seconds=0.02)


def test_a_torch_candidate_is_measured_at_the_lengths_it_takes(tmp_path: Path):
    folder = build(tmp_path / "model", "roberta", "text-classification")  # has two positions more than it takes
    found = benchmark([Candidate("source", "torch", folder, task="text-classification")], QUICK)
    facts = found["candidates"]["source"]
    assert facts["kind"] == "torch"
    assert facts["bytes"] == (folder / "model.safetensors").stat().st_size
    assert facts["peak_rss_bytes"] > found["context"]["baseline_rss_bytes"]
    assert facts["load_ms"] > 0
    assert [(cell["batch_size"], cell["sequence_length"]) for cell in found["cells"]] == [(1, 8), (2, 8)]
    reasons = {skip["reason"] for skip in found["context"]["skipped"]}
    assert reasons == {f"the model takes at most {MAX_LENGTH} tokens"}


def test_a_task_that_does_not_fit_is_refused_with_the_candidate_s_name(tmp_path: Path):
    folder = build(tmp_path / "bert", "bert", "text-classification")
    with pytest.raises(InputRefused, match=r"'source' cannot be measured: .*made for text-classification"):
        benchmark([Candidate("source", "torch", folder, task="question-answering")], QUICK)
