"""The value between steps, and the file that it becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp.onnxmodel import DATA_SUFFIX, OnnxModel, file_bytes, name_nodes_once, save_graph

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def linear() -> OnnxModel:
    """y = x · W for x [batch, 3]."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", 3]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="w", const_value=ir.tensor(WEIGHT, name="w"))
    product = ir.node("MatMul", [x, weight], name="product")
    product.outputs[0].name = "y"
    product.outputs[0].shape = ir.Shape(["batch", 4])
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], product.outputs, nodes=[product], initializers=[weight], opset_imports={"": 18}, name="g")
    return OnnxModel(ir.Model(graph, ir_version=10), "feature-extraction", ("x",), ("y",))


def run(path: Path) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": np.eye(3, dtype=np.float32)})[0])


def test_signature_names_dimensions():
    assert linear().signature() == {"inputs": {"x": ["batch", 3]}, "outputs": {"y": ["batch", 4]}}


def test_bytes_are_those_of_the_weights():
    assert linear().nbytes == WEIGHT.nbytes


@pytest.mark.parametrize(("threshold", "external"), [(WEIGHT.nbytes, False), (WEIGHT.nbytes - 1, True), (0, True)])
def test_large_weights_lie_beside_the_graph(tmp_path: Path, threshold: int, external: bool):
    model, path = linear(), tmp_path / "model.onnx"
    save_graph(model.model, path, external_data_bytes=threshold, size=model.nbytes)
    data = path.with_name("model.onnx" + DATA_SUFFIX)
    assert data.exists() is external
    assert file_bytes(path) == path.stat().st_size + (data.stat().st_size if external else 0)
    assert np.array_equal(run(path), WEIGHT)


def test_external_weights_move_with_the_graph(tmp_path: Path):
    model = linear()
    save_graph(model.model, tmp_path / "model.onnx", external_data_bytes=0, size=model.nbytes)
    (tmp_path / "there").mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).rename(tmp_path / "there" / name)
    assert np.array_equal(run(tmp_path / "there" / "model.onnx"), WEIGHT)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "a_2", "a_2_2", "a_3", "b", None]), max_size=8))
def test_node_names_become_unique_and_stay_where_they_were_unique(names: list[str | None]):
    x = ir.Value(name="x")
    graph = ir.Graph([x], [], nodes=[ir.node("Relu", [x], name=name) for name in names], name="g")
    name_nodes_once(graph)
    named = [node.name for node in graph]
    assert len(set(named)) == len(names)
    assert all(named)
    for name in set(names) - {None}:
        assert name in named


@pytest.mark.parametrize("kind", ["float32", "int8", "int64", "float16", "uint8"])
@pytest.mark.parametrize("large", [1, 200_000])
def test_the_streamed_file_is_an_ordinary_onnx_file(tmp_path: Path, kind: str, large: int):
    import onnx

    model = linear()
    more = (np.arange(large) % 100).astype(kind).reshape(1, large)
    model.model.graph.register_initializer(ir.Value(name="more", const_value=ir.tensor(more, name="other name")))
    save_graph(model.model, tmp_path / "a.onnx", external_data_bytes=10**9, size=model.nbytes)
    assert set(model.model.graph.initializers) == {"w", "more"}
    proto = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(proto)
    found = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
    assert np.array_equal(found["w"], WEIGHT)
    assert np.array_equal(found["more"], more)
    assert found["more"].dtype == more.dtype
    assert np.array_equal(run(tmp_path / "a.onnx"), WEIGHT)


def test_a_graph_read_lazily_is_written_whole(tmp_path: Path):
    model = linear()
    (tmp_path / "one").mkdir()
    save_graph(model.model, tmp_path / "one" / "m.onnx", external_data_bytes=0, size=model.nbytes)
    save_graph(ir.load(tmp_path / "one" / "m.onnx"), tmp_path / "m.onnx", external_data_bytes=10**9, size=48)
    (tmp_path / "one" / "m.onnx.data").unlink()
    assert np.array_equal(run(tmp_path / "m.onnx"), WEIGHT)
