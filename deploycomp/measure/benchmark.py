"""Measure candidates side by side, so that their ratios mean something.

    round 1:  fp32×2  source×1  artifact×2  source×2  fp32×1  artifact×1     (candidate × threads)
    round 2:  artifact×1  fp32×2  …                                          one fresh process each

The order is drawn anew in every round, because the machine drifts; within a round the candidates run close
together. One child is alive at a time and pinned; the parent sleeps. A caller with ONNX Runtime sessions of
its own closes them first: their threads spin.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from deploycomp.errors import UsageError
from deploycomp.measure.candidate import Candidate, Subject, examine_all
from deploycomp.measure.children import ask
from deploycomp.measure.context import Watch, affinity, context
from deploycomp.measure.figures import ratios, slower_cells, summary
from deploycomp.runtime.cpu import default_threads

if TYPE_CHECKING:
    from deploycomp.recipe import Benchmark

__all__ = ["Candidate", "benchmark", "interleave", "ratios", "slower_cells"]

Progress = Callable[[str, float], None]
Answers = dict[tuple[str, int], list[dict[str, Any]]]
"""(candidate, threads) → one answer per block."""

LOAD_LIMIT_SECONDS = 300.0
CELL_LIMIT_SECONDS = 120.0
"""A child is stopped after these and ten times its blocks: far above any sane run, so it only ends a hang."""
BLOCK_LIMIT = 10


@dataclass(frozen=True)
class _Plan:
    """What every child of one benchmark shares."""

    cells: list[tuple[int, int]]
    threads: list[int]
    cpus: list[int]
    settings: Benchmark
    seed: int
    child_seconds: float


def benchmark(
    candidates: Sequence[Candidate],
    settings: Benchmark,
    *,
    seed: int = 0,
    child_seconds: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure latency, throughput, memory, load time and size of *candidates*.

    Every block is a fresh child process, pinned to the first `threads` processors. Rows are full (no
    padding), tokens random but the same for all candidates of one vocabulary. The first block may read files
    from disk; the median over blocks is a load with a warm page cache.

    Args:
        candidates: What to measure.
        settings: Shapes, threads, blocks and seconds per block.
        seed: Of the order of blocks and cells.
        child_seconds: Stop a child after this time; None derives a generous limit from the settings.
        progress: Called with a message and the fraction done.

    Returns:
        The "benchmark" part of report.json: settings, context, candidates, cells. `context["skipped"]`
        names the shapes that a candidate cannot run, with the reason.

    Raises:
        UsageError: No candidates, two of one name, more threads than processors.
        InputRefused: A file is missing, or a model has inputs that no data can be made for.
        EnvironmentFailed: A child died or ran out of time.
    """
    subjects = {subject.candidate.name: subject for subject in examine_all(candidates)}
    plan = _plan(settings, seed=seed, child_seconds=child_seconds)
    about, watch = context(), Watch.start()
    baseline = _run(plan, {"kind": "empty"}, who="empty interpreter", threads=1)["peak_rss_bytes"]
    answers = _measure(plan, subjects, progress or (lambda message, fraction: None))
    during = watch.stop() if watch else {}
    return {
        "settings": {**settings.model_dump(mode="json"), "threads": plan.threads, "seed": seed},
        "context": {**about, **during, **_children(subjects, answers, baseline)},
        "candidates": {name: _facts(subject, answers) for name, subject in subjects.items()},
        "cells": _cells(plan, subjects, answers),
    }


def interleave(names: Sequence[str], threads: Sequence[int], *, blocks: int, seed: int) -> list[tuple[int, str, int]]:
    """Return (block, candidate, threads) in the order to measure: each round is a new random permutation."""
    draw = random.Random(seed)
    order: list[tuple[int, str, int]] = []
    for block in range(blocks):
        each = [(block, name, count) for name in names for count in threads]
        draw.shuffle(each)
        order += each
    return order


def _plan(settings: Benchmark, *, seed: int, child_seconds: float | None) -> _Plan:
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
    return _Plan(cells, threads, cpus, settings, seed, limit)


def _measure(plan: _Plan, subjects: dict[str, Subject], progress: Progress) -> Answers:
    answers: Answers = {}
    count = plan.settings.blocks
    order = interleave(list(subjects), plan.threads, blocks=count, seed=plan.seed)
    for done, (block, name, threads) in enumerate(order):
        progress(f"measuring {name}, threads {threads}, block {block + 1} of {count}", done / len(order))
        request = {**subjects[name].request(), "order_seed": f"{plan.seed}/{block}/{name}/{threads}"}
        answer = _run(plan, request, who=name, threads=threads)
        answers.setdefault((name, threads), []).append(answer)
    progress("measured", 1.0)
    return answers


def _run(plan: _Plan, request: dict[str, Any], *, who: str, threads: int) -> dict[str, Any]:
    full = {
        **request,
        "threads": threads,
        "cpus": plan.cpus[:threads],
        "cells": plan.cells,
        "block_seconds": plan.settings.block_seconds,
    }
    return ask(full, who=who, limit_seconds=plan.child_seconds)


def _facts(subject: Subject, answers: Answers) -> dict[str, Any]:
    """What is measured once per child: medians over all children of one candidate."""
    own = _own(answers, subject.candidate.name)
    return {
        "kind": subject.candidate.kind,
        "bytes": subject.bytes,
        "load_ms": statistics.median(answer["load_ms"] for answer in own),
        "peak_rss_bytes": int(statistics.median(answer["peak_rss_bytes"] for answer in own)),
    }


def _children(subjects: Iterable[str], answers: Answers, baseline: int) -> dict[str, Any]:
    """What else the children told; it stands in the context, which is open, and not among the figures."""
    facts: dict[str, dict[str, Any]] = {}
    for name in subjects:
        own = _own(answers, name)
        peak = int(statistics.median(answer["peak_rss_bytes"] for answer in own))
        facts[name] = {
            "import_ms": statistics.median(answer["import_ms"] for answer in own),
            "peak_rss_over_baseline_bytes": peak - baseline,
            "vocabulary": own[0]["vocabulary"],
            "unsettled_warmups": sum(not cell["settled"] for answer in own for cell in answer["cells"]),
            "warmups": sum(len(answer["cells"]) for answer in own),
        }
    return {"baseline_rss_bytes": baseline, "children": facts, "skipped": _skipped(answers)}


def _own(answers: Answers, name: str) -> list[dict[str, Any]]:
    return [answer for (who, _), blocks in answers.items() if who == name for answer in blocks]


def _cells(plan: _Plan, subjects: dict[str, Subject], answers: Answers) -> list[dict[str, Any]]:
    """One entry per candidate, threads and shape, in the order of the settings, pooled over blocks."""
    found: list[dict[str, Any]] = []
    for name, threads, (batch, sequence) in product(subjects, plan.threads, plan.cells):
        shape = {"batch_size": batch, "sequence_length": sequence}
        blocks = [
            cell["samples_ns"]
            for answer in answers[name, threads]
            for cell in answer["cells"]
            if cell.items() >= shape.items()
        ]
        if blocks:
            cell = {"candidate": name, "threads": threads, **shape}
            found.append({**cell, **summary(blocks, batch_size=batch)})
    return found


def _skipped(answers: Answers) -> list[dict[str, Any]]:
    """Shapes that a candidate cannot run; every block says the same, the first is taken."""
    return [
        {"candidate": name, "threads": threads, **cell}
        for (name, threads), blocks in sorted(answers.items())
        for cell in sorted(blocks[0]["skipped"], key=_by_shape)
    ]


def _by_shape(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["batch_size"], cell["sequence_length"]
