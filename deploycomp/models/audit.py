"""Look at a checkpoint before transformers does: plain JSON and safetensors headers, nothing executed or imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.models import settings, strictjson
from deploycomp.models.foreign import check_foreign, head_files
from deploycomp.models.place import check_place, exists
from deploycomp.models.plan import SURGERY, Plan, read_plan
from deploycomp.models.rules import check_labels, check_supported, label_notes, read_settings
from deploycomp.models.sentence import Sentence, read_sentence
from deploycomp.models.weights import check_weights

__all__ = ["Audit", "audit"]

CONFIG = "config.json"

_SETTINGS = (
    CONFIG, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
"""JSON whose keys steer a loader."""

_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "added_tokens.json", "vocab.txt", "merges.txt",
    "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
"""Files whose content is tokens: any word may stand there, so only their size is bound."""

MAX_VOCABULARY_BYTES = 200_000_000
"""A vocabulary of 256,000 tokens with its merges takes about 35 MB."""

_NUMBERED = ("vocab.json", "added_tokens.json")
"""Vocabularies that are a JSON object of numbers; tokenizer.json is read in a child, see `vet.py`."""

MAX_NUMBERED_BYTES = 50_000_000
"""A vocabulary of 256,000 tokens takes about 8 MB here, and reading one this large 1 GB at the worst."""


@dataclass(frozen=True)
class Audit:
    """What a folder holds, after nothing was found against it.

    Args:
        config: The encoder's config.json, without what its closed list drops; an architecture's own settings are not
            looked up yet.
        files: Every file that is read, relative to the folder, sorted.
        numel: Elements in the weight files.
        sentence: The sentence-transformers layout, where there is one.
        notes: What was ignored.
        plan: What was cut out of the model since its config was written.
        settings: The tokenizer's settings files, by name, without what their closed lists drop.
        tensors: Names in the weight files.
        head: Files of a classifier that is no part of the encoder.
    """

    config: dict[str, Any]
    files: tuple[str, ...]
    numel: int
    sentence: Sentence | None
    notes: tuple[str, ...]
    plan: Plan
    settings: dict[str, dict[str, Any]]
    tensors: tuple[str, ...]
    head: tuple[str, ...]


def audit(folder: Path) -> Audit:
    """Check a model folder without executing anything of it.

    Args:
        folder: An existing folder.

    Raises:
        InputRefused: Unsafe, corrupt or unsupported, with the file and the reason.
    """
    sentence = read_sentence(folder)
    encoder = folder / sentence.encoder if sentence else folder
    check_foreign(encoder)
    where = str(encoder / CONFIG)
    config = _read_config(encoder, folder)
    check_supported(config, where=where)
    check_labels(config, where=where)
    closed, notes = settings.close(settings.CONFIG, config, where=encoder / CONFIG)
    tokenizer, more = _read_tokenizer(encoder, folder)
    names = [name for name in (*_SETTINGS, *_VOCABULARIES) if exists(encoder / name)]
    weights = check_weights(encoder, inside=folder)
    cut = exists(encoder / SURGERY)
    plan = read_plan(encoder / SURGERY, inside=folder) if cut else Plan()
    prefix = f"{sentence.encoder}/" if sentence and sentence.encoder else ""
    files = {f"{prefix}{name}" for name in (*names, *weights.files, *([SURGERY] if cut else ()))} | set(
        sentence.files if sentence else ()
    )
    python = [f"{path.name} ignored: code is never run" for path in sorted(encoder.glob("*.py"))]
    notes = (*weights.notes, *python, *(sentence.notes if sentence else ()), *label_notes(config), *notes, *more)
    return Audit(
        config=closed,
        files=tuple(sorted(files)),
        numel=weights.numel,
        sentence=sentence,
        notes=notes,
        plan=plan,
        settings=tokenizer,
        tensors=weights.tensors,
        head=head_files(folder),
    )


def _read_tokenizer(encoder: Path, folder: Path) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Read and close the settings of the tokenizer, and bound its vocabularies."""
    closed: dict[str, dict[str, Any]] = {}
    notes: tuple[str, ...] = ()
    for name in _SETTINGS[1:]:
        if exists(encoder / name):
            value = read_settings(encoder / name, inside=folder)
            if name in settings.TABLES:
                values = strictjson.as_object(value, where=encoder / name)
                closed[name], more = settings.close(settings.TABLES[name], values, where=encoder / name)
                notes += more
    for name in _VOCABULARIES:
        if exists(encoder / name):
            _check_vocabulary(encoder / name, folder)
    return closed, notes


def _read_config(encoder: Path, folder: Path) -> dict[str, Any]:
    path = encoder / CONFIG
    if not exists(path):
        raise InputRefused(
            f"there is no {CONFIG}",
            where=str(encoder),
            why="it is no model folder of transformers",
            hint="give the folder that model.save_pretrained(folder) wrote",
        )
    config = strictjson.as_object(read_settings(path, inside=folder), where=path)
    if not isinstance(config.get("model_type"), str):
        raise InputRefused(f"{CONFIG} has no model_type", where=str(path), hint="save it with transformers again")
    return config


def _check_vocabulary(path: Path, folder: Path) -> None:
    check_place(path, inside=folder)
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise InputRefused(
            f"{path.name} is too large: {path.stat().st_size:,} bytes, at most {MAX_VOCABULARY_BYTES:,} are read",
            where=str(path),
        )
    if path.name in _NUMBERED:
        ids = strictjson.as_object(strictjson.read(path, inside=folder, limit=MAX_NUMBERED_BYTES), where=path)
        wrong = next((token for token, index in ids.items() if type(index) is not int), None)
        if wrong is not None:
            raise InputRefused(f"{path.name} gives {wrong!r} no number", where=str(path), why=repr(ids[wrong])[:80])
