"""Labels, paths, columns and names with line breaks and commands in them forge nothing, on no stream and in no file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.cli.app import run as run_line
from deploycomp.cli.output import SINK
from deploycomp.errors import InputRefused
from deploycomp.report.gate import annotations, gate_lines, junit, step_summary
from deploycomp.report.html import to_html
from deploycomp.report.markdown import to_markdown
from tests.cli import made
from tests.cli.conftest import process, put_back
from tests.report.test_gate import hostile as gate_result
from tests.report.test_markdown import hostile as report_of

FORGED = (
    "x\n  next:  forged\n::error::forged\r\n##[error]forged\u2028::error::forged\x85next: forged\x1b[2J\u202e\u200b"
)
"""Everything at once; what of it could be carried out or taken for a line of ours must not begin one."""
IN_A_NAME = FORGED.replace("/", "")
"""As the name of a file or folder: no slash is in it."""


def clean(text: str) -> None:
    """What people read: printable, and no line of it forged."""
    for line in text.splitlines():
        assert line.isprintable(), line
        assert not re.match(r"\s*(::|next:\s+forged|error: forged|forged)", line), line
        assert "##[" not in line, line


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line as the installed command does: its code and streams."""
    before = process()

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run_line([str(each) for each in arguments])
        out, err = capsys.readouterr()
        SINK.json = SINK.quiet = SINK.verbose = False
        return code, out, err

    yield call
    put_back(before)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with rows whose label or column is forged, and an artifact, a graph and a recipe of such a name."""
    texts = [{"text": f"word {number}"} for number in range(40)]
    made.write_rows(tmp_path / "label.jsonl", [{**each, "label": FORGED} for each in texts])
    made.write_rows(tmp_path / "column.jsonl", [{FORGED: each["text"]} for each in texts])
    made.write_rows(tmp_path / f"{IN_A_NAME}.jsonl", [{**each, "label": "?"} for each in texts])
    shutil.copytree(made.fp32().path, tmp_path / IN_A_NAME)
    (tmp_path / "splits").mkdir()
    shutil.copy(tmp_path / "label.jsonl", tmp_path / "splits" / "test.jsonl")
    shutil.copy(made.fp32().model, tmp_path / f"{IN_A_NAME}.onnx")
    (tmp_path / f"{IN_A_NAME}.yaml").write_text("taget: cuda")
    return tmp_path


SAYINGS: dict[str, tuple[int, Callable[[Path], list[Any]]]] = {
    "label": (3, lambda at: ["evaluate", at / IN_A_NAME, at / "label.jsonl"]),
    "label of an export": (3, lambda at: ["export", made.model(), "-o", at / "o", "--eval", at / "label.jsonl"]),
    "column": (2, lambda at: ["evaluate", at / IN_A_NAME, at / "column.jsonl"]),
    "column asked for": (2, lambda at: ["evaluate", at / IN_A_NAME, at / "label.jsonl", "--column", f"text={FORGED}"]),
    "data": (3, lambda at: ["evaluate", at / IN_A_NAME, at / f"{IN_A_NAME}.jsonl"]),
    "split": (2, lambda at: ["evaluate", at / IN_A_NAME, at / "splits", "--split", FORGED]),
    "artifact": (0, lambda at: ["inspect", at / IN_A_NAME]),
    "graph": (0, lambda at: ["inspect", at / f"{IN_A_NAME}.onnx"]),
    "no such path": (2, lambda at: ["benchmark", at / f"{IN_A_NAME}-gone"]),
    "recipe": (2, lambda at: ["export", made.model(), "--recipe", at / f"{IN_A_NAME}.yaml"]),
    "recipe by name": (2, lambda at: ["recipes", FORGED]),
    "target": (2, lambda at: ["export", made.model(), "--target", FORGED]),
    "goal": (2, lambda at: ["compress", made.model(), "--prune", FORGED]),
    "dry run": (0, lambda at: ["export", FORGED, "--keep-float", FORGED, "--int8", "--dry-run"]),
    "command": (2, lambda at: [FORGED]),
    "option": (2, lambda at: ["export", f"--{FORGED}"]),
    "value": (2, lambda at: ["export", "--opset", FORGED]),
    "percentage": (2, lambda at: ["gate", at / IN_A_NAME, "--baseline", at, "--max-slowdown", FORGED]),
    "baseline": (3, lambda at: ["gate", at / IN_A_NAME, "--baseline", at / f"{IN_A_NAME}.jsonl"]),
}  # fmt: skip
"""Where a name from elsewhere reaches a message or a result: the exit code and the command."""


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("way", SAYINGS)
def test_nothing_is_forged_on_a_terminal_or_in_a_log(line: Any, place: Path, way: str, verbose: bool):
    code, arguments = SAYINGS[way]
    found, out, err = line(
        *arguments(place), *(["-v"] if verbose and way not in ("command", "option", "value") else [])
    )
    assert found == code, err
    clean(out)
    clean(err)
    assert "forged" in out + err or way in ("value", "target"), err
    shapes = [each[:9] for each in err.splitlines() if each.startswith(("error: ", "  "))]
    assert len(shapes) == len(set(shapes))  # one line each of what, where, why and next


@pytest.mark.parametrize("way", SAYINGS)
def test_json_carries_what_is_there_and_steers_nothing(line: Any, place: Path, way: str):
    code, arguments = SAYINGS[way]
    found, out, err = line(*arguments(place), "--json")
    assert (found, err) == (code, "")
    clean(out)
    document = json.loads(out)
    if code:
        assert document["exit_code"] == code
    if way in ("recipe by name", "dry run"):
        assert FORGED in (document.get("where"), document.get("model"))  # raw, once it is read


def test_a_printed_recipe_reads_back(line: Any, place: Path):
    from deploycomp.recipe import Recipe

    _, out, _ = line("export", FORGED, "--keep-float", FORGED, "--int8", "--dry-run")
    recipe = Recipe.parse(out)
    assert recipe.model == FORGED
    assert recipe.steps[1].keep_float == (FORGED,)  # type: ignore[union-attr]


def test_the_installed_command_too(place: Path):
    for arguments in (
        ["inspect", place / f"{IN_A_NAME}-gone"],
        [FORGED],
        ["evaluate", place / IN_A_NAME, place / "label.jsonl"],
    ):
        done = subprocess.run([str(made.COMMAND), *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode in (2, 3, 5)
        clean(done.stdout)
        clean(done.stderr)


# ------------------------------------------------------------ files and other programs


def test_the_gates_outputs():
    result = gate_result(FORGED)
    clean("\n".join(gate_lines(result)).replace("##[", ""))  # the sink breaks that one
    clean(step_summary(result).replace("##[", ""))
    commands = annotations(result)
    assert commands
    for each in commands:
        assert each.startswith(("::error title=deploycomp gate", "::warning title=", "::notice title="))
        assert each.isprintable()
    root = ElementTree.fromstring(junit(result).encode())
    for element in root.iter():
        texts = [element.text or "", *element.attrib.values()]
        assert not any(re.search(r"(?m)^\s*(::|next:)", text) for text in texts)


@pytest.mark.parametrize("number", [0, 1, 8, 11, 12, 14, 31, 0xD800, 0xFFFE, 0xFFFF])
def test_junit_holds_no_character_that_xml_forbids(number: int):
    ElementTree.fromstring(junit(gate_result(f"a{chr(number)}b")).encode())


def test_the_gate_on_github(line: Any, place: Path, monkeypatch: pytest.MonkeyPatch):
    """Only our own commands reach the runner, and the summary has one heading."""
    from deploycomp import gating

    monkeypatch.setattr(gating, "run_gate", lambda *_, **__: gate_result(FORGED))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary.md"))
    _, out, err = line("gate", place / IN_A_NAME, "--baseline", place / IN_A_NAME, "--junit", place / "gate.xml")
    ours = [each for each in (out + err).splitlines() if re.match(r"\s*::|.*##\w*\[", each)]
    assert ours == annotations(gate_result(FORGED))
    clean("\n".join(each for each in (out + err).splitlines() if each not in ours))
    ElementTree.parse(place / "gate.xml")
    summary = (place / "summary.md").read_text(encoding="utf-8")
    assert [each for each in summary.splitlines() if each.startswith("#")] == [summary.splitlines()[0]]
    assert all(each.isprintable() for each in summary.splitlines())


def test_reports():
    page, text = to_html(report_of(FORGED)), to_markdown(report_of(FORGED))
    for shown in (page, text):
        assert not re.search("[\x1b\u202e\u2028\x85]", shown)
    outside = text.partition("```yaml")[0] + text.rpartition("```")[2]
    assert not re.search(r"(?m)^\s*(::error|next:\s+forged|##\[)", outside)


def test_an_error_in_python_keeps_its_lines():
    error = InputRefused(FORGED, where=FORGED, why=FORGED, hint=FORGED)
    clean(str(error))
    assert [each.split(":")[0].strip() for each in str(error).splitlines()[1:]] == ["where", "why", "next"]
    assert error.what == error.where == error.why == error.hint == FORGED
