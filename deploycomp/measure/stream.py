"""Real rows with their own lengths: read and tokenized once in the parent, so that the child gets token ids.

    DATA ──load_rows──► rows ──the candidate's tokenizer──► ids ──sort by length, cut──► padded batches

A stream is passed through whole, so every row counts once, and throughput is that of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploycomp.artifact import MANIFEST, Artifact
from deploycomp.errors import UsageError

if TYPE_CHECKING:
    from deploycomp.data import Rows
    from deploycomp.measure.candidate import Subject
    from deploycomp.runtime.encode import Encoded, Settings

__all__ = ["Stream", "batch_rows", "read_stream"]

Batches = list[dict[str, list[list[int]]]]
"""For each batch, input name → rows of token ids."""

QUESTION = "question-answering"


@dataclass(frozen=True)
class Stream:
    """Rows of a data set, as each candidate takes them."""

    data: str
    digest: str
    rows: int
    """Rows of the data."""
    batches: dict[str, dict[int, Batches]]
    """Candidate → batch size → batches."""
    tokens: dict[str, int]
    """Candidate → tokens without padding."""
    encoded: dict[str, int]
    """Candidate → rows of the model's input; a long context gives several."""
    longest: int

    def facts(self) -> dict[str, Any]:
        """Return what the result says of it."""
        return {
            "data": self.data,
            "digest": self.digest,
            "rows": self.rows,
            "longest": self.longest,
            "tokens": self.tokens,
            "encoded_rows": self.encoded,
        }


def read_stream(subjects: Sequence[Subject], data: str, *, batch_sizes: Sequence[int], **asked: Any) -> Stream:
    """Read rows and tokenize them for every candidate.

    Args:
        subjects: Each with `tokenizer.json` in its folder; the first that tells a task decides how rows are read.
        data: A file, a folder of splits, or a hub data set.
        batch_sizes: Rows in a batch at most.
        asked: Split, columns and limit, as for `load_rows`.

    Raises:
        UsageError: No candidate tells its task, or no such data.
        InputRefused: The data is corrupt, or a candidate has no tokenizer.
    """
    from deploycomp.data import load_rows

    task = _task(subjects)
    rows = load_rows(data, task=task, labeled=False, **asked)
    batches: dict[str, dict[int, Batches]] = {}
    tokens: dict[str, int] = {}
    encoded: dict[str, int] = {}
    longest = 1
    for subject in subjects:
        name = subject.candidate.name
        settings, mine = _encode(subject, rows)
        batches[name] = {size: batch_rows(mine, settings, size) for size in batch_sizes}
        lengths = [len(each) for each in mine]
        tokens[name], encoded[name], longest = sum(lengths), len(mine), max(longest, *lengths)
    return Stream(rows.name, rows.digest, len(rows), batches, tokens, encoded, longest)


def batch_rows(rows: Sequence[Encoded], settings: Settings, batch_size: int) -> Batches:
    """Sort rows by length, longest first, cut them into batches, and pad each to its longest row."""
    from deploycomp.runtime.encode import INPUT_NAMES, make_feeds

    ordered = sorted(rows, key=len, reverse=True)
    found: Batches = []
    for start in range(0, len(ordered), batch_size):
        feeds = make_feeds(ordered[start : start + batch_size], INPUT_NAMES, settings)
        found.append({name: values.tolist() for name, values in feeds.items()})
    return found


def _task(subjects: Sequence[Subject]) -> str:
    for subject in subjects:
        task = _manifest(subject).get("task") or subject.candidate.task
        if task:
            return str(task)
    for subject in subjects:
        if subject.candidate.kind == "torch":
            from deploycomp.models import infer_task, resolve

            return infer_task(resolve(str(subject.model)))
    raise UsageError(
        "no candidate tells how its rows are read",
        why="an .onnx file does not know its task; an artifact and a model folder do",
        hint="name an artifact or a model folder beside it",
    )


def _encode(subject: Subject, rows: Rows) -> tuple[Settings, list[Encoded]]:
    from deploycomp.runtime.encode import encode_questions, encode_texts, load_tokenizer

    settings = _settings(subject)
    tokenizer = load_tokenizer(_folder(subject) / "tokenizer.json")
    if rows.task == QUESTION:
        pairs = [(row["question"], row["context"]) for row in rows.rows]
        return settings, encode_questions(tokenizer, pairs, settings)[0]
    words = rows.task == "token-classification"
    inputs = [each for row in rows.rows for each in _inputs(row, rows.task)]
    return settings, encode_texts(tokenizer, inputs, settings, words=words)[0]


def _inputs(row: Mapping[str, Any], task: str) -> list[Any]:
    """What one row gives the model: a pair is one input to a classifier, and two to an encoder of sentences."""
    if task == "token-classification":
        return [row["tokens"]]
    texts = [row[name] for name in ("text", "text_pair") if row.get(name) is not None]
    return [tuple(texts)] if task == "text-classification" and len(texts) == 2 else texts


def _settings(subject: Subject) -> Settings:
    from deploycomp.measure.candidate import read_json
    from deploycomp.runtime.encode import DEFAULT_MAX_LENGTH, Settings

    runtime = _manifest(subject).get("runtime")
    if runtime is not None:
        return Settings.read(runtime)
    config = read_json(_folder(subject) / "config.json")
    return Settings(
        max_length=subject.max_length or DEFAULT_MAX_LENGTH, pad_token_id=int(config.get("pad_token_id") or 0)
    )


def _manifest(subject: Subject) -> Mapping[str, Any]:
    folder = _folder(subject)
    return Artifact.open(folder).manifest if (folder / MANIFEST).is_file() else {}


def _folder(subject: Subject) -> Path:
    path = subject.candidate.path.absolute()
    return path if path.is_dir() else path.parent
