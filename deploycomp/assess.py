"""Judge an artifact, a model folder, or both side by side, on data.

Source and artifact pass through the same tokenization, batching and decoding: only what computes the outputs differs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import MANIFEST
from deploycomp.errors import UsageError

if TYPE_CHECKING:
    from deploycomp.data import Rows
    from deploycomp.measure.candidate import Candidate
    from deploycomp.models.model import TorchModel
    from deploycomp.runtime import Predictor

__all__ = ["candidates_from", "judge", "read_rows", "source_predictor"]


def source_predictor(model: TorchModel) -> Predictor:
    """Wrap a PyTorch model as a `Predictor`, so that it is judged exactly as its artifact is."""
    from tokenizers import Tokenizer

    from deploycomp.runtime import Predictor

    manifest = {
        "task": model.task,
        "signature": {
            "inputs": {name: ["batch", "sequence"] for name in model.inputs},
            "outputs": {name: [] for name in model.outputs},
        },
        "runtime": model.runtime,
    }
    return Predictor(Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str()), manifest, model.run)


def read_rows(model: TorchModel | Predictor, data: str, **asked: Any) -> Rows:
    """Load rows for what a model does, in its own labels.

    Args:
        model: Its task, labels and vocabulary are read.
        data: A file, a folder of splits, or a hub data set.
        asked: Split, columns, limit and labeled, as for `load_rows`.

    Raises:
        UsageError, InputRefused, EnvironmentFailed: As `load_rows` does.
    """
    from deploycomp.data import load_rows

    return load_rows(
        data,
        task=model.task,
        labels=model.runtime.get("labels"),
        problem_type=model.runtime.get("problem_type"),
        vocabulary=model.tokenizer.get_vocab() if model.task == "fill-mask" else None,
        **asked,
    )


def judge(
    model: str,
    data: str,
    *,
    against: str | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    limit: int | None = None,
    max_drop: float | None = None,
    batch_size: int = 16,
    null_score_diff_threshold: float | None = None,
    task: str = "auto",
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Score a model on data and, with *against*, what it lost.

    Args:
        model: An artifact, or a folder or hub id of a fine-tuned model.
        data: A file, a folder of splits, or a hub data set.
        against: The source to compare with, of either kind.
        split: Split of the data.
        columns: Where our columns are in the data.
        limit: A seeded random subset of this many rows.
        max_drop: The largest accepted fall of the main metric, as a fraction.
        batch_size: Rows a batch.
        null_score_diff_threshold: Question answering: by how much the null answer must beat the best span to be the
            answer; None is 0 where the data has unanswerable rows, and no empty answer elsewhere.
        task: Task of a model folder.
        progress: Called with a message and the share of the work that is done.

    Returns:
        The "evaluation" part of `report.json`.

    Raises:
        UsageError: The two are of different tasks.
        InputRefused: Model or data is corrupt, unsafe or unsupported.
        GateFailed: *max_drop* is broken.
    """
    from deploycomp.evaluate import evaluate_candidates

    judged = _open(model, task)
    predictors = {"artifact": judged}
    if against is not None:
        source = _open(against, judged.task)
        if source.task != judged.task:
            raise UsageError(f"{model} does {judged.task}, {against} does {source.task}: they cannot be compared")
        predictors = {"source": source, **predictors}
    rows = read_rows(judged, data, split=split, columns=columns or {}, limit=limit)
    return evaluate_candidates(
        predictors,
        rows,
        batch_size=batch_size,
        max_drop=max_drop,
        null_score_diff_threshold=null_score_diff_threshold,
        progress=progress,
    )


def _open(model: str, task: str) -> Predictor:
    from deploycomp.runtime import Predictor

    if (Path(model) / MANIFEST).is_file():
        return Predictor.load(Path(model), verify=True)
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    return source_predictor(load(resolve(model), task))


def candidates_from(paths: list[str]) -> list[Candidate]:
    """Tell artifacts and ONNX files from model folders, and name each after its folder or file.

    Raises:
        UsageError: A path does not exist.
    """
    from deploycomp.measure.candidate import Candidate

    found: list[Candidate] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise UsageError("there is no such artifact, ONNX file or model folder", where=text)
        onnx = path.suffix == ".onnx" or (path / MANIFEST).is_file()
        name = path.absolute().name
        taken = sum(each.name.split("#")[0] == name for each in found)
        found.append(Candidate(f"{name}#{taken + 1}" if taken else name, "onnx" if onnx else "torch", path))
    return found
