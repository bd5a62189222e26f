"""The real data sets load, whole, with the labels of the models that were trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploycomp.data import load_rows

pytestmark = pytest.mark.shared


@pytest.mark.parametrize(
    ("name", "task", "split", "rows"),
    [
        ("sst2", "text-classification", "validation", 872),
        ("clinc150", "text-classification", "test", 5500),
        ("qnli", "text-classification", "validation", 5463),
        ("stsb", "text-classification", "test", 1379),
        ("stsb", "sentence-similarity", "validation", 1500),
        ("wnut17", "token-classification", "test", 1287),
        ("squad", "question-answering", "validation", 2569),
    ],
)
def test_real_data(shared_data: Path, name: str, task: str, split: str, rows: int) -> None:
    loaded = load_rows(str(shared_data / name), task=task, split=split)
    assert (len(loaded), loaded.split, loaded.name) == (rows, split, f"{name}/{split}.jsonl")


@pytest.mark.parametrize(
    ("data", "task"),
    [("sst2", "text-classification"), ("clinc150", "text-classification"), ("wnut17", "token-classification")],
)
def test_real_labels(shared_data: Path, shared_models: Path, data: str, task: str) -> None:
    config = json.loads((shared_models / f"minilm-l6-{data}" / "config.json").read_text())
    labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    loaded = load_rows(str(shared_data / data), task=task, labels=labels)
    column = loaded.column("tags" if task == "token-classification" else "label")
    used = {tag for tags in column for tag in tags} if task == "token-classification" else set(column)
    assert loaded.labels == tuple(labels)
    assert used <= set(labels)


def test_the_demo_data_load() -> None:
    folder = Path(__file__).parents[2] / "deploycomp" / "demo" / "data"
    assert len(load_rows(str(folder), task="text-classification")) > 50
