"""Calibration: figures are those of all real tokens, whatever the order, and memory does not grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.onnxmodel import DATA_SUFFIX
from deploycomp.quantize.calibrate import BINS, SAMPLE_TOKENS, Histogram, Statistics, calibrate
from deploycomp.quantize.products import inputs_of_products
from tests.quantize import graphs

PARTS = st.lists(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=6
)


def histogram(parts: list[np.ndarray]) -> Histogram:
    made, low, high = Histogram(), np.inf, -np.inf
    for part in parts:
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        made.add(part, low, high)
    return made


@given(parts=PARTS)
@example(parts=[np.zeros(3, np.float32)])
@example(parts=[np.float32([1e-30]), np.float32([1e6, -1e6])])
@example(parts=[np.float32([5.0]), np.float32([5.0])])
def test_growing_keeps_every_count_and_forgets_the_order(parts: list[np.ndarray]):
    grown, once = histogram(parts), histogram([np.concatenate(parts)])
    values = np.concatenate(parts)
    assert grown.counts.sum() == values.size
    assert np.array_equal(grown.counts, once.counts)
    assert (grown.exponent, grown.first) == (once.exponent, once.first)
    assert np.array_equal(grown.counts, histogram(parts[::-1]).counts)
    assert grown.edges[0] <= values.min()
    assert values.max() < grown.edges[-1]
    assert np.array_equal(grown.counts, np.histogram(values.astype(np.float64), grown.edges)[0])


def test_at_least_half_of_the_bins_hold_the_range():
    made = histogram([np.linspace(-3, 17, 100_000, dtype=np.float32)])
    assert BINS // 2 < np.count_nonzero(made.counts) <= BINS


def test_memory_does_not_depend_on_the_number_of_rows():
    sizes = set()
    for count in (1, 10, 500):
        statistics = Statistics(8)
        for row in graphs.rows(count, width=8):
            statistics.add(row["x"])
        sizes.add(statistics.nbytes)
        assert statistics.rows == count
        assert len(statistics.sample) == min(statistics.tokens, SAMPLE_TOKENS)
    assert len(sizes) == 1


def test_figures_are_those_of_all_tokens_together():
    statistics, feeds = Statistics(8), graphs.rows(60, width=8)
    for row in feeds:
        statistics.add(row["x"])
    values = np.concatenate([row["x"][0] for row in feeds]).astype(np.float64)
    assert (statistics.low, statistics.high) == (values.min(), values.max())
    assert statistics.tokens == len(values)
    np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.mean_square, np.square(values).mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.mean_magnitude, np.abs(values).mean(), rtol=1e-12)
    np.testing.assert_array_equal(statistics.absmax, np.abs(values).max(0).astype(np.float32))
    known = {vector.tobytes() for vector in values.astype(np.float32)}
    assert all(vector.tobytes() in known for vector in statistics.sample)


def test_the_sample_is_seeded_and_even():
    tokens = np.arange(4000, dtype=np.float32)[:, None]
    first, second = Statistics(1), Statistics(1)
    for part in np.split(tokens, 100):
        first.add(part)
        second.add(part)
    assert np.array_equal(first.sample, second.sample)
    assert len(np.unique(first.sample)) == SAMPLE_TOKENS
    assert abs(first.sample.mean() - 2000) < 4 * 4000 / np.sqrt(12 * SAMPLE_TOKENS)


def test_the_graph_gives_what_numpy_computes(tmp_path: Path):
    model, feeds = graphs.mlp(), graphs.rows()
    path = graphs.save(model, tmp_path / "m.onnx")
    found = calibrate(model, path, feeds, inputs_of_products(model), threads=1)
    assert list(found) == ["x", "hidden"]
    stored = {name: value.const_value.numpy() for name, value in model.model.graph.initializers.items()}  # type: ignore[union-attr]
    x = np.concatenate([row["x"][0] for row in feeds])
    hidden = np.maximum(x @ stored["up.weight"] + stored["up.bias"], 0)
    np.testing.assert_allclose(found["x"].mean, x.mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["hidden"].mean, hidden.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found["hidden"].absmax, hidden.max(0), rtol=1e-4)
    assert found["hidden"].low == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.onnx"]


def test_external_weights_stay_where_they_are(tmp_path: Path):
    model = graphs.mlp()
    ir.save(model.model, tmp_path / "m.onnx", external_data=f"m.onnx{DATA_SUFFIX}")
    seen: list[float] = []
    found = calibrate(
        model, tmp_path / "m.onnx", graphs.rows(4), ["hidden", "y"], threads=1, progress=lambda _, f: seen.append(f)
    )
    assert found["y"].rows == 4
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_a_tensor_that_is_not_finite_is_named_with_its_row(tmp_path: Path):
    model, feeds = graphs.mlp(), graphs.rows(3)
    feeds[2]["x"][0, 0, 0] = np.inf
    path = graphs.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerificationFailed, match="not finite") as caught:
        calibrate(model, path, feeds, ["hidden"], threads=1)
    assert caught.value.where == "tensor hidden, calibration row 2"
    nan = graphs.mlp(scale=np.nan)
    with pytest.raises(VerificationFailed) as caught:
        calibrate(nan, graphs.save(nan, tmp_path / "nan.onnx"), feeds, ["x", "hidden"], threads=1)
    assert caught.value.where == "tensor hidden, calibration row 0"


def test_no_rows_and_unknown_tensors_are_refused(tmp_path: Path):
    model = graphs.mlp()
    path = graphs.save(model, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="at least one row"):
        calibrate(model, path, [], ["hidden"])
    with pytest.raises(UsageError, match="no tensor 'nothing'"):
        calibrate(model, path, graphs.rows(1), ["nothing"])
