"""Percentiles that the samples support, and ratios with an interval.

One block is one fresh process, and processes differ more than the calls inside one. So the calls give each
block one number, its median, and evidence for a difference comes from the blocks: candidate and reference of
one round ran close together, their ratio cancels the drift of the machine, the interval is over the rounds.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["NO_DIFFERENCE", "PERCENTS", "paired", "ratios", "slower_cells", "summary"]

PERCENTS = (50, 90, 95, 99)
MIN_BEYOND = 5
"""A percentile needs this many samples beyond it: p90 from 50 samples, p95 from 100, p99 from 500."""
NS_PER_MS = 1_000_000

CONFIDENCE = 0.95
RESAMPLES = 2000
MIN_BLOCKS_TO_RESAMPLE = 6
"""Below, n blocks on one side of 1 happen by chance in 2·½ⁿ > 5 % of runs, and no resampling knows better: in
simulated A/A runs of 3 blocks the bootstrap called 13 % slower where 2.5 % are meant, Student's t 2 %."""

FASTER, SLOWER, NO_DIFFERENCE = "faster", "slower", "no clear difference"

CELL = ("threads", "batch_size", "sequence_length")


def summary(blocks: Sequence[Sequence[int]], *, batch_size: float) -> dict[str, Any]:
    """Pool the calls of all blocks of one cell.

    Args:
        blocks: Duration of each call in nanoseconds, one sequence per block, none empty.
        batch_size: Rows of one call, on average.

    Returns:
        Milliseconds, rows per second, coefficient of variation of the calls and counts, under the names of report.json;
        a percentile is None where fewer than `MIN_BEYOND` samples lie beyond it. `intervals` holds [low, high] of each
        figure that is not None, by `cluster_intervals`; it is None with less than three blocks.
    """
    pooled = sorted(duration for block in blocks for duration in block)
    mean = statistics.fmean(pooled)
    figures = {
        "p50_ms": statistics.median(pooled) / NS_PER_MS,
        **{f"p{percent}_ms": _percentile(pooled, percent) for percent in PERCENTS[1:]},
        "mean_ms": mean / NS_PER_MS,
        "throughput_per_s": batch_size / (mean / NS_PER_MS / 1000),
        "cv": statistics.pstdev(pooled, mean) / mean,
    }
    return {
        **figures,
        "intervals": _intervals(blocks, figures, batch_size=batch_size),
        "samples": len(pooled),
        "block_p50_ms": [statistics.median(block) / NS_PER_MS for block in blocks],
    }


def _percentile(ordered: Sequence[int], percent: int) -> float | None:
    """The *percent* percentile in milliseconds by nearest rank, so that it is a call that really happened."""
    beyond = len(ordered) * (100 - percent)
    if beyond < MIN_BEYOND * 100:
        return None
    rank = -(-len(ordered) * percent // 100)
    return ordered[rank - 1] / NS_PER_MS


def _intervals(
    blocks: Sequence[Sequence[int]], figures: dict[str, Any], *, batch_size: float
) -> dict[str, list[float]] | None:
    from deploycomp.measure.bootstrap import cluster_intervals

    resampled = cluster_intervals(blocks, percents=PERCENTS)
    if resampled is None:
        return None
    percentiles, (low, high), variation = resampled
    found = {f"p{percent}_ms": [end / NS_PER_MS for end in ends] for percent, ends in percentiles.items()}
    found["mean_ms"] = [low / NS_PER_MS, high / NS_PER_MS]
    found["throughput_per_s"] = [batch_size / (end / NS_PER_MS / 1000) for end in (high, low)]
    found["cv"] = list(variation)
    return {name: ends for name, ends in found.items() if figures[name] is not None}


def ratios(benchmark: dict[str, Any], candidate: str, reference: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare the latency of two candidates in every cell that both were measured in.

    The ratio is the median over rounds of (candidate's block median / reference's block median). Its 95 %
    interval is a seeded percentile bootstrap over the rounds, or, with fewer than `MIN_BLOCKS_TO_RESAMPLE` of
    them, Student's t on the logarithms of the ratios. It holds for each cell alone, not for all together.

    Args:
        benchmark: What `deploycomp.measure.benchmark.benchmark` returned.
        candidate: Name of the candidate above the line.
        reference: Name of the candidate below it.
        seed: Of the bootstrap.

    Returns:
        For each cell {"cell": {threads, batch_size, sequence_length}, "ratio", "low", "high", "verdict"}. The
        verdict is "slower" only where the whole interval is above 1, "faster" where it is below, else "no
        clear difference". low and high are None with a single block, which proves nothing.
    """
    below = {_key(cell): cell for cell in benchmark["cells"] if cell["candidate"] == reference}
    found: list[dict[str, Any]] = []
    for cell in benchmark["cells"]:
        other = below.get(_key(cell))
        if cell["candidate"] != candidate or other is None:
            continue
        compared = paired(cell["block_p50_ms"], other["block_p50_ms"], seed=seed)
        found.append({"cell": {name: cell[name] for name in CELL}, **compared})
    return found


def paired(above: Sequence[float], below: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Compare two series of one value for each round; see `ratios` for the method.

    Returns:
        "ratio" above / below, "low", "high" and "verdict".
    """
    rounds = [upper / lower for upper, lower in zip(above, below, strict=True)]
    low, high = _interval(rounds, seed=seed)
    return {"ratio": statistics.median(rounds), "low": low, "high": high, "verdict": _verdict(low, high)}


def slower_cells(benchmark: dict[str, Any], candidate: str, reference: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the entries of `ratios` where *candidate* is slower, the whole interval above 1."""
    return [entry for entry in ratios(benchmark, candidate, reference, seed=seed) if entry["verdict"] == SLOWER]


def _key(cell: dict[str, Any]) -> tuple[int, ...]:
    return tuple(cell[name] for name in CELL)


def _verdict(low: float | None, high: float | None) -> str:
    if low is not None and low > 1:
        return SLOWER
    return FASTER if high is not None and high < 1 else NO_DIFFERENCE


def _interval(rounds: Sequence[float], *, seed: int) -> tuple[float | None, float | None]:
    if len(rounds) < 2:
        return None, None
    return _student(rounds) if len(rounds) < MIN_BLOCKS_TO_RESAMPLE else _bootstrap(rounds, seed=seed)


def _student(rounds: Sequence[float]) -> tuple[float, float]:
    """Student's t on the logarithms: Gosset 1908; symmetric for a ratio and its inverse."""
    from scipy.special import stdtrit

    logs = [math.log(ratio) for ratio in rounds]
    quantile = float(stdtrit(len(logs) - 1, (1 + CONFIDENCE) / 2))
    half = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - half), math.exp(middle + half)


def _bootstrap(rounds: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the median: Efron and Tibshirani 1993, chapter 13."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return medians[tail], medians[-1 - tail]
