"""The INT8 step: calibrate, smooth, quantize, choose what is fastest and what must stay in float.

    FP32 graph ─ calibrate ─ smooth ─ static | dynamic ─ tune (milliseconds here) ─ restore (until --max-drop holds)

Each choice is made on rows that the result is not judged on, or on milliseconds; each is in the facts with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from deploycomp.context import Context, part_of, save_and_check
from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.onnxmodel import Facts, OnnxModel, save_graph
from deploycomp.recipe import Benchmark, Int8

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.data import Rows
    from deploycomp.evaluate import Predictions
    from deploycomp.quantize.calibrate import Statistics

__all__ = ["Int8Step"]

Activations = Literal["static", "dynamic"]

RANK_ROWS = 64
"""Held-out rows that layers are ranked on; all of them decide how many are put back."""


_LOGITS = ("text-classification", "token-classification", "fill-mask")
"""Tasks whose answers are distributions: they are compared by KL divergence, others by squared error."""


class Int8Step:
    """onnx → onnx, INT8."""

    def require(self, config: Int8, context: Context) -> None:
        """INT8 as written here is for CPUs."""
        if context.target == "cuda":
            raise UsageError(
                "INT8 is for CPUs",
                why="ONNX Runtime's CUDA provider has no kernel for it and runs every product on the CPU",
                hint="--fp16 --target cuda",
            )

    def apply(self, config: Int8, model: OnnxModel, context: Context) -> tuple[OnnxModel, Facts]:
        """Decide the weights' bits for the target, calibrate where there are rows, and quantize."""
        from deploycomp.runtime.cpu import why_weight_bits

        bits, why = why_weight_bits(context.target)
        if config.weight_bits != "auto":
            bits, why = config.weight_bits, f"asked for (target {context.target}: {why})"
        if config.activations == "static" and context.calibration is None:
            raise UsageError("static ranges need calibration rows", why=context.uncalibrated, hint="--calibration DATA")
        facts: Facts = {"target": context.target, "why": why, "calibration": None, "uncalibrated": context.uncalibrated}
        bench = _Bench(config, context, model, cast("Literal[7, 8]", bits))
        if context.calibration is not None and config.activations != "dynamic":
            facts.update(bench.calibrate())
        kind: Activations = "static" if bench.statistics else "dynamic"
        if context.tuning:
            kind, facts["tuning"] = bench.tune(kind)
            context.session = facts["tuning"]["session"]
        kept, restored = bench.restore(kind)
        facts.update(restored)
        quantized, done = bench.quantize(kind, kept)
        for each in done["left_in_float"]:
            if str(each["node"]).rsplit("/", 1)[0] in kept:
                each["reason"] = "put back to float: without it the goal does not hold"
        return quantized, {**facts, "activations": kind, **done}

    def ensure(self, config: Int8, model: OnnxModel, facts: Facts, context: Context) -> None:
        """Open a session and hold the answers against the source model's."""
        if not any(done for done, _ in facts["nodes"].values()):
            raise VerificationFailed("INT8 quantized 0 nodes")
        facts.update(save_and_check("int8", "int8", model, context))


@dataclass
class _Bench:
    """One FP32 graph on the bench, and what is known about it."""

    config: Int8
    context: Context
    model: OnnxModel
    bits: Literal[7, 8]
    statistics: Mapping[str, Statistics] | None = None
    smoothed: Path | None = None

    def fresh(self) -> OnnxModel:
        """The FP32 graph anew, its weights mapped from disk: quantizing works in place."""
        import onnx_ir as ir

        path = self.smoothed or self.context.traced
        return OnnxModel(ir.load(path), self.model.task, self.model.inputs, self.model.outputs)

    def part(self, start: float, end: float) -> Callable[[str, float], None]:
        """Progress of one part of the step; a long context gives more rows than were counted."""
        return part_of(self.context.say, start, end)

    def calibrate(self) -> Facts:
        """Take the statistics, smooth, and take them again where that changed something."""
        from deploycomp.quantize.calibrate import calibrate
        from deploycomp.quantize.products import inputs_of_products
        from deploycomp.quantize.saturation import saturation
        from deploycomp.quantize.smooth import smooth

        calibration = self.context.calibration
        assert calibration is not None
        model, path = self.fresh(), self.context.traced
        names = inputs_of_products(model)
        self.statistics = calibrate(model, path, calibration.feeds, names, progress=self.part(0.0, 0.2))
        smoothing: list[Facts] = []
        if self.config.smooth and not self.context.stored:  # a weight that is rebuilt must stay what it is rebuilt to
            model, smoothing = smooth(model, self.statistics, bits=self.bits, explicit=True)
            if any(each["alpha"] for each in smoothing):
                path = self.save(model, "smooth")
                self.smoothed = path
                names = inputs_of_products(model)
                self.statistics = calibrate(model, path, calibration.feeds, names, progress=self.part(0.2, 0.4))
        facts: Facts = {"calibration": dict(calibration.facts), "smoothing": smoothing}
        facts["saturation"] = saturation(self.fresh(), self.statistics, bits=self.bits, method=self.config.ranges)
        return facts

    def quantize(self, kind: Activations, kept: Sequence[str] = ()) -> tuple[OnnxModel, Facts]:
        """An INT8 graph with activations of *kind* and some layers left in float."""
        from deploycomp.quantize import quantize

        return quantize(
            self.fresh(),
            self.config,
            bits=self.bits,
            ops=self.context.recipe.export.ops,
            statistics=self.statistics,
            activations=kind,
            method=self.config.ranges,
            keep_float=[*self.config.keep_float, *kept],
        )

    def save(self, model: OnnxModel, name: str) -> Path:
        """Write a graph into scratch."""
        path = self.context.work / name / "graph.onnx"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        save_graph(model.model, path, external_data_bytes=1 << 62 if model.nbytes < 1 << 30 else 0, size=model.nbytes)
        return path

    def tune(self, default: Activations) -> tuple[Activations, Facts]:
        """Measure static against dynamic activations, with the FP32 graph for comparison."""
        from deploycomp.tuning import tune

        kinds: list[Activations] = [default]
        if self.config.activations == "auto" and self.statistics:
            kinds.append("dynamic")
        graphs, refused = dict[str, Path](), dict[str, str]()
        for kind in kinds:
            path = self.save(self.quantize(kind)[0], f"tune-{kind}")
            try:
                self.context.check(path, "int8", stage=f"{kind} variant")
            except VerificationFailed as error:
                refused[kind] = str(error.why or error)
                continue
            self.context.describe(path)
            graphs[kind] = path
        if not graphs:
            return default, {"seconds": 0.0, "kept": default, "session": {}, "variants": []}  # `ensure` says it aloud
        self.context.describe(self.context.traced)
        graphs["=fp32"] = self.context.traced
        shapes = self.context.recipe.benchmark or Benchmark()
        tuned = tune(graphs, shapes, refused=refused, progress=self.part(0.4, 0.8))
        return cast("Activations", tuned.graph), tuned.facts

    def restore(self, kind: Activations) -> tuple[tuple[str, ...], Facts]:
        """Put layers back to float until the goal holds on held-out rows, first those that bring most a millisecond."""
        evaluate, calibration = self.context.recipe.evaluate, self.context.calibration
        if evaluate is None or evaluate.max_drop is None or calibration is None or calibration.held_out is None:
            return (), {}
        judge = _Judge(self, kind, calibration.held_out, evaluate.max_drop)
        if judge.good(frozenset()):
            return (), {"restored": {"layers": [], "drop": judge.drop(frozenset()), "rows": len(calibration.held_out)}}
        from deploycomp.quantize.sensitivity import rank, restore_until

        table = rank(
            judge.answers,
            judge.reference(),
            judge.milliseconds(),
            logits=self.model.task in _LOGITS,
            progress=self.part(0.8, 1.0),
        )
        order = [row["layer"] for row in table if row["recovered"] > 0]
        kept, trail = restore_until(order, judge.good)
        if not any(each["good"] for each in trail):
            kept = frozenset[str]()  # layers in float that do not reach the goal only cost time
        layers = sorted(kept)
        facts = {"layers": layers, "drop": judge.drop(kept), "rows": len(calibration.held_out), "trail": trail}
        return tuple(layers), {"restored": facts, "sensitivity": table}


class _Judge:
    """Answers of candidates on held-out rows."""

    def __init__(self, bench: _Bench, kind: Activations, rows: Rows, max_drop: float):
        self.bench, self.rows, self.max_drop = bench, rows, max_drop
        self.kind: Activations = kind
        self._drops: dict[frozenset[str], float] = {}

    def graph(self, kept: frozenset[str]) -> Path:
        """The INT8 graph with these layers in float, on disk."""
        return self.bench.save(self.bench.quantize(self.kind, sorted(kept))[0], "restore")

    def answers(self, kept: frozenset[str]) -> list[np.ndarray]:
        """Its main output on some rows, one array a row."""
        return self._run(self.graph(kept))

    def reference(self) -> list[np.ndarray]:
        """The FP32 answers on the same rows."""
        return self._run(self.bench.context.traced)

    def _run(self, path: Path) -> list[np.ndarray]:
        predictor = self.bench.context.predictor(path)
        inputs = self._inputs(predictor)[:RANK_ROWS]
        name = self.bench.model.outputs[0]
        return [row.outputs[name] for rows in predictor.raw(inputs, batch_size=1).rows for row in rows]

    def _inputs(self, predictor: Any) -> list[Any]:
        from deploycomp.evaluate import inputs_of

        return inputs_of(self.rows, predictor)

    def good(self, kept: frozenset[str]) -> bool:
        """Whether the drop on all held-out rows is within the goal."""
        return self.drop(kept) <= self.max_drop

    def drop(self, kept: frozenset[str]) -> float:
        """The fall of the task metric on all held-out rows with these layers in float."""
        from deploycomp.evaluate import compare

        if kept not in self._drops:
            self._drops[kept] = compare(self.rows, self._source, self._predict(self.graph(kept))).value
        return self._drops[kept]

    @cached_property
    def _source(self) -> Predictions:
        """The FP32 graph's answers to all held-out rows.

        Raises:
            VerificationFailed: The labels of these rows look permuted.
        """
        from deploycomp.evaluate import check_labels

        answers = self._predict(self.bench.context.traced)
        check_labels(self.rows, answers)
        return answers

    def _predict(self, path: Path) -> Predictions:
        from deploycomp.evaluate import predict

        return predict(self.bench.context.predictor(path), self.rows)

    def milliseconds(self) -> dict[str, float]:
        """Layer → what INT8 saves there, on this machine."""
        from deploycomp.quantize.costs import Costs
        from deploycomp.quantize.products import products

        shapes = self.bench.context.recipe.benchmark or Benchmark()
        costs = Costs(max(shapes.batch_size) * max(shapes.sequence_length))
        left = {entry["name"] for entry in self.bench.quantize(self.kind)[1]["layers"]}
        gains: dict[str, float] = {}
        for each in products(self.bench.fresh().model.graph):
            if each.name in left:
                inputs, outputs = each.matrix.shape
                gains[each.name] = costs.gain(inputs, outputs, self.kind)
        return gains
