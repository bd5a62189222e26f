"""Run commands in this process."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from deploycomp.cli.app import app
from deploycomp.cli.output import SINK


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Process = tuple[Any, ...]


def process() -> Process:
    """What a command changes in its process."""
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.unraisablehook


def put_back(before: Process) -> None:
    """Undo what a command changed."""
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    sys.unraisablehook = before[2]
    SINK.json = SINK.quiet = SINK.verbose = False
    SINK.stopped = SINK.written = None


@pytest.fixture
def run() -> Iterator[Callable[..., Ran]]:
    """Run `deploycomp …` in this process, with the state of the process put back afterwards."""
    before = process()

    def call(*arguments: object) -> Ran:
        done = CliRunner().invoke(app, [str(each) for each in arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)

    yield call
    put_back(before)
