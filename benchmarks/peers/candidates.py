"""Who is compared: every peer at its documented best, and ours.

A `Peer` says how it is made and run; made for one model, it is a `Candidate`: a Python, and what its child is asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import export_int8, say
from models import Model, PeerFailed
from venvs import OPENVINO, OPTIMUM, OWN, TORCH, Venv

__all__ = ["OURS", "PEERS", "Candidate", "Peer", "make_all", "ours", "own_artifact"]

OURS = "deploycomp"


@dataclass(frozen=True)
class Candidate:
    """One way to run one model."""

    name: str
    python: Path
    request: dict[str, Any]
    """`kind`, `model` and what else its engine reads."""
    bytes: int
    """On disk."""
    int8: bool = True
    ours: bool = False


@dataclass(frozen=True)
class Peer:
    """One peer, for any model."""

    key: str
    """For the command line."""
    name: str
    venv: Venv
    kind: str
    """Its engine, see `engines.py`."""
    make: Callable[[Model], Path]
    int8: bool = True
    options: dict[str, Any] = field(default_factory=dict)


def _checkpoint(model: Model) -> Path:
    return model.real.path


def _openvino(file: str) -> Callable[[Model], Path]:
    def make(model: Model) -> Path:
        folder = model.make(OPENVINO, "openvino", calibration=model.calibration(), fast_bias_correction=True)
        return folder / file

    return make


def _optimum(folder: str) -> Callable[[Model], Path]:
    return lambda model: model.make(OPTIMUM, "optimum") / folder / "model_quantized.onnx"


def _stock(model: Model) -> Path:
    return model.make(TORCH, "stock_onnx") / "int8.onnx"


def _pt2e(model: Model) -> Path:
    return model.make(TORCH, "pt2e", calibration=model.calibration()) / "int8.pt2"


F32, BF16 = {"precision": "f32"}, {"precision": "bf16"}
"""OpenVINO's hint for what is not INT8. Its own choice is bf16 where the CPU has it, which is not always faster."""

PEERS = (
    Peer("eager", "PyTorch eager", TORCH, "eager", _checkpoint, int8=False),
    Peer("compile", "torch.compile", TORCH, "compile", _checkpoint, int8=False),
    Peer("torchao", "torchao INT8", TORCH, "torchao", _checkpoint),
    Peer("torch-int8", "torch dynamic INT8", TORCH, "torch-dynamic", _checkpoint),
    Peer("ort", "ONNX Runtime dynamic", TORCH, "onnxruntime", _stock),
    Peer("optimum", "optimum INT8", OPTIMUM, "onnxruntime", _optimum("per-channel")),
    Peer("optimum-tensor", "optimum per tensor", OPTIMUM, "onnxruntime", _optimum("per-tensor")),
    Peer("openvino", "OpenVINO INT8", OPENVINO, "openvino", _openvino("int8.xml")),
    Peer("openvino-f32", "OpenVINO INT8, f32 rest", OPENVINO, "openvino", _openvino("int8.xml"), options=F32),
    Peer("openvino-bf16", "OpenVINO bf16", OPENVINO, "openvino", _openvino("fp32.xml"), int8=False, options=BF16),
    Peer("inc", "neural-compressor PT2E", TORCH, "pt2e", _pt2e),
)


def make_all(model: Model, peers: list[Peer], failed: dict[str, str]) -> list[Candidate]:
    """Make every peer's files of *model*; who cannot goes into *failed* with the reason."""
    found: list[Candidate] = []
    for peer in peers:
        try:
            peer.venv.ensure()
            file = peer.make(model)
        except (PeerFailed, subprocess.CalledProcessError) as error:
            failed[peer.name] = str(error)
            say(f"{model.name}: {peer.name} cannot be made: {error}")
            continue
        request = {"kind": peer.kind, "model": str(file), **peer.options}
        found.append(Candidate(peer.name, peer.venv.python, request, _bytes(file, model), peer.int8))
    return found


def own_artifact(model: Model, *, keep: bool) -> Path:
    """Export with `deploycomp export --int8 --target auto --calibration train.jsonl`, or take the last export."""
    folder = model.work / OURS / model.name
    if not (keep and (folder / "deploycomp.json").is_file()):
        export_int8(model.real.path, folder, "--no-benchmark", "--calibration", str(model.training))
    return folder


def ours(name: str, path: Path) -> Candidate:
    """An artifact, or a plain .onnx file, that is run as `Predictor` runs it.

    Raises:
        PeerFailed: It is not there.
    """
    if not path.exists():
        raise PeerFailed(f"{path} does not exist")
    size = sum(file.stat().st_size for file in _files(path))
    return Candidate(name, OWN.python, {"kind": "deploycomp", "model": str(path)}, size, ours=True)


def _files(path: Path) -> list[Path]:
    """The graph, with its weights where they lie beside it."""
    if path.is_dir():
        return [file for file in path.iterdir() if file.name.startswith("model.onnx")]
    beside = [path.with_suffix(".bin"), path.with_name(path.name + ".data"), path.with_name(path.name + "_data")]
    return [path, *(file for file in beside if file.is_file())]


def _bytes(file: Path, model: Model) -> int:
    return model.checkpoint_bytes if file.is_dir() else sum(each.stat().st_size for each in _files(file))
