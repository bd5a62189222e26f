"""What is tried with what: versions of ONNX Runtime, transformers and Python, bounded, and a venv for each.

    ONNX Runtime   1.18.1 … newest   × Python 3.11             every kind of graph
    ONNX Runtime   lowest of the default graph, newest × Python 3.12, 3.13
    transformers   lowest allowed, newest × torch of the lock   writes the graphs: the same bytes, or compared again

Versions of one minor release behave alike, so one of each is tried. A graph does not know the Python that opens it, so
two of ONNX Runtime are enough there. ONNX Runtime never sees transformers, so the two are not multiplied: what another
transformers writes is compared byte by byte with what the locked one wrote.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from common import ROOT, say

__all__ = ["FOLDER", "NEWEST", "Venv", "newest_stack", "runtimes", "transformers"]

NEWEST = ROOT / "constraints-newest.txt"
"""The newest known versions, which `make lock` moves."""
FOLDER = ROOT / ".venv-versions"
STAMP = "made-from.sha256"

OLDER = ("1.18.1", "1.20.1", "1.22.1", "1.24.4", "1.25.1", "1.31.1")
"""One of each minor release that matters: the oldest, then where an answer or an operator changed, then the lock's."""
DEFAULT_NEEDS = "1.25.1"
PYTHONS = ("3.12", "3.13")
NUMPY_1 = ("1.18.1",)
"""Wheels that were built against numpy 1 and cannot load another."""


def pins() -> dict[str, str]:
    """The newest known versions, by package."""
    lines = NEWEST.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def lowest_transformers() -> str:
    """The lowest version that pyproject.toml allows."""
    found = re.search(r'"transformers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found
    return found[1]


@dataclass(frozen=True)
class Venv:
    """A venv, and what is installed in it; with *on_top* it sees this venv's packages behind its own."""

    name: str
    python: Path
    packages: tuple[str, ...]
    on_top: bool = False

    @property
    def binary(self) -> Path:
        """Its Python."""
        return FOLDER / self.name / "bin" / "python"

    def ensure(self) -> Path:
        """Return its Python, and make the venv first where it is missing or of other pins.

        Raises:
            subprocess.CalledProcessError: A pin cannot be installed.
        """
        folder, digest = FOLDER / self.name, self._digest()
        stamp = folder / STAMP
        if stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == digest:
            return self.binary
        say(f"making {folder.relative_to(ROOT)}: {' '.join(self.packages)}")
        shutil.rmtree(folder, ignore_errors=True)
        FOLDER.mkdir(exist_ok=True)
        subprocess.run([str(self.python), "-m", "venv", str(folder)], check=True)
        install = [str(self.binary), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*install, *(["--no-deps"] if self.on_top else []), *self.packages], check=True)
        if self.on_top:
            ours = next(Path(each) for each in sys.path if each.endswith("site-packages"))
            theirs = next((folder / "lib").glob("python*/site-packages"))
            (theirs / "zz-behind.pth").write_text(f"{ours.resolve()}\n", encoding="utf-8")
        stamp.write_text(digest + "\n", encoding="utf-8")
        return self.binary

    def _digest(self) -> str:
        made_from = [str(self.python), *self.packages, *([sys.prefix] if self.on_top else [])]
        return hashlib.sha256("\n".join(made_from).encode()).hexdigest()


def python_of(version: str) -> Path | None:
    """A Python of this minor release that starts: one of pyenv's, or on the path (where pyenv's name may be empty)."""
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [*sorted(roots.glob(f"{version}*/bin/python"), reverse=True)]
    found += [Path(each)] if (each := shutil.which(f"python{version}")) else []
    starts = (
        each for each in found if subprocess.run([str(each), "-V"], capture_output=True, check=False).returncode == 0
    )
    return next(starts, None)


def runtime(version: str, python: str | None = None) -> Venv | None:
    """The venv of one ONNX Runtime; None where this machine lacks the Python."""
    found = Path(sys.executable) if python is None else python_of(python)
    if found is None:
        return None
    name = f"ort-{version}" + (f"-py{python}" if python else "")
    numpy = "numpy<2" if version in NUMPY_1 else "numpy"
    return Venv(name, found, (f"onnxruntime=={version}", numpy, f"tokenizers=={pins()['tokenizers']}"))


def runtimes(*, newest_only: bool = False) -> list[Venv]:
    """Every ONNX Runtime that opens the graphs, oldest first."""
    newest = pins()["onnxruntime"]
    pairs: list[tuple[str, str | None]] = [(newest, None)]
    if not newest_only:
        pairs = [(each, None) for each in (*OLDER, newest)]
        pairs += [(each, python) for python in PYTHONS for each in (DEFAULT_NEEDS, newest)]
    found: list[Venv] = []
    for version, python in pairs:
        venv = runtime(version, python)
        if venv is None:
            say(f"no Python {python} here: ONNX Runtime {version} with it is left out")
        else:
            found.append(venv)
    return found


def transformers() -> list[Venv]:
    """The lowest and the newest transformers, on top of this venv."""
    return [
        Venv(f"transformers-{each}", Path(sys.executable), (f"transformers=={each}",), on_top=True)
        for each in (lowest_transformers(), pins()["transformers"])
    ]


def newest_stack() -> Venv:
    """All that is newest, on top of this venv."""
    packages = tuple(f"{name}=={version}" for name, version in pins().items())
    return Venv("newest", Path(sys.executable), packages, on_top=True)
