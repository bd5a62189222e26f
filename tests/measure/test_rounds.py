from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploycomp.errors import VerificationFailed
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.measure.candidate import examine
from deploycomp.measure.rounds import Bench, open_bench
from deploycomp.recipe import Benchmark
from tests.measure.models import onnx_model


def quick(**changes: Any) -> Benchmark:
    values = {"batch_size": (1,), "sequence_length": (4, 8), "threads": (1,), "blocks": 2, "block_seconds": 0.02}
    return Benchmark(**{**values, **changes})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    model = onnx_model(tmp_path_factory.mktemp("bench"))
    return open_bench([Candidate("a", "onnx", model), Candidate("b", "onnx", model)], quick())


def test_one_child_measures_every_cell_of_one_candidate(bench: Bench):
    answer = bench.measure("a", threads=1, block=0)
    assert sorted((cell["batch_size"], cell["sequence_length"]) for cell in answer["cells"]) == [(1, 4), (1, 8)]
    for cell in answer["cells"]:
        assert len(cell["samples_ns"]) >= 3
        assert cell["verified"] >= 3
        assert cell["repeated_ns"] is cell["fresh_ns"] is None  # nobody asked
        assert "device_ns" not in cell
    assert answer["cold_start_ms"] > answer["import_ms"] + answer["load_ms"]
    assert answer["peak_rss_bytes"] > bench.baseline["peak_rss_bytes"]
    assert "first_answer_ns" not in answer


def test_equal_files_answer_equally_whatever_the_order_of_the_cells(bench: Bench):
    def digests(name: str, block: int) -> dict[int, str]:
        cells = bench.measure(name, threads=1, block=block)["cells"]
        return {cell["sequence_length"]: cell["digests"][0] for cell in cells}

    first = digests("a", 0)
    assert first[4] != first[8]
    assert digests("b", 1) == first


def test_a_model_that_draws_its_answers_is_refused(tmp_path: Path):
    with pytest.raises(VerificationFailed, match="'dice' cannot be measured: a timed call answered otherwise"):
        benchmark([Candidate("dice", "onnx", onnx_model(tmp_path, random=True))], quick())


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_benchmark_on_one_processor_uses_one_thread(tmp_path: Path):
    script = f"""
import json, os
from pathlib import Path
os.environ.pop("OMP_NUM_THREADS", None)
os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # what taskset does
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.recipe import Benchmark
settings = Benchmark(batch_size=(1,), sequence_length=(4,), block_seconds=0.02, blocks=2)
found = benchmark([Candidate("a", "onnx", Path({str(onnx_model(tmp_path))!r}))], settings)
print(json.dumps([found["settings"]["threads"], found["context"]["affinity"], found["cells"][0]["threads"]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    last = max(os.sched_getaffinity(0))
    assert json.loads(done.stdout) == [[1], [last], 1]


def test_the_child_imports_little(tmp_path: Path):
    """What a child does not need would be paid for in every block."""
    request = {
        **examine(Candidate("a", "onnx", onnx_model(tmp_path))).request(),
        "threads": 1,
        "cpus": [min(os.sched_getaffinity(0))],
        "cells": [[1, 4]],
        "block_seconds": 0.01,
    }
    script = f"""
import json, sys
from deploycomp.measure import worker
assert len(worker.measure(json.loads({json.dumps(request)!r}))["cells"]) == 1
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {
        "deploycomp.measure.device",
        "torch",
        "transformers",
        "scipy",
        "psutil",
        "pydantic",
        "tokenizers",
        "numpy.random",
        "statistics",
    }
    assert not heavy & set(json.loads(done.stdout))
