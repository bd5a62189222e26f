"""`--overwrite` replaces what a valid manifest lists, unchanged, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploycomp.artifact import COMPRESSION, MANIFEST, Artifact, stage
from deploycomp.errors import UsageError
from deploycomp.sealed import staging as staging_module
from tests.cli.made import entries, files
from tests.test_artifact import PAYLOAD, publish


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return publish(tmp_path / "out", PAYLOAD).path


def compressed(folder: Path) -> Path:
    """What `compress` leaves, as far as a later run reads it."""
    with stage(folder) as staging:
        (staging.path / "model.safetensors").write_bytes(b"weights")
        report = {"schema_version": 1, "files": staging.list_files()}
        (staging.path / COMPRESSION).write_text(json.dumps(report))
        staging.release()
    return folder


def _note(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def _note_below(folder: Path) -> None:
    (folder / "onnx" / "notes.txt").write_text("mine")


def _many(folder: Path) -> None:
    for number in range(5):
        (folder / f"n{number}").write_text("mine")


def _empty_folder(folder: Path) -> None:
    (folder / "mine").mkdir()


def _edit(folder: Path) -> None:
    (folder / "config.json").write_text('{"mine": true}')


def _edit_page(folder: Path) -> None:
    (folder / "report.md").write_text("# what I found")


def _own_page(folder: Path) -> None:
    (folder / "report.html").write_text("<p>mine")


def _link(folder: Path) -> None:
    (folder / "data").symlink_to("/etc")


def _link_for_file(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to(folder.parent / "config.json")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def _folder_for_file(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_note, "notes.txt"),
        (_note_below, "onnx/notes.txt"),
        (_many, "n0, n1, n2 and 2 more"),
        (_empty_folder, "mine/"),
        (_edit, "config.json (changed since)"),
        (_edit_page, "report.md (changed since)"),
        (_own_page, "report.html"),
        (_link, "data"),
        (_link_for_file, "config.json"),
        (_pipe, "pipe"),
        (_folder_for_file, "config.json/"),
    ],
)
@pytest.mark.parametrize("moment", ["before any work", "when it is published"])
def test_what_a_user_put_into_an_artifact_is_named_and_kept(
    made: Path, change: Callable[[Path], None], named: str, moment: str
):
    if moment == "before any work":
        change(made)
        before = files(made)
        with pytest.raises(UsageError, match="--overwrite would remove files that deploycomp did not write") as caught:
            stage(made, overwrite=True)
    else:
        with stage(made, overwrite=True) as staging:
            staging.seal({})
            change(made)
            before = files(made)
            with pytest.raises(UsageError, match="--overwrite would remove files") as caught:
                staging.publish()
    assert caught.value.why == named
    assert caught.value.hint == "move them out of the folder, or choose another --output"
    assert files(made) == before
    assert [name for name in entries(made.parent) if name.endswith(".partial")] == []


def test_another_file_system_inside_is_not_ours(made: Path, monkeypatch: pytest.MonkeyPatch):
    from deploycomp.sealed import contents

    real = contents.marks

    def elsewhere(folder: Path) -> contents.Marks:
        return {
            name: (mode, 10**6 if name == "onnx" else device, *rest)
            for name, (mode, device, *rest) in real(folder).items()
        }

    monkeypatch.setattr(contents, "marks", elsewhere)
    with pytest.raises(UsageError) as caught:
        stage(made, overwrite=True)
    assert caught.value.why == "onnx (on another file system)"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("thesis.txt", "mine", f"it holds no {MANIFEST} and no {COMPRESSION}"),
        (COMPRESSION, "{}", f"{COMPRESSION} has schema version None"),
        (COMPRESSION, "not json", f"{COMPRESSION} cannot be read"),
        (COMPRESSION, '{"schema_version": 1}', "names no files with their hashes"),
        (COMPRESSION, '{"schema_version": 1, "files": {"../x": {"sha256": "0"}}}', "outside its folder"),
        (MANIFEST, "not json", f"{MANIFEST} cannot be read"),
        (MANIFEST, "{}", "has schema version None"),
        (MANIFEST, '{"schema_version": 1, "files": [1]}', "names no files with their hashes"),
    ],
)
def test_a_folder_without_a_valid_list_is_left_alone(tmp_path: Path, name: str, text: str, reason: str):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    (tmp_path / "out" / "years.txt").write_text("of work")
    before = files(tmp_path)
    with pytest.raises(UsageError, match="--overwrite replaces only what deploycomp wrote") as caught:
        stage(tmp_path / "out", overwrite=True)
    assert reason in (caught.value.why or "")
    assert caught.value.hint == "choose another --output, or remove the folder yourself"
    assert caught.value.exit_code == 2
    assert files(tmp_path) == before


def test_a_list_that_claims_a_file_must_know_its_hash(tmp_path: Path):
    """A manifest that lists a stranger's file does not make it ours."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    forged = {"schema_version": 1, "files": {"thesis.txt": {"sha256": "0" * 64}}}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(forged))
    with pytest.raises(UsageError) as caught:
        stage(tmp_path / "out", overwrite=True)
    assert caught.value.why == "thesis.txt (changed since)"


def test_a_compressed_checkpoint_is_replaced_where_it_is_as_written(tmp_path: Path):
    made = compressed(tmp_path / "out")
    publish(made, PAYLOAD, overwrite=True).verify()
    assert entries(tmp_path) == ["out"]


def test_a_compressed_checkpoint_that_was_trained_further_is_kept(tmp_path: Path):
    made = compressed(tmp_path / "out")
    (made / "model.safetensors").write_bytes(b"a week of training")
    with pytest.raises(UsageError) as caught:
        stage(made, overwrite=True)
    assert caught.value.why == "model.safetensors (changed since)"


def test_a_file_that_is_gone_is_no_reason_to_refuse(made: Path):
    (made / "config.json").unlink()
    publish(made, PAYLOAD, overwrite=True).verify()


def test_another_name_of_a_file_keeps_it(made: Path):
    (made.parent / "mine.onnx").hardlink_to(made / "model.onnx")
    publish(made, {"model.onnx": b"new"}, overwrite=True).verify()
    assert (made.parent / "mine.onnx").read_bytes() == PAYLOAD["model.onnx"]


def test_a_file_that_comes_in_the_very_moment_is_given_back(made: Path, monkeypatch: pytest.MonkeyPatch):
    real = staging_module._exchange

    def late(new: Path, old: Path) -> None:
        if not (new / "notes.txt").exists() and not (old / "notes.txt").exists():
            (old / "notes.txt").write_text("mine")
        real(new, old)

    monkeypatch.setattr(staging_module, "_exchange", late)
    before = Artifact.open(made).digest
    with pytest.raises(UsageError) as caught:
        publish(made, {"model.onnx": b"new"}, overwrite=True)
    assert caught.value.why == "notes.txt"
    assert (made / "notes.txt").read_text() == "mine"
    assert Artifact.open(made).digest == before
    assert entries(made.parent) == ["out"]
