"""Stopped at any moment: nothing half-written, nobody left running, and the next run is undisturbed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploycomp.artifact import Artifact
from deploycomp.sealed.contents import check_ours
from tests import tiny
from tests.cli import made
from tests.cli.conftest import Ran

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
GRACE_SECONDS = 20.0
"""Far above what it takes; only a hang lasts longer."""

MOMENTS = 6
"""Spread evenly from the moment that the command takes over the signals to just before the end of the whole run."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that the export takes when nobody stops it, the libraries in the page cache."""
    place = tmp_path_factory.mktemp("undisturbed")
    child = export(place)
    wait_until_it_listens(child)
    began = time.monotonic()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return time.monotonic() - began


def export(place: Path, *more: object) -> subprocess.Popen[str]:
    arguments = ("export", made.model(), "--int8", "-o", place / "out", *(more or ("--no-benchmark",)))
    return made.start(*arguments, cwd=place)


def wait_until_it_listens(child: subprocess.Popen[str]) -> None:
    """Before that, Python itself answers signals: it has not done anything yet."""
    while not _catches(child.pid, signal.SIGTERM):
        assert child.poll() is None
        time.sleep(0.01)


def _catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def family(child: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(child.pid).children(recursive=True)
    return []


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    assert alive == []


def assert_stopped(child: subprocess.Popen[str], place: Path, number: signal.Signals) -> None:
    """Whole or absent; the right code; one line; nobody left."""
    children = family(child)
    child.send_signal(number)
    out, err = child.communicate(timeout=GRACE_SECONDS)
    assert_gone(children)
    assert made.leftovers(place) == []
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert child.returncode in (0, CODES[number], -number), err  # at the very end Python itself answers again
    if (place / "out").exists():
        Artifact.open(place / "out").verify()  # it was published before the signal came
    else:
        assert child.returncode == CODES[number]
        assert (out, err) == ("", "interrupted: nothing was written\n")
        assert made.entries(place) == []


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_signal_at_any_moment_leaves_all_or_nothing(tmp_path: Path, undisturbed: float, moment: int):
    number = list(CODES)[moment % len(CODES)]
    child = export(tmp_path)
    wait_until_it_listens(child)
    time.sleep(undisturbed * moment / MOMENTS)
    assert_stopped(child, tmp_path, number)


def test_a_signal_while_measuring_ends_the_child_that_measures(tmp_path: Path):
    child = export(tmp_path, "--threads", "1", "--batch-size", "1", "--sequence-length", "8")
    deadline = time.monotonic() + 120
    while not (workers := family(child)):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(workers) == 1
    assert_stopped(child, tmp_path, signal.SIGTERM)
    assert_gone(workers)


@pytest.mark.parametrize("output", ["json", "text"])
@pytest.mark.parametrize("command", [("export", "--no-benchmark"), ("compress", "--drop-layers", "1")])
def test_an_interruption_right_after_the_rename_does_not_deny_what_is_there(
    tmp_path: Path,
    run: Callable[..., Ran],
    command: tuple[str, ...],
    output: str,
    monkeypatch: pytest.MonkeyPatch,
):
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        done = rename(self, target)
        if target == tmp_path / "out":
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "rename", interrupted)
    name, *more = command
    if name == "compress":
        rows = made.write_rows(tmp_path.parent / "train.jsonl", [{"text": text} for text in tiny.texts(40)])
        more += ["--calibration", str(rows)]
    done = run(name, made.model(), *more, "-o", tmp_path / "out", *(["--json"] if output == "json" else []))
    assert done.code == 130
    said = done.json["what"] if output == "json" else done.err.splitlines()[-1]
    assert said == f"interrupted; see {tmp_path / 'out'}"
    assert check_ours(tmp_path / "out")  # whole: every file is as it was sealed
    assert made.entries(tmp_path) == ["out"]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Where a run was killed with its staging folder half full."""
    child = export(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.partial/artifact/tokenizer.json")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.communicate()
    return tmp_path


def test_a_killed_run_leaves_only_its_staging_folder_and_the_next_run_sweeps_it(killed: Path):
    (partial,) = made.leftovers(killed)
    assert made.entries(killed) == [partial]
    child = export(killed)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert made.entries(killed) == ["out"]
    assert Artifact.open(killed / "out").digest == made.exported().artifact.digest


def test_two_runs_into_one_output(tmp_path: Path):
    """One of them wins, the other says so; the folder is whole."""
    both = [export(tmp_path), export(tmp_path)]
    ends = [(child.communicate(timeout=120)[1], child.returncode) for child in both]
    assert sorted(code for _, code in ends)[0] == 0
    loser = next((end for end in ends if end[1] != 0), None)
    assert loser is not None
    assert loser[1] in (2, 5)
    assert "another deploycomp run is writing this output" in loser[0] or "the output exists" in loser[0]
    assert made.entries(tmp_path) == ["out"]
    Artifact.open(tmp_path / "out").verify()
