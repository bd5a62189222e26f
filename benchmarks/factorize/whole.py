"""Half the numbers, then INT8: what a user gets from one command, and whether two products are ever faster.

    .venv/bin/python benchmarks/factorize/whole.py [--models sst2,clinc150] [--speedup 1.2] [--only faster,…]

Each export is kept (`--work`). Exit code 1 when a model loses more than 2 points, or its file is larger than 13 MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from cells import CACHE
from common import command, machine, real_models, say

from deploycomp.measure.context import context

MOST_LOST, MOST_BYTES = 0.02, 13_000_000


def export(name: str, out: Path, *options: str) -> dict[str, Any]:
    """Run the command as a user does, and read its report; or say why it refused."""
    real = real_models([f"minilm-l6-{name}"])[0]
    if not (out / "report.json").is_file():
        line = [str(command()), "export", str(real.path), "-o", str(out), "--overwrite", *options]
        line += ["--calibration", str(real.data.with_name("train.jsonl")), "--eval", str(real.data)]
        say(" ".join(line))
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"refused": done.stderr.strip()}
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def _row(words: str, report: dict[str, Any]) -> str:
    if "refused" in report:
        return f"| {words} | refused: {' '.join(report['refused'].split())} | | | | |"
    scores = report["evaluation"]["scores"]
    source, ours = scores["source"]["accuracy"]["value"], scores["artifact"]["accuracy"]["value"]
    seconds = sum(step["seconds"] for step in report["steps"] if step["step"] == "factorize")
    measured = [step["facts"]["measured"] for step in report["steps"] if step["step"] == "factorize"]
    last = measured[0][-1] if measured and measured[0] else None
    speed = "" if last is None else f"{last['speedup']:.2f}x ({last['low']:.2f}…{last['high']:.2f})"
    return (
        f"| {words} | {report['artifact']['bytes'] / 1e6:.1f} MB | {100 * ours:.2f} | {100 * (ours - source):+.2f} "
        f"| {speed} | {seconds:.0f} |"
    )


def main() -> None:
    """Export what is missing, print the tables, and check the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="sst2,clinc150")
    parser.add_argument("--size", type=float, default=0.5)
    parser.add_argument("--speedup", type=float, default=1.2)
    parser.add_argument("--only", default="int8,half-int8,half,faster", help="exports; default: %(default)s")
    parser.add_argument("--work", type=Path, default=CACHE / "whole")
    asked = parser.parse_args()
    failed: list[str] = []
    for name in asked.models.split(","):
        work = asked.work / name
        half = f"size={asked.size:.0%}"
        wanted = {
            "int8": ("INT8", ["--int8"]),
            "half-int8": (f"{half}, INT8", ["--int8", "--factorize", half]),
            "half": (half, ["--factorize", half]),
            "faster": (f"{asked.speedup:g}x", ["--factorize", f"{asked.speedup:g}x"]),
        }
        rows = {
            words: export(name, work / key, *options, "--no-benchmark")
            for key, (words, options) in wanted.items()
            if key in asked.only.split(",")
        }
        print(f"\n### {name}\n\n| | file | accuracy | change | measured against FP32 at 1×128 | seconds to factorize |")
        print("|---|---:|---:|---:|---:|---:|")
        for words, report in rows.items():
            print(_row(words, report))
        report = rows.get(f"{half}, INT8")
        if report is None:
            continue
        if "refused" in report:
            failed.append(f"{name}: refused")
            continue
        scores = report["evaluation"]["scores"]
        if scores["source"]["accuracy"]["value"] - scores["artifact"]["accuracy"]["value"] > MOST_LOST:
            failed.append(f"{name} loses more than {100 * MOST_LOST:g} points")
        if report["artifact"]["bytes"] > MOST_BYTES:
            failed.append(f"{name} takes {report['artifact']['bytes']:,} bytes")
    print(f"\n{machine(context())}")
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
