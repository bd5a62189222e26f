"""Record A/A rounds of this machine for test_traces.py: quiet, and with a neighbour that keeps one processor busy.

    python -m tests.gate.record tests/gate/traces.json

Sixty rounds of two fresh processes each, of the hand-made model of tests/measure/models.py. Run it on an idle machine.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROUNDS = 60


def main() -> None:
    from deploycomp.measure.context import context

    about = context()
    found: dict[str, Any] = {
        "cpu": about["cpu"]["name"],
        "processors": len(about["affinity"]),
        "versions": about["versions"],
    }
    with tempfile.TemporaryDirectory() as folder:
        found["quiet"] = record(Path(folder) / "quiet")
        with neighbour():
            found["busy"] = record(Path(folder) / "busy")
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def record(folder: Path) -> list[list[float]]:
    """Median milliseconds of a call in the first and in the second process of each round."""
    from deploycomp.measure.candidate import Candidate
    from deploycomp.measure.rounds import open_bench
    from deploycomp.recipe import Benchmark
    from tests.measure.models import onnx_model

    settings = Benchmark(batch_size=(8,), sequence_length=(128,), threads=(1,), block_seconds=0.1)
    bench = open_bench([Candidate("same", "onnx", onnx_model(folder))], settings)
    times: list[float] = []
    for block in range(2 * ROUNDS):
        answer = bench.measure("same", threads=1, block=block)
        times.append(round(statistics.median(answer["cells"][0]["samples_ns"]) / 1e6, 6))
    return [times[::2], times[1::2]]


def spin() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that computes without a pause, on whatever processor it gets."""
    process = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


if __name__ == "__main__":
    main()
