"""Commands in this process, with each graph traced once."""

from __future__ import annotations

from tests.cli.conftest import run
from tests.hints.conftest import traced

__all__ = ["run", "traced"]
