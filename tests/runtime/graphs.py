"""Hand-made models for the runtime room: a tokenizer in code, a bag-of-embeddings graph in ONNX and in numpy.

Both halves compute the same: embed, one matrix; per text the mean over attended tokens, or per token the row itself.
No torch, no transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from deploycomp import artifact

WIDTH = 8
LABELS = {
    "text-classification": ["negative", "positive", "neutral"],
    "token-classification": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = "the a cat dog river run runs is in on big small red blue who where why graz vienna ada tim . , ! ? -"
_PIECES = "s ing ed er ly a b c d e f g h i j k l m n o p q r t u v w x y z"
WORDS = _WORDS.split()
PIECES = ["##" + piece for piece in _PIECES.split()]
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
VOCABULARY = [*SPECIALS, *dict.fromkeys([*WORDS, *LETTERS]), *PIECES]
OUTPUTS = {
    "text-classification": ["logits"],
    "token-classification": ["logits"],
    "question-answering": ["start_logits", "end_logits"],
    "feature-extraction": ["last_hidden_state"],
    "sentence-similarity": ["last_hidden_state", "sentence_embedding"],
    "fill-mask": ["logits"],
}


def wordpiece() -> Tokenizer:
    """A BERT-like tokenizer that carries truncation and padding from training, as real ones do."""
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6)
    return tokenizer


def byte_level() -> Tokenizer:
    """A RoBERTa-like tokenizer: byte-level BPE, `<s> … </s>`, and `</s></s>` between a pair."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def weights(task: str, vocabulary: int = len(VOCABULARY)) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings [V, d], matrix [d, outputs]) of a task."""
    draw = np.random.default_rng(7)
    count = {"question-answering": 2, "fill-mask": vocabulary}.get(task, len(LABELS.get(task, range(WIDTH))))
    return (
        draw.normal(size=(vocabulary, WIDTH)).astype(np.float32),
        draw.normal(size=(WIDTH, count)).astype(np.float32),
    )


class NumpyRun:
    """The graph in numpy; it remembers the shapes that it was fed."""

    def __init__(self, task: str, vocabulary: int = len(VOCABULARY)):
        self.task = task
        self.table, self.matrix = weights(task, vocabulary)
        self.shapes: list[tuple[int, ...]] = []
        self.feeds: list[dict[str, np.ndarray]] = []

    def __call__(self, feeds: dict[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
        self.shapes.append(feeds["input_ids"].shape)
        self.feeds.append(feeds)
        tokens = self.table[feeds["input_ids"]] @ self.matrix
        # padding is poisoned, so that a test fails when it leaks
        tokens = np.where(feeds["attention_mask"][..., None] == 1, tokens, 1e6)
        mask = feeds["attention_mask"][..., None].astype(np.float32)
        mean = (np.where(mask == 1, tokens, 0)).sum(axis=1) / mask.sum(axis=1)
        if self.task == "question-answering":
            outputs = {"start_logits": tokens[..., 0], "end_logits": tokens[..., 1]}
        elif self.task == "sentence-similarity":
            outputs = {"last_hidden_state": tokens, "sentence_embedding": mean}
        else:
            outputs = {OUTPUTS[self.task][0]: mean if self.task == "text-classification" else tokens}
        return [outputs[name] for name in names]


def onnx_model(task: str) -> onnx.ModelProto:
    """The same graph in ONNX."""
    table, matrix = weights(task)
    node = helper.make_node
    tokens = OUTPUTS[task][0] if task not in ("text-classification", "question-answering") else "tokens"
    nodes = [node("Gather", ["table", "input_ids"], ["embedded"]), node("MatMul", ["embedded", "matrix"], [tokens])]
    if task in ("text-classification", "sentence-similarity"):
        nodes += [
            node("Cast", ["attention_mask"], ["mask2"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask2", "last"], ["mask"]),
            node("Mul", [tokens, "mask"], ["kept"]),
            node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
            node("ReduceSum", ["mask", "one"], ["count"], keepdims=0),
            node("Div", ["sum", "count"], [OUTPUTS[task][-1]]),
        ]
    if task == "question-answering":
        nodes += [
            node("Split", [tokens], ["start", "end"], axis=-1, num_outputs=2),
            node("Squeeze", ["start", "last"], ["start_logits"]),
            node("Squeeze", ["end", "last"], ["end_logits"]),
        ]
    integers = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in OUTPUTS[task]]
    constants = {"table": table, "matrix": matrix, "last": np.array([-1]), "one": np.array([1])}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, task, integers, floats, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def manifest(task: str, **runtime: Any) -> dict[str, Any]:
    """The part of a manifest that the runtime reads."""
    return {
        "task": task,
        "model": "model.onnx",
        "signature": {
            "inputs": {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask")},
            "outputs": {name: ["batch", WIDTH] for name in OUTPUTS[task]},
        },
        "runtime": {
            "max_length": 32,
            "pad_token_id": 0,
            "pad_token_type_id": 0,
            "padding_side": "right",
            "labels": LABELS.get(task),
            "problem_type": None,
            "mask_token": "[MASK]",
            "fixed": {"batch": None, "sequence": None},
            "session": {},
            **runtime,
        },
    }


def write_artifact(folder: Path, task: str, **runtime: Any) -> Path:
    """Seal a whole artifact of a task."""
    with artifact.stage(folder) as staging:
        onnx.save(onnx_model(task), staging.path / "model.onnx")
        wordpiece().save(str(staging.path / "tokenizer.json"))
        staging.seal(manifest(task, **runtime))
        return staging.publish().path
