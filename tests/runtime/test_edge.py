"""The torch-free edge: an artifact runs with onnxruntime, numpy and tokenizers, and with nothing else of ours."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import deploycomp.runtime
from deploycomp.runtime import Predictor
from tests.runtime.graphs import write_artifact

REPOSITORY = Path(__file__).parents[2]
FORBIDDEN = (
    "torch",
    "transformers",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "optimum",
    "neural_compressor",
    "pydantic",
    "yaml",
    "typer",
    "rich",
    "scipy",
    "sklearn",
    "datasets",
    "pandas",
    "psutil",
    "safetensors",
)
NEEDED = ("onnxruntime", "numpy", "tokenizers")
INSTALL_SECONDS = 180

PREDICT = """
import json, sys
from deploycomp.runtime import Predictor
predictor = Predictor.load(sys.argv[1], threads=1, verify=True)
print(json.dumps(predictor(["a cat runs", "the big dog"])))
"""
BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {FORBIDDEN!r}:
            raise ImportError("the edge must not import " + name)
sys.meta_path.insert(0, Blocker())
"""
BROUGHT = ("yaml", "typer", "rich")
"""Packages that tokenizers itself brings, through huggingface_hub; never imported all the same."""
ABSENT = f"""
import importlib.util
names = set({FORBIDDEN!r}) - set({BROUGHT!r})
present = sorted(name for name in names if importlib.util.find_spec(name) is not None)
assert not present, present
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("edge") / "artifact", "text-classification")


def _run(python: Path | str, code: str, *arguments: str) -> Any:
    """Run code in a process that sees the repository and no environment of this one."""
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def _expected(artifact: Path) -> Any:
    return json.loads(json.dumps(Predictor.load(artifact, threads=1)(["a cat runs", "the big dog"])))


def test_an_artifact_runs_where_every_heavy_import_fails(artifact: Path):
    assert _run(sys.executable, BLOCK + PREDICT, str(artifact)) == _expected(artifact)


def test_an_artifact_runs_in_a_fresh_environment(artifact: Path, tmp_path: Path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in NEEDED]
    try:
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not finish within {INSTALL_SECONDS} s")
    if done.returncode != 0:
        pytest.skip(f"pip cannot install {', '.join(packages)} here: {done.stderr.strip()[-300:]}")
    assert _run(python, ABSENT + BLOCK + PREDICT, str(artifact)) == _expected(artifact)


def test_importing_the_room_imports_nothing_heavy():
    code = (
        "import sys, deploycomp.runtime, deploycomp.runtime.cpu;"
        f"heavy = set({(*FORBIDDEN, *NEEDED)!r}) & set(sys.modules); assert not heavy, heavy"
    )
    _run(sys.executable, code)


def test_every_public_name_is_there():
    for name in deploycomp.runtime.__all__:
        assert getattr(deploycomp.runtime, name) is not None
    listed = {name for names in deploycomp.runtime._HOME.values() for name in names}
    assert sorted(listed) == deploycomp.runtime.__all__
    with pytest.raises(AttributeError, match="no attribute 'Prediktor'"):
        deploycomp.runtime.Prediktor  # noqa: B018
