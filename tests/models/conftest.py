"""A tiny BERT classifier to break, and proof of what a load did not do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

_EVENTS: list[tuple[str, str]] = []
_RECORDING = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _RECORDING and event in ("open", "pickle.find_class", "socket.connect", "socket.getaddrinfo"):
        _EVENTS.append((event, str(args[0])))


sys.addaudithook(_hook)  # cannot be removed, so it is added once and switched


@pytest.fixture
def events():
    """What was opened, unpickled or connected to while the test ran."""
    global _RECORDING
    _EVENTS.clear()
    _RECORDING = True
    yield _EVENTS
    _RECORDING = False


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT text classifier; never change it."""
    return tiny.build(tmp_path_factory.mktemp("bert") / "tiny-bert", "bert", "text-classification")


@pytest.fixture(scope="session")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers folder; never change it."""
    return tiny.build(tmp_path_factory.mktemp("sentence") / "tiny-sentence", "bert", "sentence-similarity")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy of the BERT classifier, to break."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture
def edit() -> Callable[..., Path]:
    """Change keys of a JSON file: `edit(path, key=value)`; `None` removes a key."""

    def change(path: Path, **changes: Any) -> Path:
        value = json.loads(path.read_text())
        value.update(changes)
        path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))
        return path

    return change
