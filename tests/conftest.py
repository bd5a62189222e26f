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
