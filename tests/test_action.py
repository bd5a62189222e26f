"""The GitHub Action: its inputs reach the command unharmed, and its job is green only where the gate passed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from deploycomp.cli.app import app

ROOT = Path(__file__).parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
STEPS = ACTION["runs"]["steps"]
GATE = next(step for step in STEPS if step.get("id") == "gate")
EXPRESSION = re.compile(r"\$\{\{\s*inputs\.([\w-]+)\s*\}\}")

FAKE = """\
#!{python}
import json, os, pathlib, sys
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(sys.argv[1:]))
output = next(each.partition("=")[2] for each in sys.argv if each.startswith("--output="))
if os.environ["VERDICT"]:
    pathlib.Path(output).write_text(json.dumps({{"verdict": os.environ["VERDICT"]}}))
sys.exit(int(os.environ["CODE"]))
"""


# ------------------------------------------------------------ structure


def test_it_is_a_composite_action_whose_steps_say_their_shell():
    assert ACTION["runs"]["using"] == "composite"
    assert ACTION["name"]
    assert ACTION["description"]
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        assert step.get("shell") == ("bash" if "run" in step else None)


def test_inputs_say_what_they_are_and_are_used():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    for name, given in ACTION["inputs"].items():
        assert given["description"].endswith("."), name
        assert given.get("required") or "default" in given, name
        assert isinstance(given.get("default", ""), str), name
    assert set(EXPRESSION.findall(text)) == set(ACTION["inputs"])


def test_scripts_hold_no_expressions():
    for step in STEPS:
        assert "${{" not in step.get("run", "")


def test_outputs_are_written_by_the_step_they_name():
    for name, output in ACTION["outputs"].items():
        assert output["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
        assert f'"{name}=' in GATE["run"]


def test_actions_of_others_have_a_version():
    for step in STEPS:
        assert "uses" not in step or re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])


def gate_options() -> set[str]:
    group: Any = get_command(app)
    if "gate" not in group.commands:
        pytest.skip("deploycomp has no command `gate` yet")
    return {option for parameter in group.commands["gate"].params for option in parameter.opts}


def test_the_options_exist():
    used = set(re.findall(r"--[a-z-]+(?==)", GATE["run"]))
    assert {"--baseline", "--output", "--junit", "--max-slowdown", "--eval", "--budget"} <= used
    assert used <= gate_options()


# ------------------------------------------------------------ the script, run


def run(
    tmp_path: Path, *, verdict: str = "pass", code: int = 0, **inputs: str
) -> tuple[int, list[str], dict[str, str]]:
    """Run the step as GitHub does, with a `deploycomp` that notes its arguments; exit code, arguments, outputs."""
    bin_folder = tmp_path / "deploycomp" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    (bin_folder / "deploycomp").write_text(FAKE.format(python=sys.executable))
    (bin_folder / "deploycomp").chmod(0o755)
    given = {"candidate": "new", "baseline": "old", **{name.replace("_", "-"): each for name, each in inputs.items()}}
    defaults = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
    assert set(given) <= set(defaults)
    env = {
        name: EXPRESSION.sub(lambda found: {**defaults, **given}[found[1]], text) for name, text in GATE["env"].items()
    }
    seen, outputs, script = tmp_path / "seen", tmp_path / "outputs", tmp_path / "script.sh"
    outputs.touch()
    script.write_text(GATE["run"])
    env |= {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(outputs), "SEEN": str(seen)}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "VERDICT": verdict, "CODE": str(code), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    arguments = json.loads(seen.read_text()) if seen.exists() else []
    lines = outputs.read_text().splitlines()
    return done.returncode, arguments, dict(line.split("=", 1) for line in lines)


def test_only_the_goals_that_are_given_are_passed_on(tmp_path):
    code, arguments, outputs = run(tmp_path, max_slowdown="5%", eval="test.jsonl")
    folder = outputs["folder"]
    assert code == 0
    assert outputs == {"folder": folder, "result": f"{folder}/gate.json", "verdict": "pass"}
    assert arguments == [
        *("gate", "--baseline=old", f"--output={folder}/gate.json", f"--junit={folder}/gate.xml"),
        *("--max-slowdown=5%", "--eval=test.jsonl", "--", "new"),
    ]
    assert [path.name for path in Path(folder).iterdir()] == ["gate.json"]


@pytest.mark.parametrize("name", ["candidate", "baseline", "eval", "max_drop", "budget"])
def test_an_input_is_one_argument_and_never_code(tmp_path, name):
    hostile = "--help\" '; touch pwned; $(touch pwned) `touch pwned` ${HOME} *"
    code, arguments, _ = run(tmp_path, **{name: hostile})
    assert code == 0
    assert sum(each.endswith(hostile) for each in arguments) == 1
    assert not (tmp_path / "pwned").exists()


def test_more_arguments_are_split_like_words_and_nothing_in_them_is_expanded(tmp_path):
    _, arguments, _ = run(tmp_path, arguments="--threads 1,2\n--why 'two words' \"$HOME\" $(touch pwned) *")
    start = arguments.index("--threads")
    assert arguments[start:-2] == ["--threads", "1,2", "--why", "two words", "$HOME", "$(touch", "pwned)", "*"]
    assert not (tmp_path / "pwned").exists()


def test_a_quote_that_is_left_open_stops_the_step(tmp_path):
    code, arguments, _ = run(tmp_path, arguments="--threads '1")
    assert code != 0
    assert arguments == []


@pytest.mark.parametrize(
    ("verdict", "code", "inconclusive", "expected"),
    [
        ("pass", 0, "fail", (0, "pass")),
        ("fail", 1, "warn", (1, "fail")),
        ("inconclusive", 6, "fail", (6, "inconclusive")),
        ("inconclusive", 6, "warn", (0, "inconclusive")),
        ("", 1, "warn", (1, "error")),
        ("", 6, "warn", (6, "error")),
        ("", 5, "fail", (5, "error")),
        ("", 0, "fail", (70, "error")),
        ("fail", 0, "fail", (70, "error")),
        ("inconclusive", 0, "warn", (70, "error")),
    ],
)
def test_the_job_is_green_only_where_the_result_allows_it(tmp_path, verdict, code, inconclusive, expected):
    found, _, outputs = run(tmp_path, verdict=verdict, code=code, inconclusive=inconclusive)
    assert (found, outputs["verdict"]) == expected


def test_a_misspelled_choice_is_refused(tmp_path):
    code, arguments, _ = run(tmp_path, inconclusive="ignore")
    assert (code, arguments) == (2, [])


# ------------------------------------------------------------ the page

WORKFLOWS = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)]


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow.get("jobs", {}).values() for step in job["steps"]]


def test_the_page_shows_a_workflow_for_github_and_one_for_gitlab():
    # YAML 1.1 reads the key `on` as true.
    assert any(True in each and "jobs" in each for each in WORKFLOWS)
    assert any("stages" in each for each in WORKFLOWS)


def test_the_workflows_give_inputs_that_exist():
    uses = [step for each in WORKFLOWS for step in steps_of(each) if "deploycomp/deploycomp@" in step.get("uses", "")]
    assert uses
    for step in uses:
        assert set(step["with"]) <= set(ACTION["inputs"])
        assert {name for name, given in ACTION["inputs"].items() if given.get("required")} <= set(step["with"])


def test_the_workflows_write_no_expression_into_a_script():
    for step in [step for each in WORKFLOWS for step in steps_of(each)]:
        assert "${{" not in step.get("run", "")
