"""First token only: cut where it is exact, nowhere else, and the answers stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deploycomp.graph.tokens import compute_first_token_only
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.onnxmodel import save_graph
from deploycomp.recipe import Export, Recipe
from deploycomp.runtime.session import open_session
from tests import tiny
from tests.export.test_export import run_steps

D = 8


def initializer(name: str, *shape: int) -> ir.Value:
    array = np.random.default_rng(len(name)).standard_normal(shape, dtype=np.float32)
    return ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(shape))


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def graph_of(*, outputs: tuple[str, ...] = ("y",), bias: bool = False, take: int = 0) -> ir.Graph:
    """x → attention over x → + x → · w → gelu → first token."""
    x, w = value("x", "batch", "sequence", D), initializer("w", D, D)
    index = ir.Value(name="index", const_value=ir.tensor(np.array(take), name="index"), shape=ir.Shape([]))
    made: dict[str, ir.Value] = {name: value(name, "batch", "sequence", D) for name in ("q", "a", "r", "p", "g")}
    made["y"] = value("y", "batch", D)
    b = value("b", "batch", 1, "sequence", "sequence")
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    nodes = [
        ir.node("MatMul", [x, w], outputs=[made["q"]]),
        ir.node("Attention", [made["q"], x, x, *([b] if bias else [])], heads, outputs=[made["a"]]),
        ir.node("Add", [made["a"], x], outputs=[made["r"]]),
        ir.node("MatMul", [made["r"], w], outputs=[made["p"]]),
        ir.node("Tanh", [made["p"]], outputs=[made["g"]]),
        ir.node("Gather", [made["g"], index], {"axis": 1}, outputs=[made["y"]]),
    ]
    inputs = [x, b] if bias else [x]
    return ir.Graph(
        inputs,
        [made[name] for name in outputs],
        nodes=nodes,
        initializers=[w, index],
        opset_imports={"": 24},
        name="g",
    )


def run(graph: ir.Graph, path: Path, *, bias: bool = False) -> list[np.ndarray]:
    for node in graph:
        for out in node.outputs:
            if not out.is_graph_output():
                out.shape = None
    save_graph(ir.Model(graph, ir_version=10), path, external_data_bytes=1 << 30, size=0)
    draw = np.random.default_rng(0)
    feeds = {"x": draw.standard_normal((3, 5, D), dtype=np.float32)}
    if bias:
        feeds["b"] = draw.standard_normal((3, 1, 5, 5), dtype=np.float32)
    return list(open_session(path).run(None, feeds))


def test_what_only_the_first_token_needs_is_computed_for_it_alone(tmp_path: Path):
    before = run(graph_of(), tmp_path / "before.onnx")
    graph = graph_of()
    assert compute_first_token_only(graph) == 5
    cut = [node for node in graph if node.op_type == "Gather"]
    assert [str(node.inputs[0].name) for node in cut if node.inputs[0]] == ["x", "g"]  # x once: for query and residual
    after = run(graph, tmp_path / "after.onnx")
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)


def test_an_output_of_all_tokens_keeps_them(tmp_path: Path):
    graph = graph_of(outputs=("y", "g"))
    assert compute_first_token_only(graph) == 0
    assert run(graph, tmp_path / "g.onnx")[1].shape == (3, 5, D)


def test_all_tokens_in_the_middle_stop_the_cut_there(tmp_path: Path):
    before = run(graph_of(outputs=("y", "r")), tmp_path / "before.onnx")
    graph = graph_of(outputs=("y", "r"))
    assert compute_first_token_only(graph) == 2  # the product and tanh behind it
    after = run(graph, tmp_path / "after.onnx")
    for left, right in zip(after, before, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_attention_with_a_bias_stays_whole(tmp_path: Path):
    before = run(graph_of(bias=True), tmp_path / "before.onnx", bias=True)
    graph = graph_of(bias=True)
    assert compute_first_token_only(graph) == 3
    after = run(graph, tmp_path / "after.onnx", bias=True)
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)


def test_another_token_is_left_alone():
    assert compute_first_token_only(graph_of(take=1)) == 0


@pytest.mark.parametrize(
    ("task", "cut"), [("text-classification", True), ("token-classification", False), ("question-answering", False)]
)
def test_only_heads_on_the_first_token_are_cut(task: str, cut: bool, tmp_path: Path):
    model = load(resolve(str(tiny.build(tmp_path / "model", "bert", task))), task)
    onnx, (facts,), context = run_steps(model, Recipe(steps=(Export(),)), tmp_path / "work")
    assert (facts["rewrites"]["first_token_only"] > 0) == cut
    names = [node.name for node in onnx.model.graph if str(node.name).endswith("/FirstToken")]
    assert len(names) == (1 if cut else 0)
    assert context.parity[0]["stage"] == "export"


def test_no_reshape_is_left_around_attention(tmp_path: Path):
    model = load(resolve(str(tiny.build(tmp_path / "model", "bert", "text-classification"))), "text-classification")
    onnx, (facts,), _ = run_steps(model, Recipe(steps=(Export(),)), tmp_path / "work")
    assert Counter(node.op_type for node in onnx.model.graph)["Reshape"] == 2  # counts of tokens, one number a row
    assert facts["rewrites"]["reshapes_dropped"] == 4 * len(model.anatomy.layers)
