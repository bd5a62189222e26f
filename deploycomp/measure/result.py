"""Answers of children → the "benchmark" part of report.json; nothing here starts a process.

{(candidate, threads): [answer of block 0, 1, …]} ──► candidates, cells, what the children told, warnings, refusals
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import product
from typing import Any

from deploycomp.errors import VerificationFailed
from deploycomp.measure.bootstrap import median_interval
from deploycomp.measure.candidate import Subject
from deploycomp.measure.figures import FASTER, paired, summary
from deploycomp.measure.rounds import Bench

__all__ = [
    "CACHED",
    "REPEAT_TOLERANCE",
    "Answers",
    "caching_warnings",
    "candidate_facts",
    "cells",
    "check_caching",
    "check_digests",
    "children",
    "repeated",
]

Answers = dict[tuple[str, int], list[dict[str, Any]]]
"""(candidate, threads) → one answer per block."""

Cell = dict[str, Any]

REPEAT_TOLERANCE = 0.1
"""The same input may be answered this much faster than fresh ones: MLPerf Inference's audit TEST04 allows 10 %."""
CACHED = 0.5
"""Timed calls below this share of fresh ones are no measurement of the model. A processor's own caches explain some
percent, and a tenth for graphs of microseconds."""


def candidate_facts(bench: Bench, answers: Answers) -> dict[str, dict[str, Any]]:
    """What is measured once per child: medians over all children of each candidate, with intervals for times."""
    return {name: _facts(subject, _own(answers, name), bench) for name, subject in bench.subjects.items()}


def _facts(subject: Subject, own: list[dict[str, Any]], bench: Bench) -> dict[str, Any]:
    times = {name: [each[name] for each in own if each.get(name) is not None] for name in ("load_ms", "cold_start_ms")}
    candidate = subject.candidate
    facts = {
        "kind": candidate.kind,
        "provider": candidate.provider,
        "dtype": candidate.dtype if candidate.kind == "torch" else None,
        "compiled": candidate.compiled,
        "bytes": subject.bytes,
        "load_ms": statistics.median(times["load_ms"]),
        "cold_start_ms": statistics.median(times["cold_start_ms"]) if times["cold_start_ms"] else None,
        "intervals": {name: median_interval(values) for name, values in times.items()},
    }
    for name in ("peak_rss_bytes", "pss_bytes"):
        found, empty = _middle(own, name), bench.baseline.get(name)
        facts[name] = found
        over = name.replace("_bytes", "_over_baseline_bytes")
        facts[over] = None if found is None or empty is None else max(0, found - empty)
    return facts


def _middle(own: list[dict[str, Any]], name: str) -> int | None:
    values = [each[name] for each in own if each.get(name) is not None]
    return int(statistics.median(values)) if values else None


def children(bench: Bench, answers: Answers) -> dict[str, Any]:
    """What else the children told; it stands in the context, which is open, and not among the figures."""
    facts: dict[str, dict[str, Any]] = {}
    for name in bench.subjects:
        own = _own(answers, name)
        facts[name] = {
            "import_ms": statistics.median(answer["import_ms"] for answer in own),
            "vocabulary": own[0]["vocabulary"],
            "unsettled_warmups": sum(not cell["settled"] for answer in own for cell in answer["cells"]),
            "warmups": sum(len(answer["cells"]) for answer in own),
            "verified_batches": sum(cell["verified"] for answer in own for cell in answer["cells"]),
        }
        if own[0].get("gpu") is not None:
            memory = [answer["gpu"]["memory_bytes"] for answer in own if answer["gpu"]["memory_bytes"] is not None]
            facts[name]["gpu_memory_bytes"] = max(memory, default=None)
            facts[name]["placement"] = bench.placement.get(name)
    baseline = {f"baseline_{name.removeprefix('peak_')}": value for name, value in bench.baseline.items()}
    return {**baseline, "children": facts, "skipped": _skipped(answers)}


def cells(bench: Bench, answers: Answers, *, samples: bool = False) -> list[Cell]:
    """One entry per candidate, threads and shape, in the order of the settings, pooled over blocks.

    Args:
        bench: What was measured.
        answers: What the children said.
        samples: Whether to keep the nanoseconds of every call.
    """
    found: list[Cell] = []
    for where, blocks in _blocks(bench, answers):
        stream = bench.stream.batches[where["candidate"]][where["batch_size"]] if bench.stream else None
        rows = where["batch_size"] if stream is None else sum(len(each["input_ids"]) for each in stream) / len(stream)
        calls = [block["samples_ns"] for block in blocks]
        figures = summary(calls, batch_size=rows)
        digest = blocks[0]["digests"][0] if blocks[0]["digests"] else None
        kept = {"block_samples_ns": calls} if samples else {}
        found.append(_with_device({**where, **figures, "digest": digest, **kept}, blocks, samples=samples))
    return found


def _with_device(cell: Cell, blocks: list[Cell], *, samples: bool) -> Cell:
    """Add p50 and p95 of the time on the device, or None and a note; nothing for a CPU."""
    if not any("device_ns" in block for block in blocks):
        return cell
    note = next((block["device_note"] for block in blocks if block["device_ns"] is None), None)
    if note is not None:
        return {**cell, "device_p50_ms": None, "device_p95_ms": None, "device_note": note}
    calls = [block["device_ns"] for block in blocks]
    told = summary(calls, batch_size=cell["batch_size"])
    names = ("p50_ms", "p95_ms")
    ends = {f"device_{name}": told["intervals"][name] for name in names if name in (told["intervals"] or {})}
    return {
        **cell,
        "intervals": {**cell["intervals"], **ends} if ends else cell["intervals"],
        **{f"device_{name}": told[name] for name in names},
        "device_note": None,
        **({"block_device_ns": calls} if samples else {}),
    }


def check_digests(bench: Bench, answers: Answers) -> list[str]:
    """Compare the outputs of the same batches between processes.

    Returns:
        A warning for each cell where they differ and may: with several threads or on a GPU, whose order of additions is
        not fixed, a rounded value can fall to either side.

    Raises:
        VerificationFailed: They differ with one thread on a CPU.
    """
    warnings: list[str] = []
    for where, blocks in _blocks(bench, answers):
        first = blocks[0]["digests"]
        for block, other in enumerate(blocks[1:], 1):
            pairs = zip(first, other["digests"], strict=False)
            differs = next((batch for batch, (one, two) in enumerate(pairs) if one != two), None)
            if differs is None:
                continue
            what = f"{_spoken(where)}: processes answered differently (blocks 0 and {block}, batch {differs})"
            if where["threads"] == 1 and bench.subjects[where["candidate"]].candidate.provider == "cpu":
                raise VerificationFailed(
                    what,
                    why="one thread on a CPU gives the same outputs every time",
                    hint="the model is not deterministic, or the files changed meanwhile",
                )
            warnings.append(what)
            break
    return warnings


def repeated(bench: Bench, answers: Answers, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare calls that repeat one input with fresh ones of its size, in every cell where both were timed.

    Returns:
        For each cell where it stands, ratio of the medians (repeated over fresh), its interval over the blocks, and
        `cached`: more than `REPEAT_TOLERANCE` faster, and the whole interval below 1.
    """
    found: list[dict[str, Any]] = []
    for where, blocks in _blocks(bench, answers):
        if all(block["repeated_ns"] is not None for block in blocks):
            some = [statistics.median(block["repeated_ns"]) for block in blocks]
            compared = paired(some, [statistics.median(block["fresh_ns"]) for block in blocks], seed=seed)
            verdict = compared.pop("verdict")
            cached = verdict == FASTER and compared["ratio"] < 1 - REPEAT_TOLERANCE
            found.append({**where, **compared, "cached": cached})
    return found


def check_caching(bench: Bench, answers: Answers) -> None:
    """Refuse figures that are a cache's: timed inputs took less than `CACHED` of what fresh ones of their size do.

    The fastest fresh call counts: the fresh ones of a graph of microseconds end together when a neighbour wakes up.

    Raises:
        VerificationFailed: They did, and the whole interval over the blocks is below 1.
    """
    for where, blocks in _blocks(bench, answers):
        if any(block["repeated_ns"] is None for block in blocks):
            continue
        batches = bench.stream.batches[where["candidate"]][where["batch_size"]] if bench.stream else [None]
        timed = [statistics.median(block["samples_ns"][:: len(batches)]) for block in blocks]
        compared = paired(timed, [min(block["fresh_ns"]) for block in blocks])
        if compared["verdict"] == FASTER and compared["ratio"] < CACHED:
            raise VerificationFailed(
                f"{_spoken(where)}: timed calls were answered from a cache",
                why=f"they took {compared['ratio']:.2g} of the time of inputs that no call had seen",
                hint="switch the cache off: what was timed is not what the model costs",
            )


def caching_warnings(entries: list[dict[str, Any]]) -> list[str]:
    """Say which cells answer a repeated input faster, so that their latency is partly a cache's."""
    return [
        f"{_spoken(each)}: a repeated input takes {each['ratio']:.2f} of the time of fresh ones: something caches"
        for each in entries
        if each["cached"]
    ]


def _spoken(cell: Cell) -> str:
    return f"{cell['candidate']}, {cell['batch_size']}×{cell['sequence_length']}, threads {cell['threads']}"


def _blocks(bench: Bench, answers: Answers) -> Iterator[tuple[Cell, list[Cell]]]:
    """(candidate, threads and shape; what each block answered there), where it could be run."""
    for name, threads, (batch, sequence) in product(bench.subjects, bench.plan.threads, bench.plan.cells):
        shape = {"batch_size": batch, "sequence_length": sequence}
        blocks = [
            cell
            for answer in answers[name, threads]
            for cell in answer["cells"]
            if all(cell[key] == value for key, value in shape.items())
        ]
        if blocks:
            yield {"candidate": name, "threads": threads, **shape}, blocks


def _own(answers: Answers, name: str) -> list[dict[str, Any]]:
    return [answer for (who, _), blocks in answers.items() if who == name for answer in blocks]


def _skipped(answers: Answers) -> list[dict[str, Any]]:
    """Shapes that a candidate cannot run; every block says the same, the first is taken."""
    return [
        {"candidate": name, "threads": threads, **cell}
        for (name, threads), blocks in sorted(answers.items())
        for cell in sorted(blocks[0]["skipped"], key=_by_shape)
    ]


def _by_shape(cell: dict[str, Any]) -> tuple[int, int]:
    return cell["batch_size"], cell["sequence_length"]
