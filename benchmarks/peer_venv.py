"""The peer's own venv: optimum-onnx, which cannot live beside deploycomp (transformers < 4.58 against >= 5.3).

    python benchmarks/peer_venv.py      # prints the path of its Python

Made once under `.venv-peers/optimum` (git-ignored), and anew when `requirements-optimum.txt` changes or a making was
interrupted: the stamp that says "complete" is written last.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["REQUIREMENTS", "VENV", "ensure", "peer_python", "requirements_digest"]

REQUIREMENTS = Path(__file__).with_name("requirements-optimum.txt")
VENV = Path(__file__).resolve().parent.parent / ".venv-peers" / "optimum"
STAMP = "made-from.sha256"


def requirements_digest() -> str:
    """Say what a venv is made from: the pins, and the Python that they are installed for."""
    text = REQUIREMENTS.read_bytes() + f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    return hashlib.sha256(text).hexdigest()


def peer_python() -> Path | None:
    """Return the peer's Python where the venv is complete and made from today's pins, else None."""
    stamp = VENV / STAMP
    complete = stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == requirements_digest()
    return VENV / "bin" / "python" if complete else None


def ensure() -> Path:
    """Return the peer's Python, and make its venv first where that is needed: 1.5 GB, about a minute."""
    found = peer_python()
    if found is not None:
        return found
    print(f"making {VENV} from {REQUIREMENTS.name}", file=sys.stderr, flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    python = VENV / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--requirement", str(REQUIREMENTS)], check=True)
    subprocess.run([*pip, "check"], check=True)
    (VENV / STAMP).write_text(requirements_digest() + "\n", encoding="utf-8")
    return python


if __name__ == "__main__":
    print(ensure())
