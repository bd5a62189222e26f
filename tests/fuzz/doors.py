"""The command in this process, watched: its exit code, what it said, what it opened, what it left behind."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from deploycomp.cli.app import app
from tests.cli.conftest import process, put_back

__all__ = ["Fault", "Ran", "deploycomp", "digests", "watch"]

ENDINGS = (0, 2, 3, 4, 5)
"""Exit codes that a wrong input may have: 1 is a broken goal, 6 a measurement, 70 a bug."""


class Fault(AssertionError):
    """What must not happen has happened; the message says what."""


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """What its error says first."""
        if self.out.startswith("{"):
            return str(json.loads(self.out).get("what"))
        return self.err.strip().partition("\n")[0].removeprefix("error: ")


def deploycomp(*arguments: object) -> Ran:
    """Run a command as a user does.

    Raises:
        Fault: It ended in a way that no input may cause.
    """
    before = process()
    try:
        with watch() as seen:
            done = CliRunner().invoke(app, [str(each) for each in arguments])
    finally:
        put_back(before)
    ran = Ran(done.exit_code, done.stdout, done.stderr)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise Fault(f"an exception came through: {type(done.exception).__name__}: {done.exception}"[:300])
    if "Traceback" in ran.err or "Traceback" in ran.out:
        raise Fault(f"a traceback was printed: {ran.err[-300:]}")
    if ran.code == UNTRACED:
        return ran
    if ran.code not in ENDINGS:
        raise Fault(f"exit {ran.code}: {(ran.err or ran.out).strip()[:300]}")
    if "memory ran out" in ran.err or "not enough memory" in ran.err:
        raise Fault(f"memory ran out: {ran.err.strip()[:300]}")
    if ran.code != 0 and not (ran.err.startswith("error: ") or '"what": ' in ran.out):
        raise Fault(f"exit {ran.code} without an error that says why: {ran.err.strip()[:300]!r}")
    if seen:
        raise Fault(f"{seen[0]} (exit {ran.code})")
    return ran


UNTRACED = 99
"""Exit code of an export that was accepted, and stopped because no more graphs are traced in this session."""


# ------------------------------------------------------------ what is opened


CANARY = "canary.txt"
"""A file that lies beside the input and that no input may bring anyone to open."""

_SEEN: list[str] = []
_WATCHING = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _WATCHING:
        return
    if event == "open" and isinstance(args[0], str) and args[0].endswith((CANARY, "/etc/hostname")):
        _SEEN.append(f"{args[0]} was opened")
    elif event in ("socket.connect", "socket.getaddrinfo"):
        _SEEN.append(f"{event} {args[:2]}")
    elif event == "pickle.find_class":
        _SEEN.append(f"a pickle was opened: {args}")


class watch:
    """See what is opened, unpickled or connected to inside of a `with`."""

    _hooked = False

    def __enter__(self) -> list[str]:
        global _WATCHING
        if not watch._hooked:
            sys.addaudithook(_hook)  # cannot be removed, so it is added once and switched
            watch._hooked = True
        _SEEN.clear()
        _WATCHING = True
        return _SEEN

    def __exit__(self, *_: object) -> None:
        global _WATCHING
        _WATCHING = False


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder with its hash."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------ one trace for equal models


class Traces:
    """Tracing takes two seconds, and what is mutated seldom is the graph: equal modules are traced once.

    Args:
        most: How many mutated models are traced for each subject.
        honest: Checkpoints that are traced in any case.
    """

    def __init__(self, most: dict[str, int], honest: Iterable[Path]):
        from deploycomp.models import resolve
        from deploycomp.models.load import load

        self.left = dict(most)
        self.subject = ""
        self._known: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self._free = {_key(load(resolve(folder))) for folder in honest}

    def install(self) -> None:
        """Stand between the export step and the tracer."""
        from deploycomp.export import torch_export

        real = torch_export.export
        torch_export.export = lambda model, config, *, opset: self._export(real, model, config, opset)

    def _export(self, real: Callable[..., Any], model: Any, config: Any, opset: int) -> Any:
        import onnx
        import onnx_ir as ir

        from deploycomp.onnxmodel import OnnxModel

        module = _key(model)
        key = f"{module} {config!r} {opset}"
        if key not in self._known:
            if module not in self._free:
                if self.left.get(self.subject, 1) <= 0:
                    raise typer.Exit(UNTRACED)  # the one exception that a command lets through
                self.left[self.subject] = self.left.get(self.subject, 1) - 1
            traced, facts = real(model, config, opset=opset)
            self._known[key] = (ir.to_proto(traced.model).SerializeToString(), dict(facts))
        content, facts = self._known[key]
        graph = ir.from_proto(onnx.ModelProto.FromString(content))
        return OnnxModel(graph, model.task, model.inputs, model.outputs), dict(facts)


_NOT_IN_A_GRAPH = (
    "_name_or_path",
    "id2label",
    "label2id",
    "architectures",
    "problem_type",
    "dtype",
    "transformers_version",
)

_TRAINING = ("dropout", "dropout_prob", "initializer_range")


def _key(model: Any) -> str:
    """Everything that a trace follows from: the module, its weights, and what its config says that its class knows."""
    known = type(model.config)().to_dict().keys()
    stated = {
        name: value
        for name, value in model.config.to_dict().items()
        if name in known and name not in _NOT_IN_A_GRAPH and not name.endswith(_TRAINING)
    }
    told = (type(model.module).__name__, sorted(map(str, stated.items())), model.task, model.inputs, model.outputs)
    digest = hashlib.sha256(repr((told, model.pooling, model.max_length)).encode("utf-8", "backslashreplace"))
    for name, tensor in model.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode("utf-8", "backslashreplace"))
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
