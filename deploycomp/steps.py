"""The one table from a step's config to what it does, and the three moments of a step.

require   what must hold, checked before the first expensive second
apply     the work
ensure    proof that something happened, and that the result still answers as the source does
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from deploycomp.errors import InputRefused, UsageError, VerificationFailed
from deploycomp.layout import model_names
from deploycomp.onnxmodel import Facts, OnnxModel, save_graph
from deploycomp.recipe import Export, Int8, Recipe

if TYPE_CHECKING:
    from deploycomp.evaluate.parity import Reference
    from deploycomp.models.model import TorchModel

__all__ = ["STEPS", "Context", "Step"]

Progress = Callable[[str, float], None]


@dataclass
class Context:
    """What the steps of one run share: where they are, what for, and what the answers must be."""

    recipe: Recipe
    target: str
    work: Path
    """A scratch folder on the output's filesystem."""
    reference: Reference | None = None
    """Recorded from the torch model just before it becomes a graph."""
    parity: list[Facts] = field(default_factory=list[Facts])

    def path(self, step: str) -> Path:
        """Where *step*'s graph lies if it will be delivered: under its final name, which external data refers to."""
        return self.work / step / Path(model_names(self.recipe, self.target)[step]).name

    def graph(self, step: str) -> Path:
        """*step*'s graph on disk, delivered or not."""
        return self.path(step) if self.path(step).exists() else self.work / step / "graph.onnx"

    def delivers(self, step: str) -> bool:
        """Whether *step*'s graph becomes part of the artifact."""
        return step == self.recipe.steps[-1].step or (step == "export" and self.recipe.keep_fp32)


class Step(Protocol):
    """What `STEPS` holds for each config."""

    def require(self, config: Any, context: Context) -> None:
        """Refuse, before anything is loaded, what cannot work."""
        ...

    def apply(self, config: Any, model: Any, context: Context) -> tuple[Any, Facts]:
        """Do the work and say what was done."""
        ...

    def ensure(self, config: Any, model: Any, facts: Facts, context: Context) -> None:
        """Prove it, or raise."""
        ...


class ExportStep:
    """torch → onnx."""

    def require(self, config: Export, context: Context) -> None:
        """FP16 is for GPUs: no CPU kernel of ONNX Runtime computes in it."""
        if config.dtype == "fp16" and context.target != "cuda":
            raise UsageError(
                "FP16 artifacts are for GPUs",
                why=f"the target is {context.target}, where ONNX Runtime has no FP16 kernels and casts instead",
                hint="--fp16 --target cuda, or --int8 for a CPU",
            )

    def apply(self, config: Export, model: TorchModel, context: Context) -> tuple[OnnxModel, Facts]:
        """Record the reference answers, trace, and let go of the torch weights."""
        from deploycomp.export import export
        from deploycomp.graph import rewrite

        if config.fixed.sequence is not None and config.fixed.sequence > model.max_length:
            raise InputRefused(
                f"a sequence of {config.fixed.sequence} is longer than the model's {model.max_length} positions",
                hint=f"--fixed sequence={model.max_length}",
            )
        context.reference = _record(model, config)
        onnx, facts = export(model, config, opset=context.recipe.opset)
        facts["rewrites"] = rewrite(onnx)
        facts["nodes"] = len(list(onnx.model.graph))
        settled = _settle(onnx, context)
        model.release()
        return settled, facts

    def ensure(self, config: Export, model: OnnxModel, facts: Facts, context: Context) -> None:
        """Run the graph at shapes it was not traced at."""
        _save_and_check("export", config.dtype, model, context)


class Int8Step:
    """onnx → onnx, dynamic INT8."""

    def require(self, config: Int8, context: Context) -> None:
        """INT8 as written here is for CPUs."""
        if context.target == "cuda":
            raise UsageError(
                "dynamic INT8 is for CPUs",
                why="ONNX Runtime's CUDA provider has no kernel for it and runs every product on the CPU",
                hint="--fp16 --target cuda",
            )

    def apply(self, config: Int8, model: OnnxModel, context: Context) -> tuple[OnnxModel, Facts]:
        """Decide the weights' bits for the target, then quantize."""
        from deploycomp.quantize import quantize
        from deploycomp.runtime.cpu import why_weight_bits

        bits, why = why_weight_bits(context.target)
        if config.weight_bits != "auto":
            bits, why = config.weight_bits, f"asked for (target {context.target}: {why})"
        quantized, facts = quantize(model, config, bits=cast("Literal[7, 8]", bits), ops=context.recipe.export.ops)
        return quantized, {"target": context.target, "why": why, **facts}

    def ensure(self, config: Int8, model: OnnxModel, facts: Facts, context: Context) -> None:
        """Open a session and hold the answers against the source model's."""
        if not any(done for done, _ in facts["nodes"].values()):
            raise VerificationFailed("INT8 quantized 0 nodes")
        _save_and_check("int8", "int8", model, context)


STEPS: dict[type, Step] = {Export: ExportStep(), Int8: Int8Step()}


def _record(model: TorchModel, config: Export) -> Reference:
    from deploycomp.evaluate.parity import LONGEST_PROBE, PROBE_TEXT, Reference, make_probes

    tokenizer: Any = model.tokenizer
    ids: list[int] = tokenizer(PROBE_TEXT, add_special_tokens=False, verbose=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    probes = make_probes(
        ids or [unknown or 0],
        model.inputs,
        max_length=model.max_length,
        pad_token_id=tokenizer.pad_token_id or 0,
        first=tokenizer.cls_token_id,
        last=tokenizer.sep_token_id,
        batch=config.fixed.batch,
        sequence=config.fixed.sequence,
    )
    note = None
    if model.max_length > LONGEST_PROBE:
        note = f"checked to {LONGEST_PROBE} of {model.max_length} tokens: attention is quadratic in memory"
    return Reference.record(model.run, probes, model.outputs, note)


def _settle(model: OnnxModel, context: Context) -> OnnxModel:
    """Write the traced graph with its weights beside it and read it back lazily.

    The weights in memory belong to the torch model; from here on they are mapped from disk, so that no later step holds
    them twice.
    """
    import onnx_ir as ir

    path = context.graph("export")
    path.parent.mkdir()
    save_graph(model.model, path, external_data_bytes=0, size=model.nbytes)
    for value in model.model.graph.initializers.values():
        value.const_value = None  # the tracer keeps the graph alive; it need not keep the weights too
    return OnnxModel(ir.load(path), model.task, model.inputs, model.outputs)


def _save_and_check(step: str, precision: str, model: OnnxModel, context: Context) -> None:
    """Write the graph as it will be delivered, open it as the target would, and compare its answers."""
    from deploycomp.evaluate.parity import check
    from deploycomp.runtime.session import open_session, runner

    if context.delivers(step):
        path, limit = context.path(step), context.recipe.export.external_data_bytes
        path.parent.mkdir(exist_ok=True)
        save_graph(model.model, path, external_data_bytes=limit, size=model.nbytes)
    path = context.graph(step)
    assert context.reference is not None
    run = runner(open_session(path), model=path)
    context.parity.append(check(run, context.reference, precision, stage=step))
