"""Folders that look like a checkpoint and are none: what they are, and what to type so that one comes of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.models import strictjson
from deploycomp.models.place import exists

__all__ = ["check_foreign", "head_files", "python", "who", "wrapped"]

ADAPTER = "adapter_config.json"
GLINER = "gliner_config.json"
SETFIT = ("config_setfit.json", "model_head.pkl", "model_head.joblib")

WRAPPERS = {
    "module.": "torch.nn.DataParallel",
    "_orig_mod.": "torch.compile",
    "model.": "a module around it, as PyTorch Lightning keeps one,",
    "base_model.model.": "PEFT",
    "_forward_module.": "PyTorch Lightning's Fabric",
    "_fsdp_wrapped_module.": "FSDP",
}
"""Prefix of every weight's name → who put it there; one may be inside another."""

_MERGED = {
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
"""An adapter's task → the class of PEFT that loads it with its base."""

ENOUGH = 0.5
"""The share of a model's own names that must appear once a prefix is gone."""


def python(code: str) -> str:
    """Return a shell command that runs *code*, quoted as plainly as can be."""
    return f"python -c {shlex.quote(code)}" if set(code) & set('"$`\\!') else f'python -c "{code}"'


def check_foreign(encoder: Path) -> None:
    """Refuse an adapter, and a model of a library whose architecture is its own.

    Args:
        encoder: The folder where config.json is looked for.

    Raises:
        InputRefused: With what it is and what to type.
    """
    if exists(encoder / ADAPTER):
        said: Any = strictjson.read(encoder / ADAPTER, inside=encoder)
        kind = _MERGED.get(str(said.get("task_type"))) if isinstance(said, dict) else None
        raise InputRefused(
            "the folder holds an adapter (PEFT), not a whole model",
            where=str(encoder / ADAPTER),
            why="its weights are differences to a base model, which lies somewhere else",
            hint=f"merge it once, and export again: {python(_merge(str(encoder), kind or 'AutoPeftModel'))}",
        )
    if exists(encoder / GLINER):
        raise InputRefused(
            "the folder holds a GLiNER model",
            where=str(encoder / GLINER),
            why="it is no architecture of transformers: it matches words with names of entities given at run time",
            hint="export it with the gliner package, or fine-tune a token classifier of transformers on its labels",
        )


def _merge(folder: str, kind: str) -> str:
    """Code that puts the whole model in the adapter's place."""
    return (
        f"import os; from peft import {kind} as M; f = {folder!r}; "
        "M.from_pretrained(f).merge_and_unload().save_pretrained(f); "
        "[os.remove(os.path.join(f, n)) for n in os.listdir(f) if n.startswith('adapter_')]"
    )


def head_files(folder: Path) -> tuple[str, ...]:
    """Return the files of a SetFit classifier, which lies beside its sentence encoder as a pickle."""
    return tuple(name for name in SETFIT if exists(folder / name))


def who(prefix: str) -> str:
    """Return what puts a prefix before the names; of several the outermost."""
    return next(name for each, name in WRAPPERS.items() if prefix.startswith(each))


def wrapped(stored: Iterable[str], own: Iterable[str], base: str) -> str | None:
    """Return the prefix that a wrapper left on every weight's name, if that is why they do not fit.

    Args:
        stored: The names in the file.
        own: The names in the model.
        base: The model's own prefix, which transformers adds and takes away by itself.
    """
    names, bare = list(stored), {name.removeprefix(f"{base}.") for name in own}
    prefix = ""
    while names:
        rest = [name.removeprefix(prefix) for name in names]
        if len(bare.intersection(name.removeprefix(f"{base}.") for name in rest)) >= ENOUGH * len(bare):
            return prefix or None
        counts = {each: sum(name.startswith(each) for name in rest) for each in WRAPPERS}
        found = max(counts, key=counts.__getitem__)
        if counts[found] < ENOUGH * len(names):
            return None
        prefix += found
    return None
