"""Files are whole or absent; a full place for temporary files is the machine's fault, and is named."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploycomp.artifact import is_full, scratch, write_whole
from deploycomp.data import load_rows
from deploycomp.errors import EnvironmentFailed
from tests.cli.made import entries


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------ write_whole


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_whole(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(full()))
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert entries(tmp_path) == ["a.json"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full()))
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a.json", "new")
    assert entries(tmp_path) == []


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path):
    """Else `--output /dev/stdout` would put a file in its place."""
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "text")
    reader.join()
    assert got == ["text"]
    assert (tmp_path / "pipe").is_fifo()
    assert entries(tmp_path) == ["pipe"]


def test_a_link_is_followed(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.json").symlink_to("there/b.json")
    write_whole(tmp_path / "a.json", "text")
    assert (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "there" / "b.json").read_text() == "text"
    assert entries(tmp_path / "there") == ["b.json"]


# ------------------------------------------------------------ scratch


def test_scratch_is_gone_afterwards():
    with scratch() as folder:
        (folder / "x").write_text("x")
    assert not folder.exists()


def test_a_full_place_is_named_with_a_remedy():
    with (
        pytest.raises(EnvironmentFailed, match="the folder for temporary files cannot be written") as caught,
        scratch(),
    ):
        raise full()
    assert caught.value.where == tempfile.gettempdir()
    assert caught.value.why == "No space left on device"
    assert "set TMPDIR to a folder on another disk" in (caught.value.hint or "")


def test_other_errors_stay_what_they_are():
    with pytest.raises(PermissionError), scratch():
        raise PermissionError(errno.EACCES, "no")


def test_no_place_at_all_is_named(monkeypatch: pytest.MonkeyPatch):
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setenv("TMPDIR", "/full")
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(EnvironmentFailed, match="the folder for temporary files") as caught, scratch():
        pass
    assert caught.value.where == "/full"
    assert caught.value.why == "No usable temporary directory found"


def test_a_full_disk_is_found_behind_other_errors():
    error = ValueError("pyarrow")
    error.__cause__ = full()
    assert is_full(error)
    assert is_full(OSError("Not enough disk space. Needed: unknown"))
    assert not is_full(ValueError("x"))
    assert not is_full(FileNotFoundError(errno.ENOENT, "no"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that holds next to nothing."""
    place = tmp_path / "tmp"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pandas leaves the file open that it could not copy
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("filled", [0, 60_000])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_reading_data_on_a_full_place_is_the_machines_fault(tmp_path: Path, small: Path, suffix: str, filled: int):
    rows = 3000
    if suffix == ".csv":
        text = "text,label\n" + "".join(f"a text of some length {number},a\n" for number in range(rows))
    else:
        text = "".join(f'{{"text": "a text of some length {number}", "label": "a"}}\n' for number in range(rows))
    data = tmp_path / f"rows{suffix}"
    data.write_text(text)
    (small / "ballast").write_bytes(b"\0" * filled)
    with pytest.raises(EnvironmentFailed, match="the folder for temporary files cannot be written") as caught:
        load_rows(str(data), task="text-classification")
    assert caught.value.exit_code == 5
    assert caught.value.where == str(small)
    assert entries(small) == ["ballast"]
    del caught
    gc.collect()
