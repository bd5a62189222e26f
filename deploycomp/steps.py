"""The one table from a step's config to what it does, and the three moments of a step.

require   what must hold, checked before the first expensive second
apply     the work
ensure    proof that something happened, and that the result still answers as the source does
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deploycomp.assess import record_source
from deploycomp.context import Context, save_and_check
from deploycomp.errors import InputRefused, UsageError
from deploycomp.factorizestep import FactorizeStep
from deploycomp.int8step import Int8Step
from deploycomp.onnxmodel import Facts, OnnxModel, save_graph
from deploycomp.prunestep import DropLayersStep, PruneStep, PruneVocabularyStep
from deploycomp.recipe import DropLayers, Export, Factorize, Int8, Prune, PruneFfn, PruneHeads, PruneVocabulary

if TYPE_CHECKING:
    from deploycomp.evaluate.parity import Reference
    from deploycomp.graph.store import StoredGroup
    from deploycomp.models.model import TorchModel
    from deploycomp.recipe import Recipe

__all__ = ["STEPS", "Context", "Step"]


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
        dense, context.stored = _dense(model, context.recipe)
        context.reference = _record(model, config)
        rows = context.judged or (context.calibration and context.calibration.rows)
        context.texts = record_source(model, rows, sequence=config.fixed.sequence)
        onnx, facts = export(dense, config, opset=context.recipe.opset)
        facts["rewrites"] = rewrite(onnx, gpu=context.target == "cuda")
        facts["nodes"] = len(list(onnx.model.graph))
        settled = _settle(onnx, context)
        dense.release()
        model.release()
        return settled, facts

    def ensure(self, config: Export, model: OnnxModel, facts: Facts, context: Context) -> None:
        """Run the graph at shapes it was not traced at."""
        facts.update(save_and_check("export", config.dtype, model, context))


STEPS: dict[type, Step] = {
    PruneVocabulary: PruneVocabularyStep(),
    DropLayers: DropLayersStep(),
    PruneHeads: PruneStep(),
    PruneFfn: PruneStep(),
    Prune: PruneStep(),
    Factorize: FactorizeStep(),
    Export: ExportStep(),
    Int8: Int8Step(),
}


def _dense(model: TorchModel, recipe: Recipe) -> tuple[TorchModel, list[StoredGroup]]:
    """The model with ordinary matrices where it rebuilds them, and what they are rebuilt from.

    INT8 stores that in INT8 too, so it is rounded first, in place, and every later answer comes from what is stored.
    """
    from deploycomp.models.factors import densify, factored
    from deploycomp.storing import round_factors, stored_groups

    if not factored(model.module):
        return model, []
    int8 = any(isinstance(step, Int8) for step in recipe.steps)
    if int8:
        round_factors(model.module)
    dense = model.fork()
    densify(dense.module)
    return dense, stored_groups(model.module, bits=8 if int8 else 32)


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

    path = context.traced
    path.parent.mkdir()
    save_graph(model.model, path, external_data_bytes=0, size=model.nbytes)
    for value in model.model.graph.initializers.values():
        value.const_value = None  # the tracer keeps the graph alive; it need not keep the weights too
    return OnnxModel(ir.load(path), model.task, model.inputs, model.outputs)
