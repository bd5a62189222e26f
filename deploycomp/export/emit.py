"""Attention and activations emitted as ONNX Runtime's own operators while the graph is traced.

    softmax(Q Kᵀ · s + mask) V   →   com.microsoft.MultiHeadAttention(Q, K, V, –, padding | –, bias)
    x · Φ(x)                     →   com.microsoft.Gelu(x)
    0.5 x (1 + tanh(…))          →   com.microsoft.FastGelu(x)
    x · σ(1.702 x)               →   com.microsoft.QuickGelu(x)

Nothing is pattern-matched back from a finished graph, so nothing breaks when a transformers release writes its
attention in another way: every architecture that goes through `transformers.AttentionInterface` is fused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
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

__all__ = ["emit_fused", "emit_standard"]

_NAME = "deploycomp"
_DOMAIN = "com.microsoft"

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


def _symbolic(op: str, inputs: tuple[Tensor | None, ...], attributes: dict[str, Any], like: Tensor) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{_DOMAIN}::{op}", inputs, attributes, dtype=like.dtype, shape=like.shape, version=1
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over [batch, heads, length, head size]; *mask* is padding [batch, length] or a float bias."""
    del module
    batch, heads, length, size = query.shape
    joined = [each.transpose(1, 2).reshape(batch, -1, heads * size) for each in (query, key, value)]
    padding = mask.to(torch.int32) if mask is not None and mask.dim() == 2 else None
    bias = mask if mask is not None and mask.dim() == 4 else None
    inputs: list[Tensor | None] = [*joined, None, padding, bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {"num_heads": heads, "scale": float(scaling)}
    out = _symbolic("MultiHeadAttention", tuple(inputs), attributes, joined[0])
    return out.reshape(batch, length, heads, size), None


def _mask(*, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Hand a plain padding mask through in two dimensions; anything else (a sliding window) becomes a bias."""
    if mask_function is bidirectional_mask_function:
        return attention_mask
    kwargs["allow_is_bidirectional_skip"] = False
    return eager_mask(mask_function=mask_function, attention_mask=attention_mask, **kwargs)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)


@contextlib.contextmanager
def emit_fused(module: nn.Module, *, attention: bool) -> Iterator[None]:
    """Trace *module* with fused activations, and fused attention where the architecture can.

    The module is not meant to be run in here, only traced: its forward has no values, only shapes.

    Args:
        module: A transformers model.
        attention: Whether its attention goes through `AttentionInterface`.
    """
    implementation = _NAME if attention else "eager"
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
                return _symbolic(op, (input,), attributes, input)

            each.forward = forward  # an instance attribute: it stands before the class's method until it is deleted
            patched.append(each)
        yield
    finally:
        for each in patched:
            del each.forward
