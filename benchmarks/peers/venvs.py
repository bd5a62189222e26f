"""One venv for each group of peers, made from a file of pins.

    .venv-peers/torch      requirements-torch.txt
    .venv-peers/openvino   requirements-openvino.txt
    .venv-peers/optimum    requirements-optimum.txt

    python benchmarks/peers/venvs.py optimum      # makes one of them

Made once (git-ignored), and anew when the pins change or a making was interrupted: the stamp that says "complete" is
written last.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from common import ROOT, say

__all__ = ["OPENVINO", "OPTIMUM", "OWN", "TORCH", "Venv"]

HERE = Path(__file__).resolve().parent
STAMP = "made-from.sha256"


@dataclass(frozen=True)
class Venv:
    """A venv and what it is made from; without pins it is the one that this script runs in."""

    name: str
    requirements: Path | None

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return ROOT / ".venv-peers" / self.name

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python" if self.requirements else Path(sys.executable)

    @property
    def complete(self) -> bool:
        """Whether it is there and made from today's pins."""
        stamp = self.folder / STAMP
        return not self.requirements or (stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == self.digest())

    def digest(self) -> str:
        """Say what it is made from: the pins, and the Python that they are installed for."""
        pins = self.requirements.read_bytes() if self.requirements else b""
        return hashlib.sha256(pins + f"{sys.version_info.major}.{sys.version_info.minor}".encode()).hexdigest()

    def pins(self) -> dict[str, str]:
        """What is pinned, by name."""
        text = self.requirements.read_text(encoding="utf-8") if self.requirements else ""
        pinned = [line.partition("==") for line in text.splitlines() if "==" in line and not line.startswith("#")]
        return {name: version for name, _, version in pinned}

    def ensure(self) -> Path:
        """Return its Python, and make the venv first where that is needed: 1.5 GB and some minutes.

        Raises:
            subprocess.CalledProcessError: A pin cannot be installed.
        """
        if self.complete or not self.requirements:
            return self.python
        say(f"making {self.folder} from {self.requirements.name}")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run([*pip, "install", "--requirement", str(self.requirements)], check=True)
        subprocess.run([*pip, "check"], check=True)
        (self.folder / STAMP).write_text(self.digest() + "\n", encoding="utf-8")
        return self.python


OWN = Venv("own", None)
TORCH = Venv("torch", HERE / "requirements-torch.txt")
OPENVINO = Venv("openvino", HERE / "requirements-openvino.txt")
OPTIMUM = Venv("optimum", HERE / "requirements-optimum.txt")

if __name__ == "__main__":
    named = {venv.name: venv for venv in (TORCH, OPENVINO, OPTIMUM)}
    print(named[sys.argv[1]].ensure())
