"""Sealed folders: whole or absent, whatever fails, and every later change noticed."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploycomp.artifact import (
    EVIDENCE,
    MANIFEST,
    SCHEMA_VERSION,
    Artifact,
    check_destination,
    digest_files,
    sha256,
    stage,
    translate_os_error,
)
from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError
from deploycomp.sealed import manifest as manifest_module
from deploycomp.sealed import staging as staging_module
from tests.cli.made import entries, files, leftovers

Contents = dict[str, bytes]

PAYLOAD: Contents = {"model.onnx": b"weights", "onnx/extra.bin": b"\0" * 3000, "config.json": b"{}"}


def publish(destination: Path, contents: Contents, *, overwrite: bool = False, evidence: bool = True) -> Artifact:
    """Stage, seal and publish in the way the pipeline does."""
    with stage(destination, overwrite=overwrite) as staging:
        with translate_os_error(staging.path):
            (staging.work / "scratch").write_bytes(b"never published")
            for name, data in contents.items():
                path = staging.path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        staging.seal({"model": "model.onnx"})
        if evidence:
            with translate_os_error(staging.path):
                (staging.path / "report.md").write_text("# page", encoding="utf-8")
                rendered = {"report.md": sha256(staging.path / "report.md")}
                (staging.path / "report.json").write_text(json.dumps({"rendered": rendered}), encoding="utf-8")
        return staging.publish()


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return publish(tmp_path / "out", PAYLOAD)


# ------------------------------------------------------------ round trip

NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", MANIFEST, *EVIDENCE) and len(name.encode()) < 200)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(NAMES, st.binary(max_size=200), max_size=5))
def test_what_goes_in_comes_out_under_any_name(tmp_path: Path, contents: Contents):
    parent = tmp_path / str(len(list(tmp_path.iterdir())))
    done = publish(parent / "out", contents)
    done.verify()
    assert {name: (done.path / name).read_bytes() for name in contents} == contents
    assert set(done.manifest["files"]) == set(contents)
    for name, data in contents.items():
        assert done.manifest["files"][name] == {"sha256": sha256(done.path / name), "bytes": len(data)}
    assert entries(parent) == ["out"]
    assert Artifact.open(done.path) == done
    assert done.digest == digest_files({name: entry["sha256"] for name, entry in done.manifest["files"].items()})


def test_the_manifest_names_schema_and_evidence_and_hashes_no_evidence(made: Artifact):
    assert made.manifest["schema_version"] == SCHEMA_VERSION
    assert made.manifest["evidence"] == list(EVIDENCE)
    assert set(made.manifest["files"]) == set(PAYLOAD)
    assert made.model == made.path / "model.onnx"


def test_evidence_does_not_change_the_digest(tmp_path: Path, made: Artifact):
    assert publish(tmp_path / "other", PAYLOAD, evidence=False).digest == made.digest
    assert publish(tmp_path / "third", {**PAYLOAD, "config.json": b"[]"}).digest != made.digest


def test_a_manifest_is_strict_json(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"), stage(tmp_path / "out") as staging:
        staging.seal({"model": "m", "value": float("nan")})
    assert entries(tmp_path) == []


# ------------------------------------------------------------ destinations


def _file(tmp_path: Path) -> Path:
    (tmp_path / "out").write_text("mine")
    return tmp_path / "out"


def _folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    return tmp_path / "out"


def _link(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to("there")
    return tmp_path / "out"


def _dangling(tmp_path: Path) -> Path:
    (tmp_path / "out").symlink_to("nowhere")
    return tmp_path / "out"


def _source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def _inside(tmp_path: Path) -> Path:
    return tmp_path / "source" / "new" / "out"


def _inside_by_link(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").symlink_to("source")
    return tmp_path / "elsewhere" / "out"


def _contains(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize(
    ("place", "overwrite", "kind", "reason"),
    [
        (_file, False, UsageError, "the output exists and is not a folder"),
        (_file, True, UsageError, "the output exists and is not a folder"),
        (_folder, False, UsageError, "the output exists\n.*add --overwrite"),
        (_folder, True, UsageError, "--overwrite replaces only what deploycomp wrote"),
        (_link, True, UsageError, "the output is a symbolic link"),
        (_dangling, False, UsageError, "the output is a symbolic link"),
        (_source, True, UsageError, "may not be, contain or lie inside the source model"),
        (_inside, False, UsageError, "may not be, contain or lie inside the source model"),
        (_inside_by_link, False, UsageError, "may not be, contain or lie inside the source model"),
        (_contains, True, UsageError, "may not be, contain or lie inside the source model"),
    ],
)
def test_destinations_that_are_refused(
    tmp_path: Path, place: Callable[[Path], Path], overwrite: bool, kind: type[DeploycompError], reason: str
):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    destination = place(tmp_path)
    before = files(tmp_path)
    with pytest.raises(kind) as caught:
        stage(destination, overwrite=overwrite, source=source)
    assert re.search(reason, str(caught.value), re.DOTALL)
    assert str(destination) in str(caught.value)
    assert caught.value.hint
    assert files(tmp_path) == before
    assert not (source / "new").exists()


def test_a_relative_destination_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert check_destination(Path("new/out")) == tmp_path / "new" / "out"


def test_an_empty_folder_may_be_overwritten(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="the output exists"):
        publish(tmp_path / "out", PAYLOAD)
    publish(tmp_path / "out", PAYLOAD, overwrite=True).verify()


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(EnvironmentFailed, match="Permission denied") as caught:
        check_destination(tmp_path / "out")
    assert caught.value.exit_code == 5
    assert caught.value.hint == "choose an --output that you may write to"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_parent_is_refused(tmp_path: Path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(EnvironmentFailed, match="Permission denied"):
            stage(tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EnvironmentFailed, match="the output cannot be written"):
        stage(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("length", [200, 255, 256, 5000])
def test_a_name_that_is_too_long_is_refused_by_name(tmp_path: Path, length: int):
    if length == 200:
        publish(tmp_path / ("n" * length), PAYLOAD).verify()
        return
    with pytest.raises(EnvironmentFailed, match="name too long") as caught:
        publish(tmp_path / ("n" * length), PAYLOAD)
    assert caught.value.hint == "choose a shorter --output"
    assert entries(tmp_path) == []


def test_a_destination_that_appears_meanwhile_is_not_touched(tmp_path: Path):
    staging = stage(tmp_path / "out")
    with staging:
        staging.seal({"model": "m"})
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        with pytest.raises(UsageError, match="the output exists"):
            staging.publish()
    assert files(tmp_path) == {"out/mine": sha256(tmp_path / "out" / "mine")}


# ------------------------------------------------------------ whole or absent


@pytest.mark.parametrize("kernel", ["swaps", "cannot swap"])
def test_overwriting_swaps_the_whole_folder(
    tmp_path: Path, made: Artifact, kernel: str, monkeypatch: pytest.MonkeyPatch
):
    if kernel == "cannot swap":
        monkeypatch.setattr(staging_module.ctypes, "CDLL", lambda *_, **__: object())
    new = publish(tmp_path / "out", {"model.onnx": b"other"}, overwrite=True)
    new.verify()
    assert set(new.manifest["files"]) == {"model.onnx"}
    assert not (new.path / "onnx").exists()
    assert entries(tmp_path) == ["out"]


def test_a_failed_move_puts_the_old_folder_back(tmp_path: Path, made: Artifact, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(staging_module.ctypes, "CDLL", lambda *_, **__: object())
    before = files(made.path)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "artifact":
            raise OSError(errno.EIO, "no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(EnvironmentFailed, match="the output cannot be written"):
        publish(tmp_path / "out", {"model.onnx": b"other"}, overwrite=True)
    assert files(made.path) == before
    assert entries(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_what_breaks_inside_leaves_nothing(tmp_path: Path, error: BaseException):
    def broken() -> None:
        with stage(tmp_path / "new" / "out") as staging:
            (staging.path / "model.onnx").write_bytes(b"half")
            (staging.work / "scratch").write_bytes(b"x")
            raise error

    with pytest.raises(type(error)):
        broken()
    assert entries(tmp_path / "new") == []


def test_ctrl_c_while_cleaning_up_cleans_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    remove, calls = shutil.rmtree, []

    def interrupted(path: Path, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "out", PAYLOAD)
    assert entries(tmp_path) == ["out"]


class Disk:
    """Counts everything that writes to the disk, and fails the Nth time."""

    def __init__(self, fails_at: int, code: int):
        self.count, self.fails_at, self.code = 0, fails_at, code

    def touch(self, path: object) -> None:
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(self.code, os.strerror(self.code), str(path))

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Put this disk below pathlib, shutil and the artifact."""
        real_open, touch = io.open, self.touch

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            handle = real_open(file, mode, *args, **kwargs)
            if set(mode) & set("wax+"):
                try:
                    touch(file)  # a full disk still makes the empty file
                except OSError:
                    handle.close()
                    raise
            return handle

        def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                touch(args[0])
                return function(*args, **kwargs)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            for name in ("mkdir", "rename", "fsync"):
                patch.setattr(os, name, wrapped(getattr(os, name)))
            patch.setattr(staging_module, "_exchange", wrapped(staging_module._exchange))
            yield


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failing_write_anywhere_leaves_the_old_artifact_or_nothing(tmp_path: Path, code: int, existing: bool):
    failures = 0
    for number in range(1, 1000):
        parent = tmp_path / str(number)
        parent.mkdir()
        if existing:
            publish(parent / "out", {"model.onnx": b"old"})
        before, disk = files(parent), Disk(number, code)
        error = None
        try:
            with disk.installed():
                publish(parent / "out", PAYLOAD, overwrite=True)
        except EnvironmentFailed as caught:
            error = caught
        assert not leftovers(parent), f"write {number}"
        if error is None:  # nothing failed, or what failed did not matter
            Artifact.open(parent / "out").verify()
            assert set(Artifact.open(parent / "out").manifest["files"]) == set(PAYLOAD)
        else:
            failures += 1
            assert files(parent) == before, f"write {number}"
            assert os.strerror(code) in str(error)
            assert error.hint
        if disk.count < number:
            break
    assert disk.count < number
    assert failures >= number - 6  # but for folders that are there already, and the sync after all is done


def test_the_remedy_for_a_full_disk_says_how_much_is_free(tmp_path: Path):
    with (
        pytest.raises(EnvironmentFailed, match=r"free some space there \([\d,]+ MB free\)"),
        translate_os_error(tmp_path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ------------------------------------------------------------ verify


def _change(folder: Path) -> None:
    (folder / "onnx" / "extra.bin").write_bytes(b"\0" * 2999 + b"\1")


def _remove(folder: Path) -> None:
    (folder / "config.json").unlink()


def _add(folder: Path) -> None:
    (folder / "onnx" / "evil.so").write_bytes(b"")


def _change_page(folder: Path) -> None:
    (folder / "report.md").write_text("# better")


def _remove_page(folder: Path) -> None:
    (folder / "report.md").unlink()


def _orphan_page(folder: Path) -> None:
    (folder / "report.json").unlink()


def _hide_behind_link(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to(folder.parent / "config.json")


def _link_folder(folder: Path) -> None:
    (folder / "more").symlink_to("/")


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_change, "onnx/extra.bin has changed"),
        (_remove, "config.json is missing"),
        (_add, "onnx/evil.so was added"),
        (_change_page, "report.md has changed"),
        (_remove_page, "report.md is missing"),
        (_orphan_page, "report.md was added"),
        (_hide_behind_link, "an artifact holds plain files only"),
        (_link_folder, "an artifact holds plain files only"),
        (_fifo, "an artifact holds plain files only"),
    ],
)
def test_verify_notices(made: Artifact, harm: Callable[[Path], None], reason: str):
    made.verify()
    harm(made.path)
    with pytest.raises(InputRefused, match=reason) as caught:
        Artifact.open(made.path).verify()
    assert str(made.path) in str(caught.value)


def test_seal_refuses_links(tmp_path: Path):
    with stage(tmp_path / "out") as staging:
        (staging.path / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(InputRefused, match="plain files only"):
            staging.seal({"model": "m"})
    assert entries(tmp_path) == []


def test_evidence_may_be_left_away_altogether(made: Artifact):
    (made.path / "report.json").unlink()
    (made.path / "report.md").unlink()
    made.verify()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, f"there is no artifact here: {MANIFEST} is missing"),
        ('{"schema_version": 2}', "has schema version 2, this deploycomp reads 1"),
        ("{}", "has schema version None"),
        ("[1]", "is not a JSON object"),
        ("{", f"{MANIFEST} cannot be read"),
        ("[" * 100_000, f"{MANIFEST} cannot be read"),
        ('{"schema_version": 1}', "names no files with their hashes"),
        ('{"schema_version": 1, "files": [1]}', "names no files with their hashes"),
        ('{"schema_version": 1, "files": {"a": 1}}', "names no files with their hashes"),
        ('{"schema_version": 1, "files": {"a": {}}}', "names no files with their hashes"),
        (
            '{"schema_version": 1, "files": {"../../etc/passwd": {"sha256": "0"}}}',
            "outside its folder: '../../etc/passwd'",
        ),
    ],
)
def test_manifests_that_are_refused(made: Artifact, text: str | None, reason: str):
    (made.path / MANIFEST).unlink()
    if text is not None:
        (made.path / MANIFEST).write_text(text)
    with pytest.raises(InputRefused, match=reason):
        Artifact.open(made.path).verify()


@pytest.mark.parametrize("name", [None, 3, "../model.onnx", "/etc/passwd", "onnx/../../x"])
def test_a_manifest_that_names_a_model_elsewhere_is_refused(made: Artifact, name: object):
    elsewhere = Artifact(made.path, {**made.manifest, "model": name})
    with pytest.raises(InputRefused, match="names no model in its folder"):
        _ = elsewhere.model


def test_a_huge_manifest_is_not_read(made: Artifact, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest_module, "MAX_JSON_BYTES", 10)
    with pytest.raises(InputRefused, match="larger than 10 bytes"):
        Artifact.open(made.path)


def test_digest_is_independent_of_order():
    assert digest_files({"a": "1", "b": "2"}) == digest_files({"b": "2", "a": "1"})
    assert digest_files({"a": "1", "b": "2"}) != digest_files({"a": "2", "b": "1"})
