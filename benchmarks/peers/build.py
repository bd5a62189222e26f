"""What a peer makes of a model before it can run it, under the peer's own Python.

    <venv>/bin/python build.py < request.json       {"what": "openvino", "model": …, "task": …, "out": …, …}

Every function follows the peer's documentation and writes into the folder `out`. Each imports what it needs: no venv
has all of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
OPSET = 18
EXAMPLE_SHAPE = (2, 16)
"""Of the tokens that a model is traced with; neither is 1, which exporters take for a constant."""

Request = dict[str, Any]


def load_torch(model: str, task: str) -> Any:
    """The model in FP32 as `transformers` loads it."""
    import torch
    import transformers

    kind = getattr(transformers, CLASSES[task])
    return kind.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()


def logits_only(model: Any) -> Any:
    """A module with plain tensors in and one out, for the tools that trace; start and end logits are stacked last."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            out = self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, return_dict=True
            )
            return out.logits if "logits" in out else torch.stack((out.start_logits, out.end_logits), dim=-1)

    return Logits().eval()


def example() -> tuple[Any, ...]:
    """Input to trace with, the last row padded."""
    import torch

    ids = torch.randint(1000, 2000, EXAMPLE_SHAPE, generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[-1, -4:] = 0
    return ids, mask, torch.zeros_like(ids)


def feeds_of(row: list[list[int]]) -> dict[str, np.ndarray]:
    """One real row: its token ids and token types."""
    ids, types = np.array(row, dtype=np.int64)[:, None]
    return dict(zip(INPUTS, (ids, np.ones_like(ids), types), strict=True))


def random_bert(request: Request) -> None:
    """A BERT-base classifier with seeded random weights and the tokenizer of another model: for latency only."""
    import shutil

    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(request["seed"])
    out, donor = Path(request["out"]), Path(request["tokenizer"])
    BertForSequenceClassification(BertConfig()).save_pretrained(out)  # two labels by default
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(donor / name, out / name)


def openvino(request: Request) -> None:
    """`ov.convert_model`, then `nncf.quantize(model_type=TRANSFORMER)` on real rows, as NNCF's BERT example does."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino as ov  # pyright: ignore[reportMissingImports]

    out = Path(request["out"])
    source = load_torch(request["model"], request["task"])
    names = dict(zip(INPUTS, example(), strict=True))
    model = ov.convert_model(logits_only(source), example_input=names)
    for each, name in zip(model.inputs, INPUTS, strict=True):
        each.get_tensor().set_names({name})
        each.get_node().set_friendly_name(name)
    model.reshape({name: [-1, -1] for name in INPUTS})
    ov.save_model(model, out / "fp32.xml", compress_to_fp16=False)
    calibration = nncf.Dataset(request["calibration"], feeds_of)
    quantized = nncf.quantize(
        model,
        calibration,
        model_type=nncf.ModelType.TRANSFORMER,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(request["calibration"]),
        fast_bias_correction=request["fast_bias_correction"],
    )
    ov.save_model(quantized, out / "int8.xml", compress_to_fp16=False)


def stock_onnx(request: Request) -> None:
    """`torch.onnx.export(dynamo=True)`, then ONNX Runtime's `quantize_dynamic` per channel.

    As it comes, the second refuses what the first has written (its `value_info` is stale); a user finds that out and
    drops it, so this does too.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = Path(request["out"])
    module = logits_only(load_torch(request["model"], request["task"]))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        module,
        example(),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_shapes=(axes, axes, axes),
    )
    assert program is not None
    program.save(str(out / "fp32.onnx"))
    graph = onnx.load(out / "fp32.onnx")
    del graph.graph.value_info[:]
    onnx.save(graph, out / "fp32.onnx")
    quantize_dynamic(out / "fp32.onnx", out / "int8.onnx", per_channel=True, weight_type=QuantType.QInt8)


def optimum(request: Request) -> None:
    """`optimum-cli export onnx`, then its dynamic `avx512_vnni`, per channel and per tensor.

    Per channel is the default of `AutoQuantizationConfig.avx512_vnni`, per tensor that of the command line.
    `optimum-cli onnxruntime optimize -O2` in between gives a graph that the quantizer refuses.
    """
    out = Path(request["out"])

    def run(*arguments: str) -> None:
        subprocess.run([str(Path(sys.executable).with_name("optimum-cli")), *arguments], check=True, stdout=sys.stderr)

    run("export", "onnx", "--model", request["model"], "--task", request["task"], str(out / "fp32"))
    for name, options in (("per-channel", ["--per_channel"]), ("per-tensor", [])):
        made_from = ["--onnx_model", str(out / "fp32"), "-o", str(out / name)]
        run("onnxruntime", "quantize", "--avx512_vnni", *options, *made_from)


def pt2e(request: Request) -> None:
    """neural-compressor's static INT8: export, prepare for X86InductorQuantizer, calibrate, convert."""
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    module = logits_only(load_torch(request["model"], request["task"]))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    axes = {0: batch, 1: length}
    shapes: Any = (axes, axes, axes)
    exported = export(module, example_inputs=example(), dynamic_shapes=shapes)
    if exported is None:  # it logs the reason and goes on
        raise RuntimeError("neural-compressor cannot export the model")
    prepared: Any = prepare(exported, quant_config=get_default_static_config())
    with torch.no_grad():
        for row in request["calibration"]:
            prepared(*(torch.from_numpy(each) for each in feeds_of(row).values()))
        converted: Any = convert(prepared)
        program = torch.export.export(converted, example(), dynamic_shapes=shapes)
    torch.export.save(program, Path(request["out"]) / "int8.pt2")


def main() -> None:
    """Build what was asked for."""
    request: Request = json.load(sys.stdin)
    Path(request["out"]).mkdir(parents=True, exist_ok=True)
    makers = {each.__name__: each for each in (random_bert, openvino, stock_onnx, optimum, pt2e)}
    makers[request["what"]](request)


if __name__ == "__main__":
    main()
