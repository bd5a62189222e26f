"""The one loop that walks a recipe: load, steps, seal, evaluate, measure, report, publish.

Everything happens in a staging folder. What breaks on the way (a refusal, a failed check, a broken goal, Ctrl-C)
leaves nothing behind; what is published has been verified, measured and sealed.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp import layout
from deploycomp.artifact import Artifact, Staging, stage, translate_os_error
from deploycomp.assess import open_source
from deploycomp.calibration import find_calibration, graph_predictor
from deploycomp.compression import compress, judged_rows, torch_steps
from deploycomp.context import Context
from deploycomp.errors import UsageError
from deploycomp.onnxmodel import DATA_SUFFIX, Facts, file_bytes
from deploycomp.recipe import Recipe
from deploycomp.steps import STEPS

if TYPE_CHECKING:
    from deploycomp.data import Rows
    from deploycomp.evaluate.library import LibraryModel
    from deploycomp.models.model import TorchModel
    from deploycomp.models.source import Source
    from deploycomp.runtime import Predictor

__all__ = ["ExportResult", "export_model"]

Progress = Callable[[str, float], None]

VERSIONED = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "optimum",
    "tokenizers",
    "numpy",
)
"""Packages whose version can change the bytes or the answers of an artifact."""


@dataclass(frozen=True)
class ExportResult:
    """What `export_model` made."""

    artifact: Artifact
    report: dict[str, Any]


_PHASE = 0.3
"""Share of the bar for evaluation and for measuring each; the steps before them take the rest."""

_COMPRESSION = 0.25
"""Share of the bar for steps that compress the PyTorch model, where there are any."""


@dataclass
class _Run:
    """One run, filled from front to back."""

    recipe: Recipe
    source: Source
    staging: Staging
    context: Context
    progress: Progress
    value: Any = None
    """What the next step works on: a `TorchModel`, then an `OnnxModel`; held only here, so that memory is freed."""
    begun: float = 0.1
    """Where on the bar the export begins."""
    started: float = field(default_factory=time.monotonic)
    steps: list[Facts] = field(default_factory=list[Facts])
    warnings: list[str] = field(default_factory=list[str])

    def say(self, message: str, share: float, phase: float = _PHASE) -> Progress:
        """Announce a phase that begins at *share*, and return a progress function that fills it up to the next."""
        self.progress(message, share)
        return lambda detail, part: self.progress(f"{message}: {detail}", share + part * phase)


def export_model(
    recipe: Recipe,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    published: Callable[[Path], None] | None = None,
) -> ExportResult:
    """Run a recipe and publish its artifact.

    Args:
        recipe: What to do; `recipe.model` names the source.
        output: The folder to publish.
        overwrite: Replace an artifact that is there.
        progress: Called with a message and the share of the work that is done.
        published: Called with the folder at the moment that it is there.

    Returns:
        The published artifact and its report.

    Raises:
        UsageError: The output exists, or a step cannot work for the target.
        InputRefused: The model or the data is corrupt, unsafe or unsupported.
        VerificationFailed: The graph does not answer as the source does.
        GateFailed: `evaluate.max_drop` is broken.
        EnvironmentFailed: Disk, memory or permission.
    """
    from deploycomp.models import resolve
    from deploycomp.runtime.cpu import resolve_target

    if recipe.model is None:
        raise UsageError("no model was named", hint="deploycomp export MODEL")
    local = Path(recipe.model)
    home = local if local.exists() else None
    with stage(output, overwrite=overwrite, source=home, published=published) as staging:
        context = Context(recipe, resolve_target(recipe.target), staging.work)
        for config in recipe.steps:
            STEPS[type(config)].require(config, context)
        say = progress or (lambda _message, _share: None)
        say("reading the checkpoint", 0.0)
        return _walk(_Run(recipe, resolve(recipe.model, recipe.revision), staging, context, say))


def _walk(run: _Run) -> ExportResult:
    from deploycomp.models.load import load

    run.progress("loading the model", 0.05)
    run.value = load(run.source, run.recipe.task)
    rows = run.context.judged = judged_rows(run.recipe, run.value)
    source = _source_facts(run.value)
    with translate_os_error(run.staging.work):
        _compress(run)
    manifest = _manifest(run, run.value)
    _prepare(run, rows)
    with translate_os_error(run.staging.path):
        layout.copy_side_files(
            run.value.source.path,
            run.staging.path,
            encoder=run.value.source.encoder,
            settings=run.value.settings,
            tokenizer=run.value.tokenizer,
            layout=run.recipe.layout,
        )
    with translate_os_error(run.staging.work):
        manifest["signature"] = _steps(run)
    manifest["runtime"]["session"] = run.context.session
    manifest["runtime"]["onnxruntime"] = run.context.needs
    run.warnings += run.context.warnings
    _check_texts(run, manifest)
    manifest = _seal(run, manifest)
    run.warnings += _elsewhere(run.context.target, measured=run.recipe.benchmark is not None)
    evaluation = _evaluate(run, rows, manifest)
    _free_memory()  # a session that is alive spins, and would be measured
    benchmark = _benchmark(run, manifest)
    report = _report(run, manifest, source, evaluation, benchmark)
    run.progress("publishing", 1.0)
    return ExportResult(run.staging.publish(), report)


def _compress(run: _Run) -> None:
    """Walk the torch steps; what follows sees an ordinary checkpoint."""
    if not torch_steps(run.recipe):
        return
    run.value, done = compress(run.recipe, run.value, run.context, run.say("compressing", 0.05, _COMPRESSION))
    run.steps += done
    run.begun = 0.05 + _COMPRESSION
    _free_memory()


def _prepare(run: _Run, rows: Rows | None) -> None:
    """Give the steps what they may choose on: rows of their own, and this machine's clock."""
    context, recipe = run.context, run.recipe
    context.side = run.staging.path
    if any(step.step == "int8" for step in recipe.steps):
        context.source = graph_predictor(recipe, run.value)
        context.calibration, context.uncalibrated = find_calibration(recipe, run.value, rows)
        context.tuning = recipe.tune if recipe.tune is not None else recipe.target == "auto"


def _steps(run: _Run) -> dict[str, Any]:
    """Walk the steps and return the signature of the last graph."""
    rest = [config for config in run.recipe.steps if config.stage != "torch"]
    for number, config in enumerate(rest):
        step = STEPS[type(config)]
        share = (_PHASE + 0.1 - run.begun) / len(rest)
        run.context.say = run.say(config.step, run.begun + share * number, share)
        began = time.monotonic()
        run.value, facts = step.apply(config, run.value, run.context)
        _free_memory()  # what the step replaced goes before a session comes
        step.ensure(config, run.value, facts, run.context)
        _free_memory()
        run.steps.append({"step": config.step, "seconds": round(time.monotonic() - began, 2), "facts": facts})
    signature = run.value.signature()
    run.value = None
    return signature


def _check_texts(run: _Run, manifest: dict[str, Any]) -> None:
    """Hold the graphs, behind the tokenizer that is published, to what the source answers in its own library.

    Raises:
        VerificationFailed: A text is read or answered otherwise.
    """
    from deploycomp.evaluate.selftest import write_selftest
    from deploycomp.evaluate.text import check_text

    reference = run.context.texts
    assert reference is not None
    run.progress("asking the source's library", 0.4)
    last = run.recipe.steps[-1].step
    graphs = {"export": run.recipe.export.dtype, last: _precision(run.recipe)}
    for step, precision in graphs.items():
        predictor = _predictor(run, manifest, run.context.graph(step))
        run.context.parity.append(check_text(predictor, reference, precision))
        _free_memory()
    manifest["selftest"] = write_selftest(reference)


def _predictor(run: _Run, manifest: dict[str, Any], graph: Path) -> Predictor:
    """A graph of this run behind the tokenizer that is published."""
    from deploycomp.runtime import Predictor
    from deploycomp.runtime.encode import load_tokenizer
    from deploycomp.runtime.session import open_session, runner

    tokenizer = load_tokenizer(run.staging.path / "tokenizer.json")
    return Predictor(tokenizer, manifest, runner(open_session(graph, spinning=False), model=graph))


def _free_memory() -> None:
    """Collect what is dead and give it back to the system."""
    from deploycomp.runtime.session import trim_memory

    gc.collect()
    trim_memory()


def _precision(recipe: Recipe) -> str:
    return "int8" if any(step.step == "int8" for step in recipe.steps) else recipe.export.dtype


def _manifest(run: _Run, model: TorchModel) -> dict[str, Any]:
    """Everything that a runtime needs and a reader wants; the same on every run of the same recipe."""
    recipe = run.recipe
    return {
        "deploycomp": version("deploycomp"),
        "task": model.task,
        "model": layout.model_names(recipe, run.context.target)[recipe.steps[-1].step],
        "precision": _precision(recipe),
        "target": run.context.target,
        "signature": {},
        "runtime": {**model.runtime, "fixed": recipe.export.fixed.model_dump(), "session": {}},
        "source": {
            "name": run.source.name,
            "revision": run.source.revision,
            "digest": run.source.digest,
            "files": dict(sorted(run.source.files.items())),
            "notes": list(run.source.notes),
        },
        "recipe": recipe.model_dump(mode="json"),
        "versions": _versions(),
    }


def _source_facts(model: TorchModel) -> dict[str, Any]:
    return {
        "name": model.source.name,
        "revision": model.source.revision,
        "digest": model.source.digest,
        "model_type": model.anatomy.model_type,
        "task": model.task,
        "parameters": model.parameters,
        "bytes": model.fp32_bytes,
    }


def _seal(run: _Run, manifest: dict[str, Any]) -> dict[str, Any]:
    """Move the graphs into place and seal; the FP32 graph stays in scratch unless it is to be kept."""
    names = layout.model_names(run.recipe, run.context.target)
    last = run.recipe.steps[-1].step
    with translate_os_error(run.staging.path):
        for step in names:
            path = run.context.path(step)
            if not path.exists():
                continue
            place = run.staging.path / names[step]
            place.parent.mkdir(parents=True, exist_ok=True)
            for each in (path, path.with_name(path.name + DATA_SUFFIX)):
                if each.exists():
                    shutil.move(each, place.parent / each.name)
        external = (run.staging.path / (names[last] + DATA_SUFFIX)).exists()
        layout.write_ort_config(run.staging.path, run.recipe, run.steps, external=external)
    facts = [{"step": step["step"], "facts": _lasting(step["facts"])} for step in run.steps]
    return run.staging.seal({**manifest, "steps": facts, "parity": run.context.parity})


_FLEETING = ("tuning", "sensitivity", "table", "measured", "trail", "recovery", "forms")


def _lasting(facts: Facts) -> Facts:
    """Facts without milliseconds, which no two runs share; they stand in the report."""
    return {name: value for name, value in facts.items() if name not in _FLEETING}


def _elsewhere(target: str, *, measured: bool) -> list[str]:
    """Say aloud what could not be done here because the target is another kind of machine."""
    from deploycomp.runtime.cpu import fulfils, resolve_target

    here = resolve_target("auto")
    if fulfils(here, target):
        return []
    if target == "cuda":
        done = "Answers were checked on the CPU, and latency was not measured"
    else:
        done = "Answers were checked" + (" and latency was measured" if measured else "") + " here all the same"
    return [f"The target {target} is not this machine ({here}). {done}: check it again on the target."]


def _fp32(run: _Run) -> Path | None:
    """The FP32 graph that the artifact is compared with, where the artifact is not that graph itself."""
    if run.recipe.steps[-1].step == "export":
        return None
    kept = run.staging.path / layout.model_names(run.recipe, run.context.target)["export"]
    return kept if run.recipe.keep_fp32 else run.context.graph("export")


def _evaluate(run: _Run, rows: Rows | None, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Judge the source in its own library, and the artifact as its user opens it, on the same rows."""
    if rows is None:
        return None
    from deploycomp.evaluate import evaluate_candidates
    from deploycomp.models.quiet import quiet
    from deploycomp.runtime import Predictor

    asked = run.recipe.evaluate
    assert asked is not None
    progress = run.say("evaluating", 0.4)
    predictors: dict[str, LibraryModel] = {
        "source": open_source(run.source, str(manifest["task"]), manifest["runtime"])
    }
    if (fp32 := _fp32(run)) is not None:
        predictors["fp32"] = _predictor(run, manifest, fp32)
    predictors["artifact"] = Predictor.load(run.staging.path, spinning=False)
    with quiet():  # the source's library warns of what it cuts
        return evaluate_candidates(
            predictors,
            rows,
            batch_size=asked.batch_size,
            max_drop=asked.max_drop,
            null_score_diff_threshold=asked.null_score_diff_threshold,
            alone=["artifact"] if _precision(run.recipe) == "int8" else [],
            progress=progress,
            warn=run.warnings.append,
        )


def _benchmark(run: _Run, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Measure source, FP32 graph and artifact side by side on this machine."""
    from deploycomp.measure.benchmark import benchmark, ratios
    from deploycomp.measure.candidate import Candidate

    if run.recipe.benchmark is None or run.context.target == "cuda":
        return None  # a GPU's artifact is not measured on a CPU; measuring on GPUs is the benchmark's own issue
    candidates = [Candidate("source", "torch", run.source.path, str(manifest["task"]))]
    fp32 = _fp32(run)
    if fp32 is not None:
        run.context.describe(fp32)
        candidates.append(Candidate("fp32", "onnx", fp32, None))
    candidates.append(Candidate("artifact", "onnx", run.staging.path, None))
    result = benchmark(candidates, run.recipe.benchmark, progress=run.say("measuring", 0.7))
    references = [each.name for each in candidates if each.name != "artifact"]
    result["ratios"] = {name: ratios(result, "artifact", name) for name in references}
    result["fp32_ratios"] = ratios(result, "fp32", "source")
    return result


def _report(
    run: _Run,
    manifest: dict[str, Any],
    source: dict[str, Any],
    evaluation: dict[str, Any] | None,
    benchmark: dict[str, Any] | None,
) -> dict[str, Any]:
    from deploycomp.report.verdict import build_verdict
    from deploycomp.report.write import write_report
    from deploycomp.runtime.doctor import doctor

    artifact = Artifact(run.staging.path, manifest)
    size, fp32 = file_bytes(artifact.model), _fp32(run)
    steps = [{**step, "facts": {**step["facts"]}} for step in run.steps]
    layers = [layer for step in steps for layer in step["facts"].pop("layers", [])]
    here = doctor(folder=run.staging.destination.parent)
    report: dict[str, Any] = {
        "schema_version": 1,
        "deploycomp": manifest["deploycomp"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - run.started, 2),
        "verdict": {"headline": "", "warnings": []},
        "source": source,
        "artifact": {
            "model": manifest["model"],
            "bytes": size,
            "fp32_bytes": file_bytes(fp32) if fp32 else size,
            "precision": manifest["precision"],
            "target": manifest["target"],
            "digest": artifact.digest,
            "onnxruntime": manifest["runtime"]["onnxruntime"],
        },
        "recipe": manifest["recipe"],
        "versions": manifest["versions"],
        "machine": {**here["cpu"], "threads": here["threads"]["count"]},
        "steps": steps,
        "parity": run.context.parity,
        "layers": layers,
        "evaluation": evaluation,
        "benchmark": benchmark,
    }
    report["verdict"] = build_verdict(report)
    report["verdict"]["warnings"] += run.warnings
    with translate_os_error(run.staging.path):
        return write_report(report, run.staging.path)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
