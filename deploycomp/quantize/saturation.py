"""Proof for CPUs without an INT8 dot product: does VPMADDUBSW saturate on real activations?

There, ONNX Runtime multiplies U8 by S8 with VPMADDUBSW, which adds two neighbouring products along k in a saturating
int16:

    a[2i] · w[2i] + a[2i+1] · w[2i+1]      right while it lies in [−32768, 32767]

With 7-bit weights no sum leaves it: 2 · 255 · 64 = 32640. With 8 bits it can, and the answer is silently wrong. This
looks for such sums on calibration tokens by integer arithmetic, so no such CPU is needed.

Source: Intel SDM, volume 2, PMADDUBSW; onnxruntime.ai/docs, "Quantize ONNX models", on reduce_range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from deploycomp.onnxmodel import Facts, OnnxModel
from deploycomp.quantize.products import products
from deploycomp.quantize.ranges import LEVELS, Method, choose_range
from deploycomp.quantize.weights import LARGEST, Clip, quantize_weight

if TYPE_CHECKING:
    from deploycomp.quantize.calibrate import Statistics

__all__ = ["count_saturations", "saturation"]

INT16 = np.iinfo(np.int16)

CHUNK = 1 << 22
"""Pair sums held at once: 16 MB of int32."""


def saturation(
    model: OnnxModel,
    statistics: Mapping[str, Statistics],
    *,
    bits: Literal[7, 8],
    method: Method = "minmax",
    clip: Clip = "max",
) -> Facts:
    """Count the saturating pair sums of every product on its sampled tokens.

    Args:
        model: The FP32 graph, before `quantize`.
        statistics: Name of an activation → its figures, see `calibrate`; products without are passed over.
        bits: Of the weights.
        method: How ranges are chosen. For dynamic activations take `minmax`: their ranges are narrower, so that levels
            are larger and the count is a lower bound.
        clip: As for `quantize`.

    Returns:
        `pairs` and `saturated` in all, the largest magnitude `largest` of a sum, the `bound` that arithmetic gives
        and, for each layer, the same three.
    """
    layers: list[Facts] = []
    for product in products(model.model.graph):
        known = statistics.get(str(product.x.name))
        if known is None:
            continue
        scale, zero_point = choose_range(known, method)
        levels = np.clip(np.rint(known.sample / scale) + int(zero_point), 0, LEVELS - 1).astype(np.uint8)
        weight, _ = quantize_weight(
            product.matrix, bits=bits, axis=1, clip=clip, importance=known.mean_square if clip == "mse" else None
        )
        layers.append({"layer": product.name, **count_saturations(levels, weight)})
    return {
        "weight_bits": bits,
        "bound": 2 * (LEVELS - 1) * LARGEST[bits],
        "pairs": sum(each["pairs"] for each in layers),
        "saturated": sum(each["saturated"] for each in layers),
        "largest": max((each["largest"] for each in layers), default=0),
        "layers": layers,
    }


def count_saturations(levels: npt.NDArray[np.uint8], weight: npt.NDArray[np.int8]) -> dict[str, int]:
    """Count the pair sums of levels · weight that leave int16.

    Args:
        levels: [tokens, k].
        weight: [k, outputs]; an odd last k is paired with zero, as the kernel pads it.

    Returns:
        `pairs`, `saturated` and the `largest` magnitude of a sum.
    """
    if len(weight) % 2:
        levels, weight = np.pad(levels, ((0, 0), (0, 1))), np.pad(weight, ((0, 1), (0, 0)))
    tokens, outputs = len(levels), weight.shape[1]
    a = levels.astype(np.int32).reshape(tokens, -1, 2)
    w = weight.astype(np.int32).reshape(-1, 2, outputs)
    saturated = largest = 0
    step = max(1, CHUNK // max(tokens * outputs, 1))
    for start in range(0, len(w), step):
        left, right = a[:, start : start + step, :], w[start : start + step]
        sums = left[:, :, 0, None] * right[:, 0] + left[:, :, 1, None] * right[:, 1]  # [tokens, pairs, outputs]
        low, high = int(sums.min(initial=0)), int(sums.max(initial=0))
        largest = max(largest, high, -low)
        if low < INT16.min or high > INT16.max:
            saturated += int(np.count_nonzero(sums > INT16.max) + np.count_nonzero(sums < INT16.min))
    return {"pairs": tokens * len(w) * outputs, "saturated": saturated, "largest": largest}
