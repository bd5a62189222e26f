"""Attention and activations emitted as ONNX Runtime's own operators while the graph is traced.

    softmax(Q Kᵀ · s + mask) V   →   Attention(Q, K, V, bias | –, …, tokens of each row)      from opset 24
                                 →   com.microsoft.MultiHeadAttention(Q, K, V, –, padding | –, bias)
    x · Φ(x)                     →   com.microsoft.Gelu(x)
    0.5 x (1 + tanh(…))          →   com.microsoft.FastGelu(x)
    x · σ(1.702 x)               →   com.microsoft.QuickGelu(x)

ai.onnx's Attention takes two thirds of the time of ONNX Runtime's own on a CPU (benchmarks/RESULTS.md). It is told
how many tokens of a row are real instead of which, so padding must lie on the right, as our tokenizers put it; a graph
that is fed another mask refuses it (`_tokens`) rather than answer wrongly. `graph.attention` writes it in another form
where this one is not right or not fast.

Nothing is pattern-matched back from a finished graph, so nothing breaks when a transformers release writes its
attention in another way: every architecture that goes through `transformers.AttentionInterface` is fused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.activations import (
    FastGELUActivation,
    GELUActivation,
    GELUTanh,
    NewGELUActivation,
    QuickGELUActivation,
)
from transformers.masking_utils import bidirectional_mask_function, eager_mask

__all__ = ["ATTENTION_OPSET", "PADDING_GUARD", "emit_fused", "emit_standard"]

ATTENTION_OPSET = 24
"""The first whose Attention takes the number of real tokens, and the newest for which every ONNX Runtime so far has a
kernel: 1.32 reads that of opset 25 and 26 as 60 smaller operators. ONNX Runtime 1.24 ignores the number, and is kept
away by `_tokens`."""

PADDING_GUARD = "TensorScatter"
"""The operator that refuses padding elsewhere than on the right; nothing else here uses it."""

_CONTRIB = "com.microsoft::"
_QUICK_GELU_ALPHA = 1.702
"""The constant of `QuickGELUActivation` (Hendrycks & Gimpel 2016, section 2)."""

_ACTIVATIONS: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
    GELUActivation: ("Gelu", {}),
    nn.GELU: ("Gelu", {}),
    GELUTanh: ("FastGelu", {}),
    NewGELUActivation: ("FastGelu", {}),
    FastGELUActivation: ("FastGelu", {}),
    QuickGELUActivation: ("QuickGelu", {"alpha": _QUICK_GELU_ALPHA}),
}


def _symbolic(
    op: str, inputs: tuple[Tensor | None, ...], attributes: dict[str, Any], like: Tensor, version: int = 1
) -> Tensor:
    return torch.onnx.ops.symbolic(op, inputs, attributes, dtype=like.dtype, shape=like.shape, version=version)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    contrib: bool,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over [batch, heads, length, head size].

    *mask* is a float bias in four dimensions; else tokens [batch], or for the contrib operator padding [batch, length].
    """
    del module
    heads = query.shape[1]
    q, k, v = _join(query), _join(key), _join(value)
    plain, bias = (None, mask) if mask is not None and mask.dim() == 4 else (mask, None)
    if contrib:
        padding = plain.to(torch.int32) if plain is not None else None
        attributes = {"num_heads": heads, "scale": float(scaling)}
        out = _symbolic(f"{_CONTRIB}MultiHeadAttention", _trim(q, k, v, None, padding, bias), attributes, q)
    else:
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": float(scaling)}
        out = _symbolic("Attention", _trim(q, k, v, bias, None, None, plain), attributes, q, ATTENTION_OPSET)
    return _split(out, query), None


def _join(heads: Tensor) -> Tensor:
    batch, count, _, size = heads.shape
    return heads.transpose(1, 2).reshape(batch, -1, count * size)


def _split(joined: Tensor, like: Tensor) -> Tensor:
    batch, heads, length, size = like.shape
    return joined.reshape(batch, length, heads, size)


def _trim(*inputs: Tensor | None) -> tuple[Tensor | None, ...]:
    """Drop the inputs at the end that are not there."""
    return inputs[: max(place for place, each in enumerate(inputs) if each is not None) + 1]


def _tokens(attention_mask: Tensor) -> Tensor:
    """Real tokens of each row, [batch]; the graph stops where they do not stand first in the row.

    TensorScatter writes the number over where the last one ends, `misplaced` places behind it, and there is room at 0
    only. ONNX Runtime has a kernel for it from 1.25 on, the first whose Attention heeds the number.
    """
    real = attention_mask.to(torch.int64)
    count = real.sum(1, keepdim=True)
    attributes = {"axis": 1, "keepdims": 1, "select_last_index": 1}
    end = _symbolic("ArgMax", (real,), attributes, count, version=13) + 1
    misplaced = (end - count).reshape(-1)
    count = _symbolic(PADDING_GUARD, (end, count, misplaced), {"axis": 1}, count, version=ATTENTION_OPSET)
    return count.reshape(-1)


def _token_mask(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    mask = _mask(attention_mask=attention_mask, **kwargs)
    return _tokens(mask) if mask is not None and mask.dim() == 2 else mask


def _mask(*, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Hand a plain padding mask through in two dimensions; anything else (a sliding window) becomes a bias."""
    if mask_function is bidirectional_mask_function:
        return attention_mask
    kwargs["allow_is_bidirectional_skip"] = False
    return eager_mask(mask_function=mask_function, attention_mask=attention_mask, **kwargs)


_EMITTED, _EMITTED_CONTRIB = "deploycomp", "deploycomp_contrib"
AttentionInterface.register(_EMITTED, partial(_attention, contrib=False))
AttentionMaskInterface.register(_EMITTED, _token_mask)
AttentionInterface.register(_EMITTED_CONTRIB, partial(_attention, contrib=True))
AttentionMaskInterface.register(_EMITTED_CONTRIB, _mask)


@contextlib.contextmanager
def emit_fused(module: nn.Module, *, attention: bool, opset: int) -> Iterator[None]:
    """Trace *module* with fused activations, and fused attention where the architecture can.

    The module is not meant to be run in here, only traced: its forward has no values, only shapes.

    Args:
        module: A transformers model.
        attention: Whether its attention goes through `AttentionInterface`.
        opset: Which attention operator there is.
    """
    emitted = _EMITTED if opset >= ATTENTION_OPSET else _EMITTED_CONTRIB
    implementation = emitted if attention else "eager"
    with _attention_implementation(module, implementation), _fused_activations(module):
        yield


@contextlib.contextmanager
def emit_standard(module: nn.Module) -> Iterator[None]:
    """Trace *module* with ai.onnx operators only: attention as MatMul, Softmax, MatMul."""
    with _attention_implementation(module, "eager"):
        yield


@contextlib.contextmanager
def _attention_implementation(module: nn.Module, name: str) -> Iterator[None]:
    found: list[Any] = [each.config for each in module.modules() if hasattr(each, "config")]
    configs = {id(config): config for config in found}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = name
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


@contextlib.contextmanager
def _fused_activations(module: nn.Module) -> Iterator[None]:
    patched: list[nn.Module] = []
    try:
        for each in module.modules():
            found = _ACTIVATIONS.get(type(each))
            if found is None or (isinstance(each, nn.GELU) and each.approximate != "none"):
                continue
            op, attributes = found

            def forward(input: Tensor, op: str = op, attributes: dict[str, Any] = attributes) -> Tensor:
                return _symbolic(_CONTRIB + op, (input,), attributes, input)

            each.forward = forward  # an instance attribute: it stands before the class's method until it is deleted
            patched.append(each)
        yield
    finally:
        for each in patched:
            del each.forward
