"""torch → torch: walk the compressing steps of a recipe, and leave an ordinary checkpoint that loads again.

    checkpoint ─ load ─ step ─ step … ─ save ─ load ─ the same answers to the last bit

`export` goes on from that checkpoint; `compress` publishes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import COMPRESSION, stage, translate_os_error
from deploycomp.context import Context, part_of
from deploycomp.errors import UsageError, VerificationFailed
from deploycomp.onnxmodel import Facts
from deploycomp.recipe import Recipe
from deploycomp.steps import STEPS

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.data import Rows
    from deploycomp.models.model import TorchModel

__all__ = ["Compressed", "compress", "compress_model", "torch_steps"]

Progress = Callable[[str, float], None]

CHECKED_ROWS, CHECKED_TOKENS = 2, 16
"""The shape of the batch that the saved checkpoint must answer as the model did."""


@dataclass(frozen=True)
class Compressed:
    """What `compress_model` made."""

    path: Path
    report: dict[str, Any]


def torch_steps(recipe: Recipe) -> list[Any]:
    """Return the steps of a recipe that compress the PyTorch model."""
    return [step for step in recipe.steps if step.stage == "torch"]


def compress(recipe: Recipe, model: TorchModel, context: Context, say: Progress) -> tuple[TorchModel, list[Facts]]:
    """Run the torch steps and load what they left as any checkpoint is loaded.

    Args:
        recipe: Its torch steps are walked.
        model: The source model; it stays as it is.
        context: The run.
        say: Called with a message and the share of these steps that is done.

    Returns:
        The compressed model, read back from its checkpoint in the run's scratch folder, and what each step did.

    Raises:
        VerificationFailed: The checkpoint does not answer as the model does.
    """
    from deploycomp.models import checkpoint, resolve
    from deploycomp.models.load import load
    from deploycomp.runtime.session import trim_memory

    configs = torch_steps(recipe)
    if not configs:
        return model, []
    done: list[Facts] = []
    for number, config in enumerate(configs):
        step = STEPS[type(config)]
        context.say = partial(_say, say, config.step, number, len(configs))
        began = time.monotonic()
        model, facts = step.apply(config, model, context)
        step.ensure(config, model, facts, context)
        done.append({"step": config.step, "seconds": round(time.monotonic() - began, 2), "facts": facts})
    folder = context.work / "checkpoint"
    folder.mkdir()
    trim_memory()
    checkpoint.round_weights(model)
    checkpoint.save(model, folder)
    task, expected = model.task, _answers(model)
    del model  # before it is read back: both together would be the most memory that the command takes
    trim_memory()
    made = load(resolve(folder), task)
    _check_same(expected, _answers(made))
    return made, done


def _say(say: Progress, name: str, number: int, count: int, message: str, part: float) -> None:
    say(f"{name}: {message}", (number + part) / count)


def _answers(model: TorchModel) -> dict[str, np.ndarray]:
    """Outputs of a model by name, on tokens of every kind."""
    import numpy as np

    tokens = min(CHECKED_TOKENS, model.max_length)
    ids = np.arange(CHECKED_ROWS * tokens).reshape(CHECKED_ROWS, tokens) % len(model.tokenizer)
    feeds = {name: np.zeros_like(ids) for name in model.inputs} | {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
    }
    return dict(zip(model.outputs, model.run(feeds, model.outputs), strict=True))


def _check_same(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    for name, expected in before.items():
        if not np.array_equal(expected, after[name]):
            worst = float(np.abs(expected - after[name]).max())
            raise VerificationFailed(f"the compressed checkpoint answers otherwise: {name} by {worst:.3g}")


def compress_model(
    recipe: Recipe,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    published: Callable[[Path], None] | None = None,
) -> Compressed:
    """Compress a checkpoint into another one.

    Args:
        recipe: Its torch steps are run, and `evaluate` judges source and result.
        output: The folder to publish: config.json, surgery.json, model.safetensors, tokenizer, compression.json.
        overwrite: Replace what deploycomp wrote there before.
        progress: Called with a message and the share of the work that is done.
        published: Called with the folder at the moment that it is there.

    Returns:
        The folder and its report.

    Raises:
        UsageError: No model, no step, or the output exists.
        InputRefused: The model or the data is corrupt, unsafe or unsupported.
        GateFailed: A goal cannot be reached, or `evaluate.max_drop` is broken.
        EnvironmentFailed: Disk, memory or permission.
    """
    from deploycomp.models import checkpoint, resolve
    from deploycomp.models.load import load
    from deploycomp.runtime.cpu import resolve_target

    if recipe.model is None:
        raise UsageError("no model was named", hint="deploycomp compress MODEL --prune 1.5x")
    if not torch_steps(recipe):
        raise UsageError("nothing compresses the model", hint="--prune 1.5x, --drop-layers 1 or --prune-vocabulary")
    say = progress or (lambda _message, _share: None)
    local = Path(recipe.model)
    began = time.monotonic()
    home = local if local.exists() else None
    with stage(output, overwrite=overwrite, source=home, published=published) as staging:
        context = Context(recipe, resolve_target(recipe.target), staging.work)
        for config in torch_steps(recipe):
            STEPS[type(config)].require(config, context)
        say("reading the checkpoint", 0.0)
        source = load(resolve(recipe.model, recipe.revision), recipe.task)
        context.judged = judged_rows(recipe, source)
        with translate_os_error(staging.work):
            made, steps = compress(recipe, source, context, part_of(say, 0.05, 0.85))
        evaluation = _evaluate(recipe, source, made, context.judged, part_of(say, 0.85, 0.98))
        report = _report(recipe, source, made, steps, evaluation, seconds=time.monotonic() - began)
        with translate_os_error(staging.path):
            checkpoint.save(made, staging.path)
            report["files"] = staging.list_files()
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (staging.path / COMPRESSION).write_text(text, encoding="utf-8")
        say("publishing", 1.0)
        staging.release()
        return Compressed(staging.destination, report)


def judged_rows(recipe: Recipe, model: TorchModel) -> Rows | None:
    """Read the evaluation data before the first expensive second.

    Raises:
        UsageError: `max_drop` is smaller than the rows can resolve, or a setting is another task's.
    """
    if recipe.evaluate is None:
        return None
    from deploycomp.assess import read_rows
    from deploycomp.evaluate import check_resolvable, null_threshold

    asked = recipe.evaluate
    rows = read_rows(model, asked.data, split=asked.split, columns=asked.columns, limit=asked.limit)
    null_threshold(rows, asked.null_score_diff_threshold)
    if asked.max_drop is not None:
        check_resolvable(asked.max_drop, len(rows), where=rows.name)
    return rows


def _evaluate(
    recipe: Recipe, source: TorchModel, made: TorchModel, rows: Rows | None, say: Progress
) -> dict[str, Any] | None:
    if rows is None:
        return None
    from deploycomp.assess import open_source
    from deploycomp.evaluate import evaluate_candidates

    assert recipe.evaluate is not None
    predictors = {
        name: open_source(model.source, model.task, model.runtime, module=model.module)
        for name, model in (("source", source), ("artifact", made))
    }
    asked = recipe.evaluate
    return evaluate_candidates(
        predictors,
        rows,
        batch_size=asked.batch_size,
        max_drop=asked.max_drop,
        null_score_diff_threshold=asked.null_score_diff_threshold,
        progress=say,
    )


def _report(
    recipe: Recipe,
    source: TorchModel,
    made: TorchModel,
    steps: list[Facts],
    evaluation: dict[str, Any] | None,
    *,
    seconds: float,
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "deploycomp": version("deploycomp"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "source": {"name": source.source.name, "digest": source.source.digest, "parameters": source.parameters},
        "result": {"parameters": made.parameters, "fp32_bytes": made.fp32_bytes},
        "recipe": recipe.model_dump(mode="json"),
        "steps": steps,
        "evaluation": evaluation,
    }
