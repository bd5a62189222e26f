"""Weights in S8 with a scale an output channel, and the bias that takes back what rounding adds on average.

    scale   max|W| / 127, or the share of it that minimises Σ_j E[x_j²] (W_j − s·q_j)² for each output channel
    bias    b − E[x]ᵀ (s·q − W)

Sources: Jacob et al. 2018 (arXiv 1712.05877), equation 1 with zero point 0; clipping by grid search as in
Bondarenko et al. 2021 (arXiv 2109.12948); the bias, Nagel et al. 2019 (arXiv 1906.04721), equation 12.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST", "UNSATURATED_BITS", "Clip", "corrected_bias", "quantize_weight"]

UNSATURATED_BITS = 8
"""Of weights for a target whose integer sums do not saturate."""

LARGEST = {8: 127, 7: 64}
"""Largest magnitude of a weight by bits. 64 for 7: 2·255·64 = 32640 fits the saturating int16 sum of VPMADDUBSW."""

Clip = Literal["max", "mse"]

RATIOS = np.linspace(1.0, 0.7, 41)[1:].astype(np.float32)
"""Shares of the largest weight that are tried besides all of it; real channels lie above 0.7 with 7 and 8 bits."""

CHUNK = 1 << 18
"""Weights at a time: a megabyte of float32, so that the grid search stays within the second-level cache."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int8]


def quantize_weight(
    weight: Floats,
    *,
    bits: Literal[7, 8],
    axis: int,
    clip: Clip = "max",
    importance: npt.NDArray[np.floating] | None = None,
) -> tuple[Integers, Floats]:
    """Round a matrix to symmetric INT8 with one scale for each index along *axis*.

    Args:
        weight: [rows, columns], finite.
        bits: 8 for ±127, 7 for ±64.
        axis: The axis that keeps its own scales: 1 for the columns of MatMul's B, 0 for the rows of a table.
        clip: `max` keeps the largest weight; `mse` clips where that makes the squared error smaller, never larger.
        importance: With `mse`, how much an error counts along the other axis (E[x²] of each input); by default 1.

    Returns:
        The integers, shaped as *weight*, and the scales, shaped to broadcast against it.
    """
    scale = (np.max(np.abs(weight), axis=1 - axis, keepdims=True) / LARGEST[bits]).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1.0  # all weights are zero, or as good as
    integers = np.empty(weight.shape, dtype=np.int8)
    counts = np.ones(weight.shape[1 - axis]) if importance is None else importance
    step = max(1, CHUNK // weight.shape[1 - axis])
    for start in range(0, weight.shape[axis], step):
        part = (slice(start, start + step), slice(None))[:: 1 if axis == 0 else -1]
        if clip == "mse":
            scale[part] = _clipped(weight[part], scale[part], LARGEST[bits], axis, np.asarray(counts, np.float32))
        integers[part] = _round(weight[part], scale[part], LARGEST[bits])
    return integers, scale


def _round(weight: Floats, scale: Floats, largest: int) -> Floats:
    return np.clip(np.rint(weight / scale), -largest, largest)


def _clipped(weight: Floats, scale: Floats, largest: int, axis: int, importance: Floats) -> Floats:
    """The scales on the grid with the smallest weighted squared error, the full ones where none is smaller."""

    def error(scale: Floats) -> Floats:
        squares = np.square(_round(weight, scale, largest) * scale - weight)
        return np.expand_dims(importance @ squares if axis == 1 else squares @ importance, 1 - axis)

    best, least = scale, error(scale)
    for ratio in RATIOS:
        smaller = scale * ratio
        found = error(smaller)
        best, least = np.where(found < least, smaller, best), np.minimum(found, least)
    return best


def corrected_bias(
    weight: Floats, integers: Integers, scale: Floats, mean: npt.NDArray[np.float64], bias: Floats | None
) -> Floats:
    """The bias with which the product of the rounded weights has the mean of the exact one.

    Args:
        weight: [inputs, outputs].
        integers: Its rounded form, shaped as *weight*.
        scale: [1, outputs].
        mean: [inputs], E[x] of the product's input.
        bias: [outputs], or None where there is none yet.

    Returns:
        [outputs].
    """
    shift = np.zeros(weight.shape[1])
    step = max(1, CHUNK // weight.shape[1])
    for rows in (slice(start, start + step) for start in range(0, len(weight), step)):
        shift += mean[rows] @ (integers[rows] * scale - weight[rows])
    return ((0.0 if bias is None else bias) - shift).astype(np.float32)
