"""Sums before a LayerNormalization are not fused into an operator that is slower."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from deploycomp.export import export
from deploycomp.graph import rewrite
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.onnxmodel import save_graph
from deploycomp.recipe import Export, Fixed
from tests import tiny


def optimized(path: Path) -> Counter[str]:
    """Operators that ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def exported(folder: Path, fixed: Fixed, *, gpu: bool = False) -> tuple[int | None, Counter[str]]:
    """How many sums were written anew, and what then runs."""
    model = load(resolve(str(tiny.build(folder / "model", "bert", "token-classification"))))
    made, _ = export(model, Export(fixed=fixed), opset=26)
    facts = rewrite(made, gpu=gpu)
    save_graph(made.model, folder / "model.onnx", external_data_bytes=1 << 30, size=made.nbytes)
    return facts.get("sums_kept_apart"), optimized(folder / "model.onnx")


@pytest.mark.parametrize("fixed", [Fixed(batch=1, sequence=16), Fixed(sequence=16)])
def test_no_sum_is_fused_where_dimensions_are_fixed(fixed: Fixed, tmp_path: Path):
    written, runs = exported(tmp_path, fixed)
    assert written == runs["LayerNormalization"] == 1 + 2 * tiny.LAYERS  # the embeddings, two of each layer
    assert runs["SkipLayerNormalization"] == 0


def test_a_gpu_gets_them_as_they_are(tmp_path: Path):
    written, runs = exported(tmp_path, Fixed(batch=1, sequence=16), gpu=True)
    assert written is None
    assert runs["SkipLayerNormalization"] > 0  # what the rewrite is there to prevent


def test_a_dynamic_length_needs_nothing(tmp_path: Path):
    written, runs = exported(tmp_path, Fixed(batch=1))
    assert (written, runs["SkipLayerNormalization"]) == (0, 0)
