"""Write constraints-newest.txt anew: the newest release of each package in it, as pip knows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for what all benchmarks share

from matrix import NEWEST, pins


def newest(package: str) -> str:
    """The newest release that this Python can install."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--disable-pip-version-check"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.split("(", 1)[1].split(")", 1)[0]


def main() -> None:
    comments = [line for line in NEWEST.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    lines = [f"{name}=={newest(name)}" for name in sorted(pins())]
    NEWEST.write_text("\n".join([*comments, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
