"""Finding a checkpoint: local folders, hub ids, hashes; no torch, no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from deploycomp.artifact import digest_files, sha256
from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError
from deploycomp.models import resolve
from tests.models.test_audit import as_hub_cache


def test_a_local_folder(bert, events):
    source = resolve(str(bert))
    assert source.name == "tiny-bert"
    assert source.revision is None
    assert source.model_type == "bert"
    assert source.encoder == source.path == bert
    assert not source.sentence_transformers
    assert source.files == {name: sha256(bert / name) for name in source.files}
    assert source.digest == digest_files(source.files)
    assert not [event for event in events if event[0].startswith("socket")]


def test_the_name_is_never_a_path(folder, monkeypatch):
    (folder / "sub").mkdir()
    assert resolve(folder / "sub" / "..").name == "model"
    monkeypatch.chdir(folder)
    assert resolve(".").name == "model"


def test_the_digest_follows_the_content(folder, bert):
    assert resolve(folder).digest == resolve(bert).digest
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    assert resolve(folder).digest != resolve(bert).digest


def test_progress_is_told(bert):
    told: list[tuple[str, float]] = []
    resolve(bert, progress=lambda message, fraction: told.append((message, fraction)))
    assert told == [("hashing tiny-bert", 0.5)]


def test_no_heavy_library_is_imported(bert):
    code = (
        "import sys; from deploycomp.models import resolve; import deploycomp.models.audit; "
        f"resolve({str(bert)!r}); heavy = {{'torch', 'transformers', 'numpy', 'huggingface_hub', 'optimum'}}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("model", ["./nothing", "/no/such/folder", "a/b/c", "nothing/", "", "owner/ name"])
def test_no_such_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputRefused, match="there is no such folder") as caught:
        resolve(model)
    assert "hub id" in str(caught.value.hint)


def test_a_file_is_refused(bert):
    with pytest.raises(InputRefused, match="a file, not a folder") as caught:
        resolve(bert / "model.safetensors")
    assert str(bert) in str(caught.value.hint)


def test_a_revision_of_a_local_folder_is_refused(bert):
    with pytest.raises(UsageError, match="a local folder has no revision"):
        resolve(bert, "main")


# ---------------------------------------------------------------------------------------------------------------- hub


def test_a_hub_id(bert, tmp_path, monkeypatch):
    snapshot = as_hub_cache(bert, tmp_path)
    asked = {}

    def fake(repo: str, **options: object) -> str:
        asked.update(options, repo=repo)
        return str(snapshot)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    source = resolve("org/tiny", "main")
    assert source.name == "org/tiny"
    assert source.revision == "a" * 40
    assert asked["repo"] == "org/tiny"
    assert asked["revision"] == "main"
    assert set(asked["allow_patterns"]) == {"*.json", "*.safetensors", "*.txt", "*.model"}
    assert {"*.py", "*.bin", "*.pt"} <= set(asked["ignore_patterns"])
    assert source.digest == resolve(bert).digest


def _http(kind: type[Exception]) -> Exception:
    """An HTTP error of the hub client without a response to build it from."""
    error = kind.__new__(kind)
    error.args = ("refused by a test",)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (_http(GatedRepoError), InputRefused, "the hub model is gated"),
        (_http(RepositoryNotFoundError), InputRefused, "no such model on the hub"),
        (_http(RevisionNotFoundError), InputRefused, "no such revision"),
        (HFValidationError("bad name"), InputRefused, "no such model on the hub"),
        (LocalEntryNotFoundError("offline"), EnvironmentFailed, "the hub cannot be reached"),
        (ConnectionError("no route"), EnvironmentFailed, "the hub cannot be reached"),
    ],
)
def test_errors_of_the_hub_are_translated(monkeypatch, tmp_path, error, kind, what):
    def fake(*_: object, **__: object) -> str:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    with pytest.raises(kind, match=what) as caught:
        resolve("org/tiny", "v1")
    assert caught.value.where == "org/tiny@v1"
    assert caught.value.hint


def test_offline_and_not_cached(tmp_path):
    """The real client, told to stay offline, in its own process because it reads the variable on import."""
    code = "from deploycomp.models import resolve; resolve('org/tiny')"
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PATH": "",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "the hub cannot be reached" in result.stderr
    assert "HF_HUB_OFFLINE" in result.stderr
