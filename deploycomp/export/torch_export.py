"""torch → onnx: trace the model once, with fused operators emitted in place, and tidy the graph.

The result holds no trace of this machine: no file paths, no stack traces, no generated symbol names.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deploycomp.errors import InputRefused, VerificationFailed
from deploycomp.export.emit import PADDING_GUARD, emit_fused, emit_standard
from deploycomp.onnxmodel import Facts, OnnxModel, name_nodes_once
from deploycomp.recipe import Export

if TYPE_CHECKING:
    import onnx_ir as ir

    from deploycomp.models.model import TorchModel

__all__ = ["export"]

_EXAMPLE_BATCH, _EXAMPLE_SEQUENCE = 2, 11
"""Traced shape: not 0 or 1, which tracing specialises, and equal to no other dimension of a transformer."""

_WRAPPERS = "model.module."
"""Where the checkpoint's own module lies in the module that is traced."""

_TRACED_OPSET = 24
"""torch writes no newer one. What an encoder uses of the newer ones differs in types that it does not use."""

GUARD_NAME = "padding_must_be_on_the_right"
"""The node's name stands in ONNX Runtime's message."""

_FUSED_OPS = ("Attention", "MultiHeadAttention", "Gelu", "FastGelu", "QuickGelu")


class _Outputs(nn.Module):
    """The forward that is traced: FP32 outputs whatever the weights' type."""

    def __init__(self, forward_module: nn.Module):
        super().__init__()
        self.model = forward_module

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        return tuple(output.float() for output in self.model(**inputs))


def export(model: TorchModel, config: Export, *, opset: int) -> tuple[OnnxModel, Facts]:
    """Export a model to ONNX.

    Args:
        model: The loaded model, on the CPU.
        config: Operators, type and fixed dimensions.
        opset: Of ai.onnx; from 24 on attention is its own operator.

    Returns:
        The graph and the facts: nodes, fused operators, and what stayed unfused and why.

    Raises:
        InputRefused: The model cannot be traced.
        VerificationFailed: Tracing fixed a dimension that must stay dynamic.
    """
    from deploycomp.models import forward_module

    half = config.dtype == "fp16"
    forward = forward_module(copy.deepcopy(model)).half() if half else forward_module(model)
    traced = _trace(_Outputs(forward), model, config, opset)
    _tidy(traced, model, config)
    return OnnxModel(traced, model.task, model.inputs, model.outputs), _facts(traced, model, config)


def _trace(forward: nn.Module, model: TorchModel, config: Export, opset: int) -> ir.Model:
    shape = (
        config.fixed.batch or _EXAMPLE_BATCH,
        config.fixed.sequence or min(_EXAMPLE_SEQUENCE, model.max_length),
    )
    example = {name: torch.ones(shape, dtype=torch.int64) for name in model.inputs}
    dims: dict[int, Any] = {}
    if config.fixed.batch is None:
        dims[0] = torch.export.Dim.DYNAMIC
    if config.fixed.sequence is None:
        dims[1] = torch.export.Dim.DYNAMIC
    fused = emit_fused(forward, attention=model.anatomy.fused_attention, opset=opset)
    try:
        with fused if config.ops == "fused" else emit_standard(forward), _quiet(), torch.no_grad():
            program = torch.onnx.export(
                forward,
                (),
                kwargs=example,
                dynamic_shapes={name: dict(dims) for name in model.inputs},
                dynamo=True,
                opset_version=min(opset, _TRACED_OPSET),
                input_names=list(model.inputs),
                output_names=list(model.outputs),
                verbose=False,
            )
    except Exception as error:
        if "onnx" not in type(error).__module__ and "torch" not in type(error).__module__:
            raise
        reason = _first_line(error)
        if "specializ" in str(error) or "ConstraintViolation" in str(error):
            raise VerificationFailed(
                "the model fixes a dimension that must stay dynamic",
                where=model.config.model_type,
                why=reason,
                hint="--fixed batch=1,sequence=128 exports it for one shape",
            ) from error
        raise InputRefused(
            f"the model cannot be traced: {model.config.model_type}", why=reason, hint="run again with -v"
        ) from error
    assert program is not None  # dynamo=True always returns a program
    program.model.opset_imports[""] = opset
    return program.model


def _tidy(model: ir.Model, source: TorchModel, config: Export) -> None:
    """Name dimensions, nodes and weights after the model, and drop stale shapes and machine-dependent notes."""
    import onnx_ir as ir

    graph = model.graph
    for value in graph.inputs:
        value.shape = ir.Shape([config.fixed.batch or "batch", config.fixed.sequence or "sequence"])
    for name, value in zip(source.outputs, graph.outputs, strict=True):
        value.name = name
        _name_dims(value, config)
    for node in graph:
        node.name = _node_name(node)
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in list(graph.initializers.values()):
        value.metadata_props.clear()
        if value.name is not None:
            value.name = value.name.removeprefix(_WRAPPERS)
    _name_folded_weights(graph)
    name_nodes_once(graph)
    graph.name = source.task
    graph.metadata_props.clear()
    model.metadata_props.clear()
    model.producer_name, model.producer_version = "deploycomp", None
    model.doc_string = None


def _name_dims(value: ir.Value, config: Export) -> None:
    """Give the output's symbols the inputs' names: tracing invents others (`s18`)."""
    import onnx_ir as ir

    if value.shape is None:
        return
    dims: list[int | str] = [dim if isinstance(dim, int) else "" for dim in value.shape]
    names = iter(
        name for name, fixed in (("batch", config.fixed.batch), ("sequence", config.fixed.sequence)) if fixed is None
    )
    value.shape = ir.Shape([dim if isinstance(dim, int) else next(names, "dim") for dim in dims])


def _node_name(node: ir.Node) -> str:
    """`encoder.layer.0.attention.self.query/MatMul`: the module that computes it, and what."""
    if node.op_type == PADDING_GUARD:
        return GUARD_NAME
    scopes: list[str] = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    path = next((scope for scope in reversed(scopes[:-1]) if scope and not scope.startswith("_")), "")
    path = f"{path}.".removeprefix(_WRAPPERS).rstrip(".")
    return f"{path}/{node.op_type}" if path and path != "model" else node.op_type


def _name_folded_weights(graph: ir.Graph) -> None:
    """Name weights that constant folding transposed (`val_19`) after the node that uses them."""
    taken = set(graph.initializers)
    for node in graph:
        for value in node.inputs:
            if value is None or value.name is None or not value.name.startswith("val_"):
                continue
            tensor = value.const_value
            if not value.is_initializer() or tensor is None or len(tensor.shape) < 2:
                continue
            name = f"{(node.name or node.op_type).split('/')[0]}.weight_t"
            if name not in taken:
                taken.add(name)
                value.name = name


def _facts(graph_model: ir.Model, model: TorchModel, config: Export) -> Facts:
    ops = Counter(node.op_type for node in graph_model.graph)
    unfused = ops["Softmax"]
    notes: list[str] = []
    if config.ops == "standard":
        notes.append("only ai.onnx operators were written, as asked (--ops standard)")
    elif not model.anatomy.fused_attention:
        notes.append(
            f"{model.config.model_type} does not go through transformers' attention interface: "
            f"{unfused} attentions stay unfused"
        )
    return {
        "nodes": sum(ops.values()),
        "operators": dict(sorted(ops.items())),
        "fused": {op: ops[op] for op in _FUSED_OPS if ops[op]},
        "unfused_attention": unfused,
        "dtype": config.dtype,
        "opset": graph_model.opset_imports[""],
        "ops": config.ops,
        "notes": notes,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's notes about itself (missing torchvision, deprecations inside torch) off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return next((line.strip() for line in str(root).splitlines() if line.strip()), type(root).__name__)
