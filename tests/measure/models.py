"""Hand-made ONNX models that do next to nothing, very fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH = 64, 4
Dimension = int | str


def onnx_model(
    folder: Path,
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    shape: tuple[Dimension, ...] = ("batch", "sequence"),
    config: dict[str, Any] | None = None,
    mask_type: int | None = None,
    random: bool = False,
) -> Path:
    """Write folder/model.onnx, an embedding table times the mask (or times noise), and config.json beside it."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str) -> Any:
        kind = mask_type if mask_type and name == "attention_mask" else TensorProto.INT64
        return helper.make_tensor_value_info(name, kind, list(shape))

    table = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", inputs[0]], ["rows"]),
            helper.make_node("Cast", [inputs[1]], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "axis"], ["plain" if random else "wide"]),
            *([helper.make_node("RandomUniformLike", ["plain"], ["wide"])] if random else []),
            helper.make_node("Mul", ["rows", "wide"], ["last_hidden_state"]),
        ],
        "tiny",
        [tensor(name) for name in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, WIDTH])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([2]), "axis")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    values = {"vocab_size": VOCABULARY} if config is None else config
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "model.onnx"


def artifact(folder: Path, *, runtime: dict[str, Any], **options: Any) -> Path:
    """Write a sealed-looking artifact around such a model."""
    onnx_model(folder, **options)
    manifest = {"schema_version": 1, "model": "model.onnx", "runtime": runtime, "files": {}}
    (folder / "deploycomp.json").write_text(json.dumps(manifest))
    return folder
