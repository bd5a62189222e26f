"""Judge an artifact, a model folder, or both side by side, on data.

A checkpoint answers through its own library, an artifact through the runtime: they share nothing but the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import MANIFEST
from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, UsageError, in_words
from deploycomp.onnxmodel import Facts

if TYPE_CHECKING:
    from deploycomp.data import Rows
    from deploycomp.evaluate.library import Library, LibraryModel
    from deploycomp.evaluate.text import TextReference
    from deploycomp.measure.candidate import Candidate
    from deploycomp.models import Source
    from deploycomp.models.model import TorchModel
    from deploycomp.runtime import Predictor

__all__ = ["candidates_from", "judge", "open_source", "read_rows", "record_source", "source_predictor"]


def source_predictor(model: TorchModel) -> Predictor:
    """Wrap a PyTorch model as a `Predictor`, for rows that steps learn from and choose on."""
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


def open_source(source: Source, task: str, runtime: Mapping[str, Any], *, module: Any = None) -> Library:
    """Open a checkpoint as its own library does, to judge what was made of it.

    Args:
        source: The checkpoint.
        task: What it is for.
        runtime: What `TorchModel.runtime` says of it.
        module: The model, where it is loaded already. One that was cut is loaded here: no library could.

    Raises:
        InputRefused: Its own library does not take it.
        EnvironmentFailed: sentence-transformers is needed and not installed.
    """
    from deploycomp.evaluate.library import import_library, open_library
    from deploycomp.models.load import load
    from deploycomp.models.quiet import quiet
    from deploycomp.models.sentence import cross_encoder
    from deploycomp.models.stage import staged

    if module is None and source.plan:
        module = load(source, task).module
    cross = task == "text-classification" and len(runtime.get("labels") or ()) == 1 and cross_encoder(source.config)
    try:
        with quiet():
            import_library(task, cross_encoder=cross)  # before the watch: an import may start programs
            with staged(source) as stage:
                library = open_library(stage.root, stage.folder, task, runtime, module=module, cross_encoder=cross)
            stage.rehome(library.tokenizer)
    except ImportError as error:
        raise EnvironmentFailed(
            "the model is judged through its own library, which is not installed",
            why=str(error),
            hint="pip install sentence-transformers",
        ) from error
    except DeploycompError:
        raise
    except Exception as error:
        raise InputRefused(
            "the model's own library cannot open it", where=str(source.path), why=in_words(error)
        ) from error
    library.digest = source.digest
    return library


def record_source(model: TorchModel, rows: Rows | None, *, sequence: int | None = None) -> TextReference:
    """Ask a checkpoint the probes from the text on, and some of the user's rows, in its own library.

    Args:
        model: The model that is exported. One that was cut answers itself, inside its library.
        rows: The user's data, where there is some.
        sequence: Tokens that the graph will be fixed to: the library is then told to cut there.
    """
    from deploycomp.evaluate import inputs_of
    from deploycomp.evaluate.text import probe_inputs, record_texts, sample_rows
    from deploycomp.models.quiet import quiet

    tokenizer: Any = model.tokenizer
    length = min(model.max_length, sequence or model.max_length)
    probes = probe_inputs(
        model.task,
        max_length=length,
        mask=tokenizer.mask_token,
        special=[str(each) for each in tokenizer.all_special_tokens],
    )
    runtime = {**model.runtime, "max_length": length}
    library = open_source(model.source, model.task, runtime, module=model.module if model.plan else None)
    found = sample_rows(inputs_of(rows, library)) if rows is not None else []
    with quiet():
        return record_texts(library, probes, found)


def read_rows(model: TorchModel | LibraryModel, data: str, **asked: Any) -> Rows:
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
        The "evaluation" part of `report.json`, and as "parity" what was checked from the text on.

    Raises:
        UsageError: The two are of different tasks.
        InputRefused: Model or data is corrupt, unsafe or unsupported.
        VerificationFailed: An artifact reads or answers a text otherwise than its source.
        GateFailed: *max_drop* is broken.
    """
    from deploycomp.evaluate import evaluate_candidates
    from deploycomp.models.quiet import quiet

    judged, parity = _open(model, task)
    predictors: dict[str, LibraryModel] = {"artifact": judged}
    if against is not None:
        source, more = _open(against, judged.task)
        parity += more
        if source.task != judged.task:
            raise UsageError(f"{model} does {judged.task}, {against} does {source.task}: they cannot be compared")
        predictors = {"source": source, **predictors}
    rows = read_rows(judged, data, split=split, columns=columns or {}, limit=limit)
    if against is not None:
        parity += _same_source(predictors["source"], judged, rows)
    with quiet():
        found = evaluate_candidates(
            predictors,
            rows,
            batch_size=batch_size,
            max_drop=max_drop,
            null_score_diff_threshold=null_score_diff_threshold,
            progress=progress,
        )
    return {**found, "parity": parity}


def _same_source(source: LibraryModel, judged: LibraryModel, rows: Rows) -> list[Facts]:
    """Hold an artifact to the very checkpoint that it was made of, from the text on, unless it was compressed first."""
    from deploycomp.evaluate import inputs_of
    from deploycomp.evaluate.library import Library
    from deploycomp.evaluate.text import check_text, record_texts, sample_rows
    from deploycomp.runtime import Predictor

    if not isinstance(source, Library) or not isinstance(judged, Predictor):
        return []
    manifest = judged.manifest
    if (manifest.get("runtime") or {}).get("fixed", {}).get("sequence"):
        return []  # it cuts where the source does not; its own texts were asked as it cuts
    exported = all(step.get("step") in ("export", "int8") for step in manifest.get("steps") or [{}])
    if not exported or (manifest.get("source") or {}).get("digest") != source.digest:
        return []
    reference = record_texts(source, [], sample_rows(inputs_of(rows, source)))
    return [check_text(judged, reference, str(manifest.get("precision")))]


def _open(model: str, task: str) -> tuple[LibraryModel, list[Facts]]:
    """An artifact, which first answers its own probes here; or a checkpoint in its own library."""
    from deploycomp.runtime import Predictor

    if (Path(model) / MANIFEST).is_file():
        from deploycomp.evaluate.selftest import check_selftest

        predictor = Predictor.load(Path(model), verify=True)
        facts = check_selftest(predictor, predictor.manifest)
        return predictor, [facts] if facts is not None else []
    from deploycomp.models import resolve
    from deploycomp.models.load import load

    loaded = load(resolve(model), task)
    module = loaded.module if loaded.plan else None
    return open_source(loaded.source, loaded.task, loaded.runtime, module=module), []


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
