"""The closed lists: every setting that a checkpoint's JSON may hold, and what becomes of it.

    honoured   it reaches the loader, if its value is of the right kind
    refused    it could make the loader read another file, or answer otherwise than the artifact can
    idle       the loaders write it or once read it, and no answer depends on it; told where its value is not the usual
    unknown    dropped, and told by name

They were read from `PreTrainedConfig`, `AutoTokenizer`, `PreTrainedTokenizerBase.from_pretrained` and
`TokenizersBackend` of transformers (5.3 to 5.23), and from `Transformer`, `Pooling` and `Normalize` of
sentence-transformers (5.2 to 6.2). What an architecture's own code asks of config.json is not written down here but
looked up in it, see `known.py`. No value of any setting is a path, so that no value is ever opened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from deploycomp.errors import InputRefused

__all__ = [
    "CONFIG",
    "POOLING",
    "PROMPTS",
    "SENTENCE",
    "SPECIAL_TOKENS",
    "TABLES",
    "TOKENIZER",
    "Table",
    "close",
    "is_path",
    "told",
]

NAMED = 5
"""How many dropped settings a note names; the rest is counted."""

_ENDINGS = (".json", ".txt", ".model", ".bin", ".safetensors", ".pt", ".pth", ".py", ".jinja", ".gguf", ".pkl", ".onnx")
"""What a value that names a file ends in."""

Check = Callable[[Any], bool]


def is_path(value: Any) -> bool:
    """Whether a text could name a file: it holds a separator, begins with `~`, or ends as files do."""
    return isinstance(value, str) and (
        any(mark in value for mark in "/\\") or value.startswith("~") or value == ".." or value.endswith(_ENDINGS)
    )


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _side(value: Any) -> bool:
    return value in ("left", "right")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value))


def _inputs(value: Any) -> bool:
    return _texts(value) and all(each.isidentifier() for each in value)


def _class(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w+(Tokenizer|TokenizerFast|Backend)", value) is not None


_TOKEN_PARTS: dict[str, Check] = {
    "content": _text, "id": _number, "__type": _text,
    "lstrip": _flag, "rstrip": _flag, "normalized": _flag, "single_word": _flag, "special": _flag,
}  # fmt: skip
"""What an `AddedToken` is made of."""


def _token(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, str)
    parts = cast("dict[str, Any]", value)
    return "content" in parts and all(name in _TOKEN_PARTS and _TOKEN_PARTS[name](each) for name, each in parts.items())


def _tokens(value: Any) -> bool:
    """A list of tokens, or tokens by name."""
    if isinstance(value, dict):
        return all(_token(each) for each in cast("dict[str, Any]", value).values())
    return isinstance(value, list) and all(_token(each) for each in cast("list[Any]", value))


def _numbered(value: Any) -> bool:
    """Tokens by their id."""
    return isinstance(value, dict) and all(
        index.isdecimal() and _token(each) for index, each in cast("dict[str, Any]", value).items()
    )


def _anything(value: Any) -> bool:
    return True


def _one_of(*values: Any) -> Check:
    return lambda value: value in values


@dataclass(frozen=True)
class Table:
    """The closed list of one file.

    Args:
        honoured: Setting → whether a value is of its kind; `null` always is, and is the same as no value.
        refused: Setting → why.
        idle: Setting → whether a value is the usual one, which is not worth a word.
        pattern: Names that are honoured though they are not listed, and what their values are.
        open: What is not listed is kept, to be looked up in the architecture's code.
    """

    honoured: dict[str, Check]
    refused: dict[str, str] = field(default_factory=dict)
    idle: dict[str, Check] = field(default_factory=dict)
    pattern: tuple[re.Pattern[str], Check] | None = None
    open: bool = False


_ELSEWHERE = "it sends the loader to another file, which nobody has checked"
_IN_PLACE = "it stands in for the files of the tokenizer, and a text is opened as a path"

DTYPES = ("float32", "float16", "bfloat16", "float64")

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")

_GENERATION = (
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "decoder_start_token_id",
)  # fmt: skip
"""Settings of generation, which older versions wrote into every config."""

CONFIG = Table(
    honoured={
        "model_type": _text,
        "architectures": _texts,
        "transformers_version": _text,
        "dtype": _one_of(*DTYPES),
        "torch_dtype": _one_of(*DTYPES),
        "id2label": lambda value: isinstance(value, dict),
        "label2id": lambda value: isinstance(value, dict),
        "num_labels": _number,
        "_num_labels": _number,
        "problem_type": _one_of(*PROBLEMS),
        "tokenizer_class": _class,
        "is_decoder": _flag,
        "is_encoder_decoder": _flag,
        "tie_word_embeddings": _flag,
        "vocab_size": _number,
        # How a cross-encoder's score is read, by sentence-transformers.
        "sentence_transformers": lambda value: isinstance(value, dict),
        "sbert_ce_default_activation_function": _text,
        # What transformers' shared code reads: masks, rotary positions, heads.
        "is_causal": _flag,
        "sliding_window": _anything,
        "attention_chunk_size": _number,
        "layer_types": _texts,
        "head_dim": _number,
        "rope_scaling": _anything,
        "rope_parameters": _anything,
        "rope_theta": _number,
        "partial_rotary_factor": _number,
        "token_classification_bias": _flag,
    },
    refused={
        "transformers_weights": "it names another weight file, which nobody has checked",
        "fusion_config": "it replaces layers while the model is loaded",
        "distributed_config": "it spreads the model over several devices",
        "per_layer_config": "it gives every layer settings of its own, which deploycomp does not know",
        "compression_config": "the weights are compressed already, and rounding them again costs accuracy",
        "pruned_heads": "heads were cut out of it, which transformers no longer repeats",
        "add_cross_attention": "its layers attend to a second model's output, which no encoder gets",
        "use_pretrained_backbone": "it names another model, to be loaded too",
        "backbone": "it names another model, to be loaded too",
    },
    idle={
        # What forward returns and how it is computed, neither of which an answer depends on.
        "output_attentions": _one_of(False),
        "output_hidden_states": _one_of(False),
        "return_dict": _one_of(True),
        "use_return_dict": _one_of(True),
        "use_cache": _flag,
        "chunk_size_feed_forward": _one_of(0),
        "gradient_checkpointing": _flag,
        "torchscript": _one_of(False),
        # Where it came from, and what it was trained with.
        "_name_or_path": _anything,
        "name_or_path": _anything,
        "_commit_hash": _anything,
        "_attn_implementation_autoset": _anything,
        "finetuning_task": _anything,
        "task_specific_params": _anything,
        "prefix": _one_of(None),
        "cross_attention_hidden_size": _one_of(None),
        "tie_encoder_decoder": _one_of(False),
        "tf_legacy_loss": _one_of(False),
        "use_bfloat16": _one_of(False),
        **dict.fromkeys(_GENERATION, _anything),
    },
    pattern=(re.compile(r"\w+_token_id"), lambda value: _number(value) or isinstance(value, list)),
    open=True,
)

LOST = {"position_embedding_type": ("absolute", "the model was trained with positions of another kind")}
"""Settings that change answers, and that an architecture's code may no longer know: name → (the only value that is the
same as none, why another is refused)."""

_SPECIALS: dict[str, Check] = {
    **dict.fromkeys(
        ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), _token
    ),
    "additional_special_tokens": _tokens,
    "extra_special_tokens": _tokens,
    "model_specific_special_tokens": _tokens,
}

_NO_FILES = {
    "vocab": _IN_PLACE,
    "merges": _IN_PLACE,
    "init_inputs": _IN_PLACE,
    "tokenizer_object": _IN_PLACE,
    "gguf_file": _ELSEWHERE,
    "subfolder": _ELSEWHERE,
    "cache_dir": _ELSEWHERE,
}
"""Names of files are dropped and told; these would stand in for the content itself."""

TOKENIZER = Table(
    honoured={
        **_SPECIALS,
        "tokenizer_class": _class,
        "added_tokens_decoder": _numbered,
        "model_max_length": _number,
        "max_len": _number,
        "model_input_names": _inputs,
        "padding_side": _side,
        "truncation_side": _side,
        "split_special_tokens": _flag,
        "clean_up_tokenization_spaces": _flag,
        "add_bos_token": _flag,
        "add_eos_token": _flag,
        # What the classes of encoders take.
        "do_lower_case": _flag,
        "strip_accents": _flag,
        "keep_accents": _flag,
        "tokenize_chinese_chars": _flag,
        "clean_text": _flag,
        "wordpieces_prefix": _text,
        "add_prefix_space": _flag,
        "trim_offsets": _flag,
        "remove_space": _flag,
        "split_by_punct": _flag,
        "vocab_type": _text,
        "unk_id": _number,
        "errors": _text,
        "legacy": _flag,
        "legacy_behaviour": _flag,
        "fix_mistral_regex": _flag,
    },
    refused={
        **_NO_FILES,
        "sp_model_kwargs": "it steers SentencePiece, which may sample or read another file; the artifact runs neither",
    },
    idle={
        "name_or_path": _anything,
        "special_tokens_map_file": _anything,
        **dict.fromkeys(("vocab_file", "merges_file", "spm_file", "tokenizer_file"), _one_of(None)),
        "backend": _one_of("tokenizers"),
        "chat_template": _anything,
        "response_template": _anything,
        "response_schema": _anything,
        "chat_control_tokens": _anything,
        "processor_class": _anything,
        "is_local": _flag,
        "local_files_only": _flag,
        "verbose": _flag,
        "device_map": _anything,
        "files_loaded": _anything,
        "slow_tokenizer_class": _anything,
        "transformers_version": _anything,
        "use_fast": _flag,
        "full_tokenizer_file": _one_of(None),
        # What the tokenizer of version 4 in Python did; the tokenizers library never did.
        "do_basic_tokenize": _one_of(True),
        "never_split": _one_of([]),
        # How transformers pads and cuts when it is asked to; the artifact pads and cuts by itself.
        "max_length": _anything,
        "stride": _one_of(0),
        "truncation_strategy": _anything,
        "pad_to_multiple_of": _anything,
        "pad_token_type_id": _number,
        "padding": _anything,
        "truncation": _anything,
    },
    pattern=(re.compile(r"\w+_token"), _token),
)

SPECIAL_TOKENS = Table(honoured=_SPECIALS, refused=_NO_FILES, pattern=(re.compile(r"\w+_token"), _token))

_ARGUMENTS = "it passes arguments to the loader, which deploycomp does not take from a checkpoint"

_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}

SENTENCE = Table(
    honoured={
        "max_seq_length": _number,
        "do_lower_case": _flag,
        "transformer_task": _text,
        "module_output_name": _one_of("token_embeddings"),
        "modality_config": lambda value: isinstance(value, dict) and value.get("text") == _FORWARD,
    },
    refused={
        **dict.fromkeys(
            ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"),
            _ARGUMENTS,
        ),
        "processing_kwargs": "it changes how every text is tokenized",
        "tokenizer_name_or_path": "it names a tokenizer elsewhere",
        "query_length": "it belongs to a model of many vectors a text",
        "document_length": "it belongs to a model of many vectors a text",
        "query_expansion": "it belongs to a model of many vectors a text",
    },
    idle={"unpad_inputs": _flag},
)

PROMPTS = Table(
    honoured={
        "prompts": lambda value: isinstance(value, dict) and _texts(list(cast("dict[str, Any]", value).values())),
        "default_prompt_name": _text,
        "similarity_fn_name": _one_of("cosine", "dot", "euclidean", "manhattan"),
        "model_type": _one_of("SentenceTransformer"),
    },
    idle={"__version__": _anything, "requirements": _anything},
)

_POOLING_FLAGS = (
    "pooling_mode_cls_token", "pooling_mode_max_tokens", "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken",
)  # fmt: skip

POOLING = Table(
    honoured={
        "pooling_mode": lambda value: _text(value) or _texts(value),
        "include_prompt": _flag,
        **dict.fromkeys(_POOLING_FLAGS, _flag),
    },
    idle={"word_embedding_dimension": _number, "embedding_dimension": _number},
)

NORMALIZE = Table(honoured={"module_input_name": _text, "module_output_name": _one_of("sentence_embedding")})

MODULE = Table(
    honoured={"type": _text, "path": _text},
    idle={"idx": _number, "name": _anything, "kwargs": _one_of([])},
)

TABLES = {
    "config.json": CONFIG,
    "tokenizer_config.json": TOKENIZER,
    "special_tokens_map.json": SPECIAL_TOKENS,
    "sentence_bert_config.json": SENTENCE,
    "config_sentence_transformers.json": PROMPTS,
    "Pooling/config.json": POOLING,
    "Normalize/config.json": NORMALIZE,
    "modules.json": MODULE,
}
"""File → its closed list; of modules.json, that of one module."""


def close(table: Table, values: Mapping[str, Any], *, where: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a file's closed list lets through, and a note on what was dropped.

    Args:
        table: The file's closed list.
        values: What the file says.
        where: The file.

    Raises:
        InputRefused: A setting that is refused, or a value of the wrong kind.
    """
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in values.items():
        empty = value is None or value in ({}, [])
        if name in table.refused:
            if empty or value is False:
                continue
            raise InputRefused(
                f"{where.name} holds the setting {name!r}, which is refused",
                where=str(where),
                why=table.refused[name],
                hint=f"remove {name!r} if the model works without it",
            )
        check = _check_of(table, name)
        if check is not None:
            if value is not None and not check(value):
                raise InputRefused(
                    f"{where.name} gives {name!r} a value that it cannot have",
                    where=str(where),
                    why=_short(value),
                    hint="save it with transformers again, or remove the setting",
                )
            kept[name] = value
        elif name in table.idle:
            dropped += [] if value is None or table.idle[name](value) else [name]
        elif table.open:
            kept[name] = value
        else:
            dropped += [] if empty else [name]
    return kept, told(dropped, where.name)


def _check_of(table: Table, name: str) -> Check | None:
    if name in table.honoured:
        return table.honoured[name]
    if name not in table.idle and table.pattern is not None and table.pattern[0].fullmatch(name):
        return table.pattern[1]
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def told(dropped: list[str], file: str) -> tuple[str, ...]:
    """Return a note on settings that were dropped, or none."""
    if not dropped:
        return ()
    names = ", ".join(dropped[:NAMED]) + (f" and more, {len(dropped)} in all" if len(dropped) > NAMED else "")
    return (f"{file}: without effect and dropped: {names}",)
