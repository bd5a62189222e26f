"""Every kind of input that is mutated, with its share; and the check that differences are seen at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import artifacts, checkpoints, reference, settings, texts
from tests.fuzz.bench import Bench, Told

__all__ = ["EVERY", "SUBJECTS", "traced"]


def _self_check(bench: Bench, _: Random) -> Told:
    """Break three things that no artifact follows, and see that each is seen."""
    key = "bert", "text-classification"
    if said := reference.difference(reference.reference(bench.checkpoints[key], key[1]), bench.answers, key[1]):
        return f"an honest artifact differs: {said}", ""
    harms: dict[str, Callable[[Path], object]] = {
        "labels": lambda folder: _edit(
            folder / "config.json", id2label={"0": "positive", "1": "negative", "2": "neutral"}
        ),
        "side": lambda folder: _edit(folder / "tokenizer_config.json", truncation_side="left"),
        "weights": lambda folder: settings.change_number(folder / "model.safetensors"),
    }
    blind = []
    for name, harm in harms.items():
        folder = bench.copy(bench.checkpoints[key], "model")
        harm(folder)
        if reference.difference(reference.reference(folder, key[1]), bench.answers, key[1]) is None:
            blind.append(name)
    return (f"nothing was seen of {', '.join(blind)}" if blind else "three differences were seen"), ""


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


SUBJECTS: dict[str, tuple[float, Callable[[Bench, Random], Told]]] = {
    "config": (0.16, checkpoints.config),
    "tokenizer": (0.14, checkpoints.tokenizer),
    "tokenizer-config": (0.16, checkpoints.tokenizer_config),
    "sentence": (0.1, checkpoints.sentence),
    "weights": (0.08, checkpoints.weights),
    "manifest": (0.1, artifacts.manifest),
    "graph": (0.1, artifacts.graph),
    "recipe": (0.08, texts.recipe),
    "rows": (0.08, texts.rows),
}
"""Name → its share of all mutations, and what is done."""

TRACES_OF = {"config": 40, "sentence": 50, "weights": 40, "tokenizer": 140, "tokenizer-config": 80}
"""One mutated model in so many is traced; what else is accepted is judged as it was loaded."""


def traced(mutations: int) -> dict[str, int]:
    """How many mutated models are traced for each subject, of so many mutations in all."""
    return {name: max(1, round(mutations * SUBJECTS[name][0] / each)) for name, each in TRACES_OF.items()}


EVERY = {**{name: way for name, (_, way) in SUBJECTS.items()}, "self-check": _self_check}
"""Those, and the check of the check."""
