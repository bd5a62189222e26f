"""The INT8 step: calibrate, smooth, quantize, choose what is fastest and what must stay in float.

    FP32 graph ─ calibrate ─ smooth ─ dynamic | static | attention too ─ tune (milliseconds here) ─ restore (--max-drop)
                                      and forms of float attention

Each choice is made on rows that the result is not judged on, or on milliseconds; each is in the facts with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from deploycomp.context import Context, part_of, save_and_check
from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.graph.attention import FORMS, Form, form_of, write_attention
from deploycomp.onnxmodel import Facts, OnnxModel, save_graph
from deploycomp.recipe import Benchmark, Int8

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.data import Rows
    from deploycomp.evaluate import Predictions
    from deploycomp.quantize.calibrate import Statistics

__all__ = ["Int8Step"]

Variant = Literal["static", "dynamic", "static, attention too"]
"""How activations are quantized: by calibrated ranges or by their own, and with or without attention's products."""

DYNAMIC: Variant
ATTENTION: Variant
STATIC, DYNAMIC, ATTENTION = get_args(Variant)

RANK_ROWS = 64
"""Held-out rows that layers are ranked on; all of them decide how many are put back."""

COMPARED_ROWS = 256
"""Held-out rows on which attention in INT8 is compared."""
MAX_DISTANCE = 1.5
"""With it, answers may be so much further from FP32: 0.9 to 1.5 times is seen on short rows, where no more of them
change, and 1.9 to 4 times on long ones, where more do (benchmarks/RESULTS.md)."""

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
        from deploycomp.quantize.weights import UNSATURATED_BITS
        from deploycomp.runtime.cpu import why_weight_bits

        bits, why = why_weight_bits(context.target)
        if config.weight_bits != "auto":
            bits, why = config.weight_bits, f"asked for (target {context.target}: {why})"
        if config.activations == "static" and context.calibration is None:
            raise UsageError("static ranges need calibration rows", why=context.uncalibrated, hint="--calibration DATA")
        if config.attention == "int8" and context.calibration is None:
            raise UsageError(
                "attention in INT8 needs calibration rows", why=context.uncalibrated, hint="--calibration DATA"
            )
        if config.attention == "int8" and (bits < UNSATURATED_BITS or config.activations == "dynamic"):
            seven = f"weights have 7 bits ({why}), and keys and values would saturate with 8"
            reason = seven if bits < UNSATURATED_BITS else "activations are dynamic, as asked"
            raise UsageError("attention cannot be in INT8", why=reason, hint="leave out --attention int8")
        facts: Facts = {"target": context.target, "why": why, "calibration": None, "uncalibrated": context.uncalibrated}
        bench = _Bench(config, context, model, cast("Literal[7, 8]", bits))
        if context.calibration is not None and config.activations != "dynamic":
            facts.update(bench.calibrate())
        variant = DYNAMIC if not bench.statistics else ATTENTION if config.attention == "int8" else STATIC
        if context.tuning:
            variant, facts["tuning"] = bench.tune(variant)
            context.session = facts["tuning"]["session"]
        variant, kept, restored = bench.restore(variant)
        facts.update(restored)
        quantized, done = bench.quantize(variant, kept)
        for each in done["left_in_float"]:
            if str(each["node"]).rsplit("/", 1)[0] in kept:
                each["reason"] = "put back to float: without it the goal does not hold"
        return quantized, {**facts, "activations": _activations(variant), **done}

    def ensure(self, config: Int8, model: OnnxModel, facts: Facts, context: Context) -> None:
        """Open a session and hold the answers against the source model's."""
        if not any(done for done, _ in facts["nodes"].values()):
            raise VerificationFailed("INT8 quantized 0 nodes")
        facts.update(save_and_check("int8", "int8", model, context))


def _activations(variant: Variant) -> Literal["static", "dynamic"]:
    return "dynamic" if variant == DYNAMIC else "static"


def _left_in_float(facts: Facts) -> str | None:
    """Why no attention became INT8; None where one did."""
    if facts["nodes"].get("Attention", [0])[0]:
        return None
    reasons = (each["reason"] for each in facts["left_in_float"] if each["op"] == "Attention")
    return next(reasons, "the graph has no fused attention")


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
        from deploycomp.quantize.saturation import saturation
        from deploycomp.quantize.smooth import smooth

        calibration = self.context.calibration
        assert calibration is not None
        model, path = self.fresh(), self.context.traced
        names = self.calibrated(model)
        self.statistics = calibrate(model, path, calibration.feeds, names, progress=self.part(0.0, 0.2))
        smoothing: list[Facts] = []
        if self.config.smooth and not self.context.stored:  # a weight that is rebuilt must stay what it is rebuilt to
            model, smoothing = smooth(model, self.statistics, bits=self.bits, explicit=True)
            if any(each["alpha"] for each in smoothing):
                path = self.save(model, "smooth")
                self.smoothed = path
                names = self.calibrated(model)
                self.statistics = calibrate(model, path, calibration.feeds, names, progress=self.part(0.2, 0.4))
        facts: Facts = {"calibration": dict(calibration.facts), "smoothing": smoothing}
        facts["saturation"] = saturation(self.fresh(), self.statistics, bits=self.bits, method=self.config.ranges)
        return facts

    def calibrated(self, model: OnnxModel) -> list[str]:
        """Names of the activations whose ranges are needed."""
        from deploycomp.quantize.attention import inputs_of_attention
        from deploycomp.quantize.products import inputs_of_products

        more = inputs_of_attention(model) if self.tries_attention or self.config.attention == "int8" else []
        return list(dict.fromkeys([*inputs_of_products(model), *more]))

    @property
    def tries_attention(self) -> bool:
        """Whether attention in INT8 is a variant to be measured."""
        from deploycomp.quantize.weights import UNSATURATED_BITS

        auto = self.config.attention == "auto" and self.config.activations != "dynamic"
        return auto and self.context.tuning and self.bits == UNSATURATED_BITS

    def quantize(self, variant: Variant, kept: Sequence[str] = ()) -> tuple[OnnxModel, Facts]:
        """An INT8 graph with some layers left in float."""
        from deploycomp.quantize import quantize

        return quantize(
            self.fresh(),
            self.config,
            bits=self.bits,
            ops=self.context.recipe.export.ops,
            statistics=self.statistics,
            activations=_activations(variant),
            method=self.config.ranges,
            keep_float=[*self.config.keep_float, *kept],
            attention=variant == ATTENTION,
        )

    def save(self, model: OnnxModel, name: str) -> Path:
        """Write a graph into scratch."""
        path = self.context.work / name / "graph.onnx"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        save_graph(model.model, path, external_data_bytes=1 << 62 if model.nbytes < 1 << 30 else 0, size=model.nbytes)
        return path

    def tune(self, default: Variant) -> tuple[Variant, Facts]:
        """Measure the variants of quantized activations, with the FP32 graph for comparison."""
        from deploycomp.runtime.kernels import expanded
        from deploycomp.tuning import tune

        variants: list[str] = [default]
        if self.config.activations == "auto" and self.config.attention != "int8" and self.statistics:
            variants.append(DYNAMIC)
        if self.tries_attention and self.statistics:
            variants.append(ATTENTION)
        forms = self.forms(default)
        variants += forms
        graphs, refused = dict[str, Path](), dict[str, str]()
        for variant in variants:
            kind = default if variant in forms else cast("Variant", variant)
            quantized, facts = self.quantize(kind)
            write_attention(quantized, forms.get(variant, self.context.form))
            if variant == ATTENTION != default and (why := _left_in_float(facts)):
                refused[variant] = why
                continue
            path = self.save(quantized, f"tune-{variant.split(', ')[-1].replace(' ', '-')}")
            kernels: Counter[str] = Counter()
            try:
                self.context.check(path, "int8", stage=f"{variant} variant", kernels=kernels)
            except VerificationFailed as error:
                refused[variant] = str(error.why or error)
                continue
            if variant in forms and (slow := expanded(quantized.operators, kernels)):
                refused[variant] = f"here {', '.join(slow)} would run as many small operators"
                continue
            if variant == ATTENTION != default and (why := self.too_far(path, graphs.get(STATIC))):
                refused[variant] = why
                continue
            self.context.describe(path)
            graphs[variant] = path
        if not graphs:
            return default, {"seconds": 0.0, "kept": default, "session": {}, "variants": []}  # `ensure` says it aloud
        self.context.describe(self.context.traced)
        graphs["=fp32"] = self.context.traced
        shapes = self.context.recipe.benchmark or Benchmark()
        tuned = tune(graphs, shapes, refused=refused, progress=self.part(0.4, 0.8))
        if tuned.graph in forms:
            self.context.form = forms[tuned.graph]
            return default, tuned.facts
        return cast("Variant", tuned.graph), tuned.facts

    def forms(self, default: Variant) -> dict[str, Form]:
        """Other forms of the default's float attention: name of the variant → form.

        A form that an older runtime needs (`first_form`) is not given up for milliseconds here.
        """
        if self.context.form != "tokens" or form_of(self.model) != "tokens" or default == ATTENTION:
            return {}
        return {f"{default}, attention as {form}": form for form in FORMS if form != "tokens"}

    def too_far(self, path: Path, plain: Path | None) -> str | None:
        """Why a graph with attention in INT8 is no candidate: its answers on held-out rows beside those of *plain*."""
        from deploycomp.quantize.sensitivity import distance

        calibration = self.context.calibration
        if plain is None or calibration is None or calibration.held_out is None:
            return "there are no held-out answers to compare its own with"
        reference = self.answers(self.context.traced, COMPARED_ROWS)
        far, near = (
            distance(reference, self.answers(each, COMPARED_ROWS), logits=self.model.task in _LOGITS)
            for each in (path, plain)
        )
        if far <= MAX_DISTANCE * near:
            return None
        times = f"{far / near:.2f}" if near else "infinitely many"
        return f"its answers are {times} times as far from FP32 as with attention in float ({MAX_DISTANCE} may be)"

    def answers(self, path: Path, rows: int) -> list[np.ndarray]:
        """A graph's main output on some held-out rows, one array a row."""
        from deploycomp.evaluate import inputs_of

        calibration = self.context.calibration
        assert calibration is not None
        assert calibration.held_out is not None
        predictor = self.context.predictor(path)
        inputs = inputs_of(calibration.held_out, predictor)[:rows]
        name = self.model.outputs[0]
        return [row.outputs[name] for rows in predictor.raw(inputs, batch_size=1).rows for row in rows]

    def restore(self, variant: Variant) -> tuple[Variant, tuple[str, ...], Facts]:
        """Put layers back to float until the goal holds on held-out rows, first those that bring most a millisecond.

        Attention goes first where only tuning chose it: it has the least to give.
        """
        evaluate, calibration = self.context.recipe.evaluate, self.context.calibration
        if evaluate is None or evaluate.max_drop is None or calibration is None or calibration.held_out is None:
            return variant, (), {}
        none: frozenset[str] = frozenset()
        facts: Facts = {"rows": len(calibration.held_out)}
        judge = _Judge(self, variant, calibration.held_out, evaluate.max_drop)
        if variant == ATTENTION and self.config.attention == "auto" and not judge.good(none):
            variant, facts["attention"] = STATIC, judge.drop(none)
            judge.turn_to(variant)
        if judge.good(none):
            return variant, (), {"restored": {"layers": [], "drop": judge.drop(none), **facts}}
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
            kept = none  # layers in float that do not reach the goal only cost time
        layers = sorted(kept)
        restored = {"layers": layers, "drop": judge.drop(kept), **facts, "trail": trail}
        return variant, tuple(layers), {"restored": restored, "sensitivity": table}


class _Judge:
    """Answers of candidates on held-out rows."""

    def __init__(self, bench: _Bench, variant: Variant, rows: Rows, max_drop: float):
        self.bench, self.rows, self.max_drop = bench, rows, max_drop
        self.variant: Variant = variant
        self._drops: dict[frozenset[str], float] = {}

    def turn_to(self, variant: Variant) -> None:
        """Judge another variant by the same FP32 answers."""
        self.variant = variant
        self._drops.clear()

    def graph(self, kept: frozenset[str]) -> Path:
        """The INT8 graph with these layers in float, on disk."""
        return self.bench.save(self.bench.quantize(self.variant, sorted(kept))[0], "restore")

    def answers(self, kept: frozenset[str]) -> list[np.ndarray]:
        """Its main output on some rows, one array a row."""
        return self.bench.answers(self.graph(kept), RANK_ROWS)

    def reference(self) -> list[np.ndarray]:
        """The FP32 answers on the same rows."""
        return self.bench.answers(self.bench.context.traced, RANK_ROWS)

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

        asked = self.bench.context.recipe.evaluate
        threshold = asked.null_score_diff_threshold if asked else None
        return predict(self.bench.context.predictor(path), self.rows, null_score_diff_threshold=threshold)

    def milliseconds(self) -> dict[str, float]:
        """Layer → what INT8 saves there, on this machine."""
        from deploycomp.quantize.costs import Costs
        from deploycomp.quantize.products import products

        shapes = self.bench.context.recipe.benchmark or Benchmark()
        costs = Costs(max(shapes.batch_size) * max(shapes.sequence_length))
        left = {entry["name"] for entry in self.bench.quantize(self.variant)[1]["layers"]}
        gains: dict[str, float] = {}
        for each in products(self.bench.fresh().model.graph):
            if each.name in left:
                inputs, outputs = each.matrix.shape
                gains[each.name] = costs.gain(inputs, outputs, _activations(self.variant))
        return gains
