from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploycomp.errors import EnvironmentFailed
from deploycomp.measure import children
from deploycomp.measure.children import ask
from deploycomp.measure.worker import peak_rss_bytes
from tests.measure.models import onnx_model

EMPTY = {"kind": "empty", "threads": 1, "cpus": sorted(os.sched_getaffinity(0))[:1]}
LONG_SECONDS = 30
"""A block that no test waits for."""


def started() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def gone(process: psutil.Process) -> bool:
    try:
        process.wait(timeout=10)
    except psutil.TimeoutExpired:
        return False
    except psutil.NoSuchProcess:
        pass
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_memory_of_the_parent_is_not_the_child_s():
    ballast = bytearray(b"x" * 200_000_000)  # ru_maxrss of a child would say 200 MB here
    answer = ask(EMPTY, who="empty", limit_seconds=30)
    assert peak_rss_bytes() > len(ballast)
    assert 1_000_000 < answer["peak_rss_bytes"] < 50_000_000
    assert started() == []


def test_a_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(children, "COMMAND", ("-c", "import time; time.sleep(60)"))
    with pytest.raises(EnvironmentFailed, match=r"measuring 'slow' took longer than 0\.3 s and was stopped"):
        ask(EMPTY, who="slow", limit_seconds=0.3)
    assert started() == []


def test_what_a_child_started_is_killed_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    note = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys, time; child = subprocess.Popen(['sleep', '60']);"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    monkeypatch.setattr(children, "COMMAND", ("-c", code))
    with pytest.raises(EnvironmentFailed, match="took longer"):
        ask(EMPTY, who="slow", limit_seconds=1.5)
    pid = int(note.read_text())
    assert not psutil.pid_exists(pid) or gone(psutil.Process(pid))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL, as a rule the system ran out of memory"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("import sys; sys.exit('no kernel module')", "exit code 1\nno kernel module"),
        ("print('hello')", "exit code 0"),
    ],
)
def test_a_child_that_dies_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, code: str, why: str):
    monkeypatch.setattr(children, "COMMAND", ("-c", code))
    with pytest.raises(EnvironmentFailed, match="the process that measured 'mine' died") as caught:
        ask(EMPTY, who="mine", limit_seconds=30)
    assert caught.value.why == why


def test_an_unexpected_failure_names_the_candidate():
    with pytest.raises(EnvironmentFailed, match="'mine' cannot be measured: the model failed") as caught:
        ask({**EMPTY, "kind": "tea"}, who="mine", limit_seconds=30)
    assert caught.value.why == "KeyError: 'tea'"


def test_no_interpreter_is_the_environment_s_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentFailed, match="no child process can be started"):
        ask(EMPTY, who="mine", limit_seconds=30)


def test_a_worker_whose_parent_is_someone_else_does_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "deploycomp.measure.worker"],
        input='{"kind": "empty", "parent": 1}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")


SCRIPT = f"""
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
from pathlib import Path
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.recipe import Benchmark
settings = Benchmark(batch_size=(1,), sequence_length=(16,), threads=(1,), block_seconds={LONG_SECONDS})
candidate = Candidate("a", "onnx", Path(sys.argv[1]))
benchmark([candidate], settings, progress=lambda *_: print("measuring", flush=True))
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_an_interrupted_parent(tmp_path: Path, sent: signal.Signals):
    model = onnx_model(tmp_path)
    command = [sys.executable, "-c", SCRIPT, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "measuring\n"
        worker = wait_for_worker(parent.pid)
        assert worker.cpu_affinity() == EMPTY["cpus"]
        parent.send_signal(sent)
        _, err = parent.communicate(timeout=20)
    assert gone(worker)
    assert parent.returncode == -sent
    assert ("KeyboardInterrupt" in err) == (sent == signal.SIGINT)


def wait_for_worker(pid: int) -> psutil.Process:
    """The worker of a parent, once it runs our code and has told the kernel about its parent."""
    for _ in range(200):
        for child in psutil.Process(pid).children():
            if "onnxruntime" in Path(f"/proc/{child.pid}/maps").read_text():
                return child
        time.sleep(0.05)
    raise AssertionError("no worker was started")
