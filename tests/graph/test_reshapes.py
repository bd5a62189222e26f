"""Reshapes that undo one another go; targets that only copy dimensions become constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from deploycomp.graph.reshapes import drop_round_trips, settle_shapes


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def reshapes(*shapes: tuple[int | str, ...]) -> tuple[ir.Graph, list[ir.Value]]:
    """x of the first shape, reshaped to one after the other; the targets are computed elsewhere."""
    values = [value(f"v{place}", *shape) for place, shape in enumerate(shapes)]
    targets = [value(f"t{place}", len(shape)) for place, shape in enumerate(shapes[1:])]
    nodes = [
        ir.node("Reshape", [before, target], {"allowzero": 1}, outputs=[after])
        for before, target, after in zip(values, targets, values[1:], strict=False)
    ]
    end = value("end", *shapes[-1])
    nodes.append(ir.node("Identity", [values[-1]], outputs=[end]))
    return ir.Graph([values[0], *targets], [end], nodes=nodes, opset_imports={"": 18}, name="g"), values


def test_a_round_trip_goes():
    graph, values = reshapes(("b", "s", 32), ("b", "s", 4, 8), ("b", "s", 32))
    assert drop_round_trips(graph) == 1
    assert list(graph)[-1].inputs[0] is values[0]


def test_another_shape_stays():
    graph, values = reshapes(("b", "s", 32), ("b", "s", 4, 8), ("b", "t", 32))
    assert drop_round_trips(graph) == 0
    assert list(graph)[-1].inputs[0] is values[-1]


def test_a_target_that_copies_dimensions_becomes_a_constant():
    graph, _ = reshapes(("b", "s", 4, 8), ("b", "s", 32))
    assert settle_shapes(graph) == 1
    node = next(iter(graph))
    target = node.inputs[1]
    assert target is not None
    assert target.const_value is not None
    np.testing.assert_array_equal(target.const_value.numpy(), [0, 0, 32])
    assert "allowzero" not in node.attributes


def test_one_dimension_may_be_computed():
    graph, _ = reshapes(("b", "s", 4, 8), ("n", 32))
    assert settle_shapes(graph) == 1
    target = next(iter(graph)).inputs[1]
    assert target is not None
    assert target.const_value is not None
    np.testing.assert_array_equal(target.const_value.numpy(), [-1, 32])


def test_two_computed_dimensions_stay_computed():
    graph, _ = reshapes(("b", "s", 32), ("n", "m", 32))
    assert settle_shapes(graph) == 0
