"""Which part of INT8 changes answers: the weights, the activations, which products, which layers.

    .venv/bin/python benchmarks/parts.py squad [--rows 400] [--json FILE]

One row for each choice of what stays in float; agreement and drop are against the FP32 graph, on the data that the
task is judged on. It chooses nothing: it shows what the agreement of `accuracy.py` is made of, and what would have to
stay in float to raise it. Ranges are minmax with SmoothQuant, as `deploycomp export` takes them.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from accuracy import TASKS, find_model
from common import say, write_json
from finetune import DATA

from deploycomp.report import format as fmt

CALIBRATION_ROWS = 256
KINDS = {
    "queries and keys": r"\.(query|key)$",
    "values": r"\.value$",
    "attention's output": r"attention\.output\.dense$",
    "FFN in": r"intermediate\.dense$",
    "FFN out": r"layer\.\d+\.output\.dense$",
}
"""Products by the names that BERT gives them."""
EXACT = {"session.x64quantprecision": "1"}
"""Kernels that do not saturate where the CPU has no INT8 dot product: 8-bit weights answer alike everywhere."""
GPTQ_TOKENS = 8192
"""Token vectors that GPTQ's Hessians are made of."""
GPTQ_DAMPING = 0.01
"""Of the mean of the diagonal: the authors' default."""
LAYER = re.compile(r"\.layer\.(\d+)\.")


@dataclass
class Bench:
    """One model with its rows: graphs come in, answers go out."""

    task: str
    folder: Path
    rows: int

    def __post_init__(self) -> None:
        from deploycomp.assess import read_rows, source_predictor
        from deploycomp.calibration import find_calibration
        from deploycomp.evaluate import predict
        from deploycomp.models import resolve
        from deploycomp.models.load import load
        from deploycomp.pipeline import export_model
        from deploycomp.recipe import Calibrate, Export, Recipe

        known = TASKS[self.task]
        path = find_model(self.task)
        train = Calibrate(data=str(DATA / known.train), rows=CALIBRATION_ROWS)
        recipe = Recipe(model=str(path), steps=(Export(),), calibrate=train, benchmark=None)
        self.fp32 = export_model(recipe, self.folder / "fp32").artifact.model
        self.model = load(resolve(str(path)), "auto")
        self.template = source_predictor(self.model)
        self.judged = read_rows(self.model, str(DATA / known.data), limit=self.rows)
        found, why = find_calibration(recipe, self.model, self.judged)
        assert found is not None, why
        self.calibration = found
        self.reference = predict(self.predictor(self.fp32), self.judged)

    def predictor(self, graph: Path) -> Any:
        """A graph behind the model's own pre- and post-processing."""
        from deploycomp.runtime import Predictor
        from deploycomp.runtime.session import open_session, runner

        run = runner(open_session(graph, spinning=False, config=EXACT), model=graph)
        return Predictor(self.template.tokenizer, self.template.manifest, run)

    def read(self, path: Path) -> Any:
        """A graph to change."""
        import onnx_ir as ir

        from deploycomp.onnxmodel import OnnxModel

        model = ir.load(path)
        names = [[str(each.name) for each in side] for side in (model.graph.inputs, model.graph.outputs)]
        return OnnxModel(model, self.model.task, *(tuple(each) for each in names))

    def save(self, model: Any, name: str) -> Path:
        """Write a graph."""
        from deploycomp.onnxmodel import save_graph

        path = self.folder / f"{name}.onnx"
        path.unlink(missing_ok=True)
        save_graph(model.model, path, external_data_bytes=1 << 62, size=model.nbytes)
        return path

    def judge(self, what: str, model: Any) -> dict[str, Any]:
        """Answers of a graph against those of the FP32 graph."""
        from deploycomp.evaluate import agreement, compare, predict

        answers = predict(self.predictor(self.save(model, "variant")), self.judged)
        same, drop = agreement(self.reference, answers), compare(self.judged, self.reference, answers)
        say(f"{what}: {same.value:.4f}")
        return {"what": what, "agreement": same.as_dict(), "drop": drop.as_dict()}


def variants(bench: Bench) -> Iterator[dict[str, Any]]:
    """Judge weights alone, everything, and everything but each part."""
    from deploycomp.quantize import quantize
    from deploycomp.quantize.calibrate import calibrate
    from deploycomp.quantize.products import inputs_of_products, products
    from deploycomp.quantize.smooth import smooth
    from deploycomp.recipe import Int8

    def statistics(path: Path) -> Any:
        return calibrate(bench.read(path), path, bench.calibration.feeds, inputs_of_products(bench.read(path)))

    yield bench.judge("weights of the products only", _rounded(bench.read(bench.fp32), products, _nearest))
    with mock.patch("deploycomp.quantize.calibrate.SAMPLE_TOKENS", GPTQ_TOKENS):
        inputs = {name: each.sample for name, each in statistics(bench.fp32).items()}
    graph = _rounded(bench.read(bench.fp32), products, lambda each: _gptq(each.matrix, inputs[each.x.name]))
    yield bench.judge("the same, rounded by GPTQ", graph)
    smoothed, _ = smooth(bench.read(bench.fp32), statistics(bench.fp32), bits=8, explicit=True)
    path = bench.save(smoothed, "smooth")
    known = statistics(path)

    def int8(keep: Sequence[str] = ()) -> Any:
        return quantize(
            bench.read(path), Int8(), bits=8, ops="fused", statistics=known, activations="static", keep_float=keep
        )[0]

    yield bench.judge("everything in INT8", int8())
    names = [each.name for each in products(bench.read(path).model.graph)]
    for kind, pattern in KINDS.items():
        if kept := [name for name in names if re.search(pattern, name)]:
            yield bench.judge(f"{kind} in float", int8(kept))
    for layer in sorted({int(found[1]) for name in names if (found := LAYER.search(name))}):
        yield bench.judge(f"layer {layer + 1} in float", int8([name for name in names if f".layer.{layer}." in name]))


def _nearest(product: Any) -> Any:
    from deploycomp.quantize.weights import quantize_weight

    integers, scales = quantize_weight(product.matrix, bits=8, axis=1)
    return integers * scales


def _gptq(matrix: Any, inputs: Any) -> Any:
    """Frantar et al. 2023 (arXiv 2210.17323), algorithm 1: what rounding one row costs, the rows after it make good."""
    import numpy as np

    from deploycomp.quantize.weights import quantize_weight

    _, scales = quantize_weight(matrix, bits=8, axis=1)
    hessian = inputs.T.astype(np.float64) @ inputs
    hessian += GPTQ_DAMPING * np.diag(hessian).mean() * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    left, rounded = matrix.astype(np.float64), np.empty_like(matrix)
    for row in range(len(matrix)):
        rounded[row] = np.clip(np.rint(left[row] / scales), -127, 127) * scales
        missed = (left[row] - rounded[row]) / upper[row, row]
        left[row + 1 :] -= np.outer(upper[row, row + 1 :], missed)
    return rounded


def _rounded(model: Any, products: Callable[[Any], Any], rounding: Callable[[Any], Any]) -> Any:
    """The FP32 graph with the weights of its products rounded to INT8 per channel, and nothing else."""
    import numpy as np
    import onnx_ir as ir

    for product in list(products(model.model.graph)):
        rounded = rounding(product).astype(np.float32)
        stored = np.ascontiguousarray(rounded.T if product.transposed else rounded)
        product.weight.const_value = ir.tensor(stored, name=product.weight.name)
    return model


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--rows", type=int, default=400, help="a seeded subset; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deploycomp-parts-") as folder:
        found = list(variants(Bench(asked.task, Path(folder), asked.rows)))
    print(f"{TASKS[asked.task].title}, {asked.rows} rows\n")
    print("| | agreement with FP32 (95 % CI) | drop (95 % CI) |\n|---|---:|---:|")
    for each in found:
        same, drop = each["agreement"], each["drop"]
        ends = f"{100 * same['low']:.1f}…{100 * same['high']:.1f}"
        lost = f"{100 * drop['value']:+.2f} pt ({100 * drop['low']:+.2f}…{100 * drop['high']:+.2f})"
        print(f"| {each['what']} | {fmt.percent(same['value'], 2)} ({ends}) | {lost} |")
    write_json(asked.json, {"task": asked.task, "rows": asked.rows, "variants": found})


if __name__ == "__main__":
    main()
