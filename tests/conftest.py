"""Fixtures that every room shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploycomp.models import watch

ROOT = Path(__file__).parent.parent

_HEARD: list[tuple[str, str]] = []
_FORBIDDEN = ("pickle.find_class", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system")


def _hear(event: str, args: tuple[Any, ...]) -> None:
    """Record whatever happens while a checkpoint is loaded, whether the program's own watch minds or not."""
    if watch._ACTIVE and (event in _FORBIDDEN or event == "open"):
        _HEARD.append((event, str(args[0])))


sys.addaudithook(_hear)  # it comes before the program's own, which is added by the first load


@pytest.fixture(autouse=True)
def nothing_else_is_read() -> Iterator[None]:
    """Every test that loads a checkpoint opens the private folder and what Python itself is made of: nothing else."""
    _HEARD.clear()
    yield
    places = (sys.prefix, sys.base_prefix, str(ROOT / "deploycomp"), "/proc", "/usr")
    real = tuple(os.path.realpath(each) for each in places)
    foreign = [
        (event, name)
        for event, name in _HEARD
        if event != "open"
        or not (
            name.startswith((*places, *real))
            or "/deploycomp-" in name
            or name.isdecimal()
            or name.endswith((".py", ".pyc"))
        )
    ]
    assert foreign == []


def _shared(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / default))
    if not folder.is_dir():
        pytest.skip(f"{variable} is not set and {folder} does not exist: real {default} are not here")
    return folder


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real fine-tuned models."""
    return _shared("DEPLOYCOMP_MODELS", "models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets."""
    return _shared("DEPLOYCOMP_DATA", "data")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the long runs: how much is fuzzed and killed, and from which seed."""
    group = parser.getgroup("reliability")
    group.addoption("--mutations", type=int, default=1000, help="mutated inputs to try (tests/fuzz)")
    group.addoption("--kills", type=int, default=10, help="moments to kill an export at (tests/faults)")
    group.addoption("--seed", type=int, default=1, help="what mutations and moments follow from")
    group.addoption("--only", type=int, default=None, help="one mutation alone, by its number")
    group.addoption("--outcomes", default=None, metavar="FILE", help="write what became of them, as JSON")
