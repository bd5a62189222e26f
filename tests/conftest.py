"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
