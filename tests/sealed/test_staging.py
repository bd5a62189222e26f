"""Stopped or failed at any line: the old output or the new one, whole, and the message that is true."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from deploycomp.artifact import Artifact, stage, translate_os_error
from deploycomp.errors import UsageError
from deploycomp.sealed import staging as staging_module
from tests.cli.made import entries, files, leftovers
from tests.test_artifact import publish

OLD, NEW = {"model.onnx": b"old"}, {"model.onnx": b"new"}


class Lines:
    """Raises a KeyboardInterrupt before the Nth line of our own code, as a signal may; each is counted once."""

    def __init__(self, at: int):
        self.count, self.at = 0, at
        self.hits: Counter[tuple[str, int]] = Counter()

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Lines | None:
        if f"{os.sep}sealed{os.sep}" not in frame.f_code.co_filename:
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        self.hits[place] += event == "line"
        if event == "line" and self.hits[place] == 1:
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
        return self


def overwrite(destination: Path, told: list[Path]) -> None:
    with stage(destination, overwrite=True, published=told.append) as staging:
        with translate_os_error(staging.path):
            (staging.path / "model.onnx").write_bytes(NEW["model.onnx"])
        staging.seal({"model": "model.onnx"})
        staging.publish()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file between open and its variable
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("existing", "kernel"), [(True, "swaps"), (True, "cannot swap"), (False, "swaps")])
def test_an_interruption_at_any_line_leaves_the_old_or_the_new_and_tells_which(
    tmp_path: Path, existing: bool, kernel: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    if kernel == "cannot swap":
        monkeypatch.setattr(staging_module.ctypes, "CDLL", lambda *_, **__: object())
    place, untidy, new, stopped, number = tmp_path / "out", 0, True, True, 0
    while stopped:
        number += 1
        if new:
            shutil.rmtree(place, ignore_errors=True)
            if existing:
                publish(place, OLD)
        told: list[Path] = []
        stopped = is_stopped(place, told, at=number)
        if leftovers(tmp_path):  # it came where nothing of the run could clean up any more: the next run sweeps
            untidy += 1
            gc.collect()
            stage(place, overwrite=True).__exit__(None, None, None)
        assert leftovers(tmp_path) == [], f"line {number}"
        new = place.exists() and (place / "model.onnx").read_bytes() == NEW["model.onnx"]
        if existing or new:
            Artifact.open(place).verify()
        else:
            assert not place.exists()
        assert set(told) == ({place} if new else set()), f"line {number}"
    assert new
    assert number > 150
    assert untidy < 25  # the few lines between the claim and the `with` that gives it back


def is_stopped(place: Path, told: list[Path], *, at: int) -> bool:
    """Run until the line, and tell whether it was reached."""
    before = sys.gettrace()
    sys.settrace(Lines(at))
    try:
        overwrite(place, told)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_the_moment_of_publication_is_told(tmp_path: Path):
    told: list[Path] = []
    with stage(tmp_path / "out", published=told.append) as staging:
        staging.seal({})
        assert told == []
        staging.publish()
        assert told == [tmp_path / "out"]


def test_what_cannot_be_removed_is_in_nobodys_way_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NFS keeps the files that a reader holds open."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    publish(tmp_path / "out", OLD)
    publish(tmp_path / "out", NEW, overwrite=True).verify()
    assert len(leftovers(tmp_path)) == 2
    monkeypatch.undo()
    publish(tmp_path / "out", NEW, overwrite=True).verify()
    assert entries(tmp_path) == ["out"]


# ------------------------------------------------------------ places that cannot be renamed


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, as a volume of Docker is one."""
    place = tmp_path / "volume"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """A folder of the same file system, mounted in another place, whose name has to be escaped in the table."""
    home, place = tmp_path / "home", tmp_path / "a volume"
    home.mkdir()
    place.mkdir()
    if subprocess.run(["mount", "--bind", str(home), str(place)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["mounted", "bound"])
@pytest.mark.parametrize("again", [True, False])
def test_a_mount_point_is_refused_before_any_work_and_a_folder_in_it_is_not(
    kind: str, again: bool, request: pytest.FixtureRequest
):
    place: Path = request.getfixturevalue(kind)
    with pytest.raises(UsageError, match="the output is a mount point") as caught:
        stage(place, overwrite=again)
    assert caught.value.hint == f"name a folder inside it: --output {place / 'artifact'}"
    assert entries(place) == []
    publish(place / "artifact", NEW).verify()  # what the hint says
    publish(place / "artifact", OLD, overwrite=True).verify()


def test_a_mount_point_that_only_the_device_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with pytest.raises(UsageError, match="the output is a mount point"):
        stage(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("which", ["output", "model"])
def test_a_name_that_is_not_utf_8_is_refused_before_any_work(tmp_path: Path, which: str):
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xe4rz"))
    strange.mkdir()
    output, source = (strange / "out", None) if which == "output" else (tmp_path / "out", strange)
    with pytest.raises(UsageError, match=f"the name of the {which} is not UTF-8") as caught:
        stage(output, source=source)
    assert "m\\xe4rz" in str(caught.value.where)
    str(caught.value).encode()
    assert files(tmp_path) == {}
    assert entries(strange) == []
