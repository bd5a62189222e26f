"""Find a checkpoint: a local folder or a hub id, audited, hashed, described. Imports no torch and no transformers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploycomp.artifact import digest_files, sha256
from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError
from deploycomp.models.audit import audit
from deploycomp.models.plan import Plan
from deploycomp.models.sentence import Sentence

__all__ = ["Source", "resolve", "stamp"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_ALLOWED = ("*.json", "*.safetensors", "*.txt", "*.model")
_IGNORED = ("onnx/*", "openvino/*", "*.py", "*.bin", "*.pt")


@dataclass(frozen=True)
class Source:
    """A checkpoint that passed the audit.

    Args:
        path: The folder.
        name: The folder's name or the hub id, never an absolute path.
        revision: The commit of a hub model.
        files: Every file that is read → its SHA-256.
        digest: One SHA-256 over *files*.
        config: The encoder's config.json, without what the audit dropped.
        numel: Elements in the weight files.
        notes: What was ignored, and what to know.
        sentence: The sentence-transformers layout, where there is one.
        plan: What was cut out of the model; empty for an ordinary checkpoint.
        settings: The tokenizer's settings files, by name, without what the audit dropped.
        stamps: Every file → how it stood when it was hashed.
        tensors: Names in the weight files.
        head: Files of a classifier that is no part of the encoder (SetFit), which no graph can hold.
    """

    path: Path
    name: str
    revision: str | None
    files: dict[str, str]
    digest: str
    config: dict[str, Any]
    numel: int
    notes: tuple[str, ...]
    sentence: Sentence | None
    plan: Plan = field(default_factory=Plan)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    stamps: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)
    tensors: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    @property
    def sentence_transformers(self) -> bool:
        """Whether the folder has a modules.json."""
        return self.sentence is not None

    @property
    def encoder(self) -> Path:
        """The folder with config.json, weights and tokenizer."""
        return self.path / self.sentence.encoder if self.sentence else self.path

    @property
    def model_type(self) -> str:
        """The architecture, as transformers names it."""
        return str(self.config["model_type"])


def resolve(
    model: str | Path, revision: str | None = None, *, progress: Callable[[str, float], None] | None = None
) -> Source:
    """Find a model, check it without executing anything of it, and hash what will be read.

    Args:
        model: A folder, or a hub id. A local folder causes no network traffic.
        revision: Branch, tag or commit of a hub model; recorded as its commit.
        progress: Called with a message and a fraction.

    Raises:
        UsageError: A revision for a local folder.
        InputRefused: Neither a folder nor a hub model, or the audit found something.
        EnvironmentFailed: The hub cannot be reached and the model is not in the cache.
    """
    folder = Path(model)
    commit = None
    name = folder.name if folder.name not in ("", "..") else folder.resolve().name
    if str(model) and folder.is_dir():
        if revision is not None:
            raise UsageError("a local folder has no revision", where=str(model), hint="leave --revision away")
    elif str(model) and folder.exists():
        raise InputRefused("the model is a file, not a folder", where=str(model), hint=f"try {folder.parent}")
    elif _HUB_ID.fullmatch(str(model)):
        if progress is not None:
            progress(f"fetching {model}", 0.0)
        name, folder = str(model), _download(str(model), revision)
        commit = folder.name if _COMMIT.fullmatch(folder.name) else revision
    else:
        raise InputRefused("there is no such folder", where=str(model), hint="give a folder or a hub id (owner/name)")
    found = audit(folder)
    if progress is not None:
        progress(f"hashing {name}", 0.5)
    stamps = {file: stamp(folder / file) for file in found.files}
    files = {file: sha256(folder / file) for file in found.files}
    return Source(
        path=folder,
        name=name,
        revision=commit,
        files=files,
        digest=digest_files(files),
        config=found.config,
        numel=found.numel,
        notes=found.notes,
        sentence=found.sentence,
        plan=found.plan,
        settings=found.settings,
        stamps=stamps,
        tensors=found.tensors,
        head=found.head,
    )


def stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file does: its size, and its times, of which nobody can set the second."""
    status = path.stat()  # its inode is no help: file systems in user space give it another one now and then
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _download(model: str, revision: str | None) -> Path:
    """Fetch the safe files of a hub model, or find them in the cache; the client honours `HF_HUB_OFFLINE`."""
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{model}@{revision}" if revision else model
    try:
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=list(_ALLOWED), ignore_patterns=list(_IGNORED)
            )
        )
    except GatedRepoError as error:
        raise InputRefused(
            "the hub model is gated", where=where, hint="accept its terms on the hub, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputRefused("the hub model has no such revision", where=where, hint="check --revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputRefused(
            "there is no such folder, and no such model on the hub",
            where=where,
            hint="check the spelling; a private model needs `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentFailed(
            "there is no such folder, and the hub cannot be reached",
            where=where,
            why=_first_line(error),
            hint="check the spelling and the network, unset HF_HUB_OFFLINE, or download the model and give its folder",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
