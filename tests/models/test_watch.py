"""The watch over a load: what it hears, what it stops, and whom it leaves alone."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from deploycomp.errors import InputRefused
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.models.watch import watch
from tests.models.canary import evil_pickle


@pytest.fixture(autouse=True)
def nothing_else_is_read():
    """These tests do what no other may."""


@pytest.fixture
def audited(tmp_path: Path) -> Path:
    path = tmp_path / "audited.txt"
    path.write_text("audited")
    return path


@pytest.fixture
def private(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "config.json").write_text("{}")
    return tmp_path / "private"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.txt"
    path.write_text("foreign")
    return path


def test_what_was_audited_is_read(audited, private, tmp_path):
    (tmp_path / "link").symlink_to(audited)
    with watch([audited, tmp_path / "link"], private):
        assert audited.read_text() == (tmp_path / "link").read_text() == "audited"
        assert (private / "config.json").read_text() == "{}"
        os.close(os.open(audited, os.O_RDONLY))


def test_what_was_not_is_refused_by_name(audited, private, foreign):
    with pytest.raises(InputRefused, match="opened a file that was not audited") as caught, watch([audited], private):
        foreign.read_text()
    assert caught.value.where == str(foreign)


@pytest.mark.parametrize("name", ["../foreign.txt", "link"])
def test_ways_around_the_name(private, foreign, name):
    """A link inside the private folder is of our own making; one elsewhere is not."""
    (foreign.parent / "link").symlink_to(foreign)
    place = foreign.parent / "link" if name == "link" else private / name
    with pytest.raises(InputRefused, match="not audited"), watch([], private):
        place.read_text()


@pytest.mark.parametrize("opener", [lambda path: os.open(path, os.O_RDONLY), lambda path: open(bytes(path))])  # noqa: SIM115, PTH123
def test_other_ways_to_open(private, foreign, opener):
    with pytest.raises(InputRefused, match="not audited"), watch([], private):
        opener(foreign)


def test_an_error_that_a_library_swallows_is_raised_at_the_end(private, foreign):
    with pytest.raises(InputRefused, match="not audited"), watch([], private), contextlib.suppress(Exception):
        foreign.read_text()


def test_an_interruption_is_not_replaced(private, foreign):
    with pytest.raises(KeyboardInterrupt), watch([], private):
        with contextlib.suppress(InputRefused):
            foreign.read_text()
        raise KeyboardInterrupt


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/self/cmdline", "/root/.bashrc"])
def test_secrets_of_the_system(private, path):
    with pytest.raises(InputRefused, match="not audited"), watch([], private):
        Path(path).read_bytes()


def test_the_installation_and_the_machine_are_read(private):
    with watch([], private):
        Path(os.__file__).read_bytes()
        Path(pytest.__file__).read_bytes()
        Path("/proc/self/mounts").read_bytes()
        import antigravity  # noqa: F401  (a module that nothing else imports)


def test_data_beside_code_is_no_code(private, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "words.txt").write_text("x")
    (tmp_path / "harmless.py").write_text("x = 1")
    with watch([], private):
        import harmless  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(InputRefused, match="not audited"), watch([], private):
        (tmp_path / "words.txt").read_text()


def test_writing_is_no_reading(private, tmp_path):
    with watch([], private):
        (tmp_path / "out.txt").write_text("x")
        with tempfile.TemporaryFile(dir=tmp_path) as file:
            file.write(b"x")


def test_a_pickle_is_stopped(private, tmp_path):
    data = evil_pickle(tmp_path / "trace")
    with pytest.raises(InputRefused) as caught, watch([], private):
        pickle.loads(data)
    assert "pickle" in str(caught.value.why)
    assert not (tmp_path / "trace").exists()


def test_a_connection_is_stopped(private):
    with socket.socket() as plug:
        with pytest.raises(InputRefused) as caught, watch([], private):
            plug.connect(("127.0.0.1", 9))
        assert "connection" in str(caught.value.why)
    with pytest.raises(InputRefused) as caught, watch([], private):
        socket.getaddrinfo("localhost", 80)
    assert "network" in str(caught.value.why)


def test_a_program_is_stopped(private, tmp_path):
    for run in (lambda: subprocess.run(["touch", str(tmp_path / "trace")], check=True), lambda: os.system("true")):
        with pytest.raises(InputRefused) as caught, watch([], private):
            run()
        assert "a program was started" in str(caught.value.why)
    assert not (tmp_path / "trace").exists()


def test_outside_of_a_load_nothing_is_heard(private, foreign):
    with watch([], private):
        pass
    foreign.read_text()
    subprocess.run([sys.executable, "-c", ""], check=True)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 does not tell of a thread that is started")
@pytest.mark.parametrize("depth", [1, 2])
def test_a_thread_that_the_load_starts_is_watched(private, foreign, depth):
    def started(left: int) -> None:
        thread = threading.Thread(target=started if left else _try, args=(left - 1,) if left else (foreign,))
        thread.start()
        thread.join()

    with pytest.raises(InputRefused, match="not audited"), watch([], private):
        started(depth - 1)


def _try(path: Path) -> None:
    with contextlib.suppress(InputRefused):
        path.read_text()


def test_a_thread_that_ran_before_is_free(private, foreign):
    go, done, read = threading.Event(), threading.Event(), []

    def other() -> None:
        go.wait()
        read.append(foreign.read_text())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with watch([], private):
        go.set()
        assert done.wait(10)
    thread.join()
    assert read == ["foreign"]


def test_a_thread_that_another_starts_is_free(private, foreign):
    """As a server does, that goes on answering while a model is loaded."""
    go, read = threading.Event(), []

    def other() -> None:
        go.wait()
        thread = threading.Thread(target=lambda: read.append(foreign.read_text()))
        thread.start()
        thread.join()

    thread = threading.Thread(target=other)
    thread.start()
    with watch([], private):
        go.set()
        thread.join()
    assert read == ["foreign"]


def test_two_loads_at_once_answer_each_for_itself(bert, private, audited):
    """Another load in another thread reads what was audited for it, not for us."""
    go, models = threading.Event(), []
    thread = threading.Thread(target=lambda: go.wait() and models.append(load(resolve(bert))))
    thread.start()
    with watch([audited], private):
        go.set()
        thread.join()
    assert len(models) == 1


def test_a_load_within_a_load(audited, private, foreign, tmp_path):
    with watch([audited], private):
        with pytest.raises(InputRefused), watch([], tmp_path / "other"):
            audited.read_text()
        audited.read_text()
