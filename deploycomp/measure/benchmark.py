"""Measure candidates side by side, so that their ratios mean something.

    round 1:  fp32×2  source×1  artifact×2  source×2  fp32×1  artifact×1     (candidate × threads)
    round 2:  artifact×1  fp32×2  …                                          one fresh process each

The order is drawn anew in every round, because the machine drifts; within a round the candidates run close
together. One child is alive at a time and pinned; the parent sleeps. A caller with ONNX Runtime sessions of
its own closes them first: their threads spin.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deploycomp.measure.candidate import Candidate
from deploycomp.measure.context import Watch, context
from deploycomp.measure.figures import ratios, slower_cells
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
from deploycomp.measure.rounds import Bench, open_bench

if TYPE_CHECKING:
    from deploycomp.recipe import Benchmark

__all__ = ["Candidate", "benchmark", "interleave", "ratios", "slower_cells"]

Progress = Callable[[str, float], None]


def benchmark(
    candidates: Sequence[Candidate],
    settings: Benchmark,
    *,
    seed: int = 0,
    child_seconds: float | None = None,
    rows: Mapping[str, Any] | None = None,
    samples: bool = False,
    profile: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure latency, throughput, memory, load time and size of *candidates*.

    Every block is a fresh child process, pinned to the first `threads` processors. Rows are full (no padding), tokens
    random but the same for all candidates of one vocabulary, unless *rows* names real ones. The first block may read
    files from disk; the median over blocks is a load with a warm page cache.

    Args:
        candidates: What to measure.
        settings: Shapes, threads, blocks and seconds per block.
        seed: Of the order of blocks and cells.
        child_seconds: Stop a child after this time; None derives a generous limit from the settings.
        rows: `data`, `split`, `columns` and `limit` of real rows, see `stream.py`.
        samples: Whether each cell keeps the nanoseconds of every call, as `block_samples_ns`.
        profile: Whether ONNX candidates are also profiled, after all is timed, each in a child of its own.
        progress: Called with a message and the fraction done.

    Returns:
        The "benchmark" part of report.json: settings, context, candidates, cells, and `profile` where it was asked for.
        `context["skipped"]` names the shapes that a candidate cannot run, with the reason; `context["warnings"]` says
        where answers came out of a cache or differed between processes.

    Raises:
        UsageError: No candidates, two of one name, more threads than processors.
        InputRefused: A file is missing, or a model has inputs that no data can be made for.
        EnvironmentFailed: A child died or ran out of time, or what a candidate needs is not here.
        VerificationFailed: A timed call answered otherwise than the same batch before, or in another process, or was
            answered from a cache.
    """
    bench = open_bench(candidates, settings, seed=seed, child_seconds=child_seconds, repeat=True, rows=rows)
    about, watch = context(), Watch.start()
    answers = _measure(bench, settings.blocks, progress or (lambda message, fraction: None))
    during = watch.stop() if watch else {}
    check_caching(bench, answers)
    again = repeated(bench, answers, seed=seed)
    warnings = [*check_digests(bench, answers), *caching_warnings(again)]
    real = {"rows": bench.stream.facts()} if bench.stream else {}
    return {
        "settings": {**settings.model_dump(mode="json"), "threads": bench.plan.threads, "seed": seed, **real},
        "context": {
            **about,
            **during,
            **children(bench, answers),
            "repeated_input": again,
            "warnings": warnings,
        },
        "candidates": candidate_facts(bench, answers),
        "cells": cells(bench, answers, samples=samples),
        **({"profile": _profiles(bench)} if profile else {}),
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


def _measure(bench: Bench, blocks: int, progress: Progress) -> Answers:
    answers: Answers = {}
    order = interleave(list(bench.subjects), bench.plan.threads, blocks=blocks, seed=bench.plan.seed)
    for done, (block, name, threads) in enumerate(order):
        progress(f"measuring {name}, threads {threads}, block {block + 1} of {blocks}", done / len(order))
        answers.setdefault((name, threads), []).append(bench.measure(name, threads=threads, block=block))
    progress("measured", 1.0)
    return answers


def _profiles(bench: Bench) -> list[dict[str, Any]]:
    """One entry for each ONNX candidate, thread count and shape that it can run."""
    return [
        {"candidate": name, "threads": threads, **each}
        for name, subject in bench.subjects.items()
        if subject.candidate.kind == "onnx"
        for threads in bench.plan.threads
        for each in sorted(bench.profile(name, threads=threads), key=_by_shape)
    ]


def _by_shape(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["batch_size"], cell["sequence_length"]
