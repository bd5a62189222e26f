"""What loaders look for, with values that could matter: the words that mutations are made of."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import trees
from tests.fuzz.mangle import mangle

__all__ = [
    "CELLS", "CONFIG", "MANIFEST", "ROW", "SENTENCE", "TOKENIZER", "TOKENIZER_CONFIG", "change_number",
    "change_weights", "hostile_node",
]  # fmt: skip

_PATHS = ["../canary.txt", "canary.txt", "/etc/hostname", "../model/vocab.txt", "evil/repo", "https://127.0.0.1:9/x"]
_BOTH = [True, False]
_TOKENS = ["[PAD]", "[UNK]", "<mask>", "good", "the", "", "[NEW]", {"content": "good", "lstrip": True}, None]

CONFIG: dict[str, list[Any]] = {
    "architectures": [["BertModel"], ["BertForMaskedLM"], ["RobertaForSequenceClassification"], [], ["os.system"]],
    "model_type": ["bert", "roberta", "distilbert", "electra", "xlm-roberta", "gpt2", "timm_wrapper", "camembert"],
    "auto_map": [{"AutoModel": "evil--modeling.Evil"}],
    "trust_remote_code": [True],
    "_attn_implementation_internal": ["evil/kernel"],
    "attn_implementation": ["flash_attention_2", "eager"],
    "transformers_weights": [*_PATHS, "model.safetensors", "other.safetensors", "pytorch_model.bin"],
    "quantization_config": [{"quant_method": "bitsandbytes"}, {}],
    "problem_type": ["regression", "multi_label_classification", "single_label_classification", "other"],
    "num_labels": [1, 2, 3, 4],
    "id2label": [
        {"0": "a", "1": "b", "2": "c"},
        {"0": "1", "1": "2", "2": "0"},
        {"0": "a"},
        {"2": "a", "1": "b", "0": "c"},
    ],
    "label2id": [{"a": 0, "b": 1, "c": 2}, {"negative": 2, "neutral": 1, "positive": 0}],
    "hidden_act": ["gelu", "gelu_new", "relu", "silu", "gelu_fast", "quick_gelu", "tanh"],
    "activation": ["gelu", "relu"],
    "layer_norm_eps": [1e-12, 1e-5, 0.1, 1.0],
    "num_hidden_layers": [0, 1, 2, 1000],
    "num_attention_heads": [1, 2, 3, 4, 8],
    "hidden_size": [16, 32, 33],
    "intermediate_size": [32, 64],
    "vocab_size": [1, 100, 10**9],
    "type_vocab_size": [0, 1, 2, 3],
    "max_position_embeddings": [1, 16, 64, 66, 10**9],
    "pad_token_id": [0, 1, 2, 5, -1, None, 10**6],
    "position_embedding_type": ["absolute", "relative_key", "relative_key_query"],
    "is_decoder": _BOTH,
    "add_cross_attention": _BOTH,
    "is_encoder_decoder": _BOTH,
    "tie_word_embeddings": _BOTH,
    "use_return_dict": _BOTH,
    "return_dict": _BOTH,
    "output_attentions": _BOTH,
    "output_hidden_states": _BOTH,
    "torchscript": _BOTH,
    "use_cache": _BOTH,
    "chunk_size_feed_forward": [0, 1, 7],
    "pruned_heads": [{"0": [0, 1]}, {"0": [9]}],
    "dtype": ["float16", "bfloat16", "float64", "int8", "complex64"],
    "torch_dtype": ["float16", "float32"],
    "classifier_dropout": [0.5, 1.0],
    "attention_probs_dropout_prob": [0.9],
    "scale_attn_weights": _BOTH,
    "gradient_checkpointing": _BOTH,
    "tokenizer_class": ["BertTokenizer", "RobertaTokenizer", "BertJapaneseTokenizer", "EvilTokenizer"],
    "summary_type": ["first", "last"],
    "sep_token_id": [0, 2],
    "_name_or_path": _PATHS,
    "finetuning_task": ["mnli", "sst2"],
    "task_specific_params": [{"text-classification": {"top_k": 1}}],
    "label_smoothing": [0.1],
    "sliding_window": [4],
    "text_config": [{"model_type": "bert"}],
    "sentence_transformers": [{"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.0"}],
}

TOKENIZER_CONFIG: dict[str, list[Any]] = {
    "tokenizer_class": [
        "BertTokenizer",
        "BertTokenizerFast",
        "RobertaTokenizer",
        "PreTrainedTokenizerFast",
        "DistilBertTokenizer",
        "XLMRobertaTokenizer",
        "T5Tokenizer",
        "BertJapaneseTokenizer",
        "LlamaTokenizer",
        "Evil",
        "AlbertTokenizer",
        "TokenizersBackend",
        "CanineTokenizer",
        "ElectraTokenizer",
        "DebertaV2Tokenizer",
    ],
    "do_lower_case": _BOTH,
    "do_basic_tokenize": _BOTH,
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": _BOTH,
    "lowercase": _BOTH,
    "do_lowercase": _BOTH,
    "remove_space": _BOTH,
    "keep_accents": _BOTH,
    "add_prefix_space": _BOTH,
    "trim_offsets": _BOTH,
    "truncation_side": ["left", "right"],
    "padding_side": ["left", "right"],
    "model_max_length": [1, 2, 3, 8, 16, 64, 512, 10**30, 1e30, "16", -5, 0],
    "max_length": [8],
    "max_len": [8],
    "model_input_names": [
        ["input_ids", "attention_mask"],
        ["input_ids", "token_type_ids", "attention_mask"],
        ["input_ids"],
        [],
        ["pixels"],
    ],
    "clean_up_tokenization_spaces": _BOTH,
    "split_special_tokens": _BOTH,
    "add_special_tokens": _BOTH,
    "add_bos_token": _BOTH,
    "add_eos_token": _BOTH,
    "legacy": _BOTH,
    "fix_mistral_regex": _BOTH,
    "use_fast": _BOTH,
    "fast": _BOTH,
    "backend": ["tokenizers", "python", "custom"],
    "vocab": [*_PATHS, {"good": 0}, [["good", 0.1]]],
    "vocab_file": _PATHS,
    "merges_file": _PATHS,
    "merges": [*_PATHS, []],
    "tokenizer_file": _PATHS,
    "spm_file": _PATHS,
    "sp_model_kwargs": [{"enable_sampling": True, "alpha": 0.1}],
    "from_slow": _BOTH,
    "chat_template": ["{{ messages }}"],
    "auto_map": [{"AutoTokenizer": ["evil--tok.Evil", None]}],
    "processor_class": ["CLIPProcessor", "BertProcessor"],
    "added_tokens_decoder": [
        {
            "7": {
                "content": "good",
                "special": False,
                "lstrip": True,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            }
        },
        {"999999": {"content": "new", "special": True}},
        {"0": {"content": "film", "special": True}},
    ],
    "additional_special_tokens": [["good"], ["[NEW]"], "good"],
    "extra_special_tokens": [["good"], {"x_token": "film"}, ["[NEW]"]],
    "unk_token": _TOKENS,
    "pad_token": _TOKENS,
    "cls_token": _TOKENS,
    "sep_token": _TOKENS,
    "mask_token": _TOKENS,
    "bos_token": _TOKENS,
    "eos_token": _TOKENS,
    "pad_token_type_id": [1, 7],
    "unk_index": [3],
    "stride": [4],
    "pad_to_multiple_of": [8],
    "never_split": [["good"]],
    "word_tokenizer_type": ["mecab"],
    "normalizer": [{"type": "Lowercase"}],
    "name_or_path": _PATHS,
    "special_tokens_map_file": _PATHS,
}

_TYPED: list[Any] = [
    None,
    {"type": "Lowercase"}, {"type": "NFKC"}, {"type": "StripAccents"}, {"type": "Prepend", "prepend": "▁"},
    {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": False,
    },
    {"type": "Replace", "pattern": {"Regex": "."}, "content": "good "},
    {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "("}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": ""}, "content": "x" * 1000},
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "\\p{Evil}"}, "content": ""},
    {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "xxxxxxxxxx"}] * 7},
    {"type": "Sequence", "normalizers": [], "pretokenizers": [], "processors": []},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
    {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"Regex": "(?=)"}, "behavior": "Removed", "invert": True},
    {"type": "Split", "pattern": {"String": "o"}, "behavior": "MergedWithNext", "invert": False},
    {"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "BertPreTokenizer"}, {"type": "Punctuation"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "_____", "prepend_scheme": "never", "split": False},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "FixedLength", "length": 0}, {"type": "CharDelimiterSplit", "delimiter": " "},
    {
        "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3, "pair": [],
        "special_tokens": {},
    },
    {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 9}}], "pair": [],
        "special_tokens": {},
    },
    {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[X]": {"id": "[X]", "ids": [10**6], "tokens": ["[X]"]}},
    },
    {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 2]},
    {"type": "RobertaProcessing", "sep": ["x", 1], "cls": ["y", 2]},
    {
        "type": "WordPiece", "unk_token": "[MISSING]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 0, "vocab": {},
    },
    {"type": "WordLevel", "vocab": {"good": 0, "film": 0, "x": 4294967295}, "unk_token": "x"},
    {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]], "dropout": 0.9, "unk_token": None},
    {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]], "byte_fallback": True},
    {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    {"direction": "Right", "max_length": 4, "strategy": "OnlyFirst", "stride": 9},
    {
        "strategy": {"Fixed": 10**12}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 5, "pad_type_id": 1,
        "pad_token": "x",
    },
]  # fmt: skip
"""Parts of a tokenizer: honest ones that answer otherwise, expensive ones, and impossible ones."""

_PARTS = ("normalizer", "normalizer", "pre_tokenizer", "post_processor", "model", "truncation", "padding", "decoder")

_WHOLE = {"single_word": False}

TOKENIZER: dict[str, list[Any]] = {
    **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "truncation", "padding", "model"), _TYPED),
    "added_tokens": [
        [],
        [
            {
                "id": 9,
                "content": "good",
                "single_word": False,
                "lstrip": True,
                "rstrip": True,
                "normalized": True,
                "special": True,
            }
        ],
        [
            {
                "id": 10**6,
                "content": "new",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        ],
    ],
    "version": ["1.0", "9.9"],
    "lowercase": _BOTH,
    "strip_accents": _BOTH,
    "unk_token": ["[UNK]", "good", "[MISSING]"],
    "dropout": [0.1, 1.0],
    "fuse_unk": _BOTH,
    "byte_fallback": _BOTH,
    "ignore_merges": _BOTH,
    "continuing_subword_prefix": ["##", "@@", ""],
    "max_input_chars_per_word": [0, 1, 3],
    "cls": [["[CLS]", 0]],
    "single": [[]],
    "type_id": [0, 1, 5],
    "special": _BOTH,
    "normalized": _BOTH,
}

SENTENCE: dict[str, dict[str, list[Any]]] = {
    "modules.json": {
        "type": [
            "sentence_transformers.models.Dense", "sentence_transformers.models.Dropout", "os.system",
            "sentence_transformers.models.LayerNorm", "sentence_transformers.sentence_transformer.modules.Pooling",
            "sentence_transformers.models.Normalize", "sentence_transformers.cross_encoder.CrossEncoder",
        ],
        "path": ["", "../model", "1_Pooling", ".", "/etc", "0_Transformer"],
        "kwargs": [["task"], ["prompt_name"]],
        "idx": [0, 1, 5],
    },
    "1_Pooling/config.json": {
        "pooling_mode": ["cls", "mean", "max", "lasttoken", ["cls", "mean"], "weightedmean", "evil", []],
        **{f"pooling_mode_{mode}": _BOTH for mode in (
            "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken",
        )},
        "word_embedding_dimension": [16, 32, 64],
        "embedding_dimension": [16, 32],
        "include_prompt": _BOTH,
    },
    "sentence_bert_config.json": {
        "max_seq_length": [1, 4, 16, 64, 512, None, "16", 16.0],
        "do_lower_case": _BOTH,
        "transformer_task": ["feature-extraction", "fill-mask"],
        "modality_config": [{"text": {"method": "forward", "method_output_name": "pooler_output"}}],
        "module_output_name": ["token_embeddings", "last_hidden_state"],
        "config_args": [{"hidden_act": "relu"}],
        "model_args": [{"attn_implementation": "eager"}, {"dtype": "float16"}],
        "tokenizer_args": [{"do_lower_case": False}, {"truncation_side": "left"}],
        "processing_kwargs": [{"text": {"max_length": 4}}],
        "unpad_inputs": _BOTH,
    },
    "config_sentence_transformers.json": {
        "prompts": [{"query": "the good "}, {"query": "", "document": "film "}, {"": "x "}],
        "default_prompt_name": ["query", "document", "missing", None],
        "similarity_fn_name": ["cosine", "dot", "euclidean", "evil"],
        "truncate_dim": [8, 16],
        "model_type": ["SentenceTransformer", "SparseEncoder", "CrossEncoder"],
        "__version__": [{"sentence_transformers": "99.0.0"}],
    },
    "2_Normalize/config.json": {"module_input_name": ["sentence_embedding", "token_embeddings"], "p": [1]},
}  # fmt: skip

MANIFEST: dict[str, list[Any]] = {
    "schema_version": [0, 1, 2, "1"],
    "task": ["text-classification", "token-classification", "feature-extraction", "fill-mask", "sentence-similarity"],
    "model": ["model.onnx", "../artifact/model.onnx", "canary.txt", "./model.onnx", "model.onnx.data", ""],
    "labels": [["a", "b", "c"], ["positive", "neutral", "negative"], None, ["a"]],
    "max_length": [1, 4, 10**9, "64", 8.5],
    "pad_token_id": [1, 10**6, -1],
    "padding_side": ["left", "middle"],
    "problem_type": ["regression", "multi_label_classification"],
    "session": [{"session.intra_op.allow_spinning": "0"}, {"session.use_env_allocators": "x"}, {"\0": "\0"}, []],
    "inputs": [{"input_ids": []}, {"evil": []}, {}],
    "fixed": [{"batch": 1}, {"sequence": 4}, {"batch": -1, "sequence": "x"}],
    "evidence": [["model.onnx"], []],
    "files": [{}, {"../canary.txt": {"sha256": "0", "bytes": 1}}],
    "runtime": [None, [], "x", {}],
    "truncation_side": ["left"],
    "prompt": ["film "],
}

ROW: dict[str, list[Any]] = {
    "text": ["the good film", "", " ", None, ["the", "film"], "x" * 5_000],
    "label": ["negative", "neutral", "positive", "other", 0, 1, 2, 3, -1, True, None, ["neutral"], "0", " neutral"],
    "sentence": ["the good film"],
    "id": [1],
    "labels": [1],
}

CELLS = (
    "", " ", "negative", "positive", "neutral ", "0", "1", "-1", "nan", "NA", "null", "1e5", "the, good",
    'the "good" film',
    "a\nb", "a\r\nb", "\ttab", "\0", "=cmd()", "'", '"', "\\", "x" * 200_000, "\ufeffx", "\ud800", "ünïcode", "#",
    "2026-01-01",
)  # fmt: skip


def hostile_node(path: Path, draw: Random) -> str:
    """Put another part into a tokenizer.json."""
    try:
        tree = trees.read(path.read_bytes())
    except (ValueError, RecursionError):
        return f"{path.name} once more"
    part = draw.choice(_PARTS)
    index, value = draw.choice(list(enumerate(_TYPED)))
    if isinstance(tree, trees.Pairs):
        node = trees.read(json.dumps(value).encode())
        tree[:] = [(key, node if key == part else old) for key, old in tree]
    path.write_bytes(trees.write(tree))
    return f"{part} of {path.name} becomes part {index}: {json.dumps(value)[:80]}"


# ------------------------------------------------------------ safetensors


_NUMBERS = (math.nan, math.inf, -math.inf, 0.0, 1e38, -1e38, 1e-40)


def change_weights(folder: Path, draw: Random) -> str:
    """Change a safetensors file: its header as JSON, numbers in its data, or any bytes."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    kind = draw.choice(["header", "header", "header", "number", "number", "bytes", "bytes", "length", "pickle"])
    if kind == "header" and length < len(data):
        try:
            tree = trees.change(trees.read(data[8 : 8 + length]), draw, keys=_HEADER)
        except (ValueError, RecursionError):
            return "weights once more"
        header = trees.write(tree)
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    elif kind == "number":
        path.write_bytes(_numbers(data, 8 + length, draw))
    elif kind == "length":
        path.write_bytes(draw.choice([0, 1, length - 1, length + 1, 2**40, 2**64 - 1]).to_bytes(8, "little") + data[8:])
    elif kind == "pickle":
        name = draw.choice(
            ["pytorch_model.bin", "adapter_model.bin", "model.safetensors.index.json", "modeling_evil.py"]
        )
        (folder / name).write_bytes(draw.choice([b"\x80\x04N.", b"{}", b'{"weight_map": {}}', b"raise SystemExit"]))
        return f"{name} beside the weights"
    else:
        path.write_bytes(mangle(data, draw))
    return f"{kind} of the weights"


_HEADER: dict[str, list[Any]] = {
    "__metadata__": [{"format": "pt"}, {"format": "tf"}, {"format": "evil"}, {}],
    "dtype": ["F32", "F16", "I32", "F64", "BOOL", "F8_E4M3", "evil"],
    "shape": [[0], [1], [32], [32, 32], [-1], [2**40, 2**40], []],
    "data_offsets": [[0, 4], [0, 2**60], [4, 0]],
    "classifier.weight": [{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}],
}


def change_number(path: Path) -> None:
    """Make one weight of a safetensors file larger."""
    data = bytearray(path.read_bytes())
    data[-4:] = struct.pack("<f", 25.0)
    path.write_bytes(data)


def _numbers(data: bytes, start: int, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 5, 50])):
        at = start + 4 * draw.randrange((len(data) - start) // 4)
        changed[at : at + 4] = struct.pack("<f", draw.choice([*_NUMBERS, draw.gauss(0, 1), draw.gauss(0, 10)]))
    return bytes(changed)
