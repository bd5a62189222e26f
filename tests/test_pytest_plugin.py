"""The fixture in a pytest of its own: what passes, what fails, what an inconclusive gate does."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deploycomp.errors import UsageError
from deploycomp.gate.rounds import Rules
from deploycomp.gating import Data, Goals, Setting, run_gate
from deploycomp.pytest_plugin import _arguments
from tests.report.test_gate import fails, passes, undecided

pytest_plugins = "pytester"

PLUGIN = "deploycomp.pytest_plugin"
TEST = """
def test_model(deploycomp_gate):
    result = deploycomp_gate("new", "old"{options})
    assert result["verdict"] == "pass"
"""


@pytest.fixture
def gating(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`deploycomp.gating` with a gate that measures nothing; it returns `found` and keeps what it was `asked`."""
    module: Any = importlib.import_module("deploycomp.gating")
    monkeypatch.setattr(module, "found", passes(), raising=False)
    monkeypatch.setattr(module, "asked", [], raising=False)

    def run_gate(*arguments: Any, **options: Any) -> dict[str, Any]:
        module.asked.append((arguments, options))
        return module.found

    monkeypatch.setattr(module, "run_gate", run_gate)
    return module


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, gating: Any):
    """Run pytest on one test with this plugin alone, whether or not its entry point is installed here."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(result: dict[str, Any], *arguments: str, options: str = "", ini: str = "") -> pytest.RunResult:
        gating.found = result
        pytester.makepyfile(TEST.format(options=options))
        if ini:
            pytester.makeini(f"[pytest]\n{ini}\n")
        return pytester.runpytest_inprocess("-p", PLUGIN, "-rs", *arguments)

    return run


def test_a_gate_that_passes_passes_the_test(run, gating):
    run(passes()).assert_outcomes(passed=1)
    assert gating.asked == [
        ((Path("new"), Path("old")), {"goals": Goals(), "rules": Rules(), "setting": Setting()}),
    ]


def test_options_reach_the_gate(run, gating):
    goals = ', max_slowdown="12.5%", max_size_growth="0%", max_drop="0.5%"'
    others = ', budget=9.0, threads=(1, 2), data="test.jsonl", retrained=True'
    run(passes(), options=goals + others).assert_outcomes(passed=1)
    assert gating.asked[0][1] == {
        "goals": Goals(max_slowdown=0.125, max_size_growth=0.0, max_drop=0.005),
        "rules": Rules(budget=9.0),
        "setting": Setting(threads=(1, 2)),
        "data": Data("test.jsonl"),
        "retrained": True,
    }


def test_options_that_do_not_exist_are_refused():
    given = _arguments({"max_slowness": "5%"})
    with pytest.raises(TypeError, match="max_slowness"):
        run_gate(Path("new"), Path("old"), **given)


def test_a_broken_goal_fails_the_test_with_the_table(run):
    done = run(fails(), "--deploycomp-inconclusive=skip")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        [
            "verdict  * check *",
            "FAIL * latency, 1 thread, 1×128 *",
            "FAIL: accuracy and latency*",
            "next: find what made it slower*",
        ]
    )
    done.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_an_inconclusive_gate_is_not_green_unless_asked(run):
    done = run(undecided())
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["INCONCLUSIVE: latency*", "next: about 30 more rounds*"])


@pytest.mark.parametrize(
    ("arguments", "ini", "outcome"),
    [
        (["--deploycomp-inconclusive=skip"], "", "skipped"),
        ([], "deploycomp_inconclusive = skip", "skipped"),
        (["--deploycomp-inconclusive=fail"], "deploycomp_inconclusive = skip", "failed"),
        (["--deploycomp-inconclusive=skip"], "deploycomp_inconclusive = fail", "skipped"),
    ],
)
def test_an_inconclusive_gate_does_what_was_chosen(run, arguments, ini, outcome):
    done = run(undecided(), *arguments, ini=ini)
    done.assert_outcomes(**{outcome: 1})
    done.stdout.fnmatch_lines(["*cannot be decided in 60 s*"])


def test_a_misspelled_choice_is_refused(run):
    done = run(passes(), ini="deploycomp_inconclusive = ignore")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*deploycomp_inconclusive takes fail or skip, not 'ignore'*"])
    assert run(passes(), "--deploycomp-inconclusive=ignore").ret == pytest.ExitCode.USAGE_ERROR


def test_a_goal_without_its_sign_is_refused(run, gating):
    done = run(passes(), options=', max_slowdown="0.05"')
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([f"*{UsageError.__name__}: max_slowdown takes a percentage*"])
    assert gating.asked == []


def test_pytest_lists_the_fixture_and_the_option(run):
    run(passes(), "--fixtures").stdout.fnmatch_lines(["deploycomp_gate *", "*Hold a candidate against a baseline*"])
    run(passes(), "--help").stdout.fnmatch_lines(["*--deploycomp-inconclusive=*"])


def test_the_entry_point_names_the_plugin():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["entry-points"]["pytest11"] == {"deploycomp": PLUGIN}
    importlib.import_module(PLUGIN)


def test_importing_it_imports_nothing_heavy():
    code = f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["deploycomp", PLUGIN]
