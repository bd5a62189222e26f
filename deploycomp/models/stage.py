"""The private folder that a loader is given: links to audited files, and settings written anew. It sees nothing else.

    with staged(source) as stage:
        AutoModel.from_pretrained(stage.folder)      # no Python, no pickle, no template, no setting that was dropped

The checkpoint's own folder stays as it is. A file that changed since it was hashed is refused.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.models.known import filter_config
from deploycomp.models.source import Source, stamp
from deploycomp.models.watch import watch

__all__ = ["Stage", "staged"]

CONFIG = "config.json"
_IDLE = ("generation_config.json", "preprocessor_config.json", "processor_config.json", "surgery.json")
"""Audited files that no encoder's loader needs."""


@dataclass(frozen=True)
class Stage:
    """A private folder and what it was made of.

    Args:
        folder: What to give to transformers: config.json, weights and tokenizer are in it.
        root: What to give to sentence-transformers: *folder* itself, or the folder above it.
        source: The checkpoint.
        config: The settings of config.json that the architecture knows.
        notes: What was dropped.
    """

    folder: Path
    root: Path
    source: Source
    config: dict[str, Any]
    notes: tuple[str, ...]

    def plain(self, text: str) -> str:
        """A library's message about the checkpoint itself, not about this folder."""
        return text.replace(str(self.folder), str(self.source.encoder)).replace(str(self.root), str(self.source.path))

    def rehome(self, item: Any) -> None:
        """Let a loaded object's attributes name the checkpoint: this folder is gone soon."""
        for values in (vars(item), getattr(item, "init_kwargs", {})):
            for name, value in list(values.items()):
                if isinstance(value, str) and value.startswith(str(self.root)):
                    values[name] = self.plain(value)


@contextlib.contextmanager
def staged(source: Source) -> Iterator[Stage]:
    """Make the private folder, watch what is loaded from it, and remove it.

    Args:
        source: A checkpoint that passed the audit.

    Raises:
        InputRefused: A setting that changes answers and cannot be honoured, a file that changed since it was hashed,
            or anything else that was opened (see `watch`).
        EnvironmentFailed: There is no room for a temporary folder.
    """
    config, notes = filter_config(source.config, where=source.encoder / CONFIG)
    _check_unchanged(source)
    with contextlib.ExitStack() as stack:
        try:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploycomp-"))).resolve() / "model"
            folder = _fill(root, source, config)
        except OSError as error:
            raise EnvironmentFailed(
                "a temporary folder cannot be made",
                where=tempfile.gettempdir(),
                why=error.strerror,
                hint="make room there, or name another place: TMPDIR=/path",
            ) from error
        with watch([source.path / name for name in source.files], root):
            yield Stage(folder, root, source, config, notes)
        _check_unchanged(source)


def _fill(root: Path, source: Source, config: dict[str, Any]) -> Path:
    """Lay out what was audited as it lies in the checkpoint, and return where the encoder is."""
    folder = root / source.encoder.relative_to(source.path)
    folder.mkdir(parents=True)
    written = {**source.settings, CONFIG: config}
    for name, values in written.items():
        (folder / name).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    for name in source.files:
        path, place = source.path / name, root / name
        if path.name not in _IDLE and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())
    return folder


def _check_unchanged(source: Source) -> None:
    """Compare every file's size and times with those it had when it was hashed."""
    for name, before in source.stamps.items():
        try:
            changed = stamp(source.path / name) != before
        except OSError:
            changed = True
        if changed:
            raise InputRefused(
                f"{name} changed while the model was loaded",
                where=str(source.path / name),
                why="what was read is not what was hashed",
                hint="run again when nothing writes into the folder",
            )
