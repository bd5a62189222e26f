"""Write every kind of graph we write, the rows to try them on, and PyTorch's answers.

    python make.py FOLDER [--small]      # FOLDER/<kind>/ are artifacts, FOLDER/rows.npz rows and answers

One seeded encoder in the shape of MiniLM-L6 (with --small of two layers, for answers without times), so that nothing
has to be downloaded. Run by another transformers it must write the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for tests.tiny

from tests import tiny

SIZES = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
LENGTH, ROWS = 24, 4

STANDARD = {"step": "export", "ops": "standard"}
STATIC = {"step": "int8", "weight_bits": 8}
DYNAMIC = {"step": "int8", "weight_bits": 8, "activations": "dynamic"}
EXPORT = {"step": "export"}

KINDS: dict[str, dict[str, Any]] = {
    "FP32 plain (`--ops standard`)": {"steps": [STANDARD]},
    "FP32": {"steps": [EXPORT]},
    "FP32, `--opset 26`": {"steps": [{**EXPORT, "opset": 26}]},
    "FP32, `--opset 18`": {"steps": [{**EXPORT, "opset": 18}]},
    "FP32, tuning kept MultiHeadAttention": {"steps": [EXPORT], "form": "mask"},
    "FP32, tuning kept plain attention": {"steps": [EXPORT], "form": "plain"},
    "FP32, every token answers": {"steps": [EXPORT], "task": "token-classification"},
    "FP32, `--layout transformers.js`": {"steps": [EXPORT], "layout": "transformers.js"},
    "FP16 for GPUs, opened on a CPU": {"steps": [{**EXPORT, "dtype": "fp16"}], "target": "cuda"},
    "INT8 plain (`--ops standard`)": {"steps": [STANDARD, DYNAMIC]},
    "INT8 dynamic": {"steps": [EXPORT, DYNAMIC]},
    "INT8 static": {"steps": [EXPORT, {**STATIC, "attention": "float"}], "calibrate": True},
    "INT8 static, attention too": {"steps": [EXPORT, {**STATIC, "attention": "int8"}], "calibrate": True},
    "INT8 dynamic, `--opset 18`": {"steps": [{**EXPORT, "opset": 18}, DYNAMIC]},
    "INT8 static, `--opset 18`": {
        "steps": [{**EXPORT, "opset": 18}, {**STATIC, "attention": "float"}],
        "calibrate": True,
    },
    "INT8 dynamic, `--layout transformers.js`": {"steps": [EXPORT, DYNAMIC], "layout": "transformers.js"},
}
"""What users get, by how they ask for it; the plain ones first of their precision."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    sizes = {} if asked.small else SIZES
    tasks = {str(kind.get("task", "text-classification")) for kind in KINDS.values()}
    sources = {task: tiny.build(asked.folder / f"source-{task}", "bert", task, **sizes) for task in sorted(tasks)}
    texts = asked.folder / "calibration.jsonl"
    texts.write_text("".join(json.dumps({"text": each}) + "\n" for each in tiny.texts(40)), encoding="utf-8")
    table = [
        _make(asked.folder, f"{number:02}", name, kind, sources) for number, (name, kind) in enumerate(KINDS.items())
    ]
    (asked.folder / "kinds.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    np.savez(asked.folder / "rows.npz", **_rows(), **_answers(sources))


def _make(folder: Path, number: str, name: str, kind: dict[str, Any], sources: dict[str, Path]) -> dict[str, Any]:
    from deploycomp import context
    from deploycomp.pipeline import export_model
    from deploycomp.recipe import Recipe

    task = str(kind.get("task", "text-classification"))
    data = {
        "model": str(sources[task]),
        "benchmark": None,
        "target": kind.get("target", "x86-vnni"),
        "layout": kind.get("layout", "default"),
        "steps": kind["steps"],
        "tune": False,
        "calibrate": {"data": str(folder / "calibration.jsonl")} if kind.get("calibrate") else None,
    }
    first = context.first_form
    if form := kind.get("form"):
        context.first_form = lambda _recipe, _target: form  # what tuning would have chosen
    try:
        done = export_model(Recipe.check(data), folder / number)
    finally:
        context.first_form = first
    artifact = done.artifact
    return {
        "name": name,
        "folder": number,
        "model": str(artifact.model.relative_to(folder)),
        "task": task,
        "precision": artifact.manifest["precision"],
        "needs": artifact.manifest["runtime"]["onnxruntime"],
        "operators": _operators(artifact.model),
        "sha256": artifact.manifest["files"][str(artifact.manifest["model"])]["sha256"],
    }


def _operators(path: Path) -> dict[str, int]:
    import onnx_ir as ir

    found: dict[str, int] = {}
    for node in ir.load(path).graph:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def _rows() -> dict[str, np.ndarray]:
    """One batch of ids, and masks: `row.<name>` is where real tokens are."""
    ids = np.random.default_rng(0).integers(60, 120, (ROWS, LENGTH))
    full = np.ones((ROWS, LENGTH), np.int64)
    right, left, hole, alone = full.copy(), full.copy(), full.copy(), full.copy()
    right[1, 9:], right[2, 17:], right[3, 1:] = 0, 0, 0
    left[1, :15], left[2, :7], left[3, :-1] = 0, 0, 0
    hole[0, 5], hole[2, 3:9] = 0, 0
    alone[1], alone[2, 17:] = 0, 0
    return {"ids": ids, **{f"mask.{n}": m for n, m in zip(MASKS, (full, right, left, hole, alone), strict=True)}}


MASKS = ("no padding", "right", "left", "holes", "a row of padding only")


def _answers(sources: dict[str, Path]) -> dict[str, np.ndarray]:
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    rows, found = _rows(), dict[str, np.ndarray]()
    for task, source in sources.items():
        model = load(resolve(str(source)), task)
        for name in MASKS:
            feeds = {"input_ids": rows["ids"], "attention_mask": rows[f"mask.{name}"]}
            feeds["token_type_ids"] = np.zeros_like(rows["ids"])
            found[f"want.{task}.{name}"] = model.run(feeds, ("logits",))[0]
    return found


if __name__ == "__main__":
    main()
