"""Every error that deploycomp raises on purpose, with the exit code of each.

    DeploycompError
    ├── GateFailed           1   a goal is broken by what was measured (accuracy; latency, memory and size in the gate)
    ├── UsageError           2   the command line or the recipe is wrong
    ├── InputRefused         3   the input is corrupt, unsafe or unsupported
    ├── VerificationFailed   4   the result does not do what the source does
    ├── EnvironmentFailed    5   disk, memory, permission, a missing extra or kernel
    └── Inconclusive         6   the measurement cannot decide

    Interrupted            130   Ctrl-C (143 for SIGTERM); a KeyboardInterrupt, so that no `except Exception` eats it

A message says what happened, where, why, and what to type next, each on one line: what comes from elsewhere is escaped,
so that no name can forge a line of it.
"""

from __future__ import annotations

from deploycomp.escape import one_line

__all__ = [
    "DeploycompError",
    "EnvironmentFailed",
    "GateFailed",
    "Inconclusive",
    "InputRefused",
    "Interrupted",
    "UsageError",
    "VerificationFailed",
    "panicked",
]


class DeploycompError(Exception):
    """An error with a reason that a person can act on.

    Args:
        what: What happened, one sentence without a full stop.
        where: The file, tensor, row or option it is about.
        why: The reason, where *what* does not say it.
        hint: What to type or change next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None):
        self.what, self.where, self.why, self.hint = what, where, why, hint
        super().__init__(what)

    def __str__(self) -> str:
        parts = [one_line(self.what)]
        parts += [f"  where: {one_line(self.where)}"] if self.where else []
        parts += [f"  why:   {one_line(self.why)}"] if self.why else []
        parts += [f"  next:  {one_line(self.hint)}"] if self.hint else []
        return "\n".join(parts)

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the error as plain values, for `--json`; nothing in them is escaped."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "next": self.hint,
        }


def in_words(error: Exception) -> str:
    """Return what a library raised as one line: its kind, and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


class GateFailed(DeploycompError):
    """A goal is broken by what was measured; the message holds the interval."""

    exit_code = 1


class UsageError(DeploycompError):
    """The command line or the recipe is wrong."""

    exit_code = 2


class InputRefused(DeploycompError):
    """The input is corrupt, unsafe or unsupported."""

    exit_code = 3


class VerificationFailed(DeploycompError):
    """The result does not do what the source does."""

    exit_code = 4


class EnvironmentFailed(DeploycompError):
    """This machine cannot do it: disk, memory, permission, a missing extra or kernel."""

    exit_code = 5


class Inconclusive(DeploycompError):
    """The measurement cannot decide."""

    exit_code = 6


class Interrupted(KeyboardInterrupt):
    """The user or the system asked the run to stop.

    Args:
        exit_code: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, exit_code: int = 130):
        self.exit_code = exit_code
        super().__init__("interrupted")


def panicked(error: BaseException) -> bool:
    """Whether a library written in Rust gave up: its `PanicException` is no `Exception`, and has no module to import.

    Args:
        error: Anything that was raised.
    """
    return type(error).__name__ == "PanicException"
