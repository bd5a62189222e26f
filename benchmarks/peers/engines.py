"""How a child runs a model: one function for each kind of engine, numpy in and logits as numpy out.

Imported by the child only, under the Python of the peer. Heavy imports happen inside the functions. Every engine gets
the number of threads, and is set up as its documentation advises for latency on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from build import load_torch, logits_only
from stream import Outputs, Rows

__all__ = ["Engine", "open_engine"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PREDICTOR_BATCH = 16
"""`Predictor`'s default."""

Feeds = dict[str, np.ndarray]
Request = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """A model that is ready to run."""

    run: Callable[[Feeds], np.ndarray]
    """int64 [batch, sequence] by input name → logits, of a question start and end stacked last. The next call may
    overwrite them."""
    policies: dict[str, Callable[[Rows], Outputs]] = field(default_factory=dict)
    """Ways of its own to run a stream of rows."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What it says about itself, for the JSON."""


def open_engine(request: Request) -> Engine:
    """Open the model of a request; its `kind` names the function here."""
    kinds: dict[str, Callable[[Request], Engine]] = {
        "deploycomp": _deploycomp,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "eager": _eager,
        "compile": _compile,
        "torchao": _torchao,
        "torch-dynamic": _torch_dynamic,
        "pt2e": _pt2e,
    }
    return kinds[request["kind"]](request)


def _deploycomp(request: Request) -> Engine:
    """Ours, as `Predictor` opens and runs it; a plain .onnx file gets the session entries of the request."""
    from deploycomp.runtime.encode import Settings
    from deploycomp.runtime.raw import OUTPUTS
    from deploycomp.runtime.session import open_session, runner

    model, runtime = Path(request["model"]), {}
    if model.is_dir():
        manifest = json.loads((model / "deploycomp.json").read_text(encoding="utf-8"))
        model, runtime = model / manifest["model"], manifest["runtime"]
    session = open_session(model, threads=request["threads"], config=runtime.get("session"))
    run, names = runner(session, model=model), [each.name for each in session.get_inputs()]
    outputs = OUTPUTS[request["task"]]
    settings = Settings.read(runtime)
    opened: dict[int, Any] = {}

    def predictor(rows: Rows, streams: int) -> Outputs:
        from deploycomp.runtime.raw import run_rows

        if streams not in opened:  # a session of its own, as `Predictor.load(…, streams=2)` opens it
            threads = request["threads"] // streams
            opened[streams] = runner(open_session(model, threads=threads, config=runtime.get("session")), model=model)
        done = run_rows(
            opened[streams],
            _encoded(rows),
            task=request["task"],
            names=names,
            settings=settings,
            keep=[None] * len(rows),
            batch_size=PREDICTOR_BATCH,
            streams=streams,
        )
        return [row.outputs["logits"] for row in done]

    def logits(feeds: Feeds) -> np.ndarray:
        return _one(run({name: feeds[name] for name in names}, outputs))

    counts = sorted({1, request["threads"]}) if len(outputs) == 1 else []
    return Engine(
        run=logits,
        policies={f"predictor, streams={count}": partial(predictor, streams=count) for count in counts},
    )


def _one(outputs: Sequence[Any]) -> np.ndarray:
    """The logits of a graph; start and end are stacked last."""
    return np.asarray(outputs[0]) if len(outputs) == 1 else np.stack(outputs, axis=-1)


def _encoded(rows: Rows) -> list[Any]:
    """Rows as the tokenizer gives them, without a tokenizer."""
    from deploycomp.runtime.encode import Encoded

    class Encoding:
        def __init__(self, ids: list[int]) -> None:
            self.ids, self.type_ids = ids, [0] * len(ids)

        def __len__(self) -> int:
            return len(self.ids)

    return [Encoded(index, Encoding(list(row))) for index, row in enumerate(rows)]  # pyright: ignore[reportArgumentType]


def _onnxruntime(request: Request) -> Engine:
    """ONNX Runtime with its default options and the given threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = request["threads"]
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(feeds: Feeds) -> np.ndarray:
        return _one(session.run(None, {name: feeds[name] for name in names}))

    return Engine(run=run)


def _openvino(request: Request) -> Engine:
    """The latency hint and one request that is reused, its tensors shared: OpenVINO's guide for low latency."""
    import openvino as ov  # pyright: ignore[reportMissingImports]

    core = ov.Core()
    model = core.read_model(request["model"])
    options = {"INFERENCE_NUM_THREADS": request["threads"]}
    if request.get("precision"):
        options["INFERENCE_PRECISION_HINT"] = request["precision"]
    compiled = core.compile_model(model, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
    infer = compiled.create_infer_request()
    names = [each.get_any_name() for each in compiled.inputs]

    def run(feeds: Feeds) -> np.ndarray:
        return infer.infer([feeds[name] for name in names], share_inputs=True, share_outputs=True)[0]

    queue: list[Any] = []

    def asynchronous(rows: Rows) -> Outputs:
        if not queue:
            throughput = core.compile_model(model, "CPU", {**options, "PERFORMANCE_HINT": "THROUGHPUT"})
            queue.append(ov.AsyncInferQueue(throughput))
        return _through_queue(queue[0], rows, names)

    properties = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS")
    facts = {name: str(compiled.get_property(name)) for name in properties}
    return Engine(run=run, policies={"async": asynchronous}, facts=facts)


def _through_queue(queue: Any, rows: Rows, names: list[str]) -> Outputs:
    from stream import pad

    outputs: Outputs = [np.empty(0)] * len(rows)

    def keep(request: Any, index: int) -> None:
        outputs[index] = np.array(request.get_output_tensor(0).data[0])

    queue.set_callback(keep)
    for index, row in enumerate(rows):
        feeds = pad([row])
        queue.start_async([feeds[name] for name in names], userdata=index)
    queue.wait_all()
    return outputs


def _torch_engine(model: Any, request: Request) -> Engine:
    import torch

    def run(feeds: Feeds) -> np.ndarray:
        with torch.no_grad():  # inference_mode keeps Inductor from freezing weights
            return model(*(torch.from_numpy(feeds[name]) for name in INPUTS)).numpy()

    return Engine(run=run, facts={"threads": torch.get_num_threads()})


def _loaded(request: Request) -> Any:
    import torch

    torch.set_num_threads(request["threads"])
    return logits_only(load_torch(request["model"], request["task"]))


def _compiled(model: Any, request: Request) -> Engine:
    """Inductor with frozen weights: PyTorch's advice for inference on a CPU.

    A graph for each shape where there are few shapes, one for all where there are many.
    """
    import torch
    import torch._inductor.config as inductor

    inductor.freezing = True
    return _torch_engine(torch.compile(model, dynamic=request["do"] in ("stream", "serve")), request)


def _eager(request: Request) -> Engine:
    return _torch_engine(_loaded(request), request)


def _compile(request: Request) -> Engine:
    return _compiled(_loaded(request), request)


def _torchao(request: Request) -> Engine:
    """torchao's dynamic INT8, compiled, as its documentation says."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = _loaded(request)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return _compiled(model, request)


def _torch_dynamic(request: Request) -> Engine:
    """`torch.ao.quantization.quantize_dynamic` of the Linear layers, eager: PyTorch's BERT tutorial."""
    import torch

    model = _loaded(request)
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    engine = _torch_engine(quantized, request)
    return Engine(run=engine.run, facts={**engine.facts, "engine": torch.backends.quantized.engine})


def _pt2e(request: Request) -> Engine:
    """What `build.pt2e` calibrated, compiled by Inductor."""
    import torch
    import torchao.quantization.pt2e  # noqa: F401  registers the operators that the file holds

    torch.set_num_threads(request["threads"])
    return _compiled(torch.export.load(request["model"]).module(), request)
