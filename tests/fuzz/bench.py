"""Where a session of mutations works: honest inputs, and the one at hand with what was changed in it."""

from __future__ import annotations

import difflib
import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests import tiny
from tests.fuzz import reference
from tests.fuzz.doors import CANARY, digests

__all__ = ["BYTES", "CANARY_TEXT", "CHECKPOINTS", "COPIED", "Bench", "Told", "changes", "write_rows"]

CHECKPOINTS = (
    ("bert", "text-classification"),
    ("roberta", "text-classification"),
    ("xlm-roberta", "token-classification"),
    ("distilbert", "question-answering"),
    ("albert", "fill-mask"),
    ("bert", "sentence-similarity"),
)
ROWS = 12
COPIED = "copied"
"""A note that says what the input at hand was copied from, and the copy: also read after the process was killed."""
CANARY_TEXT = "canary-7f3a"
"""What stands in the file that no input may bring into an artifact or a message."""


@dataclass
class Bench:
    """Where one session works: inputs that are copied and never changed, and a folder for the one at hand."""

    root: Path

    @property
    def work(self) -> Path:
        """Where the input at hand lies."""
        return self.root / "work"

    def fresh(self) -> Path:
        """An empty folder with a canary in it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        (self.work / CANARY).write_text(f"{CANARY_TEXT}\n" * 3, encoding="utf-8")
        return self.work

    def copy(self, folder: Path, name: str) -> Path:
        """A copy of an honest folder, to break."""
        copied = Path(shutil.copytree(folder, self.fresh() / name))
        (self.work / COPIED).write_text(f"{folder}\n{copied}", encoding="utf-8")
        return copied

    @cached_property
    def checkpoints(self) -> dict[tuple[str, str], Path]:
        """Honest checkpoints of one layer."""
        layers = {"distilbert": {"n_layers": 1}}
        return {
            (arch, task): tiny.build(
                self.root / f"{arch}-{task}", arch, task, max_length=64, **layers.get(arch, {"num_hidden_layers": 1})
            )
            for arch, task in CHECKPOINTS
        }

    @cached_property
    def artifact(self) -> Path:
        """An honest artifact, its weights beside the graph."""
        from deploycomp.pipeline import export_model
        from deploycomp.recipe import Export, Recipe

        model = str(self.checkpoints["bert", "text-classification"])
        recipe = Recipe(model=model, steps=(Export(external_data_bytes=1_000),), benchmark=None)
        return export_model(recipe, self.root / "artifact").artifact.path

    @cached_property
    def answers(self) -> reference.Answers:
        """What the honest artifact answers."""
        from deploycomp.runtime import Predictor

        return reference.answer(Predictor.load(self.artifact))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Honest rows."""
        labels = tiny.TEXT_LABELS * ROWS
        return [{"text": text, "label": label} for text, label in zip(tiny.texts(ROWS, seed=4), labels, strict=False)]


Told = tuple[str, str]
"""How it ended, and what was done."""

BYTES = 0.06
"""How often the bytes of a text file are changed and not what they say."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changes(bench: Bench) -> str:
    """What the files of the input at hand say now, beside what they said."""
    note = bench.work / COPIED
    if not note.exists():
        files = [path for path in sorted(bench.work.iterdir()) if path.is_file() and path.name != CANARY]
        return "\n".join(f"{path.name}: {path.read_bytes()[:SHOWN]!r}" for path in files)
    folders = [Path(line) for line in note.read_text(encoding="utf-8").splitlines()]
    before, after = map(digests, folders)
    told: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            told += _changed(*(_lines(folder / name) for folder in folders), name)
    return f"{folders[0].name}\n" + "\n".join(told[:DIFFERENCES])


DIFFERENCES = 12
SHOWN = 900
WIDTH = 160


def _lines(path: Path) -> list[str]:
    """A file, JSON with one value a line."""
    if not path.exists():
        return []
    data = path.read_bytes()
    try:
        return json.dumps(json.loads(data), indent=0).splitlines()
    except (ValueError, RecursionError):
        return [repr(line) for line in data[:50_000].splitlines()] if len(data) < 100_000 else [f"{len(data)} bytes"]


def _changed(old: list[str], new: list[str], name: str) -> list[str]:
    lines = difflib.unified_diff(old, new, n=0, lineterm="")
    return [f"{name}: {line}"[:WIDTH] for line in lines if not line.startswith(("---", "+++", "@@"))]
