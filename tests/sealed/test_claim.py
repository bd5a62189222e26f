"""One run at a time writes an output; what is dead is swept, what may live is kept, whatever the locks say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploycomp.artifact import Artifact, stage
from deploycomp.errors import EnvironmentFailed, UsageError
from deploycomp.sealed import claim as claim_module
from tests.cli.made import ROOT, entries, files
from tests.test_artifact import PAYLOAD, publish

RUNNERS = 8
OTHER_BOOT = {"boot": "11111111-2222-3333-4444-555555555555", "host": "elsewhere"}
OTHER_NAMESPACE = {"namespace": "pid:[1]", "host": "container"}


def record(**changes: Any) -> dict[str, Any]:
    """What this machine writes of a run in a process that lives: the one that started the tests."""
    pid = os.getppid()
    return {
        "token": "0123456789ab",
        "output": "out",
        **claim_module._here(),
        "pid": pid,
        "started": claim_module._started(pid),
        "since": "2026-01-02T03:04:05+00:00",
        **changes,
    }


def left(parent: Path, owner: dict[str, Any] | str | None, *, age: float = 0.0, name: str = ".out.partial") -> Path:
    """A staging folder of another run."""
    root = parent / name
    (root / "artifact").mkdir(parents=True)
    (root / "artifact" / "model.onnx").write_bytes(b"half")
    if owner is not None:
        (root / "owner.json").write_text(owner if isinstance(owner, str) else json.dumps(owner))
    for path in (*root.rglob("*"), root):
        os.utime(path, (time.time() - age,) * 2)
    return root


def dead_pid() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def assert_kept(root: Path, *named: str) -> None:
    """A run into the same output is refused, naming who has it, and nothing of it is touched."""
    before = files(root)
    with pytest.raises(EnvironmentFailed, match=r"another deploycomp run (is|may be) writing this output") as caught:
        stage(root.parent / "out")
    assert caught.value.exit_code == 5
    assert caught.value.where == str(root)
    assert "remove that folder by hand" in (caught.value.hint or "")
    for each in named:
        assert each in (caught.value.why or "")
    assert files(root) == before
    assert entries(root.parent) == [root.name]


def assert_swept(parent: Path) -> None:
    publish(parent / "out", PAYLOAD)
    assert entries(parent) == ["out"]


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that grants every lock."""
    monkeypatch.setattr(claim_module, "_flock", lambda _file: None)


@pytest.fixture
def lockless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(_file: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(claim_module, "_flock", refuse)


# ------------------------------------------------------------ this machine


def test_a_process_that_is_gone_is_dead(tmp_path: Path):
    left(tmp_path, record(pid=dead_pid()))
    assert_swept(tmp_path)


def test_a_process_number_that_was_given_again_is_dead(tmp_path: Path):
    """The process lives, but it started at another time than the one that wrote the record."""
    left(tmp_path, record(started=1))
    assert_swept(tmp_path)


def test_a_process_that_has_ended_and_was_not_collected_is_dead(tmp_path: Path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = record(pid=child.pid, started=claim_module._started(child.pid))
    assert owner["started"] is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    left(tmp_path, owner)
    assert_swept(tmp_path)
    child.communicate()


def test_what_an_earlier_run_of_this_process_left_is_dead(tmp_path: Path):
    left(tmp_path, record(pid=os.getpid(), started=claim_module._started(os.getpid())))
    assert_swept(tmp_path)


@pytest.mark.parametrize("locks", ["lying", "lockless"])
def test_a_process_that_lives_is_kept_whatever_the_locks_say(
    tmp_path: Path, locks: str, request: pytest.FixtureRequest
):
    request.getfixturevalue(locks)
    root = left(tmp_path, record(), age=10**6)
    assert_kept(root, f"process {os.getppid()}", "since 2026-01-02T03:04:05+00:00", ".out.partial")


def test_two_runs_in_one_process(tmp_path: Path, lying: None):
    with stage(tmp_path / "out") as first:
        assert_kept(first.path.parent, f"process {os.getpid()}")
        publish(tmp_path / "other", PAYLOAD)  # beside it all is well
        first.seal({})
        first.publish().verify()
    assert entries(tmp_path) == ["other", "out"]


# ------------------------------------------------------------ elsewhere


@pytest.mark.parametrize("owner", [record(**OTHER_BOOT), record(**OTHER_NAMESPACE), record(boot=None, namespace=None)])
def test_a_run_elsewhere_is_kept_while_it_may_live(tmp_path: Path, owner: dict[str, Any]):
    assert_kept(left(tmp_path, owner), f"process {os.getppid()} on {owner['host']}", "silent for less than")


@pytest.mark.parametrize(
    ("owner", "age"),
    [
        (record(**OTHER_NAMESPACE), claim_module.SILENT_HERE_SECONDS),
        (record(**OTHER_BOOT), claim_module.SILENT_SECONDS),
    ],
)
def test_a_run_elsewhere_is_dead_after_a_named_silence(tmp_path: Path, owner: dict[str, Any], age: float):
    assert_kept(left(tmp_path, owner, age=age - 60))
    shutil.rmtree(tmp_path / ".out.partial")
    left(tmp_path, owner, age=age + 60)
    assert_swept(tmp_path)


@pytest.mark.parametrize("locks", ["lying", "lockless"])
@pytest.mark.parametrize("elsewhere", [OTHER_BOOT, OTHER_NAMESPACE])
def test_where_locks_mean_nothing_a_run_elsewhere_is_never_swept(
    tmp_path: Path, elsewhere: dict[str, str], locks: str, request: pytest.FixtureRequest
):
    request.getfixturevalue(locks)
    assert_kept(left(tmp_path, record(**elsewhere), age=10**8), "this file system has no locks")


def test_a_lock_that_is_held_is_life(tmp_path: Path):
    import fcntl

    root = left(tmp_path, record(**OTHER_BOOT), age=10**8)
    with (root / "owner.json").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert_kept(root, "on elsewhere")
    assert_swept(tmp_path)


HOLD = """
import sys
from pathlib import Path
from deploycomp.artifact import stage
with stage(Path(sys.argv[1])) as staging:
    (staging.path / "model.onnx").write_bytes(b"half")
    print("staged", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a PID namespace of its own, which has staged and goes on."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no PID namespace can be made here")
    child = subprocess.Popen(
        [*command, sys.executable, "-c", HOLD, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "staged\n"
    yield child
    child.kill()
    child.communicate()


def test_a_run_in_another_container(tmp_path: Path, contained: subprocess.Popen[str]):
    root = tmp_path / ".out.partial"
    for path in (*root.rglob("*"), root):
        os.utime(path, (0, 0))  # it was silent for long, and lives
    assert_kept(root, "holds .out.partial")
    for process in psutil.Process(contained.pid).children(recursive=True):
        process.kill()  # before the end of its input lets it end in good order
    deadline = time.monotonic() + 10
    with (root / "owner.json").open("r+") as lock:
        while claim_module._lock(lock) is False:  # the kernel ends the namespace
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert_swept(tmp_path)


# ------------------------------------------------------------ what is no folder of ours


@pytest.mark.parametrize(
    ("owner", "named"),
    [
        (None, "no record of an owner"),
        ("", "may be"),
        ("[1]", "may be"),
        ("{" * 10_000, "may be"),
        ('{"pid": "1", "started": [], "boot": 3, "token": {}}', "process 1"),
    ],
)
def test_a_folder_without_a_record_is_not_touched(tmp_path: Path, owner: str | None, named: str):
    root = left(tmp_path, owner)
    assert_kept(root, *([] if named == "may be" else [named]))


def test_a_file_or_a_link_of_that_name_is_not_touched(tmp_path: Path):
    (tmp_path / ".out.partial").write_text("mine")
    with pytest.raises(EnvironmentFailed, match="cannot be read"):
        stage(tmp_path / "out")
    assert (tmp_path / ".out.partial").read_text() == "mine"
    (tmp_path / ".out.partial").unlink()
    left(tmp_path, record(pid=dead_pid()), name="elsewhere")
    (tmp_path / ".out.partial").symlink_to("elsewhere")
    with pytest.raises(EnvironmentFailed, match="it is a link"):
        stage(tmp_path / "out")
    assert (tmp_path / "elsewhere" / "artifact" / "model.onnx").read_bytes() == b"half"


@pytest.mark.parametrize(
    ("name", "output"),
    [(".out.partial.x", "out"), ("out.x.partial", "out"), (".other.partial", "out"), (".out.x.partial", "out.x")],
)
def test_nothing_else_is_swept(tmp_path: Path, name: str, output: str):
    left(tmp_path, record(pid=dead_pid(), output=output), name=name)
    publish(tmp_path / "out", PAYLOAD)
    assert (tmp_path / name / "artifact" / "model.onnx").exists()


def test_what_was_killed_on_the_way_to_a_claim_is_swept(tmp_path: Path):
    left(tmp_path, record(pid=dead_pid()), name=".out.aaaaaaaaaaaa.partial")
    theirs = left(tmp_path, record(), name=".out.bbbbbbbbbbbb.partial")
    publish(tmp_path / "out", PAYLOAD)  # one that lives is in nobody's way
    assert entries(tmp_path) == [theirs.name, "out"]


def test_an_output_that_a_killed_run_had_moved_aside_comes_back(tmp_path: Path):
    publish(tmp_path / "out", PAYLOAD)
    root = left(tmp_path, record(pid=dead_pid()))
    (tmp_path / "out").rename(root / "old")
    with pytest.raises(UsageError, match="the output exists"):
        stage(tmp_path / "out")
    assert entries(tmp_path) == ["out"]
    Artifact.open(tmp_path / "out").verify()


def test_a_record_that_cannot_be_told_is_no_bug(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError("no /proc")))
    here = claim_module._here()
    assert (here["boot"], here["namespace"]) == (None, None)
    assert claim_module._started(os.getpid()) is None


# ------------------------------------------------------------ at once


def _nothing(_parent: Path) -> None:
    pass


def _dead(parent: Path) -> None:
    left(parent, record(pid=dead_pid()))


@pytest.mark.parametrize("locks", ["true", "lying", "lockless"])
@pytest.mark.parametrize("before", [_nothing, _dead])
def test_of_many_at_once_one_wins(
    tmp_path: Path, before: Callable[[Path], None], locks: str, request: pytest.FixtureRequest
):
    if locks != "true":
        request.getfixturevalue(locks)
    before(tmp_path)
    start, done = threading.Barrier(RUNNERS), threading.Barrier(RUNNERS)
    won: list[bytes] = []
    lost: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            with stage(tmp_path / "out") as staging:
                done.wait()
                (staging.path / "model.onnx").write_bytes(bytes([number]))
                staging.seal({"model": "model.onnx"})
                won.append(staging.publish().model.read_bytes())
        except EnvironmentFailed as error:
            lost.append(error)
            done.wait()

    runners = [threading.Thread(target=run, args=(number,)) for number in range(RUNNERS)]
    for each in runners:
        each.start()
    for each in runners:
        each.join()
    assert len(won) == 1
    assert len(lost) == RUNNERS - 1
    assert all("another deploycomp run" in str(error) for error in lost)
    assert entries(tmp_path) == ["out"]
    assert Artifact.open(tmp_path / "out").verify().model.read_bytes() == won[0]
