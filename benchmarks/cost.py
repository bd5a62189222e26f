"""What our commands cost: seconds and peak memory, each in a fresh process, against the limits.

    .venv/bin/python benchmarks/cost.py [--only minilm-l6-sst2] [--prune] [--json FILE]

Exports to INT8, or with `--prune` compressions to 1.5 times the speed. Models: the three real MiniLM-L6 and a BERT-base
with random weights, which is built here. Peak memory is that of the largest process of the command (`wait4`, exact)
and, beside it, of its largest child (/proc, sampled). Exit code 1 when a limit is broken. Seconds mean something on a
quiet machine only; memory does not depend on the load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import Real, command, machine, real_models, say, write_json

from deploycomp.artifact import COMPRESSION
from deploycomp.measure.context import context

BERT_BASE = "bert-base-random"
MEGABYTE = 1_000_000

SAMPLE_SECONDS = 0.05
"""How often the children's high-water marks are read; they only grow, so little is missed."""


@dataclass(frozen=True)
class Limit:
    """What an export may cost."""

    seconds: float
    bytes: int | None = None
    times_fp32: float | None = None


CALIBRATION_ROWS, GROWTH = (64, 1024), 0.05
"""Peak memory with the many rows is at most this share above that with the few."""
CALIBRATED = Limit(120, bytes=1_500 * MEGABYTE)

LIMITS = {"minilm": Limit(25, bytes=1_500 * MEGABYTE), "bert-base": Limit(60, times_fp32=4)}
"""MiniLM: 25 s and 1.5 GB; BERT-base: a minute and four times its FP32 bytes."""


PRUNE_LIMITS = {"minilm": Limit(180, bytes=1_500 * MEGABYTE), "bert-base": Limit(720, times_fp32=4)}
"""PyTorch and transformers alone take 4 times the bytes of a MiniLM."""


@dataclass(frozen=True)
class Cost:
    """What one command cost."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Of the largest process of the command."""
    child_bytes: int
    """Of its largest child, 0 where there was none."""
    fp32_bytes: int
    steps: dict[str, float]
    broken: tuple[str, ...] = ()


def measure(name: str, model: Path, limit: Limit, scratch: Path, *options: str) -> Cost:
    """Run the export of one model and hold it against its limit."""
    return _measure(name, ["export", str(model), "--int8", "--no-benchmark", *options], limit, scratch)


def _measure(name: str, arguments: list[str], limit: Limit, scratch: Path) -> Cost:
    output = scratch / f"{name}-{arguments[0]}".replace(" ", "-")
    line = [str(command()), *arguments, "-q", "-o", str(output)]
    say(" ".join(["deploycomp", *line[1:]]))
    start = time.perf_counter()
    process = subprocess.Popen(line)
    child = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        child = max(child, _largest_child(process.pid))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name}: {arguments[0]} ended with exit code {process.returncode}")
    kept = next(output / each for each in ("report.json", COMPRESSION) if (output / each).is_file())
    report = json.loads(kept.read_text(encoding="utf-8"))
    peak, fp32 = usage.ru_maxrss * 1024, int(report["source"].get("bytes") or 4 * report["source"]["parameters"])
    return Cost(
        name,
        round(seconds, 2),
        round(usage.ru_utime + usage.ru_stime, 2),
        peak,
        child,
        fp32,
        {step["step"]: step["seconds"] for step in report["steps"]},
        tuple(_broken(limit, seconds, peak, fp32)),
    )


def _broken(limit: Limit, seconds: float, peak: int, fp32: int) -> list[str]:
    found: list[str] = []
    if seconds > limit.seconds:
        found.append(f"{seconds:.1f} s is more than {limit.seconds:g} s")
    if limit.bytes is not None and peak > limit.bytes:
        found.append(f"{peak / MEGABYTE:.0f} MB is more than {limit.bytes / MEGABYTE:.0f} MB")
    if limit.times_fp32 is not None and peak > limit.times_fp32 * fp32:
        found.append(f"{peak / fp32:.2f} × the FP32 bytes is more than {limit.times_fp32:g} ×")
    return found


def _largest_child(pid: int) -> int:
    """Largest high-water mark among the living descendants, in bytes."""
    largest = 0
    for each in _children(pid):
        largest = max(largest, _high_water(each), _largest_child(each))
    return largest


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(each) for each in task.read_text().split()]
        except OSError:  # it ended meanwhile
            continue
    return found


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def build_bert_base(folder: Path, tokenizer: Path) -> None:
    """Write a BERT-base classifier with seeded random weights, and a real tokenizer of the same vocabulary."""
    import shutil

    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=30522))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)


def _bert_base(scratch: Path, tokenizer: Path) -> Path:
    """Build it in a process of its own: this one must stay small, see `common`."""
    folder = scratch / BERT_BASE
    say("building a BERT-base with random weights")
    full = [sys.executable, __file__, "--build", str(folder), "--tokenizer", str(tokenizer)]
    subprocess.run(full, check=True)
    return folder


def table(costs: list[Cost]) -> str:
    """Draw the result in Markdown."""
    lines = [
        "| model | seconds | CPU seconds | peak RSS | largest child | RSS / FP32 bytes | |",
        "|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        lines.append(
            f"| {cost.name} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {cost.peak_bytes / MEGABYTE:,.0f} MB "
            f"| {cost.child_bytes / MEGABYTE:,.0f} MB | {cost.peak_bytes / cost.fp32_bytes:.2f} "
            f"| {'; '.join(cost.broken) or 'within limits'} |"
        )
    return "\n".join(lines)


def calibrated(real: Real, scratch: Path) -> list[Cost]:
    """Export with few and with many calibration rows: only running figures are kept, so memory must not follow."""
    data = str(real.data.with_name("train.jsonl"))
    few, many = (
        measure(f"{real.name}, {rows} rows", real.path, CALIBRATED, scratch, "--calibration", data, *_rows(rows))
        for rows in CALIBRATION_ROWS
    )
    growth = many.peak_bytes / few.peak_bytes - 1
    broken = (*many.broken, *([f"{growth:.1%} more memory than with {CALIBRATION_ROWS[0]} rows"] * (growth > GROWTH)))
    return [few, replace(many, broken=broken)]


def _rows(count: int) -> list[str]:
    return ["--calibration-rows", str(count)]


def pruned(models: list[Real], *, bert_base: bool) -> list[Cost]:
    """Prune all models to a measured speed-up, one after the other."""
    with tempfile.TemporaryDirectory(prefix="deploycomp-cost-") as made:
        scratch = Path(made)
        places = [(real.name, real.path, real.data, PRUNE_LIMITS["minilm"]) for real in models]
        if bert_base:
            first = (models or real_models())[0]
            places.append((BERT_BASE, _bert_base(scratch, first.path), first.data, PRUNE_LIMITS["bert-base"]))
        costs: list[Cost] = []
        for name, model, data, limit in places:
            rows = str(data.with_name("train.jsonl"))
            arguments = ["compress", str(model), "--prune", "1.5x", "--calibration", rows]
            costs.append(_measure(name, arguments, limit, scratch))
        return costs


def run(models: list[Real], *, bert_base: bool) -> list[Cost]:
    """Measure all models, one after the other."""
    with tempfile.TemporaryDirectory(prefix="deploycomp-cost-") as made:
        scratch = Path(made)
        costs = [measure(real.name, real.path, LIMITS["minilm"], scratch) for real in models]
        costs += calibrated(models[0], scratch) if models else []
        if bert_base:
            tokenizer = (models or real_models())[0].path
            costs.append(measure(BERT_BASE, _bert_base(scratch, tokenizer), LIMITS["bert-base"], scratch))
    return costs


def main() -> None:
    """Measure and print; exit code 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help=f"real models by name, or {BERT_BASE}")
    parser.add_argument("--prune", action="store_true", help="prune to 1.5 times the speed instead of an export")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build:
        build_bert_base(asked.build, asked.tokenizer)
        return
    names = [name for name in asked.only or () if name != BERT_BASE]
    models = real_models(names) if names or not asked.only else []
    here = context()
    task, allowed = (pruned, PRUNE_LIMITS) if asked.prune else (run, LIMITS)
    costs = task(models, bert_base=not asked.only or BERT_BASE in asked.only)
    print(f"{machine(here)}\n\n{table(costs)}")
    limits = {name: asdict(limit) for name, limit in allowed.items()}
    result: dict[str, Any] = {"context": here, "limits": limits, "costs": [asdict(cost) for cost in costs]}
    write_json(asked.json, result)
    sys.exit(any(cost.broken for cost in costs))


if __name__ == "__main__":
    main()
