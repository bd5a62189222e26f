"""What a config may say: no key that makes a loader run code, an encoder, sane sizes, a whole label map.

A config can make a loader download and run code even with `trust_remote_code=False` (CVE-2026-4372 through
`_attn_implementation_internal`, CVE-2026-5241 through `trust_remote_code` inside config.json), or send it to another
file that nobody has looked at (`configuration_files`). Such keys are refused at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from deploycomp.errors import InputRefused
from deploycomp.models import strictjson
from deploycomp.models.anatomy import KNOWN

__all__ = ["check_labels", "check_supported", "label_notes", "read_settings", "scan"]

MAX_LAYERS = 1_000
"""Ten times the deepest encoder in use; a larger number would only keep the loader busy."""

_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")

_LABEL_MAPS = ("id2label", "label2id", "prompts")
"""Mappings whose keys are a user's words."""

_CODE = (
    (re.compile(r"auto_map"), "it names Python code beside the weights, to be imported and run"),
    (re.compile(r"trust_remote_code"), "it asks the loader to run remote code"),
    (
        re.compile(r"attn_implementation|experts_implementation"),
        "it can name a hub repository whose code is run",
    ),
    (re.compile(r"kernel"), "it can name a hub repository of compiled kernels"),
    (re.compile(r"^_target_$"), "it names a Python object to be called"),
    (re.compile(r"^(configuration_files|fast_tokenizer_files)$"), "it sends the loader to another file"),
)

_DECODERS = (
    "gpt", "llama", "mistral", "ministral", "mixtral", "qwen", "gemma", "phi", "falcon", "olmo", "cohere", "granite",
    "deepseek", "mamba", "smollm", "starcoder", "stablelm", "codegen", "xglm", "rwkv", "exaone", "nemotron",
)  # fmt: skip
"""Beginnings of decoder-only model types."""

_OTHERS = frozenset((
    "opt", "bloom", "mpt", "ctrl", "biogpt",
    "t5", "mt5", "umt5", "longt5", "switch_transformers", "bart", "mbart", "plbart", "pegasus", "pegasus_x", "marian",
    "led", "bigbird_pegasus", "m2m_100", "nllb-moe", "blenderbot", "blenderbot-small", "prophetnet", "xlm-prophetnet",
    "fsmt", "whisper", "encoder-decoder",
))  # fmt: skip
"""More decoders, then encoder-decoders."""

_BIGBIRD_BLOCKS = 5
"""Two global and three sliding blocks (`max_tokens_to_attend` in transformers' modeling_big_bird.py)."""

_GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "DoubleHeadsModel")


def read_settings(path: Path, *, inside: Path) -> Any:
    """Read a JSON file that steers a loader, and scan its keys.

    Args:
        path: The file.
        inside: The model's folder.

    Raises:
        InputRefused: See `strictjson.read` and `scan`.
    """
    value = strictjson.read(path, inside=inside)
    scan(value, where=str(path))
    return value


def scan(value: Any, *, where: str) -> None:
    """Refuse a key that can make a loader run code, at any depth.

    Args:
        value: Parsed JSON.
        where: The file's path, for the message.

    Raises:
        InputRefused: Naming the key and what it could do.
    """
    for path, key, item in _keys(value):
        for pattern, why in _CODE:
            if pattern.search(key) and not _harmless(key, item):
                raise InputRefused(
                    f"{Path(where).name} holds the key {path!r}",
                    where=where,
                    why=why,
                    hint="remove the key if you trust the rest, and know the model works without it",
                )


def _keys(root: Any) -> Iterator[tuple[str, str, Any]]:
    """Every key of nested JSON with its path and value; keys of label maps are words, not settings."""
    stack: list[tuple[str, Any, bool]] = [("", root, False)]
    while stack:
        prefix, value, words = stack.pop()
        if isinstance(value, list):
            stack += [(f"{prefix}[{index}]", item, False) for index, item in enumerate(cast("list[Any]", value))]
        elif isinstance(value, dict):
            for key, item in cast("dict[str, Any]", value).items():
                path = f"{prefix}.{key}" if prefix else key
                if not words:
                    yield path, key, item
                stack.append((path, item, key in _LABEL_MAPS))


def _harmless(key: str, value: Any) -> bool:
    """Sizes such as DeBERTa's `conv_kernel_size: 3`, and the flag that transformers 4.46 to 4.5x wrote by itself."""
    if key == "_attn_implementation_autoset":
        return isinstance(value, bool)
    sizes = cast("list[Any]", value) if isinstance(value, list) else [value]
    return key.endswith("kernel_size") and all(type(size) is int or size is None for size in sizes)


def check_supported(config: dict[str, Any], *, where: str) -> None:
    """Refuse what is no encoder, what is quantized already, and sizes that no model has."""
    model_type = str(config["model_type"])
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list) or not all(
        isinstance(name, str) for name in cast("list[Any]", architectures)
    ):
        raise InputRefused("architectures is not a list of names", where=where, why=repr(architectures))
    generates = any(name.endswith(_GENERATORS) for name in cast("list[str]", architectures))
    both = config.get("is_encoder_decoder") is True or model_type in _OTHERS
    if both or generates or config.get("is_decoder") is True or model_type.startswith(_DECODERS):
        raise InputRefused(
            f"{model_type} generates text ({', '.join(cast('list[str]', architectures)) or 'a decoder'})",
            where=where,
            why=f"deploycomp exports encoders: {', '.join(KNOWN)}",
            hint="fine-tune one of these; for text generation use onnxruntime-genai or llama.cpp",
        )
    _check_attention(config, where=where)
    if config.get("quantization_config") is not None:
        raise InputRefused(
            "the checkpoint is quantized already",
            where=where,
            why="its weights are codes of a format, and rounding them again costs accuracy",
            hint="start from the full-precision checkpoint it was made of",
        )
    for name in _LAYERS:
        layers = config.get(name)
        if layers is not None and (type(layers) is not int or not 0 <= layers <= MAX_LAYERS):
            raise InputRefused(f"{name} is not a number of layers: {layers!r}", where=where, why=f"0 to {MAX_LAYERS}")


def _check_attention(config: dict[str, Any], *, where: str) -> None:
    """Refuse attention that a graph would freeze to what the traced length needs, or that is no code for a CPU."""
    model_type = config["model_type"]
    if model_type == "big_bird" and config.get("attention_type", "block_sparse") == "block_sparse":
        blocks = _BIGBIRD_BLOCKS + 2 * _natural(config, "num_random_blocks", 3)
        limit = blocks * _natural(config, "block_size", 64)
        if _natural(config, "max_position_embeddings", 4096) > limit:
            raise InputRefused(
                "BigBird's block-sparse attention cannot be exported",
                where=where,
                why=f"the model takes full attention up to {limit} tokens and sparse attention beyond, a graph has one",
                hint='set "attention_type": "original_full" in config.json, and evaluate: long texts are answered '
                "by full attention then",
            )
    kernel = model_type == "mra" or (model_type == "yoso" and config.get("use_expectation") is False)
    if kernel or model_type == "reformer":
        raise InputRefused(
            f"the attention of {model_type} cannot be exported",
            where=where,
            why="it is a CUDA kernel, which transformers leaves out on a CPU" if kernel else "it hashes at random",
            hint=f"fine-tune one of {', '.join(KNOWN)}",
        )


def _natural(config: dict[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    return value if type(value) is int else default


def check_labels(config: dict[str, Any], *, where: str) -> None:
    """Refuse a label map with a gap, a duplicate, or another count than num_labels."""
    labels = config.get("id2label")
    if labels is None:
        return
    if not isinstance(labels, dict):
        raise InputRefused("id2label is not a mapping", where=where, why=type(labels).__name__)
    names = cast("dict[str, Any]", labels)
    missing = [str(index) for index in range(len(names)) if str(index) not in names]
    if missing:
        found = ", ".join(sorted(names)[:5])
        raise InputRefused(
            f"id2label has a gap: {', '.join(missing[:5])} is missing",
            where=where,
            why=f"{len(names)} labels need the keys 0 to {len(names) - 1}; found {found}",
        )
    values = [str(value) for value in names.values()]
    twice = sorted({value for value in values if values.count(value) > 1}) if len(set(values)) < len(values) else []
    if twice:
        raise InputRefused(f"id2label has a duplicate label: {twice[0]!r}", where=where, hint="name each class once")
    count = config.get("num_labels", config.get("_num_labels"))
    if count is not None and count != len(names):
        raise InputRefused(f"id2label has {len(names)} labels, num_labels says {count}", where=where)


def label_notes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return a note where label2id contradicts id2label, which alone is used."""
    forward, back = config.get("id2label"), config.get("label2id")
    if not isinstance(forward, dict) or not isinstance(back, dict):
        return ()
    names = {str(name): str(index) for index, name in cast("dict[str, Any]", forward).items()}
    stated = {str(name): str(index) for name, index in cast("dict[str, Any]", back).items()}
    return () if names == stated else ("label2id contradicts id2label and is ignored",)
