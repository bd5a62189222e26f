"""`TorchModel`: a loaded checkpoint with all that export and evaluation must know, and its forward as pure tensors."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploycomp.models.anatomy import Anatomy
from deploycomp.models.plan import Plan
from deploycomp.models.sentence import Sentence, SentencePooling
from deploycomp.models.source import Source
from deploycomp.recipe import Task

__all__ = ["TorchModel", "forward_module", "pool"]

_SMALLEST_COUNT = 1e-9
"""Keeps a row without any token from dividing by zero, as sentence-transformers does."""

_FP32_BYTES = 4


@dataclass(frozen=True)
class TorchModel:
    """A checkpoint, loaded: FP32, on the CPU, in eval mode, without gradients.

    Args:
        module: The transformers model with the head of the task.
        tokenizer: Its fast tokenizer, padding on the right.
        task: What it is for.
        anatomy: Where its parts are.
        config: The transformers config.
        source: Where it came from.
        inputs: Names of its inputs, int64 [batch, sequence] each.
        outputs: Names of its outputs.
        max_length: The longest input in tokens, special tokens included.
        labels: Class names by index, for classifiers.
        problem_type: How a text classifier's logits are read.
        activation: What stands over the one score of a text classifier that gives one: "sigmoid" or "identity".
        sentence: The layout of sentence-transformers, for sentence-similarity.
        notes: What was ignored or dropped, and what to know.
        plan: What was cut out of it since its config was written.
    """

    module: nn.Module
    tokenizer: Any
    task: Task
    anatomy: Anatomy
    config: Any
    source: Source
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    max_length: int
    labels: tuple[str, ...] | None
    problem_type: str | None
    activation: str
    sentence: Sentence | None
    notes: tuple[str, ...]
    plan: Plan = field(default_factory=Plan)

    @property
    def pooling(self) -> SentencePooling | None:
        """How a sentence embedding is made, for sentence-similarity."""
        return self.sentence.pooling if self.sentence is not None else None

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The JSON files that it was loaded with, as loaders of the artifact shall read them."""
        files = {"config.json": self.source.config, **self.source.settings}
        if self.sentence is not None and self.sentence.lower_case:  # then transformers reads the artifact alike
            name = "tokenizer_config.json"
            files[name] = {**files.get(name, {}), "do_lower_case": True}
        return files

    @property
    def parameters(self) -> int:
        """The number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def fp32_bytes(self) -> int:
        """Bytes of the parameters in FP32."""
        return _FP32_BYTES * self.parameters

    @property
    def runtime(self) -> dict[str, Any]:
        """What `Predictor` must know besides the graph: a manifest's `runtime` block, without shape and session."""
        return {
            "max_length": self.max_length,
            "pad_token_id": self.tokenizer.pad_token_id,
            "pad_token_type_id": self.tokenizer.pad_token_type_id,
            "padding_side": self.tokenizer.padding_side,
            "truncation_side": self.tokenizer.truncation_side,
            "split_special_tokens": bool(self.tokenizer.split_special_tokens),
            "labels": list(self.labels) if self.labels is not None else None,
            "problem_type": self.problem_type,
            "activation": self.activation,
            "mask_token": self.tokenizer.mask_token,
            "unk_token_id": self.tokenizer.unk_token_id,
            "prompts": dict(self.sentence.prompts) if self.sentence is not None else {},
            "default_prompt_name": self.sentence.default_prompt if self.sentence is not None else None,
        }

    def run(self, feeds: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        """Run the model the way an ONNX session is run.

        Args:
            feeds: Input name → int64 [batch, sequence].
            outputs: Names of the outputs to return.

        Returns:
            One array for each of *outputs*.
        """
        with torch.inference_mode():
            tensors = [torch.tensor(feeds[name], dtype=torch.int64) for name in self.inputs]
            results = dict(zip(self.outputs, forward_module(self)(*tensors), strict=True))
        return [results[name].numpy() for name in outputs]

    def fork(self) -> TorchModel:
        """A copy that shares every parameter, and so costs no memory: cuts and fits put new ones in their place."""
        shared: dict[int, Any] = {id(each): each for each in self.module.parameters()}
        return replace(self, module=copy.deepcopy(self.module, shared))

    def release(self) -> None:
        """Let go of the weights, whoever still refers to the module: torch's tracer keeps what it traced."""
        for parameter in self.module.parameters():
            parameter.data = torch.empty(0, dtype=parameter.dtype)


def forward_module(model: TorchModel) -> nn.Module:
    """Return a module from plain tensors to plain tensors, in the order of `model.inputs` and `model.outputs`.

    Args:
        model: A loaded model; its own module is used, not copied.

    Returns:
        A module whose forward takes (input_ids, attention_mask[, token_type_ids]) and returns a tuple.
    """
    forward = _Forward(model.module, model.outputs, model.pooling)
    return forward.eval()


class _Forward(nn.Module):
    """A transformers model from tensors to tensors, without anything that an exporter would have to look past."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...], pooling: SentencePooling | None):
        super().__init__()
        self.module = module
        self.outputs = outputs
        self.pooling = pooling

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run on [batch, sequence] int64 tensors."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result = self.module(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
        if self.pooling is None:
            return tuple(result[name] for name in self.outputs)
        tokens = result["last_hidden_state"]
        return tokens, pool(tokens, attention_mask, self.pooling)


def pool(tokens: Tensor, attention_mask: Tensor, pooling: SentencePooling) -> Tensor:
    """Make sentence embeddings as sentence-transformers does, for rows padded on the right.

    Args:
        tokens: [batch, sequence, hidden].
        attention_mask: [batch, sequence], 1 for a token and 0 for padding.
        pooling: Modes and normalisation.

    Returns:
        [batch, hidden × number of modes].
    """
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    vectors = [_POOLINGS[mode](tokens, mask) for mode in pooling.modes]
    vector = vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)
    return nn.functional.normalize(vector, p=2.0, dim=-1) if pooling.normalize else vector


def _count(mask: Tensor) -> Tensor:
    return mask.sum(dim=1).clamp(min=_SMALLEST_COUNT)


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask == 0, torch.finfo(tokens.dtype).min).amax(dim=1)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask).sum(dim=1) / _count(mask)


def _mean_sqrt_len(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask).sum(dim=1) / _count(mask).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Later tokens weigh more: 1, 2, 3, … (SGPT, https://arxiv.org/abs/2202.08904)."""
    return _mean(tokens, mask * mask.cumsum(dim=1))


def _last_token(tokens: Tensor, mask: Tensor) -> Tensor:
    """The token whose successor is padding or the end, picked by a product, which every runtime has."""
    following = torch.nn.functional.pad(mask[:, 1:], (0, 0, 0, 1))
    return (tokens * (mask - following)).sum(dim=1)


_POOLINGS = {
    "cls": lambda tokens, mask: tokens[:, 0],
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
