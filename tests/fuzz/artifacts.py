"""Mutated artifacts: refused, or answering as the honest copy; sealed anew by an attacker: harmless."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from deploycomp.artifact import MANIFEST, sha256
from deploycomp.errors import DeploycompError
from deploycomp.sealed.manifest import SEAL, seal_of
from tests.fuzz import graphs, reference, settings
from tests.fuzz.bench import Bench, Told, write_rows
from tests.fuzz.checkpoints import json_file
from tests.fuzz.doors import CANARY, Fault, deploycomp, watch
from tests.fuzz.mangle import mangle

__all__ = ["graph", "manifest"]


def manifest(bench: Bench, draw: Random) -> Told:
    folder = bench.copy(bench.artifact, "artifact")
    done = json_file(MANIFEST, settings.MANIFEST)(folder, draw)
    return _artifact(bench, draw, folder), done


def graph(bench: Bench, draw: Random) -> Told:
    """Graph, weights beside it, or tokenizer of an artifact; sometimes the attacker also seals it anew."""
    folder = bench.copy(bench.artifact, "artifact")
    name = draw.choices(["model.onnx", "model.onnx.data", "tokenizer.json"], weights=[6, 2, 1])[0]
    if name == "tokenizer.json":
        done = settings.hostile_node(folder / name, draw)
    elif name == "model.onnx" and draw.random() < 0.6:
        done = graphs.change(folder / name, draw, canary=CANARY)
    else:
        (folder / name).write_bytes(mangle((folder / name).read_bytes(), draw))
        done = f"bytes of {name}"
    if draw.random() < 0.5:
        _seal(folder)
        return _resealed(folder), f"{done}, sealed anew"
    return _artifact(bench, draw, folder), done


def _artifact(bench: Bench, draw: Random, folder: Path) -> str:
    """What is changed is refused, or answers as the honest copy."""
    data = write_rows(bench.work / "rows.jsonl", bench.rows)
    commands = (("inspect", folder), ("evaluate", folder, data), ("export", "--recipe", folder, "--dry-run"))
    ran = deploycomp(*draw.choice(commands))
    got = _opened(folder)
    if isinstance(got, DeploycompError):
        return f"refused {got.exit_code} (the command: {ran.code})"
    said = reference.difference(bench.answers, got, "text-classification")
    if said:
        raise Fault(f"a changed artifact was verified and answers otherwise: {said}")
    return f"answers as the honest copy (the command: {ran.code})"


def _resealed(folder: Path) -> str:
    """What an attacker sealed is that attacker's model: it is refused, or runs without harm."""
    ran = deploycomp("inspect", folder)
    got = _opened(folder)
    return f"refused {got.exit_code}" if isinstance(got, DeploycompError) else f"runs (inspect: {ran.code})"


def _opened(folder: Path) -> reference.Answers | DeploycompError:
    """What an artifact answers, or the reason why it does not."""
    from deploycomp.runtime import Predictor

    try:
        with watch() as seen:
            answers = reference.answer(Predictor.load(folder, verify=True))
    except DeploycompError as error:
        return error
    except Exception as error:
        raise Fault(f"Predictor raises {type(error).__name__}: {error}"[:300]) from None
    if seen:
        raise Fault(seen[0])
    return answers


def _seal(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name in manifest["files"]:
        manifest["files"][name] = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    manifest[SEAL] = seal_of(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
