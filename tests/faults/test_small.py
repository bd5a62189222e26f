"""Faults that no other room tests: odd names, a clock that jumps, secrets in the environment."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.artifact import Artifact
from deploycomp.runtime import Predictor
from tests.cli import made

Run = Callable[..., Any]

NAMES = (
    "größe \u6a21\u578b", "e\u0301 is not \u00e9", "a\nb", "-o", "--int8", "'\"$(x)`y`<script>", "=cmd() %s {0}",
    "\x1b[2J[bold]x", "x" * 200,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_works(run: Run, tmp_path: Path, name: str):
    """As source and as output: what it was called is what is there, and nothing it holds steers the terminal."""
    model = Path(shutil.copytree(made.model(), tmp_path / "models" / name))
    done = run("export", "--no-benchmark", "-o", tmp_path / "out" / name, "--", model)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert made.entries(tmp_path / "out") == [name]
    artifact = Artifact.open(tmp_path / "out" / name)
    artifact.verify()
    assert artifact.manifest["source"]["name"] == name
    assert artifact.digest == made.fp32().digest
    assert Predictor.load(artifact.path)("the good film").label


def test_durations_come_from_a_clock_that_does_not_jump():
    """`time.time()` follows summer time and whoever sets it; no file of the package asks it how long something took."""
    found: list[str] = []
    for path in sorted((made.ROOT / "deploycomp").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.time", "time.time_ns"):
                found.append(f"{path.relative_to(made.ROOT)}:{node.lineno}")
    assert [each for each in found if each.split(":")[0] not in AGE_OF_FILES] == []


AGE_OF_FILES = ("deploycomp/sealed/claim.py",)
"""Compares with the time of a file, which another machine wrote."""


def test_no_secret_of_the_environment_is_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tokens and the home folder stay here; of paths only what was typed stands in the recipe, which runs again."""
    canary = "hf_canary7f3a"
    home = tmp_path / "home-of-ada"
    model = Path(shutil.copytree(made.model(), home / "private" / "tiny"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, canary)
    monkeypatch.setenv("HOME", str(home))
    done = run("export", model, "--no-benchmark", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written.count(str(model).encode()) > 0
    written = written.replace(str(model).encode(), b"")
    for secret in (canary, "home-of-ada", "private/tiny"):
        assert secret.encode() not in written, secret
    assert canary not in done.out + done.err
