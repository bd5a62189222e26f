"""What is measured: a candidate, and what its files say before anything runs.

artifact folder ─┐
model.onnx ──────┼─► Subject: model file, bytes, vocabulary, max_length, session entries
HF folder ───────┘
                        candidates × providers × dtypes ─► variants: int8, int8@cuda, source, source@bf16
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError

__all__ = [
    "DEFAULT_VOCABULARY",
    "DTYPES",
    "PROVIDERS",
    "Candidate",
    "Subject",
    "examine",
    "examine_all",
    "read_json",
    "variants",
]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""What a candidate may run on, and ONNX Runtime's name for it."""
DTYPES = ("fp32", "bf16")
"""What the weights of a PyTorch candidate are cast to; an ONNX graph has the types of its file."""
COMPILERS = ("g++", "clang++", "c++")
"""What PyTorch's Inductor looks for where CXX does not name a C++ compiler."""

DEFAULT_VOCABULARY = 1000
"""Token ids drawn where no config.json tells the vocabulary: less than any real encoder's, enough to vary."""

UNLIMITED = 1_000_000
"""tokenizer_config.json says 1e30 where nobody set a maximum length; nothing real is above this."""

EXTERNAL_DATA = (".data", "_data")
"""How exporters name the weights beside `model.onnx`: PyTorch and deploycomp, and optimum."""


@dataclass(frozen=True)
class Candidate:
    """Something to measure.

    Args:
        name: What it is called in the result, unique in one benchmark.
        kind: `onnx` (a deploycomp artifact or an .onnx file) or `torch` (a Hugging Face folder).
        path: The folder or file.
        task: The task of a torch candidate; None lets its config tell.
        session: ONNX Runtime session entries of an .onnx file; an artifact brings its own.
        provider: `cpu` or `cuda`.
        dtype: Of a torch candidate: `fp32` or `bf16`.
        compiled: Whether a torch candidate goes through `torch.compile` (Inductor, one graph for each shape).
    """

    name: str
    kind: Literal["onnx", "torch"]
    path: Path
    task: str | None = None
    session: Mapping[str, str] = field(default_factory=dict[str, str])
    provider: str = "cpu"
    dtype: str = "fp32"
    compiled: bool = False


@dataclass(frozen=True)
class Subject:
    """A candidate with what its files say."""

    candidate: Candidate
    model: Path
    """The .onnx file, or the folder of a torch candidate; absolute, because the child starts elsewhere."""
    bytes: int
    """Bytes of the model files on disk."""
    vocabulary: int = DEFAULT_VOCABULARY
    max_length: int | None = None
    session: dict[str, str] = field(default_factory=dict[str, str])
    """ONNX Runtime session entries that the artifact asks for."""

    def request(self) -> dict[str, Any]:
        """Return what a child must know to open it."""
        return {
            "kind": self.candidate.kind,
            "model": str(self.model),
            "task": self.candidate.task,
            "vocabulary": self.vocabulary,
            "max_length": self.max_length,
            "session": self.session,
            "provider": self.candidate.provider,
            "dtype": self.candidate.dtype,
            "compiled": self.candidate.compiled,
        }


def variants(
    candidates: Sequence[Candidate], *, providers: Sequence[str] = ("cpu",), dtypes: Sequence[str] = ("fp32",)
) -> list[Candidate]:
    """Return each candidate on each provider, and PyTorch ones in each type.

    What differs from a plain candidate (FP32 on the CPU) stands behind its name: `source@bf16`, `int8@cuda`.

    Raises:
        UsageError: A provider or a type is unknown.
    """
    for option, given, known in (("--provider", providers, tuple(PROVIDERS)), ("--dtype", dtypes, DTYPES)):
        for name in given:
            if name not in known:
                raise UsageError(f"{option} takes {' and '.join(known)}, not '{name}'", where=f"{option} {name}")
    found: list[Candidate] = []
    for each in candidates:
        for provider in dict.fromkeys(providers):
            for dtype in dict.fromkeys(dtypes) if each.kind == "torch" else (each.dtype,):
                suffixes = [f"@{name}" for name, usual in ((provider, "cpu"), (dtype, "fp32")) if name != usual]
                found.append(replace(each, name=each.name + "".join(suffixes), provider=provider, dtype=dtype))
    return found


def examine_all(candidates: Sequence[Candidate]) -> list[Subject]:
    """Check every candidate before the first expensive second.

    Raises:
        UsageError: No candidates, or two of one name.
        InputRefused: See `examine`.
    """
    if not candidates:
        raise UsageError("there is nothing to measure", why="no candidates were given")
    names = [candidate.name for candidate in candidates]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two candidates are called '{name}'", hint="give each its own name")
    return [examine(candidate) for candidate in candidates]


def examine(candidate: Candidate) -> Subject:
    """Read what the files of *candidate* say, without loading the model.

    Raises:
        InputRefused: A file is missing or unreadable, or the path is not what its kind asks for.
        EnvironmentFailed: `torch.compile` is asked for, and no C++ compiler is here.
    """
    path = candidate.path.absolute()
    if not path.exists():
        raise InputRefused(f"candidate '{candidate.name}' does not exist", where=str(candidate.path))
    if candidate.compiled:
        _check_compiler(candidate)
    if candidate.kind == "torch":
        return _torch(candidate, path)
    return _artifact(candidate, path) if path.is_dir() else _onnx_file(candidate, path)


def _check_compiler(candidate: Candidate) -> None:
    if candidate.kind != "torch":
        raise UsageError(
            f"candidate '{candidate.name}' is an ONNX graph, and torch.compile takes PyTorch models",
            hint="name the model folder: MODEL@compile",
        )
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in wanted):
        raise EnvironmentFailed(
            f"candidate '{candidate.name}' needs a C++ compiler, and there is none",
            why=f"torch.compile writes C++ and compiles it; looked for {', '.join(wanted)}",
            hint="apt install g++, or measure the model without @compile",
        )


def _torch(candidate: Candidate, folder: Path) -> Subject:
    weights = sorted(folder.rglob("*.safetensors"))  # a sentence-transformers folder may nest them
    if not weights:
        raise InputRefused(
            f"candidate '{candidate.name}' has no safetensors weights",
            where=str(folder),
            why="a torch candidate is a Hugging Face folder",
        )
    size = sum(file.stat().st_size for file in weights)
    return Subject(candidate, folder, size, _vocabulary(folder), _max_length(folder))


def _artifact(candidate: Candidate, folder: Path) -> Subject:
    if not (folder / MANIFEST).is_file():
        raise InputRefused(
            f"candidate '{candidate.name}' is a folder without {MANIFEST}",
            where=str(folder),
            hint="name an artifact of `deploycomp export`, or an .onnx file",
        )
    artifact = Artifact.open(folder)
    model = artifact.model
    if not model.is_file():
        raise InputRefused(f"candidate '{candidate.name}' lacks its model", where=str(model))
    runtime: dict[str, Any] = artifact.manifest.get("runtime") or {}
    return Subject(
        candidate,
        model,
        _bytes_of_onnx(model),
        _vocabulary(folder),
        runtime.get("max_length"),
        {str(key): str(value) for key, value in (runtime.get("session") or {}).items()},
    )


def _onnx_file(candidate: Candidate, file: Path) -> Subject:
    if file.suffix != ".onnx":
        raise InputRefused(
            f"candidate '{candidate.name}' is not an .onnx file",
            where=str(file),
            hint="name an artifact folder or an .onnx file",
        )
    folder = file.parent
    session = {str(key): str(value) for key, value in candidate.session.items()}
    return Subject(candidate, file, _bytes_of_onnx(file), _vocabulary(folder), _max_length(folder), session)


def _bytes_of_onnx(model: Path) -> int:
    files = [model, *(model.with_name(model.name + suffix) for suffix in EXTERNAL_DATA)]
    return sum(file.stat().st_size for file in files if file.is_file())


def _vocabulary(folder: Path) -> int:
    value = read_json(folder / "config.json").get("vocab_size")
    return value if isinstance(value, int) and value > 0 else DEFAULT_VOCABULARY


def _max_length(folder: Path) -> int | None:
    """The longest row that tokenizer and position table both allow, None where neither tells."""
    values = (
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        read_json(folder / "config.json").get("max_position_embeddings"),
    )
    lengths = [int(value) for value in values if isinstance(value, int | float) and 0 < value < UNLIMITED]
    return min(lengths, default=None)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty where there is none.

    Raises:
        InputRefused: It is not JSON.
    """
    if not file.is_file():
        return {}
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused(f"{file.name} cannot be read", where=str(file), why=str(error)) from None
    return value if isinstance(value, dict) else {}
