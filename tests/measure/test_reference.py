"""The reference kernel: a number from a process of its own, or an error."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from deploycomp.errors import EnvironmentFailed
from deploycomp.measure.context import affinity
from deploycomp.measure.reference import measure_reference


def test_it_is_timed_in_a_process_of_its_own():
    assert 0 < measure_reference(affinity()[0], seconds=0.01) < 60_000


def test_it_runs_on_one_thread_whatever_the_caller_has(monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        seen.update(how, command=command)
        return subprocess.CompletedProcess(command, 0, "1.5\n", "")

    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setattr(subprocess, "run", run)
    assert measure_reference(3, seconds=0.5) == 1.5
    assert {seen["env"][name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"1"}
    assert seen["command"][-2:] == ["3", "0.5"]


@pytest.mark.parametrize("executable", ["/bin/false", "/bin/true", "/no/such/python"])
def test_a_process_that_dies_or_says_nothing_is_an_error(executable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(EnvironmentFailed, match="reference kernel cannot be measured"):
        measure_reference(0)
