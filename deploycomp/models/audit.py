"""Look at a checkpoint before transformers does: plain JSON and safetensors headers, nothing executed or imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.models import strictjson
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


@dataclass(frozen=True)
class Audit:
    """What a folder holds, after nothing was found against it.

    Args:
        config: The encoder's raw config.json.
        files: Every file that is read, relative to the folder, sorted.
        numel: Elements in the weight files.
        sentence: The sentence-transformers layout, where there is one.
        notes: What was ignored.
        plan: What was cut out of the model since its config was written.
    """

    config: dict[str, Any]
    files: tuple[str, ...]
    numel: int
    sentence: Sentence | None
    notes: tuple[str, ...]
    plan: Plan


def audit(folder: Path) -> Audit:
    """Check a model folder without executing anything of it.

    Args:
        folder: An existing folder.

    Raises:
        InputRefused: Unsafe, corrupt or unsupported, with the file and the reason.
    """
    sentence = read_sentence(folder)
    encoder = folder / sentence.encoder if sentence else folder
    where = str(encoder / CONFIG)
    config = _read_config(encoder, folder)
    names = [name for name in (*_SETTINGS, *_VOCABULARIES) if exists(encoder / name)]
    for name in names:
        if name in _SETTINGS:
            read_settings(encoder / name, inside=folder)
        else:
            _check_vocabulary(encoder / name, folder)
    check_supported(config, where=where)
    check_labels(config, where=where)
    _check_adapter(encoder)
    weights = check_weights(encoder, inside=folder)
    cut = exists(encoder / SURGERY)
    plan = read_plan(encoder / SURGERY, inside=folder) if cut else Plan()
    prefix = f"{sentence.encoder}/" if sentence and sentence.encoder else ""
    files = {f"{prefix}{name}" for name in (*names, *weights.files, *([SURGERY] if cut else ()))} | set(
        sentence.files if sentence else ()
    )
    python = [f"{path.name} ignored: code is never run" for path in sorted(encoder.glob("*.py"))]
    notes = (*weights.notes, *python, *(sentence.notes if sentence else ()), *label_notes(config))
    return Audit(config, tuple(sorted(files)), weights.numel, sentence, notes, plan)


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


def _check_adapter(encoder: Path) -> None:
    if exists(encoder / "adapter_config.json"):
        raise InputRefused(
            "the folder holds an adapter (PEFT), not a whole model",
            where=str(encoder / "adapter_config.json"),
            hint="merge it first: model.merge_and_unload().save_pretrained(folder)",
        )
