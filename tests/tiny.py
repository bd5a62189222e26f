"""Tiny, seeded, real models and tokenizers, built in code and saved as ordinary Hugging Face folders.

    folder = build(tmp_path / "model", "roberta", "token-classification")
    folder = build(tmp_path / "model", "bert", "sentence-similarity", pooling="cls", normalize=False)

Two layers, 32 wide, 4 heads. Every weight, bias and norm is random and large enough that outputs differ
between inputs and that no two tensors are equal: nothing is zero, folded away or deduplicated by accident.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from deploycomp.recipe import Task

MAX_LENGTH = 128
HIDDEN, HEADS, LAYERS, INTERMEDIATE, EMBEDDING = 32, 4, 2, 64, 16
POSITION_OFFSET = 2
"""RoBERTa-likes and MPNet count positions from padding_idx + 1."""

_TEXT = """
the a an and or not no very so it is was are were this that i you we they he she of to in on at for
with from by good bad great awful nice poor best worst love hate like enjoy film movie story actor
plot scene music sound light lamp door window room kitchen open close turn set play stop start call
send find show read write red green blue big small new old fast slow hot cold one two three ten day
night morning today tomorrow paris london berlin anna peter mary google nasa river city country
capital what who where when why how
"""
WORDS = tuple(_TEXT.split())
PIECES = ("s", "ed", "ing", "er", "est", "ly", "ness", "able", "tion", "al")
"""Endings, so that words are also split into pieces."""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'-"

TEXT_LABELS = ("negative", "neutral", "positive")
ENTITY_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def texts(count: int, *, seed: int = 0, low: int = 1, high: int = 30) -> list[str]:
    """Return *count* seeded sentences of *low* to *high* words, most of them known, some split."""
    draw = random.Random(seed)
    return [
        " ".join(
            draw.choice(WORDS) + (draw.choice(PIECES) if draw.random() < 0.15 else "")
            for _ in range(draw.randint(low, high))
        )
        for _ in range(count)
    ]


# ------------------------------------------------------------ tokenizers


def _wordpiece(specials: list[str]) -> dict[str, int]:
    tokens = [
        *specials,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        *(f"##{piece}" for piece in PIECES),
    ]
    return {token: index for index, token in enumerate(dict.fromkeys([*tokens, *WORDS]))}


def _byte_level(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """All 256 bytes, and merges that build a part of the words letter by letter."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges: dict[tuple[str, str], None] = {}
    for word in WORDS[::4]:
        left = "Ġ"
        for letter in word:
            merges[left, letter] = None
            left += letter
    tokens = [*specials, *sorted(ByteLevel.alphabet()), *(left + right for left, right in merges)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def _unigram(specials: list[str]) -> list[tuple[str, float]]:
    pieces = ["▁", *LETTERS, *PIECES, *(f"▁{word}" for word in WORDS)]
    scores = dict.fromkeys(specials, 0.0)
    for index, piece in enumerate(pieces):
        scores.setdefault(piece, -8.0 - index / 100 if len(piece) == 1 else -4.0 - index / 100)
    return list(scores.items())


def _bert_tokenizer(**options: Any) -> Any:
    from transformers import BertTokenizer

    return BertTokenizer(vocab=_wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), **options)


def _distilbert_tokenizer(**options: Any) -> Any:
    """DistilBERT's tokenizer is BERT's, which names its inputs without token types."""
    return _bert_tokenizer(model_input_names=["input_ids", "attention_mask"], **options)


def _mpnet_tokenizer(**options: Any) -> Any:
    from transformers import MPNetTokenizer

    vocab = _wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])
    return MPNetTokenizer(vocab=vocab, model_input_names=["input_ids", "attention_mask"], **options)


def _roberta_tokenizer(**options: Any) -> Any:
    from transformers import RobertaTokenizer

    vocab, merges = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return RobertaTokenizer(vocab=vocab, merges=merges, **options)


def _deberta_tokenizer(**options: Any) -> Any:
    from transformers import DebertaTokenizer

    vocab, merges = _byte_level(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])
    return DebertaTokenizer(vocab=vocab, merges=merges, **options)


def _modernbert_tokenizer(**options: Any) -> Any:
    """ModernBERT has no class of its own: a plain PreTrainedTokenizerFast around the tokenizers library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _byte_level(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        **options,
    )


def _xlm_roberta_tokenizer(**options: Any) -> Any:
    from transformers import XLMRobertaTokenizer

    return XLMRobertaTokenizer(vocab=_unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), **options)


def _camembert_tokenizer(**options: Any) -> Any:
    from transformers import CamembertTokenizer

    specials = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>"]
    return CamembertTokenizer(vocab=_unigram(specials), **options)


def _albert_tokenizer(**options: Any) -> Any:
    from transformers import AlbertTokenizer

    return AlbertTokenizer(vocab=_unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]), **options)


def _deberta_v2_tokenizer(**options: Any) -> Any:
    from transformers import DebertaV2Tokenizer

    return DebertaV2Tokenizer(vocab=_unigram(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), **options)


# ------------------------------------------------------------ architectures


@dataclass(frozen=True)
class Architecture:
    """How one architecture is built: its model type, its tokenizer and what its config says."""

    model_type: str
    tokenizer: Callable[..., Any]
    config: dict[str, Any] = field(default_factory=dict)
    position_offset: int = 0


_BASE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INTERMEDIATE,
}
_TYPES = {"type_vocab_size": 2}
_RELATIVE: dict[str, Any] = {"relative_attention": True, "type_vocab_size": 0, "pad_token_id": 0}

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture("bert", _bert_tokenizer, {**_BASE, **_TYPES}),
    "distilbert": Architecture(
        "distilbert",
        _distilbert_tokenizer,
        {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": INTERMEDIATE},
    ),
    "roberta": Architecture("roberta", _roberta_tokenizer, {**_BASE, "type_vocab_size": 1}, POSITION_OFFSET),
    "xlm-roberta": Architecture(
        "xlm-roberta", _xlm_roberta_tokenizer, {**_BASE, "type_vocab_size": 1}, POSITION_OFFSET
    ),
    "camembert": Architecture("camembert", _camembert_tokenizer, {**_BASE, "type_vocab_size": 1}, POSITION_OFFSET),
    "electra": Architecture("electra", _bert_tokenizer, {**_BASE, **_TYPES, "embedding_size": EMBEDDING}),
    "albert": Architecture(
        "albert", _albert_tokenizer, {**_BASE, **_TYPES, "embedding_size": EMBEDDING, "num_hidden_groups": 1}
    ),
    "mpnet": Architecture("mpnet", _mpnet_tokenizer, {**_BASE}, POSITION_OFFSET),
    "deberta": Architecture(
        "deberta",
        _deberta_tokenizer,
        {**_BASE, **_RELATIVE, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]},
    ),
    "deberta-v2": Architecture(
        "deberta-v2",
        _deberta_v2_tokenizer,
        {
            **_BASE,
            **_RELATIVE,
            "type_vocab_size": 2,
            "position_biased_input": True,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": False,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
    ),
    "deberta-v3": Architecture(
        "deberta-v2",
        _deberta_v2_tokenizer,
        {
            **_BASE,
            **_RELATIVE,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 16,
        },
    ),
    "modernbert": Architecture(
        "modernbert", _modernbert_tokenizer, {**_BASE, "local_attention": 16, "bos_token_id": 2, "eos_token_id": 3}
    ),
}
"""One entry per key; `deberta-v2` and `deberta-v3` are two styles of model type `deberta-v2`."""

AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "sentence-similarity": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
}


def tasks_of(arch: str) -> tuple[Task, ...]:
    """Return the tasks that *arch* has a transformers class for; sentence-similarity wraps any encoder."""
    assert arch in ARCHITECTURES
    return get_args(Task)


def build(
    folder: Path,
    arch: str,
    task: str,
    *,
    seed: int = 0,
    labels: tuple[str, ...] | None = None,
    problem_type: str | None = None,
    max_length: int = MAX_LENGTH,
    dtype: str = "float32",
    pooling: str = "mean",
    normalize: bool = True,
    **config_overrides: Any,
) -> Path:
    """Write a tiny model of *arch* with the head of *task*, and its tokenizer, to *folder*.

    Args:
        folder: Where to write; it is made.
        arch: A key of `ARCHITECTURES`.
        task: A task of `tasks_of(arch)`.
        seed: Every weight follows from it.
        labels: Names of the classes; three sentiments, five BIO labels, or one score for regression.
        problem_type: Written to the config of a text classifier.
        max_length: The longest input in tokens that the position embeddings and the tokenizer allow.
        dtype: What the weights are stored as.
        pooling: mean, cls or max (sentence-similarity).
        normalize: Whether a Normalize module follows (sentence-similarity).
        **config_overrides: Values for the transformers config.

    Returns:
        The folder.
    """
    import torch
    import transformers
    from transformers.utils import logging

    style = ARCHITECTURES[arch]
    tokenizer = style.tokenizer(model_max_length=max_length)
    values: dict[str, Any] = {
        **style.config,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": max_length + style.position_offset,
        **{
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
            for name in ("pad", "bos", "eos", "cls", "sep")
            if getattr(tokenizer, f"{name}_token_id") is not None
        },
        **_head(task, labels, problem_type),
        **config_overrides,
    }
    config = transformers.AutoConfig.for_model(style.model_type, **values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, AUTO_CLASSES[task]).from_config(config)
    _randomize(model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    try:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        logging.enable_progress_bar()
    if task == "sentence-similarity":
        _sentence_transformer(folder, pooling, normalize=normalize, max_length=max_length)
    return folder


def _head(task: str, labels: tuple[str, ...] | None, problem_type: str | None) -> dict[str, Any]:
    if task not in ("text-classification", "token-classification"):
        return {}
    if labels is None:
        text = ("LABEL_0",) if problem_type == "regression" else TEXT_LABELS
        labels = text if task == "text-classification" else ENTITY_LABELS
    names = dict(enumerate(labels))
    head: dict[str, Any] = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    return head | ({"problem_type": problem_type} if problem_type else {})


def _randomize(model: Any, seed: int) -> None:
    """Draw every parameter anew, wide enough that attention and logits depend on the input."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2:
                embedding = "embedding" in name and "project" not in name and "mapping" not in name
                scale = 0.7 if embedding else 1.3 / parameter[0].numel() ** 0.5
                parameter.copy_(noise * scale)
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    model.eval()


def _sentence_transformer(folder: Path, pooling: str, *, normalize: bool, max_length: int) -> None:
    """Add what sentence-transformers keeps beside the encoder."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write(
        folder / "modules.json",
        [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules[: 3 if normalize else 2])
        ],
    )
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    flags = {f"pooling_mode_{mode}": mode in (pooling, f"{pooling}_token", f"{pooling}_tokens") for mode in modes}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **flags})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    versions = {"sentence_transformers": "5.0.0", "transformers": "5.3.0", "pytorch": "2.13.0"}
    _write(
        folder / "config_sentence_transformers.json",
        {"__version__": versions, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    if normalize:
        (folder / "2_Normalize").mkdir(exist_ok=True)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
