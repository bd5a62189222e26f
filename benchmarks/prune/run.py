"""Pruning without retraining: accuracy by measured speed, our method and four others on the same rows and table.

    .venv/bin/python benchmarks/prune/run.py [--models minilm-l6-sst2,…] [--speeds 1.3,1.5,2] [--only ours,…] [--table]

Every result is kept (`--work`), and a second call goes on where the first was stopped. All methods get the same
calibration rows (from the train split), the same latency table (measured once for models of one shape, one thread,
1×128, FP32) and the same budget; held-out train rows choose, validation or test rows are reported. Speed is measured at
the end, all models of one table side by side. Markdown goes to stdout, the plot beside RESULTS.md. Exit code 1 when a
claim fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

import numpy as np
from common import Real, machine, real_models, say
from kwon import prune_masks

from deploycomp.assess import read_rows, source_predictor
from deploycomp.compress.answers import Answers, mean_divergence
from deploycomp.compress.prune.costs import Costs
from deploycomp.compress.prune.prune import Method, prune
from deploycomp.compress.recover import recover
from deploycomp.compress.refit import refit
from deploycomp.evaluate import evaluate_candidates
from deploycomp.latency import Setting, latency_table, measure_ratios
from deploycomp.models import checkpoint, resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.prunestep import RECOVERY_ROWS
from deploycomp.recipe import Calibrate, Recipe
from deploycomp.torchrows import TorchRows, find_rows

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks" / "prune"
HERE = Path(__file__).resolve().parent
SETTING = Setting(threads=1)
MINUTES = 3.0
"""Of recovery."""
MOST_LOST = {
    ("minilm-l6-sst2", "ours"): {1.3: 0.010, 1.5: 0.025},
    ("minilm-l6-clinc150", "ours"): {1.3: 0.015},
    ("minilm-l6-wnut17", "ours"): {1.3: 0.015},
    ("minilm-l6-sst2", "recovered"): {1.5: 0.010},
    ("minilm-l6-clinc150", "recovered"): {1.5: 0.010},
    ("minilm-l6-wnut17", "recovered"): {1.5: 0.010},
}
"""What our method may lose at a speed, in accuracy or F1."""
AHEAD = 0.01
"""How far the others must be behind at 1.5 times, in accuracy or F1, on average over the models: the rows of one
cannot tell a point from nothing."""
PARTS = ("uniform",)
"""Ours without a part of it: what that part brings is shown, and must be more than nothing."""

Run = Callable[["Job", float], TorchModel]


def _by(method: Method) -> Run:
    return lambda job, budget: (
        prune(job.model, job.rows.batches, job.rows.held_out, job.costs, budget, method=method).model
    )


def _ours(method: Method) -> Run:
    """As `deploycomp compress` does it: what is left is refitted."""

    def run(job: Job, budget: float) -> TorchModel:
        made = _by(method)(job, budget)
        teacher, answers = job.model, Answers(job.model)
        recorded = answers.record(teacher.module, job.rows.held_out)
        refit(
            answers, made.module, teacher.module, teacher.anatomy, job.rows.batches,
            lambda: mean_divergence(answers, made.module, job.rows.held_out, recorded),
        )  # fmt: skip
        return made

    return run


def _recovered(job: Job, budget: float) -> TorchModel:
    """Ours, then minutes of distillation on unlabelled rows."""
    made = _ours(Method())(job, budget)
    answers = Answers(job.model)
    rows = job.rows
    recover(answers, made.module, job.model.module, job.model.anatomy, rows.every, rows.held_out, minutes=MINUTES)
    return made


def _kwon(job: Job, budget: float) -> TorchModel:
    return prune_masks(job.model, job.rows.batches, job.rows.held_out, job.costs, budget)


METHODS: dict[str, tuple[str, Run]] = {
    "ours": ("deploycomp", _ours(Method())),
    "recovered": (f"deploycomp, `--recover {MINUTES:g}`", _recovered),
    "uniform": ("the same as deploycomp, uniform allocation", _ours(Method(allocation="uniform"))),
    "plain": (
        "Fisher once, uniform allocation, no compensation",
        _by(Method(rounds=1, score="mask", compensate=False, allocation="uniform")),
    ),
    "kwon": ("Fisher masks, scales tuned (Kwon-style)", _kwon),
    "fisher": ("Fisher once, no compensation", _by(Method(rounds=1, score="mask", compensate=False))),
    "magnitude": ("magnitude", _by(Method(rounds=1, score="magnitude", compensate=False))),
}
"""Short name → what it is called, and what it does."""


@dataclass(frozen=True)
class Job:
    """One model with the rows that everybody learns from, and the table that everybody pays by."""

    real: Real
    work: Path
    model: TorchModel
    rows: TorchRows
    costs: Costs


def job(real: Real, work: Path) -> Job:
    """Load a model, draw its rows, and measure its table where that was not done."""
    model = load(resolve(real.path))
    recipe = Recipe(model=str(real.path), calibrate=Calibrate(data=str(real.data.with_name("train.jsonl"))))
    rows = find_rows(recipe, model, None, "the benchmark", rows=RECOVERY_ROWS)
    anatomy = model.anatomy
    shape = f"{anatomy.model_type}-{len(anatomy.layers)}x{anatomy.hidden_size}-{model.task}"
    return Job(real, work / real.name, model, rows, _table(model, work / f"table-{shape}.json"))


def _table(model: TorchModel, kept: Path) -> Costs:
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            costs = latency_table(model, SETTING, Path(scratch))
        tables = {name: each.tolist() for name, each in costs.tables.items()}
        kept.write_text(json.dumps({"rest": costs.rest, "tables": tables}), encoding="utf-8")
    data = json.loads(kept.read_text(encoding="utf-8"))
    return Costs("ms", data["rest"], {name: np.array(each) for name, each in data["tables"].items()})


def make(job: Job, name: str, speed: float) -> Path:
    """Prune by one method to one speed, judge it, and keep both."""
    folder = job.work / f"{name}-{speed:g}"
    if (folder / "result.json").is_file():
        return folder
    say(f"{job.real.name}: {METHODS[name][0]} to {speed:g} times")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    made = METHODS[name][1](job, job.costs.whole / speed)
    seconds = time.monotonic() - began
    checkpoint.round_weights(made)
    rows = read_rows(job.model, str(job.real.data))
    predictors = {"source": source_predictor(job.model), "artifact": source_predictor(made)}
    found = evaluate_candidates(predictors, rows, batch_size=32, max_drop=None, progress=None)
    checkpoint.save(made, folder)
    kept = {"seconds": seconds, "evaluation": found, "parameters": made.parameters}
    (folder / "result.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return folder


def measure(job: Job, names: Sequence[str], speed: float) -> dict[str, tuple[float, float, float]]:
    """How fast each method's model really is, all side by side; measured once."""
    kept = job.work / f"measured-{speed:g}.json"
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if not set(names) <= set(found):
        models = {"source": job.model}
        models |= {name: load(resolve(job.work / f"{name}-{speed:g}")) for name in names}
        with tempfile.TemporaryDirectory() as scratch:
            found = measure_ratios(models, SETTING, Path(scratch))
        kept.write_text(json.dumps(found), encoding="utf-8")
    return {name: (each[0], each[1], each[2]) for name, each in found.items()}


def rows_of(job: Job, names: Sequence[str], speed: float) -> list[dict[str, Any]]:
    """A row for each method: speed, score, drop with its interval."""
    measured = measure(job, names, speed)
    rows: list[dict[str, Any]] = []
    for name in names:
        kept = json.loads((job.work / f"{name}-{speed:g}" / "result.json").read_text(encoding="utf-8"))
        metric = kept["evaluation"]["metric"]
        rows.append({
            "model": job.real.name, "speed": speed, "method": name, "metric": metric,
            "measured": measured[name], "score": kept["evaluation"]["scores"]["artifact"][metric],
            "source": kept["evaluation"]["scores"]["source"][metric], "drop": kept["evaluation"]["drop"]["artifact"],
            "seconds": kept["seconds"], "parameters": kept["parameters"],
        })  # fmt: skip
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print("| model | asked | method | measured | score | change against the source | parameters | time |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        speed, low, high = row["measured"]
        drop = row["drop"]
        print(
            f"| {row['model']} | {row['speed']:g}x | {METHODS[row['method']][0]} | {speed:.2f}x ({low:.2f}…{high:.2f}) "
            f"| {row['metric']} {100 * row['score']['value']:.2f} % "
            f"| {-100 * drop['value']:+.2f} pt ({-100 * drop['high']:+.2f}…{-100 * drop['low']:+.2f}) "
            f"| {row['parameters'] / 1e6:.1f} M | {row['seconds']:.0f} s |"
        )


def broken(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Claims that do not hold."""
    found: list[str] = []
    for row in rows:
        title = METHODS[row["method"]][0]
        limit = MOST_LOST.get((row["model"], row["method"]), {}).get(row["speed"])
        if limit is not None and row["drop"]["value"] > limit:
            lost = f"{100 * row['drop']['value']:.2f} points at {row['speed']:g} times"
            found.append(f"{row['model']}: {title} loses {lost}, more than {100 * limit:g}")
    scores = {(row["model"], row["method"]): row["score"]["value"] for row in rows if row["speed"] == 1.5}
    for method in sorted({method for _, method in scores} - {"ours", "recovered"}):
        pairs = [(model, "ours") for model, other in scores if other == method and (model, "ours") in scores]
        behind = [scores[pair] - scores[pair[0], method] for pair in pairs]
        if behind and sum(behind) / len(behind) < (0 if method in PARTS else AHEAD):
            each = ", ".join(f"{100 * value:+.2f}" for value in behind)
            mean = 100 * sum(behind) / len(behind)
            found.append(f"{METHODS[method][0]} is only {mean:.2f} points behind at 1.5 times on average ({each})")
    return found


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw score by measured speed, a panel for each model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, panels = pyplot.subplots(1, len(models), figsize=(4.5 * len(models), 3.6), squeeze=False)
    for model, panel in zip(models, panels[0], strict=True):
        for name, (title, _) in METHODS.items():
            mine = [row for row in rows if (row["model"], row["method"]) == (model, name)]
            mine.sort(key=lambda row: row["measured"][0])
            if not mine:
                continue
            speeds = [1.0, *(row["measured"][0] for row in mine)]
            scores = [100 * mine[0]["source"]["value"], *(100 * row["score"]["value"] for row in mine)]
            panel.plot(speeds, scores, marker="o", label=title)
        metric = next(row["metric"] for row in rows if row["model"] == model)
        panel.set(title=model, xlabel="times faster in ONNX Runtime (1×128, 1 thread)", ylabel=f"{metric}, %")
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    say(f"wrote {path}")


def main() -> None:
    """Make what is missing, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm-l6-sst2,minilm-l6-clinc150,minilm-l6-wnut17")
    parser.add_argument("--speeds", default="1.3,1.5,2")
    parser.add_argument("--only", default=",".join(METHODS), help="methods; default: %(default)s")
    parser.add_argument("--no-measure", action="store_true", help="only prune and judge; measure when it is quiet")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--work", type=Path, default=CACHE, help="where every result is kept; default: %(default)s")
    asked = parser.parse_args()
    names, speeds = asked.only.split(","), [float(each) for each in asked.speeds.split(",")]
    rows: list[dict[str, Any]] = []
    for real in real_models(asked.models.split(",")):
        one = job(real, asked.work)
        for speed in speeds:
            there = [name for name in names if (one.work / f"{name}-{speed:g}" / "result.json").is_file()]
            done = there if asked.table else [name for name in names if make(one, name, speed)]
            rows += rows_of(one, done, speed) if done and not asked.no_measure else []
    if asked.no_measure:
        return
    show(rows)
    plot(rows, HERE.parent / "prune.svg")
    from deploycomp.measure.context import context

    print(f"\n{machine(context())}; one row of 128 tokens, 1 thread, FP32; intervals of 95 %.")
    failed = broken(rows)
    for why in failed:
        say(why)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
