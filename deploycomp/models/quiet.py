"""Silence what torch, transformers and torchao say on import and while loading; their errors still come through."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

from deploycomp.errors import EnvironmentFailed
from deploycomp.room import check_room

__all__ = ["quiet"]

NO_DOCSTRINGS = 2
"""`sys.flags.optimize` under -OO."""

_LOGGERS = ("torchao", "torch.utils._pytree")
"""torchao warns of kernels for other machines, and torch of an enum that torchao registers, at import."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run without warnings, log lines and progress bars of the libraries; put back what the caller had set.

    Raises:
        EnvironmentFailed: torch or transformers cannot be imported here.
    """
    check_room()
    if sys.flags.optimize >= NO_DOCSTRINGS:
        raise EnvironmentFailed(
            "transformers cannot be imported without docstrings",
            why="Python was started with -OO, which takes them away, and it builds its classes from them",
            hint="start Python without -OO, or with PYTHONOPTIMIZE=1",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch  # noqa: F401  sets its loggers' levels when it is imported, so it comes before ours
        from transformers.utils import logging as transformers_logging

        loggers = {name: logging.getLogger(name) for name in _LOGGERS}
        levels = {name: logger.level for name, logger in loggers.items()}
        verbosity = transformers_logging.get_verbosity()
        bars = transformers_logging.is_progress_bar_enabled()
        for logger in loggers.values():
            logger.setLevel(logging.ERROR)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()
