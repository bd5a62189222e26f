"""One bench: candidates that were checked, the shapes to measure them at, and one fresh child for each request.

    bench = open_bench(candidates, settings, seed=0)      refuses what cannot be measured, before the first second
    bench.measure("int8", threads=1, block=0)             one child: opens, warms up, times, answers, is gone

`benchmark.py` walks it in random rounds; whoever needs another order (a gate that stops early) calls it directly.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deploycomp.errors import UsageError
from deploycomp.measure.candidate import PROVIDERS, Candidate, Subject, examine_all
from deploycomp.measure.children import ask
from deploycomp.measure.context import affinity
from deploycomp.measure.profile import check_placement
from deploycomp.measure.sampling import MIN_SAMPLES
from deploycomp.measure.stream import Stream, read_stream
from deploycomp.runtime.cpu import default_threads

if TYPE_CHECKING:
    from deploycomp.recipe import Benchmark

__all__ = ["Bench", "Plan", "open_bench"]

LOAD_LIMIT_SECONDS = 300.0
CELL_LIMIT_SECONDS = 120.0
"""A child is stopped after these and ten times its blocks: far above any sane run, so it only ends a hang."""
BLOCK_LIMIT = 10
ROW_LIMIT_SECONDS = 2.0
"""A child that passes whole streams gets this more for each row."""


@dataclass(frozen=True)
class Plan:
    """What every child of one bench shares."""

    cells: list[tuple[int, int]]
    """Batch and sequence."""
    threads: list[int]
    cpus: list[int]
    """The processors this process may run on; a child gets the first `threads` of them."""
    block_seconds: float
    seed: int
    child_seconds: float
    repeat: bool = False
    """Whether each cell also repeats one input, see `cell.py`."""


@dataclass(frozen=True)
class Bench:
    """Candidates that are ready to be measured, one child process at a time."""

    subjects: dict[str, Subject]
    plan: Plan
    baseline: dict[str, Any]
    """`peak_rss_bytes` and `pss_bytes` of an interpreter that opened no model."""
    stream: Stream | None = None
    """Real rows, where they are measured instead of random tokens."""
    placement: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    """Profiles of candidates that are not on the CPU: nodes on each provider, copies."""

    def measure(self, name: str, *, threads: int, block: int) -> dict[str, Any]:
        """Measure every cell of one candidate in one fresh child process.

        The child is pinned to the first *threads* processors; the order of its cells follows from seed, block, name and
        threads. It takes about 0.2 s to start, the time to load the model, and for each cell the warm-up and
        `block_seconds`.

        Args:
            name: Of a candidate.
            threads: Threads within an operator.
            block: Number of this measurement, from 0.

        Returns:
            What the child answered, see `worker.py`, and `cold_start_ms` from before its start to its first answer.
            A cell has `samples_ns`, the nanoseconds of each call, and `digests` of its outputs.

        Raises:
            InputRefused: The model cannot be opened or has inputs that no data can be made for.
            EnvironmentFailed: The child died or ran out of time.
            VerificationFailed: A timed call answered otherwise than the same batch before timing.
        """
        return _run(self.plan, self._request(name, f"{block}/{name}/{threads}"), who=name, threads=threads)

    def profile(self, name: str, *, threads: int) -> list[dict[str, Any]]:
        """Profile every cell of one ONNX candidate in a child of its own, see `profile.summarize`.

        Raises:
            InputRefused: It is a PyTorch candidate, or cannot be opened.
            EnvironmentFailed: The child died or ran out of time.
        """
        request = {**self._request(name, "profile"), "profile": True}
        return _run(self.plan, request, who=name, threads=threads)["profiles"]

    def alternate(
        self, names: Sequence[str], *, threads: int, block: int, least_rounds: int = MIN_SAMPLES
    ) -> dict[str, dict[str, Any]]:
        """Measure every cell of some candidates in one fresh child process, call by call, see `alternate.py`.

        It takes the time to load the models, which are in memory together, and `block_seconds` for each cell.

        Args:
            names: Of the candidates, in the order in which they are opened.
            threads: Threads within an operator.
            block: Number of this measurement, from 0.
            least_rounds: Calls of each, however long they take.

        Returns:
            What `measure` returns of a candidate, but for load and memory, by name; the `samples_ns` of one place are
            of one round.

        Raises:
            InputRefused: A model cannot be opened.
            EnvironmentFailed: The child died or ran out of time.
            VerificationFailed: A timed call answered otherwise than an untimed one.
        """
        request = {
            "kind": "alternate",
            "models": [self.subjects[name].request() for name in names],
            "cells": self._cells(f"{block}/{threads}"),
            "order": f"{self.plan.seed}/{block}/{threads}",
            "least_rounds": least_rounds,
        }
        answers = _run(self.plan, request, who=", ".join(names), threads=threads)["answers"]
        return dict(zip(names, answers, strict=True))

    def weigh(self, name: str, *, threads: int, block: int) -> dict[str, Any]:
        """Run every cell of one candidate a few times in one fresh child process: for its memory, and not the time."""
        request = {**self._request(name, f"{block}/{name}/{threads}"), "weigh": True}
        return _run(self.plan, request, who=name, threads=threads)

    def _cells(self, order: str) -> list[tuple[int, int]]:
        cells = list(self.plan.cells)
        random.Random(f"{self.plan.seed}/{order}").shuffle(cells)
        return cells

    def _request(self, name: str, order: str) -> dict[str, Any]:
        streams = self.stream.batches[name] if self.stream else None
        return {
            **self.subjects[name].request(),
            "cells": self._cells(order),
            "streams": streams,
            "repeat": self.plan.repeat,
        }


def open_bench(
    candidates: Sequence[Candidate],
    settings: Benchmark,
    *,
    seed: int = 0,
    child_seconds: float | None = None,
    repeat: bool = False,
    rows: Mapping[str, Any] | None = None,
) -> Bench:
    """Check candidates and settings, and measure an empty interpreter.

    Args:
        candidates: What to measure.
        settings: Shapes, threads and seconds per block; `blocks` is for the caller.
        seed: Of the order of cells.
        child_seconds: Stop a child after this time; None derives a generous limit from the settings.
        repeat: Whether each cell also repeats one input, to catch caching; a fifth of a block more.
        rows: `data`, `split`, `columns` and `limit` of real rows, which then stand for the sequence lengths.

    Raises:
        UsageError: No candidates, two of one name, more threads than processors.
        InputRefused: A file is missing, or rows cannot be read or tokenized.
        EnvironmentFailed: No child process can be started, no C++ compiler is here for `torch.compile`, or a graph's
            products would run elsewhere than on the provider that was asked for.
    """
    subjects = {subject.candidate.name: subject for subject in examine_all(candidates)}
    plan, stream = _plan(settings, seed=seed, child_seconds=child_seconds), None
    plan = replace(plan, repeat=repeat)
    if rows is not None:
        sizes = list(dict.fromkeys(settings.batch_size))
        stream = read_stream(list(subjects.values()), batch_sizes=sizes, **rows)
        more = 0 if child_seconds else ROW_LIMIT_SECONDS * stream.rows * len(sizes)
        cells = [(size, stream.longest) for size in sizes]
        plan = replace(plan, cells=cells, child_seconds=plan.child_seconds + more)
    empty = _run(plan, {"kind": "empty", "cells": []}, who="empty interpreter", threads=1)
    bench = Bench(subjects, plan, empty, stream)
    for name, subject in subjects.items():
        candidate = subject.candidate
        if candidate.kind == "onnx" and candidate.provider != "cpu":
            bench.placement[name] = bench.profile(name, threads=plan.threads[0])
            check_placement(bench.placement[name], PROVIDERS[candidate.provider], who=name)
    return bench


def _plan(settings: Benchmark, *, seed: int, child_seconds: float | None) -> Plan:
    cpus = affinity()
    threads = list(dict.fromkeys(settings.threads)) or [default_threads()]
    if max(threads) > len(cpus):
        raise UsageError(
            f"{max(threads)} threads cannot be measured here",
            why=f"this process may run on {len(cpus)} processors, and more threads only wait for one another",
            hint=f"use at most --threads {len(cpus)}",
        )
    cells = [
        (batch, sequence)
        for batch in dict.fromkeys(settings.batch_size)
        for sequence in dict.fromkeys(settings.sequence_length)
    ]
    per_cell = CELL_LIMIT_SECONDS + BLOCK_LIMIT * settings.block_seconds
    limit = child_seconds or LOAD_LIMIT_SECONDS + len(cells) * per_cell
    return Plan(cells, threads, cpus, settings.block_seconds, seed, limit)


def _run(plan: Plan, request: dict[str, Any], *, who: str, threads: int) -> dict[str, Any]:
    full = {
        **request,
        "threads": threads,
        "cpus": plan.cpus[:threads],
        "block_seconds": plan.block_seconds,
    }
    return ask(full, who=who, limit_seconds=plan.child_seconds)
