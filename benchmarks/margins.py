"""How little noise changes an extractive answer: SQuAD's logits with seeded noise on them, and INT8's own error.

    .venv/bin/python benchmarks/margins.py [--rows 1000]

Gaussian noise of so many percent of a row's own spread is added to the start and end logits of the FP32 graph; an
answer stays when both positions do. INT8 stands below with the error that it really has, to be read against noise of
the same size. Markdown on stdout.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accuracy import TASKS, find_model
from common import export_int8, run_ours
from finetune import DATA

NOISE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.06)
"""Shares of the standard deviation of a row's logits."""
DRAWS, SEED = 3, 0

Logits = list[npt.NDArray[np.float64]]
"""[start and end, tokens] of each window of each row."""


def logits(artifact: Path, rows: int) -> Logits:
    """The answers of an artifact to seeded rows, before anything is chosen from them."""
    from deploycomp.assess import read_rows
    from deploycomp.evaluate import inputs_of
    from deploycomp.runtime import Predictor

    predictor = Predictor.load(artifact)
    found = read_rows(predictor, str(DATA / TASKS["squad"].data), limit=rows)
    answers = predictor.raw(inputs_of(found, predictor), batch_size=8).rows
    return [
        np.stack([row.outputs[name].ravel().astype(np.float64) for name in ("start_logits", "end_logits")])
        for windows in answers
        for row in windows
    ]


def kept(before: Logits, after: Logits) -> float:
    """The share of windows whose best start and best end are the same."""
    return float(np.mean([np.array_equal(x.argmax(1), y.argmax(1)) for x, y in zip(before, after, strict=True)]))


def disturbed(exact: Logits, share: float, draw: np.random.Generator) -> Logits:
    """Logits with noise of a share of their own spread."""
    return [x + share * x.std(1, keepdims=True) * draw.normal(size=x.shape) for x in exact]


def error(exact: Logits, given: Logits) -> float:
    """The root of the mean square of what differs, in shares of the spread, over all windows."""
    squares = [np.square(y - x).mean(1) / np.square(x.std(1)) for x, y in zip(exact, given, strict=True)]
    return float(np.sqrt(np.mean(squares)))


def main() -> None:
    """Export twice, disturb, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000, help="validation rows; default: %(default)s")
    asked = parser.parse_args()
    model, draw = find_model("squad"), np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory(prefix="deploycomp-margins-") as scratch:
        float32, int8 = Path(scratch, "fp32"), Path(scratch, "int8")
        run_ours("export", str(model), "-o", str(float32), "--no-benchmark")
        train = str(DATA / TASKS["squad"].train)
        export_int8(model, int8, "--no-benchmark", "--no-tune", "--calibration", train)
        exact, given = logits(float32, asked.rows), logits(int8, asked.rows)
    lines: list[tuple[str, str]] = [("error of the logits", "answers that stay"), ("---:", "---:")]
    for share in NOISE:
        same = np.mean([kept(exact, disturbed(exact, share, draw)) for _ in range(DRAWS)])
        lines.append((f"noise, {share:.1%}", f"{same:.1%}"))
    lines.append((f"INT8, {error(exact, given):.1%}", f"{kept(exact, given):.1%}"))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    print(f"\n{len(exact):,} windows of {asked.rows:,} rows of SQuAD, validation; noise drawn {DRAWS} times.")


if __name__ == "__main__":
    main()
