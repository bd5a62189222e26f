"""Pruning the vocabulary: how much smaller the model gets, and whether it still gives the same answers, bit by bit.

    .venv/bin/python benchmarks/prune/vocabulary.py [--model minilm-l6-clinc150]

Runs `deploycomp compress --prune-vocabulary` on the train rows, then both models on every validation or test row, one
at a time, so that nothing is padded. Rows with a piece that the train rows lack are counted apart. Exit code 1 when the
model is less than 40 % smaller, or when any other row gets another answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

import numpy as np
from common import Real, real_models, run_ours, say

from deploycomp.assess import read_rows
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel

LEAST_SMALLER = 0.40
SEEN, UNSEEN = "cut as before", "with unseen pieces"
ALIKE, LABEL, OTHER = "the same bits", "the same label", "another label"


def prune(real: Real, out: Path) -> dict[str, Any]:
    """Prune as a user does; return what the command reports."""
    line = ["compress", str(real.path), "--prune-vocabulary", "--calibration", str(real.data.with_name("train.jsonl"))]
    return run_ours(*line, "-o", str(out))


def outcome(before: TorchModel, after: TorchModel, kept: Sequence[int], text: str) -> tuple[str, str]:
    """Whether a row is cut into the same pieces, and whether its answer is the same, in all bits or as a label."""
    was, now = (one.tokenizer(text, truncation=True)["input_ids"] for one in (before, after))
    one, two = _run(before, was), _run(after, now)
    answer = ALIKE if np.array_equal(one, two) else LABEL if one.argmax() == two.argmax() else OTHER
    return (SEEN if was == [kept[piece] for piece in now] else UNSEEN), answer


def _run(model: TorchModel, ids: list[int]) -> np.ndarray:
    row = np.array([ids])
    every = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    return model.run({name: every[name] for name in model.inputs}, model.outputs)[0]


def size(folder: Path) -> int:
    """Bytes of the weights and the tokenizer."""
    return sum(each.stat().st_size for name in ("*.safetensors", "tokenizer.json") for each in folder.glob(name))


def main() -> None:
    """Prune, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm-l6-clinc150", choices=["minilm-l6-clinc150", "minilm-l6-sst2"])
    asked = parser.parse_args()
    real = real_models([asked.model])[0]
    with tempfile.TemporaryDirectory(prefix="deploycomp-vocabulary-") as made:
        out = Path(made) / "pruned"
        facts = next(step["facts"] for step in prune(real, out)["steps"] if step["step"] == "prune_vocabulary")
        before, after = (load(resolve(place)) for place in (real.path, out))
        old, new = (one.tokenizer.get_vocab() for one in (before, after))
        kept = [old[piece] for piece in sorted(new, key=new.__getitem__)]
        texts = read_rows(before, str(real.data)).column("text")
        say(f"{len(texts)} rows, one at a time")
        found = Counter(outcome(before, after, kept, text) for text in texts)
        sizes = [size(real.path), size(out)]
    smaller = 1 - sizes[1] / sizes[0]
    print("| | before | after |\n|---|---:|---:|")
    print(f"| pieces | {facts['pieces']['before']:,} | {facts['pieces']['after']:,} |")
    print(f"| parameters | {before.parameters / 1e6:.1f} M | {after.parameters / 1e6:.1f} M |")
    print(f"| weights and tokenizer | {sizes[0] / 1e6:.1f} MB | {sizes[1] / 1e6:.1f} MB, {100 * smaller:.1f} % less |")
    print(f"\n| rows of {real.data.name} | answer | count |\n|---|---|---:|")
    for (cut, answer), count in sorted(found.items()):
        print(f"| {cut} | {answer} | {count:,} |")
    other = sum(count for (cut, answer), count in found.items() if cut == SEEN and answer != ALIKE)
    if smaller < LEAST_SMALLER:
        say(f"the model is only {100 * smaller:.1f} % smaller")
    if other:
        say(f"{other} rows that are cut as before get other answers")
    sys.exit(bool(smaller < LEAST_SMALLER or other))


if __name__ == "__main__":
    main()
