"""Pruning and INT8 together: does INT8 lose more on a pruned model, and do the two speed-ups multiply?

    .venv/bin/python benchmarks/prune/int8.py [--models minilm-l6-sst2,…] [--speed 1.3]

Takes the checkpoints that `run.py` kept for the speed, exports them and their sources in FP32 and INT8 as a user does,
judges all on the same rows, and times the four of a model call by call in turns. Exit code 1 when INT8 costs pruned
models more than 0.3 points on average, or when a product of speed-ups is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from common import Real, machine, real_models, run_ours
from run import CACHE

from deploycomp.latency import Setting, graph_ratios

MOST_LOST, MOST_OFF = 0.003, 0.10
"""The loss is an average over models: one row of SST-2 is 0.11 points."""
SETTING = Setting(threads=1)

Report = dict[str, Any]


def export(real: Real, model: Path, place: Path, *, int8: bool) -> Report:
    """Export and judge as a user does; return the report."""
    quantized = ["--int8", "--calibration", str(real.data.with_name("train.jsonl"))] if int8 else []
    return run_ours("export", str(model), "--eval", str(real.data), "--no-benchmark", "-o", str(place), *quantized)


def compare(real: Real, pruned: Path) -> tuple[float, float]:
    """Print four rows; return what INT8 costs the pruned model, and by how much the product of speed-ups is off."""
    with tempfile.TemporaryDirectory(prefix="deploycomp-prune-") as made:
        places: dict[str, Path] = {}
        judged: dict[str, Report] = {}
        for name, model in (("whole", real.path), ("pruned", pruned)):
            for kind in ("FP32", "INT8"):
                place = places[f"{name}, {kind}"] = Path(made) / f"{name}-{kind}"
                judged[f"{name}, {kind}"] = export(real, model, place, int8=kind == "INT8")["evaluation"]
        speeds = graph_ratios(places, SETTING)
    for name, each in judged.items():
        metric, drop = each["metric"], each["drop"]["artifact"]
        speed = "{:.2f} ({:.2f}…{:.2f})".format(*speeds[name]) if name in speeds else "1"
        cost = f"{100 * drop['value']:+.2f} pt ({100 * drop['low']:+.2f}…{100 * drop['high']:+.2f})"
        score = each["scores"]["artifact"][metric]["value"]
        print(f"| {real.name}, {name} | {metric} {100 * score:.2f} % | {cost} | {speed} |")
    product = speeds["pruned, FP32"][0] * speeds["whole, INT8"][0]
    return judged["pruned, INT8"]["drop"]["artifact"]["value"], speeds["pruned, INT8"][0] / product - 1


def main() -> None:
    """Export, judge, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="minilm-l6-sst2,minilm-l6-clinc150,minilm-l6-wnut17")
    parser.add_argument("--speed", type=float, default=1.3)
    parser.add_argument("--work", type=Path, default=CACHE, help="where run.py kept its results; default: %(default)s")
    asked = parser.parse_args()
    reals = real_models(asked.models.split(","))
    pruned = {real.name: asked.work / real.name / f"ours-{asked.speed:g}" for real in reals}
    for name, place in pruned.items():
        if not (place / "surgery.json").is_file():
            sys.exit(f"{place} does not exist; run benchmarks/prune/run.py --models {name} --speeds {asked.speed:g}")
    print("| | score | lost by its export | times faster than the whole model in FP32 |\n|---|---|---|---|")
    found = {real.name: compare(real, pruned[real.name]) for real in reals}
    mean = statistics.mean(lost for lost, _ in found.values())
    from deploycomp.measure.context import context

    print(f"\nINT8 costs pruned models {100 * mean:.2f} points on average.")
    for name, (_, off) in found.items():
        print(f"{name}: pruned and INT8 together are off the product of the two by {100 * off:+.1f} %.")
    print(f"\n{machine(context())}; one row of 128 tokens, 1 thread; intervals of 95 %.")
    sys.exit(mean > MOST_LOST or any(abs(off) > MOST_OFF for _, off in found.values()))


if __name__ == "__main__":
    main()
