"""What data is worth: the encoder of a model at 70 % of its numbers, by every low rank, at equal ranks and by one list.

    .venv/bin/python benchmarks/factorize/encoder.py [--models sst2,clinc150] [--share 0.7] [--limit 2000]

The same ranks for all methods (each matrix keeps the same share of its numbers), then SVD and ours at ranks from one
list.
Rows of the train split weigh directions, test rows are reported (SST-2: validation). Every cell is kept (`--work`).
Exit code 1 when data is worth less than 3 points.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from cells import CACHE, Subject, change, interval, kept, subject
from common import machine

from deploycomp.compress.factorize.factorize import Factorizer
from deploycomp.compress.factorize.methods import Request
from deploycomp.compress.factorize.ranks import uniform
from deploycomp.measure.context import context
from deploycomp.recipe import MATRICES, Factorize

ROWS = {
    "svd": "SVD",
    "fisher_svd": "Fisher-weighted SVD",
    "pca": "output PCA",
    "kfac": "K-FAC",
    "auto": "K-FAC, fitted bottom-up where that pays",
    "svd at ranks": "SVD at the ranks of the next row",
    "ranks": "fitted bottom-up, ranks from one list (deploycomp)",
}
AHEAD = 0.03
LIMIT = 2_000


def _factorizer(on: Subject, method: str, share: float) -> Factorizer:
    matrices = [each for each in MATRICES if each != "embeddings"]
    config = Factorize.model_validate({"size": share, "method": method, "matrices": matrices, "form": "smaller"})
    return Factorizer(on.model, config, on.rows.batches, on.rows.held_out, lambda _message, _share: None)


def measure(on: Subject, row: str, share: float) -> dict[str, Any]:
    """Factorize the encoder, and judge the model."""
    began = time.perf_counter()
    made = _factorizer(on, {"ranks": "auto", "svd at ranks": "svd"}.get(row, row), share)
    if row in ("ranks", "svd at ranks"):
        ranker = made if row == "ranks" else _factorizer(on, "auto", share)
        requests = ranker.requests(int(share * made.whole))
    else:
        requests = {name: Request(rank=rank) for name, rank in uniform(made.shapes, share).items() if rank is not None}
    student = made.run(requests)
    saved = on.model.parameters - student.parameters
    return {
        "numbers": 1 - saved / made.whole,
        "seconds": time.perf_counter() - began,
        "divergence": made.divergence(student),
        "scores": on.scores(student),
    }


def main() -> None:
    """Measure what is missing, print the tables, and check the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="sst2,clinc150")
    parser.add_argument("--share", type=float, default=0.7)
    parser.add_argument("--limit", type=int, default=LIMIT, help="judged rows of each model")
    parser.add_argument("--work", type=Path, default=CACHE / "encoder")
    asked = parser.parse_args()
    failed = False
    for name in asked.models.split(","):
        on = subject(name, asked.limit)
        source = kept(asked.work / name / "source.json", lambda on=on: {"scores": on.scores(on.model)})
        found = {
            row: kept(
                asked.work / name / f"{row}-{asked.share:g}.json", lambda on=on, row=row: measure(on, row, asked.share)
            )
            for row in ROWS
        }
        print(f"\n### {name}: encoder at {asked.share:.0%} ({len(on.gold)} rows, source ", end="")
        print(f"{100 * interval(on, source['scores']).value:.1f})\n")
        print(f"| | numbers | {on.metric} | held-out KL | ahead of SVD at the same ranks | seconds |")
        print("|---|---:|---:|---:|---:|---:|")
        best = 0.0
        for row, words in ROWS.items():
            cell = found[row]
            plain = "svd at ranks" if row == "ranks" else "svd"
            value, ahead = interval(on, cell["scores"]), change(on, cell["scores"], found[plain]["scores"])
            gain = (
                ""
                if row.startswith("svd")
                else f"{100 * ahead.value:+.1f} ({100 * ahead.low:+.1f}…{100 * ahead.high:+.1f})"
            )
            ends = f"{100 * value.low:.1f}…{100 * value.high:.1f}"
            print(
                f"| {words} | {cell['numbers']:.1%} | {100 * value.value:.1f} ({ends}) | {cell['divergence']:.4f} "
                f"| {gain} | {cell['seconds']:.0f} |"
            )
            best = max(best, ahead.value if row in ("auto", "ranks") else 0.0)
        failed |= best < AHEAD
    print(f"\n{machine(context())}")
    if failed:
        sys.exit(f"the fitted low rank is not {100 * AHEAD:g} points ahead of SVD everywhere")


if __name__ == "__main__":
    main()
