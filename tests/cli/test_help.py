"""`--help` answers at once: it loads none of the heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from typer.main import get_command

from deploycomp.cli.app import app

COMMANDS = tuple(get_command(app).commands)  # type: ignore[attr-defined]
HEAVY = (
    "torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "onnxscript", "numpy", "scipy", "sklearn", "datasets",
    "matplotlib", "pandas", "tokenizers", "safetensors", "huggingface_hub", "optimum", "neural_compressor", "jinja2",
    "yaml", "rich", "psutil",
)  # fmt: skip
"""Everything that takes long to import; typer itself brings pydantic."""


def loaded_after(code: str) -> list[str]:
    """Run Python in a fresh process and return the heavy modules that it loaded."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout.splitlines()[-1])


def test_commands_are_those_that_are_promised():
    assert set(COMMANDS) >= {"export", "evaluate", "benchmark", "inspect", "doctor", "recipes", "demo"}


def test_help_of_every_command_loads_nothing_heavy():
    lines = [["--help"], ["--version"], ["-h"], *([name, "--help"] for name in COMMANDS)]
    code = f"""
from deploycomp.cli.app import app
for line in {lines!r}:
    assert app(line, standalone_mode=False) in (0, None), line
"""
    assert loaded_after(code) == []


@pytest.mark.parametrize(
    "package",
    [
        "deploycomp",
        "deploycomp.artifact",
        "deploycomp.errors",
        "deploycomp.pipeline, deploycomp.steps, deploycomp.assess, deploycomp.layout",
        "deploycomp.models, deploycomp.export, deploycomp.quantize, deploycomp.measure, deploycomp.report",
        "deploycomp.runtime",
    ],
)
def test_importing_the_library_loads_nothing_heavy(package: str):
    allowed = {"yaml"} if "pipeline" in package else set()  # a recipe is read with them
    assert set(loaded_after(f"import {package}")) <= allowed


def test_refusals_of_the_command_line_come_before_heavy_libraries():
    code = """
import contextlib, io
from deploycomp.cli.app import app
for line in (["export"], ["export", "m", "--int8", "--dry-run"], ["recipes"], ["export", "m", "--max-drop", "1"]):
    with contextlib.redirect_stderr(io.StringIO()):
        app(line, standalone_mode=False)
"""
    assert set(loaded_after(code)) <= {"yaml", "rich"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_its_options(run: Callable[..., Any], name: str):
    done = run(name, "--help")
    assert done.code == 0
    assert done.err == ""
    for option in ("--json", "--quiet", "--verbose", "--help"):
        assert option in done.out
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert len(command.help or "") > 30
    silent = [each.name for each in command.params if not getattr(each, "help", None)]
    assert silent == [], f"{name}: {silent} have no help"


def test_no_arguments_is_help(run: Callable[..., Any]):
    done = run()
    assert "export" in done.out + done.err


def test_version(run: Callable[..., Any]):
    from importlib.metadata import version

    assert run("--version").out == version("deploycomp") + "\n"
