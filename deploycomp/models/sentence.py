"""The sentence-transformers layout: which modules follow the encoder, and what they do.

    modules.json                       [{idx, name, path, type}, …]: Transformer, Pooling, then optionally Normalize
    sentence_bert_config.json          max_seq_length, do_lower_case
    1_Pooling/config.json              one flag per mode (until 5.x), or `pooling_mode` (from 6.0)
    config_sentence_transformers.json  prompts

Nothing here is imported from `type`: the class name is looked up in a closed list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from deploycomp.errors import InputRefused
from deploycomp.models import settings, strictjson
from deploycomp.models.place import exists
from deploycomp.models.rules import read_settings
from deploycomp.models.settings import Table

__all__ = ["MODULES", "Sentence", "SentencePooling", "cross_activation", "cross_encoder", "read_sentence"]

MODULES = "modules.json"
ENCODER_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""sentence-transformers reads the first of them that is there and says anything."""
PROMPTS = "config_sentence_transformers.json"
OLD_ACTIVATION = "sbert_ce_default_activation_function"

_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Our name → its flag, in the order that sentence-transformers concatenates several modes."""

_SUPPORTED = ("Transformer", "Pooling", "Normalize")
_OTHERS = (
    "Asym", "BoW", "CLIPModel", "CNN", "Dense", "Dropout", "LayerNorm", "LSTM", "MLMTransformer", "Router",
    "SparseAutoEncoder", "SparseStaticEmbedding", "SpladePooling", "StaticEmbedding", "WeightedLayerPooling",
    "WordEmbeddings", "WordWeights",
)  # fmt: skip
_TASK, _INPUT = "feature-extraction", "sentence_embedding"
_NO_MODEL = "--task feature-extraction exports the encoder alone, whose token vectors you pool yourself"
_NO_ENCODER = "use a model whose first module is a Transformer"


@dataclass(frozen=True)
class SentencePooling:
    """How token embeddings become one sentence embedding.

    Args:
        modes: One or more of cls, max, mean, mean_sqrt_len, weightedmean, lasttoken; several are concatenated.
        normalize: Whether the embedding is scaled to unit length.
    """

    modes: tuple[str, ...]
    normalize: bool

    @property
    def mode(self) -> str:
        """The modes as one word, for reports."""
        return "+".join(self.modes)


@dataclass(frozen=True)
class Sentence:
    """What a sentence-transformers folder says beside the encoder's own files."""

    encoder: str
    """The encoder's folder, relative to the model's; empty in current layouts, `0_Transformer` in old ones."""
    pooling: SentencePooling | None
    """None where the chain of modules is one that the graph cannot hold; `unsupported` then says why."""
    max_length: int | None
    lower_case: bool
    files: tuple[str, ...]
    notes: tuple[str, ...]
    prompts: dict[str, str] = field(default_factory=dict[str, str])
    """Name → what is put before a text."""
    default_prompt: str | None = None
    """The name of the prompt of texts that name none."""
    unsupported: InputRefused | None = None
    """Why its sentence embeddings cannot be exported; the encoder alone can."""


def read_sentence(folder: Path) -> Sentence | None:
    """Read the sentence-transformers layout of *folder*, or `None` where it has none.

    Raises:
        InputRefused: A module of an unknown class, one that the graph cannot hold, or a contradicting file.
    """
    if not exists(folder / MODULES):
        return None
    notes: list[str] = []
    _check_kind(folder)
    kinds, paths = _modules(folder, notes)
    if not kinds or kinds[0] != "Transformer":
        raise _chain(kinds, folder)
    encoder = "" if paths[0] in ("", ".") else f"{paths[0]}/"
    files = [MODULES]
    said, where = _encoder_settings(folder, encoder, files, notes)
    told = _optional(folder, PROMPTS, settings.PROMPTS, files, notes)
    limit = said.get("max_seq_length")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputRefused("max_seq_length is not a positive number", where=where, why=repr(limit))
    prompts = {name: text for name, text in (told.get("prompts") or {}).items() if text is not None}
    default = told.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise InputRefused(
            f"default_prompt_name names a prompt that is not there: {default!r}",
            where=str(folder / PROMPTS),
            why=f"prompts: {', '.join(prompts) or 'none'}",
        )
    pooling, unsupported = _pooling(folder, list(zip(kinds, paths, strict=True)), said, prompts, (files, notes))
    return Sentence(
        encoder=encoder.rstrip("/"),
        pooling=pooling,
        max_length=limit,
        lower_case=said.get("do_lower_case") is True,
        files=tuple(files),
        notes=tuple(notes),
        prompts=prompts,
        default_prompt=default,
        unsupported=unsupported,
    )


def _check_kind(folder: Path) -> None:
    """A folder of sentence-transformers may hold another kind of model, which other modules and settings belong to."""
    if not exists(folder / PROMPTS):
        return
    told = strictjson.as_object(read_settings(folder / PROMPTS, inside=folder), where=folder / PROMPTS)
    kind = told.get("model_type")
    if isinstance(kind, str) and kind != "SentenceTransformer":
        raise InputRefused(
            f"a {kind} of sentence-transformers in this layout is not supported",
            where=str(folder / PROMPTS),
            why="its modules.json and its settings are other ones than those of sentence embeddings",
            hint="export a SentenceTransformer, or a model that transformers saved",
        )


def _chain(kinds: list[str], folder: Path) -> InputRefused:
    return InputRefused(
        f"the sentence-transformers modules {', '.join(kinds)} are not supported",
        where=str(folder / MODULES),
        hint=_NO_MODEL if kinds and kinds[0] == "Transformer" else _NO_ENCODER,
    )


def _pooling(
    folder: Path,
    modules: list[tuple[str, str]],
    said: dict[str, Any],
    prompts: dict[str, str],
    found: tuple[list[str], list[str]],
) -> tuple[SentencePooling | None, InputRefused | None]:
    """How the chain pools, or why the graph cannot hold it; a Dropout does nothing once training is over."""
    files, notes = found
    chain = [module for module in modules if module[0] != "Dropout"]
    after = [kind for kind, _ in chain[2:]]
    if len(chain) < 2 or chain[1][0] != "Pooling" or after not in ([], ["Normalize"]):
        return None, _chain([kind for kind, _ in modules], folder)
    place = folder / chain[1][1] / "config.json"
    files.append(f"{chain[1][1]}/config.json")
    modes, told = _pooling_modes(place, folder, notes)
    normalize = _optional(folder, f"{chain[2][1]}/config.json", settings.NORMALIZE, files, notes) if after else {}
    if said.get("transformer_task", _TASK) != _TASK or normalize.get("module_input_name", _INPUT) != _INPUT:
        return None, InputRefused(
            "the sentence-transformers modules are wired in a way that is not supported",
            where=str(folder),
            why=f"transformer_task must be {_TASK}, and Normalize must work on {_INPUT}",
            hint=_NO_MODEL,
        )
    if told.get("include_prompt") is False and any(prompts.values()):
        return None, InputRefused(
            "the model leaves its prompts out of the pooling (include_prompt: false)",
            where=str(place),
            why="the graph pools every token of a text, its prompt included",
            hint=_NO_MODEL,
        )
    return SentencePooling(modes, normalize=bool(after)), None


def _modules(folder: Path, notes: list[str]) -> tuple[list[str], list[str]]:
    """The class name and the path of every module, in order."""
    where = str(folder / MODULES)
    modules = read_settings(folder / MODULES, inside=folder)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in cast("list[Any]", modules)):
        raise InputRefused("modules.json is not a list of modules", where=where)
    kinds: list[str] = []
    paths: list[str] = []
    for module in cast("list[dict[str, Any]]", modules):
        notes += settings.close(settings.MODULE, module, where=folder / MODULES)[1]
        kinds.append(_kind(module.get("type"), where))
        path = module.get("path")
        if not isinstance(path, str) or "\\" in path or ".." in PurePosixPath(path).parts or path.startswith("/"):
            raise InputRefused("a module lies outside the model's folder", where=where, why=repr(path))
        paths.append(path)
    return kinds, paths


def _kind(dotted: Any, where: str) -> str:
    """The class name of a known sentence-transformers module, without importing it."""
    package, _, name = str(dotted).rpartition(".")
    if package.partition(".")[0] != "sentence_transformers" or name not in (*_SUPPORTED, *_OTHERS):
        raise InputRefused(
            f"modules.json names a class that sentence-transformers does not have: {dotted!r}",
            where=where,
            why="loading it would import and run foreign code",
            hint=_NO_MODEL,
        )
    return name


def _encoder_settings(folder: Path, encoder: str, files: list[str], notes: list[str]) -> tuple[dict[str, Any], str]:
    """What the Transformer module is told, and the file that says so."""
    for name in ENCODER_CONFIGS:
        said = _optional(folder, f"{encoder}{name}", settings.SENTENCE, files, notes)
        if said:
            return said, str(folder / encoder / name)
    return {}, str(folder / encoder)


def _optional(folder: Path, name: str, table: Table, files: list[str], notes: list[str]) -> dict[str, Any]:
    if not exists(folder / name):
        return {}
    files.append(name)
    return _read(folder / name, folder, table, notes)


def _read(path: Path, folder: Path, table: Table, notes: list[str]) -> dict[str, Any]:
    values = strictjson.as_object(read_settings(path, inside=folder), where=path)
    kept, dropped = settings.close(table, values, where=path)
    notes += dropped
    return kept


def _pooling_modes(path: Path, folder: Path, notes: list[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The modes, and all that the Pooling module says."""
    if not exists(path):
        raise InputRefused("the Pooling module has no config.json", where=str(path))
    config = _read(path, folder, settings.POOLING, notes)
    stated = config.get("pooling_mode")
    if stated is not None:
        names = cast("list[Any]", stated) if isinstance(stated, list) else [stated]
        modes = tuple(str(name).removesuffix("_tokens") for name in names)
    else:
        modes = tuple(mode for mode, flag in _MODES.items() if config.get(flag) is True) or ("mean",)
    unknown = [mode for mode in modes if mode not in _MODES]
    if unknown or not modes:
        raise InputRefused(
            f"the pooling mode {', '.join(unknown) or '(none)'} is not supported",
            where=str(path),
            hint=f"one of {', '.join(_MODES)}",
        )
    return modes, config


def cross_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json was written by a CrossEncoder, of today (`sentence_transformers`) or before version 4."""
    return isinstance(config.get("sentence_transformers"), dict) or OLD_ACTIVATION in config


def cross_activation(config: Mapping[str, Any]) -> str | None:
    """Return the class that a CrossEncoder puts over its score, by name; `None` where its config names none."""
    told: Any = config.get("sentence_transformers")
    found = told.get("activation_fn") if isinstance(told, dict) else config.get(OLD_ACTIVATION)
    return None if found is None else str(found)
