"""The family-wise false-alarm rate of the gate, by simulation: every ratio lies exactly at its limit, the worst case.

    .venv/bin/python benchmarks/gate/simulate.py [--cells 20] [--gates 150000]

The real rule on made-up machines, cells independent of one another, which is worse than cells of one process. The claim
is that Clopper and Pearson's upper bound (95 %) is at most the declared rate. Exit code 1 where it is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for the made-up machines of the tests

from deploycomp.gate.sequential import FAIL, outcomes, schedule
from tests.gate.streams import STREAMS, rounds

ROUNDS, LIMIT, CHUNK = 30, 0.05, 1000
DECLARED = (0.05, 0.001)


def main() -> None:
    """Print a row for each machine and declared rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--gates", type=int, default=150_000, help="for each row; default: %(default)s")
    asked = parser.parse_args()
    print(f"{asked.cells} cells, gates of {ROUNDS} rounds, every ratio at the limit of {LIMIT:.0%}\n")
    print("| noise | declared | false alarms | upper bound (95 %) |\n|---|---:|---:|---:|")
    broken = False
    for number, name in enumerate(STREAMS):
        for declared in DECLARED:
            looks = schedule(ROUNDS, hypotheses=asked.cells, false_alarm=declared, missed=0.05)
            draw, alarms = np.random.default_rng([number, round(1 / declared)]), 0
            for _ in range(asked.gates // CHUNK):
                slots = STREAMS[name](draw, (CHUNK, asked.cells, 2 * ROUNDS))
                alarms += int((outcomes(rounds(draw, slots, 1 + LIMIT), LIMIT, looks)[0] == FAIL).sum())
            high = binomtest(alarms, asked.gates).proportion_ci(0.9, method="exact").high  # one-sided
            broken |= high > declared
            print(f"| {name} | {declared:.1%} | {alarms:,} of {asked.gates:,} | {high:.3%} |", flush=True)
    sys.exit(broken)


if __name__ == "__main__":
    main()
