"""One sink: results on stdout, everything else on stderr, one JSON document, an exit code for every error."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploycomp import errors
from deploycomp.cli import output
from deploycomp.cli.output import SINK, handled
from deploycomp.errors import Interrupted
from tests.cli import made
from tests.cli.conftest import process, put_back

HOSTILE = "evil\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r.onnx"


@pytest.fixture
def sink() -> Iterator[Any]:
    """The sink, put back afterwards."""
    before = process()
    yield SINK
    put_back(before)


def code_of(raised: BaseException) -> int:
    """Run a command that raises; return the exit code."""

    @handled
    def command() -> None:
        raise raised

    with pytest.raises(typer.Exit) as caught:
        command()
    return caught.value.exit_code


ERRORS = [
    (errors.GateFailed("too slow", why="x"), 1),
    (errors.UsageError("wrong"), 2),
    (errors.InputRefused("corrupt", where="file", hint="again"), 3),
    (errors.VerificationFailed("other answers"), 4),
    (errors.EnvironmentFailed("no disk"), 5),
    (errors.Inconclusive("noise"), 6),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_become_text_and_exit_code(sink: Any, capsys: pytest.CaptureFixture[str], error: Any, code: int):
    assert code_of(error) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_become_json(sink: Any, capsys: pytest.CaptureFixture[str], error: Any, code: int):
    sink.json = True
    assert code_of(error) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == error.as_dict()
    assert err == ""


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (Interrupted(), 130), (Interrupted(143), 143)], ids=repr
)
def test_interruptions(sink: Any, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int):
    assert code_of(raised) == code
    assert capsys.readouterr() == ("", "interrupted: nothing was written\n")
    sink.written = Path("out/x")
    assert code_of(raised) == code
    assert capsys.readouterr() == ("", "interrupted; see out/x\n")
    sink.json = True
    assert code_of(raised) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "Interrupted", "exit_code": code, "what": "interrupted; see out/x"}
    assert err == ""


def test_memory_that_runs_out_is_the_environments(sink: Any, capsys: pytest.CaptureFixture[str]):
    assert code_of(MemoryError()) == 5
    assert "memory ran out" in capsys.readouterr().err


def test_a_panic_of_a_library_is_the_inputs_fault(sink: Any, capsys: pytest.CaptureFixture[str]):
    panic = type("PanicException", (BaseException,), {})
    assert code_of(panic("regex: over\nbacktrace")) == 3
    err = capsys.readouterr().err
    assert "a library gave up on the input" in err
    assert "backtrace" not in err


def test_a_bug_is_said_to_be_one_without_a_traceback(sink: Any, capsys: pytest.CaptureFixture[str]):
    assert code_of(KeyError("x")) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert "a bug in deploycomp: KeyError: 'x'" in err
    assert "run again with -v" in err
    assert "Traceback" not in err


def test_a_bug_shows_its_traceback_when_asked(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.verbose = True
    assert code_of(KeyError("x")) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise raised" in err
    assert "run again" not in err


def test_a_bug_is_json_too(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.json = True
    assert code_of(KeyError("x")) == 70
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "KeyError", "exit_code": 70, "what": "'x'", "next": "run again with -v"}
    assert err == ""


def test_a_command_within_a_command_keeps_its_exit_code(sink: Any, capsys: pytest.CaptureFixture[str]):
    """`demo` runs `export`."""

    @handled
    def inner() -> None:
        raise errors.InputRefused("corrupt")

    @handled
    def outer() -> None:
        inner()

    with pytest.raises(typer.Exit) as caught:
        outer()
    assert caught.value.exit_code == 3
    assert capsys.readouterr().err == "error: corrupt\n"


def test_sigterm_becomes_an_interruption(sink: Any, capsys: pytest.CaptureFixture[str]):
    @handled
    def command() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the second one ends the process at once


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_python_drops_is_heard_at_the_next_sign_of_progress(
    sink: Any, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
):
    """What is raised in a destructor, or in a weak reference's callback as torch has many, is printed and forgotten."""

    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    went_on = []

    @handled
    def command() -> None:
        with sink.progress() as progress:
            progress("one", 0.1)
            Dropped()
            went_on.append("over it")
            progress("two", 0.2)
            went_on.append("too far")

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == code
    assert went_on == ["over it"]
    assert capsys.readouterr() == ("", "interrupted: nothing was written\n")


def test_what_a_library_makes_of_an_interruption_is_still_one(sink: Any, capsys: pytest.CaptureFixture[str]):
    @handled
    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise RuntimeError("something failed in C++") from error

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 130
    assert capsys.readouterr() == ("", "interrupted: nothing was written\n")


# ------------------------------------------------------------ modes


def test_results_go_to_stdout_and_notes_to_stderr(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.result({"a": 1}, "for people")
    sink.note("by the way")
    assert capsys.readouterr() == ("for people\n", "by the way\n")


def test_quiet_says_nothing(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.quiet = True
    sink.result({"a": 1}, "for people")
    sink.note("by the way")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [True, False])
def test_json_is_one_document(sink: Any, capsys: pytest.CaptureFixture[str], quiet: bool):
    sink.json, sink.quiet = True, quiet
    sink.result({"ü": [1, None], "path": Path("x")}, "for people")
    sink.note("by the way")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ü": [1, None], "path": "x"}
    assert err == ""


def test_text_is_not_read_as_markup(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.result(None, "[bold]x[/bold] [/] :smile:")
    sink.note("[red]y")
    assert capsys.readouterr() == ("[bold]x[/bold] [/] :smile:\n", "[red]y\n")


def test_long_lines_are_not_broken_in_a_pipe(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.result(None, "word " * 100)
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("way", ["error", "bug", "result", "note"])
def test_hostile_names_do_not_steer_the_terminal(sink: Any, capsys: pytest.CaptureFixture[str], way: str):
    if way == "error":
        code_of(errors.InputRefused("refused", where=HOSTILE))
    elif way == "bug":
        code_of(KeyError(f"{HOSTILE}"))
    elif way == "result":
        sink.result(None, HOSTILE)
    else:
        sink.note(HOSTILE)
    out, err = capsys.readouterr()
    said = out + err
    assert "evil" in said
    assert ".onnx" in said
    assert all(char.isprintable() or char == "\n" for char in said)


def test_json_escapes_what_steers_a_terminal(sink: Any, capsys: pytest.CaptureFixture[str]):
    sink.json = True
    code_of(errors.InputRefused("refused", where=HOSTILE))
    out = capsys.readouterr().out
    assert json.loads(out)["where"] == HOSTILE
    assert "\x1b" not in out


# ------------------------------------------------------------ terminals and pipes


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "quiet", "json_", "shown"),
    [(True, False, False, True), (True, True, False, False), (True, False, True, False), (False, False, False, False)],
)
def test_the_bar_is_for_terminals_only(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, json_: bool, shown: bool
):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    sink = output.Sink(json=json_, quiet=quiet)
    with sink.progress() as progress:
        progress("working\x1b[2J", 0.5)
    assert ("working" in stream.getvalue()) is shown
    assert "\x1b[2J" not in stream.getvalue()


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(tmp_path: Path):
    """The same refusal, once with stderr on a terminal."""
    leader, follower = pty.openpty()
    arguments = [str(made.COMMAND), "export", str(tmp_path), "--int8", "-o", str(tmp_path.parent / "out")]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=follower, text=True, check=False)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # the end of a terminal on Linux
        pass
    os.close(leader)
    piped = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == piped.returncode == 3
    assert b"eta" in shown
    assert b"error: " in shown
    assert "eta" not in piped.stderr
    assert "\x1b" not in piped.stderr
    assert piped.stdout == done.stdout == ""


def test_names_that_are_not_utf8(tmp_path: Path):
    name = b"caf\xe9\x1b[31m"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [os.fsencode(made.COMMAND), b"benchmark", name]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert b"\\udce9\\x1b[31m" in done.stderr
    done = subprocess.run([*command, b"--json"], capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["where"] == os.fsdecode(name)


def test_a_terminal_without_unicode_still_gets_a_report():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    done = subprocess.run([str(made.COMMAND), "doctor"], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def test_a_reader_that_leaves_has_a_code_of_its_own():
    """`deploycomp recipes | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([str(made.COMMAND), "recipes"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 141  # 128 + SIGPIPE, as a shell says it
    assert done.stderr == ""


# ------------------------------------------------------------ what typer refuses


@pytest.mark.parametrize(
    "arguments",
    [["export", "--bogus"], ["evaluate", "only-one"], ["benchmark"], ["nonesuch"], ["benchmark", "x", "--blocks", "1"]],
)
def test_wrong_options_exit_2_and_are_json_when_asked(arguments: list[str]):
    plain = subprocess.run([str(made.COMMAND), *arguments], capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert "\nerror: " in plain.stderr
    assert plain.stderr.startswith("Usage: deploycomp ")
    done = subprocess.run([str(made.COMMAND), *arguments, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    error = json.loads(done.stdout)
    assert (error["error"], error["exit_code"], error["next"]) == ("UsageError", 2, "deploycomp --help")
    assert error["what"]
    assert done.stderr == ""


def test_the_bug_message_is_not_for_users_errors(run: Callable[..., Any], tmp_path: Path):
    """Whatever is given as a path, it is a refusal and never exit code 70."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "deploycomp.json").write_text('{"schema_version": 1}')
    (tmp_path / "little").mkdir()
    little = {"schema_version": 1, "files": {}, "model": "model.onnx"}
    (tmp_path / "little" / "deploycomp.json").write_text(json.dumps(little))
    (tmp_path / "little" / "model.onnx").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "deploycomp.json").write_text('{"schema_version": 9}')
    bad = [tmp_path / name for name in ("empty", "text.onnx", "artifact", "little", "other", "nowhere")] + [
        "a b",
        "x" * 5000,
        "",
    ]
    for path in bad:
        for line in (
            ["export", path, "-o", tmp_path / "out"],
            ["evaluate", path, tmp_path / "empty.jsonl"],
            ["benchmark", path],
            ["inspect", path],
        ):
            done = run(*line, "--json")
            assert done.code in (2, 3, 5), (line, done)
            assert done.json["exit_code"] == done.code
            assert done.json["what"]
    assert not (tmp_path / "out").exists()
    assert made.leftovers(tmp_path) == []


def test_inspect_refuses_a_manifest_that_lacks_its_keys(run: Callable[..., Any], tmp_path: Path):
    little = {"schema_version": 1, "files": {}, "model": "model.onnx"}
    (tmp_path / "deploycomp.json").write_text(json.dumps(little))
    assert run("inspect", tmp_path, "--json").code == 3
