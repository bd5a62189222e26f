"""The pytest fixture `deploycomp_gate`; pytest finds it by its entry point, so that nothing has to be imported.

    def test_the_new_model_is_not_worse(deploycomp_gate):
        deploycomp_gate("candidate", "baseline", max_slowdown="5%")

Every run of pytest imports this file, so it imports nothing that is slow or large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

__all__ = ["deploycomp_gate", "pytest_addoption", "pytest_configure"]

OPTION = "deploycomp_inconclusive"
CHOICES = ("fail", "skip")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--deploycomp-inconclusive` and the setting of the same name."""
    help_ = "what an inconclusive gate does to its test; default: fail"
    parser.getgroup("deploycomp").addoption("--deploycomp-inconclusive", choices=CHOICES, default=None, help=help_)
    parser.addini(OPTION, help_, default=CHOICES[0])


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelled setting before the first test.

    Raises:
        pytest.UsageError: It is none of the choices.
    """
    if config.getini(OPTION) not in CHOICES:
        raise pytest.UsageError(f"{OPTION} takes {' or '.join(CHOICES)}, not {config.getini(OPTION)!r}")


@pytest.fixture(scope="session")
def deploycomp_gate(pytestconfig: pytest.Config) -> Callable[..., dict[str, Any]]:
    """Hold a candidate against a baseline: a broken goal fails the test, with the table of all checks.

    Returns:
        `gate(candidate, baseline, **options) -> result`, see gate.schema.json. Options are the goals as percentages
        (`max_slowdown="5%"`), the fields of `deploycomp.gating.Setting` and `deploycomp.gate.rounds.Rules`
        (`threads=(1,)`, `budget=120`), `data`, a path or a `deploycomp.gating.Data`, and whatever else
        `deploycomp.gating.run_gate` takes.
    """
    inconclusive = pytestconfig.getoption(OPTION) or pytestconfig.getini(OPTION)

    def gate(candidate: Path | str, baseline: Path | str, **options: Any) -> dict[str, Any]:
        __tracebackhide__ = True
        from deploycomp import gating

        given = _arguments(options)
        return _judged(gating.run_gate(Path(candidate), Path(baseline), **given), inconclusive)

    return gate


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Sort what was given into the arguments of `run_gate`; names that nothing knows are left for it to refuse."""
    from deploycomp.cli.options import percent
    from deploycomp.gate.rounds import Rules
    from deploycomp.gating import Data, Goals, Setting

    parts = {"goals": Goals, "rules": Rules, "setting": Setting}
    owners = {each.name: part for part, kind in parts.items() for each in fields(kind)}
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name not in owners:
            given[name] = value
        else:
            found[owners[name]][name] = percent(value, name) if owners[name] == "goals" else value
    if isinstance(given.get("data"), str | Path):
        given["data"] = Data(str(given["data"]))
    return given | {part: kind(**found[part]) for part, kind in parts.items()}


def _judged(result: dict[str, Any], inconclusive: str) -> dict[str, Any]:
    """Return a result that passed; fail or skip the test otherwise."""
    __tracebackhide__ = True
    from deploycomp.escape import document, one_line
    from deploycomp.report.gate import gate_lines

    if result["verdict"] == "pass":
        return result
    if result["verdict"] == "inconclusive" and inconclusive == "skip":
        pytest.skip(one_line(f"inconclusive: {result['why']}" + (f"; {result['next']}" if result["next"] else "")))
    pytest.fail(document("\n".join(gate_lines(result))), pytrace=False)
