"""However a process ends, its code is one of the documented ones, nothing is denied, and no traceback is shown."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from deploycomp import errors
from deploycomp.cli import faults, output, process
from deploycomp.cli.output import SINK, handled
from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError
from tests.cli import conftest, made

DOOR = [sys.executable, "-m", "deploycomp"]


def ran(*arguments: object, door: list[str] = DOOR, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the front door in a process of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    environment = {**os.environ, **made.ONE_THREAD, **streams.pop("environment", {})}
    return subprocess.run([*door, *map(str, arguments)], text=True, check=False, env=environment, **streams)


def test_the_installed_command_goes_through_the_front_door():
    project = tomllib.loads((made.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"deploycomp": "deploycomp.__main__:main"}


def test_nothing_heavy_is_imported_before_signals_are_heard():
    code = "import sys, deploycomp.__main__; print(*sorted(sys.modules))"
    loaded = set(ran("-c", code, door=[sys.executable]).stdout.split())
    assert not loaded & {"typer", "rich", "numpy", "torch", "pydantic", "yaml", "onnxruntime"}
    assert "deploycomp.cli.process" in loaded


# ------------------------------------------------------------ streams


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "--json"], ["doctor"], ["--help"]])
def test_a_full_stdout_is_an_error_of_the_machine(arguments: list[str]):
    with Path("/dev/full").open("w") as full:
        done = ran(*arguments, stdout=full)
    assert done.returncode == 5
    assert done.stderr.splitlines()[:2] == ["error: stdout cannot be written", "  why:   No space left on device"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "--json"], ["export", "nowhere"]])
def test_a_closed_stdout_is_refused_before_any_work(arguments: list[str]):
    done = ran(*arguments, stdout=None, preexec_fn=closed(1))
    assert done.returncode == 5
    assert done.stderr.splitlines()[0] == "error: stdout is closed"
    assert ran("recipes", "--quiet", stdout=None, preexec_fn=closed(1)).returncode == 0  # nobody is to be told


def test_a_closed_or_full_stderr_changes_no_code():
    assert ran("recipes", stderr=None, preexec_fn=closed(2)).returncode == 0
    assert ran("recipes", "nonesuch", stderr=None, preexec_fn=closed(2)).returncode == 2
    with Path("/dev/full").open("w") as full:
        assert ran("recipes", "nonesuch", stderr=full).returncode == 2


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path):
    """What a library prints on stderr would be written into the first file that is opened."""
    code = (
        "from deploycomp.cli import process; process.open_streams(); "
        f"import os; kept = open({str(tmp_path / 'file')!r}, 'w'); os.write(1, b'lost'); os.write(2, b'lost')"
    )
    ran("-c", code, door=[sys.executable], stdout=None, stderr=None, preexec_fn=lambda: os.closerange(0, 3))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "--json"], ["--help"], ["recipes", "--help"]])
def test_a_reader_that_left_has_a_code_that_no_verdict_has(arguments: list[str]):
    reader, writer = os.pipe()
    os.close(reader)
    done = ran(*arguments, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture
def sink() -> Any:
    """The sink, put back afterwards."""
    before = conftest.process()
    yield SINK
    conftest.put_back(before)


class Full:
    """A stdout that takes nothing."""

    encoding = "utf-8"

    def __init__(self, number: int):
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 5), (errno.EIO, 5), (errno.EPIPE, 141)])
@pytest.mark.parametrize("json_", [False, True])
def test_what_was_published_is_said_although_stdout_is_gone(
    sink: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int, json_: bool
):
    @handled
    def command() -> None:
        sink.json, sink.written = json_, Path("out/artifact")
        sink.result({"a": 1}, "done")

    monkeypatch.setattr(sys, "stdout", Full(number))
    monkeypatch.setattr(output, "SINK", output.Sink())
    monkeypatch.setattr(output, "SINK", sink)
    sink.__dict__.pop("out", None)
    with pytest.raises(typer.Exit) as caught:
        command()
    sink.__dict__.pop("out", None)
    assert caught.value.exit_code == code
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == "written: out/artifact"
    assert ("error: stdout cannot be written" in err) is (code == 5)


# ------------------------------------------------------------ signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15])
def test_a_signal_while_imports_run_is_quiet(tmp_path: Path, number: int, code: int, delay: float):
    """From the moment that the front door stands open: before, Python itself answers."""
    arguments = ["export", str(made.model()), "-o", str(tmp_path / "out"), "--no-benchmark"]
    child = subprocess.Popen([*DOOR, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not caught_by(child.pid, signal.SIGTERM):
        assert child.poll() is None
        time.sleep(0.001)
    time.sleep(delay)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, "", "interrupted: nothing was written\n")
    assert made.entries(tmp_path) == []


def caught_by(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_an_early_signal_is_json_where_that_was_asked_for():
    code = (
        "import os, signal, sys; from deploycomp.cli import process; sys.argv.append('--json'); "
        "process.quiet_signals(); os.kill(os.getpid(), signal.SIGINT)"
    )
    done = ran("-c", code, door=[sys.executable])
    assert done.returncode == 130
    assert json.loads(done.stdout) == {
        "error": "Interrupted",
        "exit_code": 130,
        "what": "interrupted: nothing was written",
    }


# ------------------------------------------------------------ optimization


@pytest.mark.parametrize("level", ["1", "2"])
def test_python_without_docstrings_and_assertions(level: str):
    plain, bare = ran("export", "--help"), ran("export", "--help", environment={"PYTHONOPTIMIZE": level})
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == plain.stdout
    refused = ran("export", "nowhere-at-all", "--opset", "9", environment={"PYTHONOPTIMIZE": level})
    assert refused.returncode == 2
    assert "error: Input should be greater than or equal to 18" in refused.stderr


def test_a_model_is_read_without_docstrings():
    """transformers cannot be imported without them: the command starts again with them."""
    done = ran("inspect", made.model(), "--json", environment={"PYTHONOPTIMIZE": "2"})
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (0, "model"), done.stderr


# ------------------------------------------------------------ what the machine does


def failed_import(name: str) -> ImportError:
    return ModuleNotFoundError(f"No module named '{name}'", name=name)


def chained(error: BaseException, cause: BaseException) -> BaseException:
    error.__context__ = cause
    return error


FAULTS: list[tuple[BaseException, type[DeploycompError], str, str]] = [
    (MemoryError(), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (RuntimeError("std::bad_alloc"), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (RuntimeError("can't start new thread"), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (ImportError("x.so: failed to map segment from shared object"), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (chained(InputRefused("the data cannot be read"), MemoryError()), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (chained(errors.GateFailed("x"), RuntimeError("bad_alloc")), EnvironmentFailed, "memory ran out", "ulimit -v"),
    (PermissionError(13, "Permission denied", "w"), EnvironmentFailed, "the file cannot be read", "chmod"),
    (OSError(errno.EMFILE, "Too many open files"), EnvironmentFailed, "the file cannot be read", "ulimit -n"),
    (OSError(errno.ENOSPC, "No space left", "/tmp/x"), EnvironmentFailed, "the file cannot be read", "TMPDIR"),
    (OSError(errno.EIO, "Input/output error", "w"), EnvironmentFailed, "the file cannot be read", ""),
    (FileNotFoundError(errno.ENOENT, "No such file", "w"), InputRefused, "the file cannot be read", ""),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "w"), InputRefused, "the file cannot be read", ""),
    (OSError(errno.ENAMETOOLONG, "File name too long", "w"), UsageError, "a path is too long for this system", ""),
    (failed_import("torch"), EnvironmentFailed, "torch is missing", "pip install torch"),
    (failed_import("sklearn.metrics"), EnvironmentFailed, "scikit-learn is missing", "pip install scikit-learn"),
    (failed_import("onnx_ir"), EnvironmentFailed, "onnx-ir is missing", "pip install onnx-ir"),
    (ImportError("libx.so: no such file", name="torch"), EnvironmentFailed, "torch cannot be imported", "--force"),
    (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"), InputRefused, "the file is not UTF-8 text", "iconv"),
    (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "bad"), InputRefused, "a text holds what is no character", "UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "what", "hint"), FAULTS, ids=[str(each[0])[:40] for each in FAULTS])
def test_what_the_machine_does_is_no_bug(error: BaseException, kind: type[DeploycompError], what: str, hint: str):
    found = faults.as_ours(error)
    assert type(found) is kind
    assert found.what == what
    assert hint in str(found.hint or "")


def test_a_number_of_five_thousand_digits():
    with pytest.raises(ValueError, match="limit") as caught:
        json.loads("1" * 5000)
    found = faults.as_ours(caught.value)
    assert type(found) is InputRefused
    assert found.what == "a number in the input has too many digits"


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError("x"), RuntimeError("shape mismatch"), failed_import("deploycomp.nonesuch")]
)
def test_a_bug_stays_one(error: BaseException):
    assert faults.as_ours(error) is None


def test_our_own_errors_stay_what_they_are():
    error = UsageError("wrong")
    assert faults.as_ours(error) is error


def test_a_library_that_ends_the_process_is_a_bug_and_no_verdict(sink: Any, capsys: pytest.CaptureFixture[str]):
    @handled
    def command() -> None:
        sys.exit(1)

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 70
    assert "SystemExit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", ["inspect", "MODEL"]),
        ("torch", ["export", "MODEL", "-o", "OUT"]),
        ("transformers", ["export", "MODEL", "-o", "OUT"]),
        ("onnxruntime", ["evaluate", "ARTIFACT", "DATA"]),
        ("onnx_ir", ["inspect", "ARTIFACT"]),
        ("datasets", ["evaluate", "ARTIFACT", "DATA"]),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, missing: str, arguments: list[str]):
    data = made.write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": "negative"}])
    places = {"MODEL": made.model(), "OUT": tmp_path / "out", "ARTIFACT": made.fp32().path, "DATA": data}
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from deploycomp.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    done = ran("-c", code, *(places.get(each, each) for each in arguments), door=[sys.executable])
    assert done.returncode == 5, done.stderr
    package = missing.replace("_", "-")
    assert f"error: {package} is missing" in done.stderr
    assert f"  next:  pip install {package}" in done.stderr
    assert "Traceback" not in done.stderr
    assert made.leftovers(tmp_path) == []


# ------------------------------------------------------------ memory


@pytest.mark.parametrize(
    "end", ["os.abort()", "ctypes.CDLL(None).abort()", "ctypes.CDLL(None).exit(1)", "ctypes.CDLL(None).exit(0)"]
)
@pytest.mark.parametrize("json_", [False, True])
def test_a_native_library_that_ends_the_process(end: str, json_: bool):
    """OpenBLAS calls exit(1) without memory, C++ aborts: neither may read as a broken goal."""
    code = f"import ctypes, os, sys; from deploycomp.cli import process; process.last_words(); {end}"
    done = ran("-c", code, *(["--json"] if json_ else []), door=[sys.executable])
    assert done.returncode == 5
    said = json.loads(done.stdout)["what"] if json_ else done.stderr.splitlines()[0].removeprefix("error: ")
    assert said == "a native library ended the process, as a rule because memory ran out"


def test_last_words_name_what_was_published():
    code = (
        "import os; from deploycomp.cli import process; from deploycomp.cli.output import SINK; "
        "process.last_words(); SINK.written = 'out\\nx'; os.abort()"
    )
    done = ran("-c", code, door=[sys.executable])
    assert done.returncode == 5
    assert "written before that: 'out\\nx'" in done.stderr.splitlines()[0]


def test_last_words_are_the_parents(tmp_path: Path):
    """A child that was forked off ends as it likes, and the command ends with its own code."""
    code = (
        "import os, sys; from deploycomp.cli import process; process.last_words(); pid = os.fork();\n"
        "if pid == 0: os.execv('/bin/true', ['true'])\n"
        "os.waitpid(pid, 0); process.leave(3)"
    )
    done = ran("-c", code, door=[sys.executable])
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_leaving_runs_what_python_runs_at_its_end():
    code = (
        "import atexit, sys; from deploycomp.cli import process; atexit.register(print, 'tidy'); print('said'); "
        "process.leave(6)"
    )
    done = ran("-c", code, door=[sys.executable])
    assert (done.returncode, done.stdout) == (6, "said\ntidy\n")


def test_too_little_memory_to_say_so(sink: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Even importing what draws the message may fail."""

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(sink), "error", fails)
    sink.written = Path("out")

    @handled
    def command() -> None:
        raise MemoryError

    with pytest.raises(typer.Exit) as caught:
        command()
    assert caught.value.exit_code == 5
    assert capfd.readouterr().err.splitlines()[0] == "error: memory ran out; written before that: 'out'"


def test_a_limit_under_which_libraries_hang_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    """OpenBLAS asks for its buffers for ever."""
    from deploycomp.room import LEAST_ADDRESS_SPACE, check_room

    check_room()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (LEAST_ADDRESS_SPACE, LEAST_ADDRESS_SPACE))
    check_room()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (800_000_000, 800_000_000))
    with pytest.raises(EnvironmentFailed, match="the address space is limited to 800 MB") as caught:
        check_room()
    assert "ulimit -v unlimited" in str(caught.value.hint)


def limited(megabytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))


@pytest.mark.parametrize("megabytes", [90, 450, 800])
def test_a_memory_limit_is_no_verdict(tmp_path: Path, megabytes: int):
    """Too little for Python's own modules, for torch, and for scipy, whose OpenBLAS would never end."""
    data = made.write_rows(tmp_path / "rows.jsonl", [{"text": "a", "label": "negative"}])
    arguments = ["export", made.model(), "--no-benchmark", "-o", tmp_path / "out", "--eval", data]
    done = ran(*arguments, preexec_fn=limited(megabytes))
    assert done.returncode == 5, (done.returncode, done.stderr)
    assert "memory ran" in done.stderr or "memory runs out" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    ended = "a native library ended" in done.stderr  # like a kill: the next run sweeps what it left
    assert ended or made.leftovers(tmp_path) == []


def test_codes_of_the_process_are_those_of_the_errors():
    assert EnvironmentFailed.exit_code == process.FAILED
    assert process.READER_LEFT == 141


def test_python_without_docstrings_is_told_so():
    """As a library: nobody starts again there."""
    code = f"from deploycomp import inspect_path; inspect_path({str(made.model())!r})"
    done = ran("-OO", "-c", code, door=[sys.executable])
    assert "EnvironmentFailed: transformers cannot be imported without docstrings" in done.stderr
    assert "next:  start Python without -OO" in done.stderr
