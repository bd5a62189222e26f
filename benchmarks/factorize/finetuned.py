"""Compress, then fine-tune: the paper's other regime, on SST-2.

    .venv/bin/python benchmarks/factorize/finetuned.py [--ratio 10] [--epochs 1] [--rows 67349] [--only svd,…]

The pretrained all-MiniLM-L6-v2 is stored by one method (embeddings, key and FFN out of all layers together, at one
ratio), then everything that is stored learns SST-2 with a new head: latents, decoders, biases and the rest. The same
rows in the same order for all, and the dense model beside them. Accuracy on the validation split, which selected
nothing. Every run is kept (`--work`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

import numpy as np
import torch
from cells import CACHE, SUBJECTS, change, interval, kept, subject
from common import machine, say
from finetune import DATA

from deploycomp.compress.factorize.matrices import install, units_of
from deploycomp.compress.factorize.methods import METHODS, Job, Request
from deploycomp.measure.context import context
from deploycomp.models import resolve
from deploycomp.models.anatomy import describe
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.models.quiet import quiet

RUNS = {"svd": "SVD, concatenated", "autoencoder": "autoencoder, concatenated", "dense": "nothing stored in fewer"}
MATRICES = ("embeddings", "key", "ffn_out")
BATCH, POOL, RATE, WARMUP, SEED = 32, 16, 2e-4, 0.1, 0
MAX_TOKENS = 64


def start() -> TorchModel:
    """The pretrained encoder with a new head for two classes."""
    from transformers import AutoModelForSequenceClassification

    folder = SUBJECTS["stsb"].model()
    torch.manual_seed(SEED)
    with quiet():
        module = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=2, dtype=torch.float32, local_files_only=True,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
    encoder = load(resolve(folder), "feature-extraction")
    return replace(
        encoder,
        module=module.requires_grad_(False).eval(),
        task="text-classification",
        outputs=("logits",),
        problem_type="single_label_classification",
        anatomy=describe(module, module.config),
    )


def compressed(method: str, ratio: float) -> TorchModel:
    """The model with its matrices stored by a method; no row of text is looked at."""
    model = start()
    if method == "dense":
        return model
    for unit in units_of(model.module, model.anatomy, MATRICES, "concatenated"):
        say(f"{method}: {unit.name}")
        job = Job(unit.group(model.module), [], [], Request(ratio=ratio), lambda _: None)
        model = install(model, unit, METHODS[method].make(job), "smaller")
    return model


def train(model: TorchModel, epochs: int, count: int) -> None:
    """Learn SST-2 with AdamW and a linear schedule, in place."""
    from transformers import get_linear_schedule_with_warmup

    rows = [json.loads(line) for line in (DATA / "sst2" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    names = sorted({str(row["label"]) for row in rows})
    rows = rows[:count]
    ids = model.tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    labels = [names.index(str(row["label"])) for row in rows]
    module: Any = model.module.requires_grad_(True).train()
    steps = epochs * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    began = time.monotonic()
    for number, places in enumerate(_batches([len(each) for each in ids], epochs), start=1):
        batch = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[place]) for place in places], batch_first=True)
        mask = (batch != model.tokenizer.pad_token_id).long()
        loss = module(
            input_ids=batch, attention_mask=mask, labels=torch.tensor([labels[place] for place in places])
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if number % 100 == 0:
            passed = time.monotonic() - began
            left = passed / number * (steps - number)
            say(f"step {number} of {steps}, loss {loss.item():.3f}, {passed:.0f} s, about {left:.0f} s left")
    module.requires_grad_(False).eval()


def _batches(lengths: list[int], epochs: int) -> Iterator[list[int]]:
    """Rows in a seeded order, cut into batches of similar length."""
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        order = torch.randperm(len(lengths), generator=generator).tolist()
        size = POOL * BATCH
        pools = [sorted(order[begin : begin + size], key=lengths.__getitem__) for begin in range(0, len(order), size)]
        batches = [pool[begin : begin + BATCH] for pool in pools for begin in range(0, len(pool), BATCH)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rows", type=int, default=67_349, help="train rows")
    parser.add_argument("--only", default=",".join(RUNS), help="compared with the first; default: %(default)s")
    parser.add_argument("--work", type=Path, default=CACHE / "finetuned")
    asked = parser.parse_args()
    methods = asked.only.split(",")
    on = subject("sst2", None)

    def run(method: str) -> dict[str, Any]:
        began = time.monotonic()
        model = compressed(method, asked.ratio)
        train(model, asked.epochs, asked.rows)
        order = sorted(on.model.labels or ())  # as in training
        right = [order.index((on.model.labels or ())[int(place)]) for place in on.gold]
        scores = replace(on, gold=np.array(right)).scores(model)
        return {"parameters": model.parameters, "seconds": time.monotonic() - began, "scores": scores}

    key = f"{asked.ratio:g}-{asked.epochs}-{asked.rows}"
    found = {method: kept(asked.work / f"{method}-{key}.json", lambda method=method: run(method)) for method in methods}
    print(f"\nSST-2, {asked.epochs} epoch(s) of {asked.rows:,} rows after compressing, ratio {asked.ratio:g}\n")
    print("| | parameters | accuracy | change | minutes |\n|---|---:|---:|---:|---:|")
    first = methods[0]
    for method in methods:
        cell = found[method]
        value, gap = interval(on, cell["scores"]), change(on, cell["scores"], found[first]["scores"])
        ends = f"{100 * value.low:.1f}…{100 * value.high:.1f}"
        gain = "" if method == first else f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f}…{100 * gap.high:+.1f})"
        print(
            f"| {RUNS[method]} | {cell['parameters'] / 1e6:.1f} M | {100 * value.value:.1f} ({ends}) | {gain} "
            f"| {cell['seconds'] / 60:.0f} |"
        )
    print(f"\n{machine(context())}")


if __name__ == "__main__":
    main()
