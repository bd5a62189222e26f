"""Static INT8: the graph that is written, what it computes, and that batch mates do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from deploycomp.errors import UsageError
from deploycomp.onnxmodel import OnnxModel
from deploycomp.quantize.calibrate import Statistics, calibrate
from deploycomp.quantize.int8 import quantize
from deploycomp.quantize.products import inputs_of_products
from deploycomp.recipe import Int8
from deploycomp.runtime.session import open_session
from tests import tiny
from tests.quantize import graphs
from tests.quantize.graphs import WIDTH, stored, tensor, weights


def calibrated(model: OnnxModel, folder: Path, feeds: list[dict[str, np.ndarray]]) -> dict[str, Statistics]:
    path = graphs.save(model, folder / "calibrated.onnx")
    return calibrate(model, path, feeds, inputs_of_products(model), threads=1)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("ops", ["fused", "standard"])
@pytest.mark.parametrize("method", ["minmax", "mse", "percentile"])
@pytest.mark.parametrize("bits", [7, 8])
def test_static_matches_float(tmp_path: Path, ops: Any, method: Any, bits: Any):
    model, feeds = graphs.mlp(), graphs.rows(40)
    statistics = calibrated(model, tmp_path, feeds)
    want = graphs.answer(tmp_path / "calibrated.onnx", **feeds[0])
    model, facts = quantize(
        model, Int8(), bits=bits, ops=ops, statistics=statistics, activations="static", method=method
    )
    got = graphs.answer(graphs.save(model, tmp_path / "int8.onnx"), **feeds[0])
    assert relative(got, want) < (0.02 if bits == 8 else 0.03)
    kinds = [node.op_type for node in model.model.graph]
    assert kinds.count("QuantizeLinear") == 2
    assert kinds.count("MatMulIntegerToFloat" if ops == "fused" else "MatMulInteger") == 2
    assert not [kind for kind in kinds if kind.startswith("Dynamic")]
    for layer in facts["layers"]:
        assert layer["activations"] == "static"
        assert layer["bias_corrected"]
        assert 0 < layer["error"] < 0.02


def test_the_bias_takes_the_mean_error_of_the_answers_back(tmp_path: Path):
    model, feeds = graphs.mlp(), graphs.rows(200)
    statistics = calibrated(model, tmp_path, feeds)
    want = np.concatenate([graphs.answer(tmp_path / "calibrated.onnx", **row)[0] for row in feeds])
    shifts = []
    for known in (None, statistics):
        path = tmp_path / f"{known is None}.onnx"
        source = OnnxModel(ir.load(tmp_path / "calibrated.onnx"), "x", ("x",), ("y",))
        graphs.save(quantize(source, Int8(), bits=7, ops="fused", statistics=known)[0], path)
        got = np.concatenate([graphs.answer(path, **row)[0] for row in feeds])
        shifts.append(float(np.abs((got - want).mean(0)).max()))
    assert shifts[1] < 0.3 * shifts[0]


def test_a_shared_input_is_quantized_once_and_kinds_do_not_mix(tmp_path: Path):
    x, matrices = (
        tensor("x", ir.DataType.FLOAT, "b", "s", WIDTH),
        [stored(f"{n}.weight", weights(64, 64)) for n in "qkv"],
    )
    products = [ir.node("MatMul", [x, w], name=f"{w.name}/MatMul") for w in matrices]
    total = ir.node("Sum", [product.outputs[0] for product in products], name="Sum")
    model, feeds = graphs.onnx([x], total.outputs[0], [*products, total], matrices), graphs.rows()
    statistics = calibrated(model, tmp_path, feeds)
    model, facts = quantize(
        model, Int8(), bits=8, ops="fused", statistics=statistics, activations={"q": "dynamic", "v": "float"}
    )
    kinds = [node.op_type for node in model.model.graph]
    assert kinds == [
        "DynamicQuantizeLinear", "MatMulIntegerToFloat", "QuantizeLinear", "MatMulIntegerToFloat", "MatMul", "Sum",
    ]  # fmt: skip
    assert {each["name"]: each["activations"] for each in facts["layers"]} == {"q": "dynamic", "k": "static"}
    assert facts["left_in_float"] == [{"node": "v.weight/MatMul", "op": "MatMul", "reason": "stays in float, as asked"}]
    open_session(graphs.save(model, tmp_path / "m.onnx"))


def test_without_statistics_of_its_input_a_product_is_dynamic(tmp_path: Path):
    model = graphs.mlp()
    statistics = calibrated(model, tmp_path, graphs.rows())
    del statistics["hidden"]
    _, facts = quantize(model, Int8(), bits=8, ops="fused", statistics=statistics, activations="static")
    assert [each["activations"] for each in facts["layers"]] == ["static", "dynamic"]
    with pytest.raises(UsageError, match="need calibration"):
        quantize(graphs.mlp(), Int8(), bits=8, ops="fused", activations="static")


@pytest.mark.parametrize("pattern", ["down", "down/*", "d?wn"])
def test_layers_stay_in_float_by_pattern(pattern: str):
    _, facts = quantize(graphs.mlp(), Int8(), bits=8, ops="fused", keep_float=[pattern])
    assert [each["name"] for each in facts["layers"]] == ["up"]
    assert facts["nodes"] == {"MatMul": [1, 2]}


def test_a_pattern_that_fits_nothing_is_refused_before_anything_changes():
    model = graphs.mlp()
    with pytest.raises(UsageError, match="no layer is named 'dwn'") as caught:
        quantize(model, Int8(), bits=8, ops="fused", keep_float=["dwn"])
    assert "down" in str(caught.value.hint)
    assert [node.op_type for node in model.model.graph] == ["MatMul", "Add", "Relu", "MatMul"]


def test_split_writes_two_operators_that_compute_the_same(tmp_path: Path):
    feeds, answers = graphs.rows(1)[0], []
    for split in (False, True):
        model, _ = quantize(graphs.mlp(), Int8(), bits=8, ops="fused", split=split)
        assert ("DynamicQuantizeMatMul" in {node.op_type for node in model.model.graph}) is not split
        answers.append(graphs.answer(graphs.save(model, tmp_path / f"{split}.onnx"), **feeds))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)


# ------------------------------------------------------------ batch mates

DYNAMIC_SHIFT = 0.05
"""How far batch mates may move an answer of the dynamic tiny model, as a share of the largest logit: 0.02 measured."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    from deploycomp.export import export
    from deploycomp.models import resolve
    from deploycomp.models.load import load
    from deploycomp.recipe import Export

    folder = tmp_path_factory.mktemp("tiny")
    model = load(resolve(str(tiny.build(folder / "model", "bert", "text-classification"))), "text-classification")
    onnx, _ = export(model, Export(), opset=18)
    ir.save(onnx.model, folder / "m.onnx")
    return OnnxModel(ir.load(folder / "m.onnx"), onnx.task, onnx.inputs, onnx.outputs)


def batch_of(rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_batch_mates(bert: OnnxModel, tmp_path: Path, activations: Any):
    random = np.random.default_rng(0)
    rows = [random.integers(5, 150, size=length) for length in (3, 30, 11, 60, 7, 19)]
    path = graphs.save(bert, tmp_path / "m.onnx")
    statistics = calibrate(bert, path, [batch_of([row]) for row in rows], inputs_of_products(bert), threads=1)
    model = OnnxModel(ir.load(path), bert.task, bert.inputs, bert.outputs)
    model, _ = quantize(model, Int8(), bits=8, ops="fused", statistics=statistics, activations=activations)
    session = open_session(graphs.save(model, tmp_path / "int8.onnx"), threads=1, config=graphs.EXACT)
    together = np.asarray(session.run(["logits"], batch_of(rows))[0])
    alone = np.concatenate([session.run(["logits"], batch_of([row]))[0] for row in rows])
    shift = np.abs(together - alone).max() / np.abs(alone).max()
    print(f"{activations}: {shift:.2e}")
    assert shift <= (1e-6 if activations == "static" else DYNAMIC_SHIFT)
