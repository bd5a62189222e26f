"""What the scripts here share: the real models with their data, our command, the machine. Standard library only.

It stays small on purpose: a child that is measured by its peak memory inherits its parent's until it starts its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BATCH_SIZES",
    "CELLS",
    "LENGTHS",
    "ROOT",
    "Real",
    "export_int8",
    "machine",
    "real_models",
    "run_ours",
    "say",
    "write_json",
]

ROOT = Path(__file__).resolve().parent.parent

BATCH_SIZES, LENGTHS = (1, 8), (16, 128)
CELLS = ((1, 16), (1, 128), (8, 128))
"""Batch × tokens that are reported: one short row, one long row, a batch."""

_DATA = {
    "minilm-l6-sst2": ("text-classification", "sst2/validation.jsonl"),
    "minilm-l6-clinc150": ("text-classification", "clinc150/test.jsonl"),
    "minilm-l6-wnut17": ("token-classification", "wnut17/test.jsonl"),
}


@dataclass(frozen=True)
class Real:
    """A real fine-tuned model and the data that it is judged on."""

    name: str
    task: str
    path: Path
    data: Path


def real_models(names: list[str] | None = None) -> list[Real]:
    """Find the real models and their data, or say what is missing and end.

    Args:
        names: Which ones; by default all three.
    """
    models = Path(os.environ.get("DEPLOYCOMP_MODELS", ROOT.parent / "shared" / "models")).resolve()
    data = Path(os.environ.get("DEPLOYCOMP_DATA", ROOT.parent / "shared" / "data")).resolve()
    found: list[Real] = []
    for name in names or _DATA:
        if name not in _DATA:
            sys.exit(f"unknown model {name!r}; known: {', '.join(_DATA)}")
        task, file = _DATA[name]
        real = Real(name, task, models / name, data / file)
        for path in (real.path, real.data):
            if not path.exists():
                sys.exit(f"{path} does not exist; set DEPLOYCOMP_MODELS and DEPLOYCOMP_DATA")
        found.append(real)
    return found


def export_int8(model: Path, output: Path, *options: str) -> dict[str, Any]:
    """Run `deploycomp export MODEL --int8 --target auto` as a user does, and return its report."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return run_ours("export", str(model), "--int8", "--target", "auto", "-o", str(output), "--overwrite", *options)


def run_ours(*arguments: str) -> dict[str, Any]:
    """Say `deploycomp ARGUMENTS`, run it as a user does, and return what it reports."""
    say(f"deploycomp {' '.join(arguments)}")
    done = subprocess.run([str(command()), *arguments, "--json"], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        say(done.stdout)  # with --json errors go there, too
        done.check_returncode()
    return json.loads(done.stdout)


def command() -> Path:
    """The installed `deploycomp` of the interpreter that runs this script."""
    found = Path(sys.executable).with_name("deploycomp")
    if not found.exists():
        sys.exit(f"{found} does not exist; run this with the project's .venv/bin/python")
    return found


def machine(context: dict[str, Any]) -> str:
    """Name the machine of a `measure.context` in one line."""
    cpu, versions = context["cpu"], context["versions"]
    isa = [flag for flag in ("avx512_vnni", "avx_vnni", "avx2", "asimddp") if flag in cpu["flags"]]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "torch", "transformers"))
    threads = "1 thread" if context["threads_available"] == 1 else f"{context['threads_available']} threads"
    return f"{cpu['name']}, {threads}, {isa[0] if isa else cpu['arch']}, {libraries}"


def write_json(path: Path | None, value: dict[str, Any]) -> None:
    """Write a result where it was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"wrote {path}")


def say(message: str) -> None:
    """Tell progress on stderr; stdout is for the result."""
    print(message, file=sys.stderr, flush=True)
