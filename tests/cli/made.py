"""What several test files share: tiny models and one artifact, built once per session, and the checks after a fault."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.pipeline import ExportResult, export_model
from deploycomp.recipe import Export, Int8, Recipe
from deploycomp.sealed.manifest import SEAL, seal_of
from tests import tiny

ROOT = Path(__file__).parent.parent.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Tiny models gain nothing from threads, and tests share the machine."""

COMMAND = Path(sys.executable).with_name("deploycomp")


@functools.cache
def folder() -> Path:
    """A scratch folder of this session."""
    made = Path(tempfile.mkdtemp(prefix="deploycomp-tests-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@functools.cache
def model(arch: str = "bert", task: str = "text-classification") -> Path:
    """A tiny checkpoint; never change it."""
    return tiny.build(folder() / f"tiny-{arch}-{task}", arch, task)


def recipe(**changes: Any) -> Recipe:
    """INT8 of the tiny classifier, nothing measured, with *changes* to it."""
    return Recipe.model_validate({"model": str(model()), "steps": (Export(), Int8()), "benchmark": None, **changes})


@functools.cache
def exported() -> ExportResult:
    """The artifact of `recipe()`; never change it."""
    return export_model(recipe(), folder() / "artifact")


@functools.cache
def fp32() -> Artifact:
    """The same model without INT8; never change it."""
    return export_model(recipe(steps=(Export(),)), folder() / "fp32").artifact


@functools.cache
def labelled() -> Path:
    """Rows whose label is what the source answers: some that INT8 answers otherwise, and thirty that it does not."""
    from deploycomp.assess import source_predictor
    from deploycomp.models import resolve
    from deploycomp.models.load import load
    from deploycomp.runtime import Predictor

    texts = tiny.texts(1000, seed=5)
    answers = [answer.label for answer in source_predictor(load(resolve(model())))(texts)]
    others = [answer.label for answer in Predictor.load(exported().artifact.path)(texts)]
    rows = list(zip(texts, answers, others, strict=True))
    chosen = [row for row in rows if row[1] != row[2]]
    assert len(chosen) >= 3, "the tiny model is too easy for INT8: draw other texts"
    for label in tiny.TEXT_LABELS:
        chosen += [row for row in rows if row[1] == row[2] == label][:10]
    return write_rows(folder() / "labelled.jsonl", [{"text": text, "label": label} for text, label, _ in chosen])


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def files(root: Path) -> dict[str, str]:
    """Every file below *root* with its hash: two equal answers are two equal folders."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and seal it anew, as whoever wants to forge one does."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    change(manifest)
    manifest[SEAL] = seal_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def entries(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def leftovers(parent: Path) -> list[str]:
    """Staging folders that a run left."""
    return [name for name in entries(parent) if name.endswith(".partial")]


def start(*arguments: object, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start the installed command."""
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **ONE_THREAD, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
