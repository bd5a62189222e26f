"""Which task a checkpoint was made for, and which class of transformers loads it, through optimum's TasksManager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from deploycomp.errors import InputRefused
from deploycomp.models.source import Source
from deploycomp.recipe import TASKS, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["OUTPUTS", "check_task", "infer_task", "model_class"]

OUTPUTS: dict[str, tuple[str, ...]] = {
    "text-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "feature-extraction": ("last_hidden_state",),
    "sentence-similarity": ("last_hidden_state", "sentence_embedding"),
    "fill-mask": ("logits",),
}
"""Names of a task's outputs, in order."""

_HEADLESS = ("feature-extraction", "sentence-similarity")


def infer_task(source: Source) -> Task:
    """Return the task that a checkpoint was made for.

    Args:
        source: A checkpoint; a sentence-transformers folder is sentence-similarity.

    Raises:
        InputRefused: Its architecture is missing, unknown or for a task that deploycomp does not export.
    """
    if source.head:
        raise _headed(source)
    if source.sentence is not None:
        return "sentence-similarity"
    names = source.config.get("architectures") or []
    where = str(source.encoder / "config.json")
    if not names:
        raise InputRefused(
            "the task cannot be inferred: config.json names no architectures",
            where=where,
            hint=f"name it: --task {'|'.join(TASKS)}",
        )
    task = _task_of(str(names[0]))
    if task not in TASKS:
        raise InputRefused(
            f"the task cannot be inferred from {names[0]}",
            where=where,
            why=f"it is for {task}" if task else "no exported task uses that class",
            hint=f"name the task: --task {'|'.join(TASKS)}",
        )
    return cast("Task", task)


def _task_of(architecture: str) -> str | None:
    """The task of a transformers class, `None` where optimum knows none (BertForPreTraining)."""
    import transformers
    from optimum.exporters.tasks import TasksManager

    found: Any = getattr(transformers, architecture, None)
    if not isinstance(found, type):
        return None
    try:
        return TasksManager.map_from_synonym(TasksManager.infer_task_from_model(found))
    except (ValueError, KeyError):
        return None


def _headed(source: Source) -> InputRefused:
    task = "sentence-similarity" if source.sentence is not None else "feature-extraction"
    return InputRefused(
        "the folder holds a SetFit model, whose classifier is no part of the encoder",
        where=str(source.path / source.head[0]),
        why="the classifier is scikit-learn's, in a pickle that is never opened; without it the answers are embeddings",
        hint=f"export the encoder alone with --task {task}, and give its embeddings to the classifier yourself",
    )


def check_task(source: Source, task: Task | str = "auto") -> Task:
    """Return the task to load a checkpoint for, `auto` resolved.

    Args:
        source: A checkpoint.
        task: A task, or `auto`.

    Raises:
        InputRefused: It cannot be inferred, is unknown, or the checkpoint was made for another one. A head that is
            absent altogether is found by loading strictly.
    """
    if task == "auto":
        task = infer_task(source)
    if task == "sentence-similarity" and source.sentence is not None and source.sentence.unsupported is not None:
        raise source.sentence.unsupported
    where = str(source.encoder / "config.json")
    if task not in TASKS:
        raise InputRefused(f"there is no task {task!r}", where=where, hint=f"one of {', '.join(TASKS)}")
    if source.head and task not in _HEADLESS:
        raise _headed(source)
    if task == "sentence-similarity" and source.sentence is None:
        raise InputRefused(
            "the checkpoint does not say how sentences are pooled",
            where=where,
            why="sentence-similarity reads a sentence-transformers folder with its modules.json",
            hint="use --task feature-extraction, or save the model with sentence-transformers",
        )
    made_for = next((_task_of(str(name)) for name in source.config.get("architectures") or []), None)
    if task not in _HEADLESS and made_for in TASKS and made_for not in (*_HEADLESS, task):
        raise InputRefused(
            f"the checkpoint was made for {made_for}, not for {task}",
            where=where,
            why=f"its class is {source.config['architectures'][0]}",
            hint=f"use --task {made_for}, or --task feature-extraction for the encoder alone",
        )
    return cast("Task", task)


def model_class(source: Source, task: Task, config: Any) -> type[PreTrainedModel]:
    """Return the transformers class that loads *source* for *task*.

    Args:
        source: A checkpoint.
        task: Its task, resolved.
        config: Its transformers config.

    Raises:
        InputRefused: The architecture has no class for the task.
    """
    from optimum.exporters.tasks import TasksManager
    from transformers.models.auto import auto_factory

    auto: Any = TasksManager.get_model_class_for_task(task, library="transformers")
    mapping = auto._model_mapping
    if type(config) not in mapping:
        raise InputRefused(
            f"transformers has no class for {task} with {source.model_type}",
            where=str(source.encoder / "config.json"),
            hint="use --task feature-extraction",
        )
    return auto_factory._get_model_class(config, mapping)
