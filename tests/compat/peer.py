"""Runs in the peer's venv (optimum-onnx, transformers 4.57): opens our artifacts as its users do and keeps the answers.

    python peer.py CASES.json      # a list of {id, folder, loader, options, texts, pairs, answers}

For each case it writes `<id>.npz` beside CASES.json (`in.<name>`, `out.<name>`), and in `results.json` the error where
loading or running failed, or what a pipeline answered.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    cases = Path(sys.argv[1])
    results: dict[str, Any] = {}
    for case in json.loads(cases.read_text(encoding="utf-8")):
        target = cases.with_name(f"{case['id']}.npz")
        try:
            run = sentence_transformers if case["loader"] == "SentenceTransformer" else optimum
            results[case["id"]] = {"error": None, "answers": run(case, target)}
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            results[case["id"]] = {"error": f"{type(error).__name__}: {error} ({where})", "answers": None}
    cases.with_name("results.json").write_text(json.dumps(results), encoding="utf-8")


def optimum(case: dict[str, Any], target: Path) -> Any:
    from transformers import AutoTokenizer, pipeline

    loader = getattr(importlib.import_module("optimum.onnxruntime"), case["loader"])  # only the peer has it
    model = loader.from_pretrained(case["folder"], **case["options"])
    tokenizer = AutoTokenizer.from_pretrained(case["folder"])
    texts = [case["texts"], case["pairs"]] if case["pairs"] else [case["texts"]]
    feeds: dict[str, Any] = dict(tokenizer(*texts, padding=True, return_tensors="np"))
    outputs = model(**feeds)
    named: dict[str, Any] = {f"in.{name}": value for name, value in feeds.items()}
    named |= {f"out.{name}": value for name, value in outputs.items()}
    np.savez(target, **named)
    if case["answers"] is None:
        return None
    return pipeline(case["answers"], model=model, tokenizer=tokenizer)(case["texts"])


def sentence_transformers(case: dict[str, Any], target: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(case["folder"], backend="onnx", model_kwargs=case["options"])
    named: dict[str, Any] = {}
    named["out.sentence_embedding"] = model.encode(case["texts"])
    np.savez(target, **named)


if __name__ == "__main__":
    main()
