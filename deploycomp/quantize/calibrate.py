"""What the inputs of the products look like: streaming statistics, taken from the FP32 graph one row at a time.

    rows ─one at a time, at its own length─► FP32 graph + the named tensors as outputs ─► Statistics a tensor

A row is never padded, so padding cannot widen a range (Bondarenko et al. 2021, arXiv 2109.12948, calibrate at batch 1
for the same reason). Only running figures are kept: memory does not depend on how many rows there are.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.runtime.session import open_session, runner

if TYPE_CHECKING:
    from deploycomp.onnxmodel import OnnxModel

__all__ = ["BINS", "SAMPLE_TOKENS", "Histogram", "Statistics", "calibrate"]

BINS = 2048
"""As TensorRT and ONNX Runtime count: at least 1024 of them hold the range, four for each of 256 levels."""

SAMPLE_TOKENS = 256
"""Token vectors kept of each tensor for searches that need outputs: 3 MB for an FFN that is 3072 wide."""

SEED = 0
"""Of the sample. The same for every tensor, so that tensors with the same tokens keep the same tokens."""

MANTISSA_BITS = 24
"""A float32 has no finer steps than this below its own exponent, so bins need none either."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Progress = Callable[[str, float], None]


class Histogram:
    """Counts in 2048 bins whose width is a power of two and whose edges are multiples of it.

    A wider range doubles the width and adds up pairs of bins, which is exact; and as the edges do not depend on which
    value came first, neither do the counts: the histogram is a function of the values, in whatever order they came.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        """How many values fell into each bin."""
        self.exponent: int | None = None
        """The width is 2 to this power; None before the first value."""
        self.first = 0
        """The lower edge of bin 0 in widths."""

    @property
    def width(self) -> float:
        """The width of a bin."""
        return 2.0 ** (self.exponent or 0)

    @property
    def edges(self) -> npt.NDArray[np.floating]:
        """The 2049 edges, zero one of them wherever it lies in the range."""
        return (self.first + np.arange(BINS + 1)) * self.width

    @property
    def centers(self) -> npt.NDArray[np.floating]:
        """The middle of each bin."""
        return (self.first + np.arange(BINS) + 0.5) * self.width

    def add(self, values: Floats, low: float, high: float) -> None:
        """Count finite values, whatever their shape; *low* and *high* are the ends of all values so far."""
        exponent = _exponent(low, high)
        first = int(np.floor(low / 2.0**exponent))
        if self.exponent is None:
            self.exponent = exponent
        old = self.first + np.arange(BINS) >> exponent - self.exponent
        filled = self.counts > 0
        counts = np.zeros(BINS, dtype=np.int64)
        np.add.at(counts, old[filled] - first, self.counts[filled])
        bins = np.floor(np.ravel(values).astype(np.float64) * 2.0**-exponent).astype(np.int64) - first
        self.counts = counts + np.bincount(bins, minlength=BINS)
        self.exponent, self.first = exponent, first


def _exponent(low: float, high: float) -> int:
    """The smallest power of two that holds the range in `BINS` aligned bins."""
    largest = max(abs(low), abs(high))
    finest = int(np.frexp(largest)[1]) - MANTISSA_BITS
    exponent = max(finest, int(np.floor(np.log2((high - low) / BINS))) if high > low else finest)
    while np.floor(high / 2.0**exponent) - np.floor(low / 2.0**exponent) >= BINS:
        exponent += 1
    return exponent


class Statistics:
    """Running figures of one activation.

    Args:
        channels: The size of its last axis.
    """

    def __init__(self, channels: int) -> None:
        self.rows = 0
        """Rows seen."""
        self.tokens = 0
        """Vectors along the last axis seen."""
        self.lows = np.full(channels, np.inf, dtype=np.float32)
        """[channels], the smallest value of each."""
        self.highs = np.full(channels, -np.inf, dtype=np.float32)
        """[channels], the largest value of each."""
        self.histogram = Histogram()
        """Of all values."""
        self._sum = np.zeros(channels, dtype=np.float64)
        self._squares = np.zeros(channels, dtype=np.float64)
        self._magnitude = 0.0
        self._sample = np.zeros((SAMPLE_TOKENS, channels), dtype=np.float32)
        self._random = np.random.Generator(np.random.PCG64(SEED))

    def add(self, values: Floats) -> None:
        """Take in one row, [..., channels].

        Raises:
            ValueError: A value is not finite.
        """
        vectors = values.reshape(-1, len(self.lows))
        if not vectors.size:
            return
        lows, highs = vectors.min(axis=0), vectors.max(axis=0)
        if not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            raise ValueError("a value is not finite")
        np.minimum(self.lows, lows, out=self.lows)
        np.maximum(self.highs, highs, out=self.highs)
        self._sum += vectors.sum(axis=0, dtype=np.float64)
        self._squares += np.square(vectors, dtype=np.float64).sum(axis=0)
        self._magnitude += float(np.abs(vectors).sum(dtype=np.float64))
        self.histogram.add(vectors, self.low, self.high)
        self._draw(vectors)
        self.rows += 1
        self.tokens += len(vectors)

    def _draw(self, vectors: Floats) -> None:
        """Keep every vector with the same chance (Vitter 1985, algorithm R)."""
        seen = np.arange(self.tokens, self.tokens + len(vectors))
        places = self._random.integers(0, seen + 1)
        places = np.where(seen < SAMPLE_TOKENS, seen, places)
        for index in np.flatnonzero(places < SAMPLE_TOKENS):  # in order: a later vector takes an earlier one's place
            self._sample[places[index]] = vectors[index]

    @property
    def low(self) -> float:
        """The smallest of all values."""
        return float(self.lows.min())

    @property
    def high(self) -> float:
        """The largest of all values."""
        return float(self.highs.max())

    @property
    def absmax(self) -> Floats:
        """[channels], the largest magnitude of each."""
        return np.maximum(np.abs(self.lows), np.abs(self.highs))

    @property
    def mean(self) -> Doubles:
        """[channels], the mean of each."""
        return self._sum / max(self.tokens, 1)

    @property
    def mean_square(self) -> Doubles:
        """[channels], E[x²] of each."""
        return self._squares / max(self.tokens, 1)

    @property
    def mean_magnitude(self) -> float:
        """E|x| of all values."""
        return self._magnitude / max(self.tokens * len(self.lows), 1)

    @property
    def sample(self) -> Floats:
        """[at most 256, channels], vectors drawn evenly from all tokens."""
        return self._sample[: self.tokens]

    @property
    def nbytes(self) -> int:
        """Bytes of all figures."""
        arrays = (self.lows, self.highs, self.histogram.counts, self._sum, self._squares, self._sample)
        return sum(array.nbytes for array in arrays)


def calibrate(
    model: OnnxModel,
    path: Path,
    rows: Iterable[dict[str, npt.NDArray[np.generic]]],
    names: Sequence[str],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Statistics]:
    """Run the FP32 graph on rows and describe some of its tensors.

    Args:
        model: The graph.
        path: Where it is written. A graph with more outputs lies beside it while this runs, because external weights
            are looked for there; they are not copied.
        rows: Feeds of one row each, at its own length, without padding.
        names: The tensors, float32; see `products.inputs_of_products`.
        threads: By default what affinity and cgroup quota allow.
        progress: Told ("calibrate", fraction) where *rows* has a length.

    Returns:
        Name → statistics.

    Raises:
        UsageError: There is not one row, or no such tensor.
        VerificationFailed: A tensor is not finite; the message names it and the row.
    """
    _check_names(model, names)
    wanted = [name for name in names if name not in model.inputs]
    statistics: dict[str, Statistics] = {}
    count = len(rows) if isinstance(rows, Sized) else 0
    with _more_outputs(path, [name for name in wanted if name not in model.outputs]) as extended:
        run = runner(open_session(extended, threads=threads), model=path)
        for index, feeds in enumerate(rows):
            found = {**feeds, **dict(zip(wanted, run(feeds, tuple(wanted)), strict=True))} if wanted else feeds
            for name in names:
                values = cast("Floats", found[name])
                _take(statistics.setdefault(name, Statistics(values.shape[-1])), values, name, index)
            if progress and count:
                progress("calibrate", (index + 1) / count)
    if not statistics and names:
        raise UsageError("calibration needs at least one row", hint="give the step data")
    return statistics


def _take(statistics: Statistics, values: Floats, name: str, row: int) -> None:
    try:
        statistics.add(values)
    except ValueError as error:
        raise VerificationFailed(
            "an activation of the FP32 graph is not finite",
            where=f"tensor {name}, calibration row {row}",
            why=str(error),
            hint="look for NaN or infinite weights before this tensor: deploycomp inspect",
        ) from None


@contextmanager
def _more_outputs(path: Path, names: Sequence[str]) -> Iterator[Path]:
    """A copy of the graph that also gives out *names*, for as long as the context lasts.

    Protobuf merges messages that are written one after another, so the outputs are appended to the file: nothing is
    parsed, and weights within the file pass through no memory.
    """
    import onnx

    more = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names]
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", suffix=".onnx") as file:
        with path.open("rb") as source:
            shutil.copyfileobj(source, file)
        file.write(onnx.ModelProto(graph=onnx.GraphProto(output=more)).SerializeToString())
        file.flush()
        yield Path(file.name)


def _check_names(model: OnnxModel, names: Sequence[str]) -> None:
    known = {value.name for node in model.model.graph for value in node.outputs} | set(model.inputs)
    for name in names:
        if name not in known:
            raise UsageError(f"the graph has no tensor {name!r}", where="calibration")
