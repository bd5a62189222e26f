"""Pruning and INT8 together: does INT8 lose more on a pruned model, and do the two speed-ups multiply?

    .venv/bin/python benchmarks/prune/int8.py [--model minilm-l6-sst2] [--speed 1.3]

Takes the checkpoint that `run.py` kept for the speed, exports it and its source in FP32 and INT8 as a user does, judges
all on the same rows, and measures the four side by side. Exit code 1 when INT8 costs the pruned model more than 0.3
points, or when the product of the speed-ups is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from common import command, machine, real_models, say
from run import CACHE

MOST_LOST, MOST_OFF = 0.003, 0.10
SHAPE = ["--batch-size", "1", "--sequence-length", "128", "--threads", "1"]


def deploycomp(*arguments: str) -> str:
    """Run our command and return what it printed."""
    say(f"deploycomp {' '.join(arguments)}")
    return subprocess.run([str(command()), *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def score(report: dict[str, Any]) -> tuple[str, float]:
    """Metric and value of an artifact."""
    metric = report["evaluation"]["metric"]
    return metric, report["evaluation"]["scores"]["artifact"][metric]["value"]


def main() -> None:
    """Export, judge, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm-l6-sst2")
    parser.add_argument("--speed", type=float, default=1.3)
    parser.add_argument("--work", type=Path, default=CACHE, help="where run.py kept its results; default: %(default)s")
    asked = parser.parse_args()
    real = real_models([asked.model])[0]
    pruned = asked.work / real.name / f"ours-{asked.speed:g}"
    if not (pruned / "surgery.json").is_file():
        sys.exit(f"{pruned} does not exist; run benchmarks/prune/run.py --models {real.name} --speeds {asked.speed:g}")
    with tempfile.TemporaryDirectory(prefix="deploycomp-prune-") as made:
        scores: dict[str, float] = {}
        places: list[str] = []
        metric = ""
        for model, name in ((real.path, "whole"), (pruned, "pruned")):
            for kind in ("fp32", "int8"):
                place = Path(made) / f"{name}-{kind}"
                int8 = ["--int8", "--calibration", str(real.data.with_name("train.jsonl"))] if kind == "int8" else []
                options = ["--eval", str(real.data), "--no-benchmark", "-q", "-o", str(place)]
                deploycomp("export", str(model), *int8, *options)
                report = json.loads((place / "report.json").read_text(encoding="utf-8"))
                metric, scores[place.name] = score(report)
                places.append(str(place))
        found = json.loads(deploycomp("benchmark", *places, *SHAPE, "--blocks", "6", "--json"))
    speeds = {name: entries[0] for name, entries in found["ratios"].items()}
    print(f"| | {metric} | times faster than the whole model in FP32 |\n|---|---|---|")
    for name, value in scores.items():
        one = speeds.get(name)
        words = f"{one['ratio']:.2f} ({one['low']:.2f}…{one['high']:.2f})" if one else "1"
        print(f"| {name.replace('-', ', ')} | {100 * value:.2f} % | {words} |")
    lost = scores["pruned-fp32"] - scores["pruned-int8"]
    product = speeds["pruned-fp32"]["ratio"] * speeds["whole-int8"]["ratio"]
    off = speeds["pruned-int8"]["ratio"] / product - 1
    print(f"\nINT8 costs the pruned model {100 * lost:.2f} points; their product is off by {100 * off:+.1f} %.")
    print(f"{machine(found['context'])}; one row of 128 tokens, 1 thread; intervals of 95 %.")
    sys.exit(lost > MOST_LOST or abs(off) > MOST_OFF)


if __name__ == "__main__":
    main()
