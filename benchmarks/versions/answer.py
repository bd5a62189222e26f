"""Runs in a venv with onnxruntime, numpy and tokenizers only: open every kind, compare answers, take times.

    python answer.py FOLDER RESULT.json [--times]

Answers of plain ONNX Runtime and what our own runtime says to the artifact are two different things: a graph that is
wrong here must be refused by the second.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.append(str(Path(__file__).resolve().parents[2]))  # for deploycomp.runtime

from deploycomp.errors import DeploycompError
from deploycomp.runtime import Predictor
from deploycomp.runtime.kernels import expanded, kernels_run
from deploycomp.runtime.session import open_session

LIMITS = {"fp32": 1e-4, "fp16": 5e-2, "int8": 0.3}
"""As in `evaluate.parity`: of the largest answer, and for INT8 of all answers together."""
SHAPES = ((1, 16), (1, 128), (8, 128))
ROUNDS = 7
SHORT_CALLS = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--times", action="store_true")
    asked = parser.parse_args()
    ort.set_default_logger_severity(4)
    kinds = json.loads((asked.folder / "kinds.json").read_text(encoding="utf-8"))
    rows = np.load(asked.folder / "rows.npz")
    found = {kind["name"]: _try(asked.folder, kind, rows) for kind in kinds}
    if asked.times:
        for name, ratio in _times(asked.folder, kinds, found).items():
            found[name]["ratio"] = ratio
    result = {"onnxruntime": ort.__version__, "python": platform.python_version(), "kinds": found}
    asked.result.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _try(folder: Path, kind: dict[str, Any], rows: Any) -> dict[str, Any]:
    """`answers`: mask → right, refused or wrong with its error; `ours`: what our runtime says to the artifact."""
    try:
        Predictor.load(folder / kind["folder"], threads=1)("a good film")
        ours = "answers"
    except DeploycompError as error:
        ours = error.what
    try:
        session = open_session(folder / kind["model"], threads=1, profile=folder)
    except DeploycompError as error:
        return {"opened": error.what, "answers": {}, "ours": ours}
    names = [each.name for each in session.get_inputs()]
    feeds = {"input_ids": rows["ids"], "token_type_ids": np.zeros_like(rows["ids"])}
    masks = [name.removeprefix("mask.") for name in rows.files if name.startswith("mask.")]
    kernels = kernels_run(session, {n: {**feeds, "attention_mask": rows["mask.no padding"]}[n] for n in names})
    answers: dict[str, Any] = {}
    for mask in masks:
        fed = {**feeds, "attention_mask": rows[f"mask.{mask}"]}
        try:
            got = session.run(["logits"], {name: fed[name] for name in names})[0]
        except Exception as error:
            answers[mask] = {"word": "refused", "why": str(error)[-160:]}
            continue
        answers[mask] = _judge(got, rows[f"want.{kind['task']}.{mask}"], rows[f"mask.{mask}"], kind["precision"])
    return {"opened": None, "answers": answers, "ours": ours, "expanded": expanded(kind["operators"], kernels)}


def _judge(got: np.ndarray, want: np.ndarray, mask: np.ndarray, precision: str) -> dict[str, Any]:
    """Rows without a real token mean nothing, and neither do answers at padding; they need to be finite."""
    if not np.isfinite(got).all():
        return {"word": "wrong", "error": "not finite"}
    told = mask.any(axis=1) if got.ndim == 2 else mask.astype(bool)
    got, want = got[told], want[told]
    largest = float(np.abs(got - want).max() / max(1.0, float(np.abs(want).max())))
    overall = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    error = overall if precision == "int8" else largest
    return {"word": "right" if error <= LIMITS[precision] else "wrong", "error": float(f"{error:.2g}")}


def _times(folder: Path, kinds: list[dict[str, Any]], found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Ratio of each kind's time to the plain graph of its precision, the median of interleaved rounds, by shape."""
    opened = [kind for kind in kinds if found[kind["name"]]["opened"] is None and kind["precision"] != "fp16"]
    sessions = {kind["name"]: open_session(folder / kind["model"], threads=1) for kind in opened}
    plain = {kind["precision"]: kind["name"] for kind in reversed(opened) if "plain (" in kind["name"]}
    taken: dict[tuple[str, str], list[float]] = {}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for shape in SHAPES:
            feeds = _feeds(shape, rng)
            for at in rng.permutation(len(opened)):
                name = opened[at]["name"]
                taken.setdefault((name, "×".join(map(str, shape))), []).append(_one(sessions[name], feeds, shape))
    ratios: dict[str, dict[str, float]] = {}
    for kind in opened:
        for shape in ("×".join(map(str, each)) for each in SHAPES):
            mine, theirs = taken[kind["name"], shape], taken[plain[kind["precision"]], shape]
            ratio = float(np.median(np.array(mine) / np.array(theirs)))
            ratios.setdefault(kind["name"], {})[shape] = round(ratio, 3)
    return ratios


def _feeds(shape: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    mask = np.ones(shape, np.int64)
    for row in range(1, shape[0]):
        mask[row, shape[1] - 8 * row :] = 0
    return {"input_ids": rng.integers(60, 120, shape), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def _one(session: Any, feeds: dict[str, np.ndarray], shape: tuple[int, int]) -> float:
    fed = {each.name: feeds[each.name] for each in session.get_inputs()}
    session.run(None, fed)
    calls = SHORT_CALLS if shape[0] == 1 else 1
    began = time.process_time()  # one thread: what a neighbour takes does not count
    for _ in range(calls):
        session.run(None, fed)
    return (time.process_time() - began) / calls


if __name__ == "__main__":
    main()
