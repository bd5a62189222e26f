"""Real models on real data give the numbers that they were measured at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deploycomp.data import load_rows
from deploycomp.evaluate import evaluate_candidates
from deploycomp.runtime import Predictor

pytestmark = pytest.mark.shared


def source(folder: Path, task: str) -> Predictor:
    """The model in PyTorch behind a Predictor."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    model = kind.from_pretrained(folder, dtype=torch.float32).eval()

    def run(feeds: dict[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()]

    labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    inputs = {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    manifest = {"task": task, "signature": {"inputs": inputs}, "runtime": {"max_length": 512, "labels": labels}}
    return Predictor(Tokenizer.from_file(str(folder / "tokenizer.json")), manifest, run)


@pytest.mark.filterwarnings("ignore")  # importing torch and transformers warns of what is not ours
def test_sst2(shared_models: Path, shared_data: Path) -> None:
    model = source(shared_models / "minilm-l6-sst2", "text-classification")
    rows = load_rows(str(shared_data / "sst2"), task="text-classification", labels=model.labels(2))
    found = evaluate_candidates({"source": model}, rows)
    accuracy = found["scores"]["source"]["accuracy"]
    assert found["rows"] == 872
    assert accuracy["value"] == pytest.approx(0.8945, abs=0.003)
    assert 0.86 < accuracy["low"] < 0.88 < 0.91 < accuracy["high"] < 0.92


@pytest.mark.filterwarnings("ignore")
def test_wnut17(shared_models: Path, shared_data: Path) -> None:
    model = source(shared_models / "minilm-l6-wnut17", "token-classification")
    rows = load_rows(
        str(shared_data / "wnut17"), task="token-classification", labels=model.runtime["labels"], limit=300
    )
    found = evaluate_candidates({"source": model, "artifact": model}, rows, max_drop=0.005)
    assert found["metric"] == "f1"
    assert 0.45 < found["scores"]["source"]["f1"]["value"] < 0.68
    assert found["drop"]["artifact"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
