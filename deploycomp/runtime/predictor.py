"""`Predictor`: texts in, typed answers out, with onnxruntime, numpy and tokenizers only.

    predictor = Predictor.load("artifact")
    predictor(["a text", "another"])         # [Classification(label='positive', score=0.98, …), …]

    inputs ─check, encode─► rows ─batches of similar length─► run ─unpad, reorder─► Raw ─decode─► answers

`run` is any callable from feeds to outputs, so the PyTorch source goes through the very same steps. With
dynamic INT8 the range of an activation is taken over the whole batch, so batch mates change a score a little;
in FP32, and in INT8 with calibrated ranges, they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploycomp.artifact import Artifact
from deploycomp.errors import InputRefused, UsageError
from deploycomp.runtime import answers, decode
from deploycomp.runtime.cpu import default_threads
from deploycomp.runtime.encode import (
    INPUT_NAMES,
    Encoded,
    Progress,
    Settings,
    encode_questions,
    encode_texts,
    load_tokenizer,
    make_feeds,
)
from deploycomp.runtime.inputs import EXAMPLES, check_inputs, has_words
from deploycomp.runtime.raw import OUTPUTS, Raw, Row, run_rows
from deploycomp.runtime.results import Span
from deploycomp.runtime.session import Run, open_session, runner
from deploycomp.runtime.versions import check_onnxruntime

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Predictor"]

DEFAULT_BATCH_SIZE = 16
TOKENIZING = 0.05
"""Share of the progress bar that tokenizing gets; running the model takes the rest."""
DEFAULT_TOP_K = 5
"""Candidates for each masked position."""


class Predictor:
    """A model with its tokenizer, ready to answer.

    Args:
        tokenizer: Its truncation and padding are set anew for every call, so share it between threads only
            with a lock.
        manifest: See `deploycomp.json`: `task`, `signature` and `runtime` are read.
        run: (feeds, names of outputs) → outputs.
        streams: Batches that may run at once; *run* is then called from as many threads.

    Raises:
        InputRefused: The manifest has a task or an input that this version does not know.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, manifest: Mapping[str, Any], run: Run, *, streams: int = 1):
        if streams < 1:
            raise UsageError(f"a predictor needs at least one stream, not {streams}", where="streams")
        self.task: str = str(manifest.get("task"))
        if self.task not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise InputRefused(f"the manifest names an unknown task {self.task!r}", where="task", why=f"known: {known}")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.truncated = 0
        """Inputs of the last call that were cut to the maximum length."""
        self.runtime: Mapping[str, Any] = manifest.get("runtime") or {}
        self.settings = Settings.read(self.runtime)
        self._names = _input_names(manifest)
        self._run = run
        self._streams = streams

    @staticmethod
    def load(
        folder: Path | str,
        *,
        threads: int | None = None,
        streams: int = 1,
        providers: Sequence[str] | None = None,
        spinning: bool = True,
        verify: bool = False,
    ) -> Predictor:
        """Open an artifact.

        One stream answers a single batch soonest. As many streams as threads answer most rows a second: batches run
        side by side, and no operator waits for another thread.

        Args:
            folder: What `deploycomp export` wrote.
            threads: In all; by default what affinity and cgroup quota allow.
            streams: Batches that run at once; they share the threads, and the weights.
            providers: ONNX Runtime's names; by default the CPU.
            spinning: See `open_session`.
            verify: Check every byte against the manifest first.

        Raises:
            InputRefused: No artifact, one of another schema, a changed one (with *verify*), a broken model.
            EnvironmentFailed: A provider or a kernel is missing, or this onnxruntime is older than the artifact needs.
        """
        artifact = Artifact.open(Path(folder))
        check_onnxruntime(artifact.manifest, where=str(folder))
        if verify:
            artifact.verify()
        tokenizer = load_tokenizer(artifact.path / "tokenizer.json")
        config = (artifact.manifest.get("runtime") or {}).get("session")
        model = artifact.model
        each = max(1, (threads or default_threads()) // max(1, streams))
        session = open_session(model, threads=each, providers=providers, spinning=spinning, config=config)
        return Predictor(tokenizer, artifact.manifest, runner(session, model=model), streams=streams)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        top_k: int | None = None,
        threshold: float = 0.5,
        max_answer_tokens: int = answers.MAX_ANSWER_TOKENS,
        progress: Progress | None = None,
    ) -> Any:
        """Answer one input or many.

        Args:
            inputs: What the task takes: texts, pairs (tuples), lists of words; one, or a list of them.
            batch_size: Rows in a batch at most.
            top_k: Scores to keep (classification), answers (question answering, which then returns a list for
                each input), or candidates for each mask (5).
            threshold: From which probability on a label holds (multi-label).
            max_answer_tokens: The longest answer (question answering).
            progress: Called with (message, fraction).

        Returns:
            For each input, or for the single one: `Classification`, `Labels` or float (text-classification),
            a list of `Entity` or `Tags` (token-classification), `Span` (question-answering), an array
            [tokens, d] (feature-extraction), a list of `Fill` for each mask (fill-mask). For
            sentence-similarity one array [n, d].

        Raises:
            UsageError: The task does not take such an input; the message has an example.
            VerificationFailed: The model returned NaN.
        """
        items, single = check_inputs(self.task, inputs)
        raw = self._raw(items, batch_size=batch_size, progress=progress)
        results = self.decode(raw, top_k=top_k, threshold=threshold, max_answer_tokens=max_answer_tokens)
        return results[0] if single else results

    def raw(self, inputs: Any, *, batch_size: int = DEFAULT_BATCH_SIZE, progress: Progress | None = None) -> Raw:
        """Run the model and return its outputs without padding, in the order of the inputs.

        Args:
            inputs: As for calling the predictor.
            batch_size: Rows in a batch at most.
            progress: Called with (message, fraction).

        Raises:
            UsageError, VerificationFailed: As for calling the predictor.
        """
        return self._raw(check_inputs(self.task, inputs)[0], batch_size=batch_size, progress=progress)

    def feeds(self, inputs: Any) -> Iterator[dict[str, np.ndarray]]:
        """Make what the graph is fed with, one row at a time at its own length, padded only to fixed sizes.

        Args:
            inputs: As for calling the predictor; a long context gives several rows.

        Raises:
            UsageError: The task does not take such an input.
        """
        for item in check_inputs(self.task, inputs)[0]:
            for row in self._encode([item], progress=None)[0]:
                yield make_feeds([row], self._names, self.settings)

    def labels(self, count: int) -> list[str]:
        """Return the names of *count* labels, LABEL_0 and on where the manifest has none.

        Raises:
            InputRefused: The manifest has another number of them.
        """
        return decode.name_labels(self.runtime.get("labels"), count)

    def decode(
        self,
        raw: Raw,
        *,
        top_k: int | None = None,
        threshold: float = 0.5,
        max_answer_tokens: int = answers.MAX_ANSWER_TOKENS,
    ) -> Any:
        """Turn raw outputs into answers; see calling the predictor for the arguments and the types."""
        if self.task == "sentence-similarity":
            vectors = [rows[0].outputs["sentence_embedding"] for rows in raw.rows]
            return np.stack(vectors) if vectors else np.zeros((0, self._width()), dtype=np.float32)
        if self.task == "feature-extraction":
            return [rows[0].outputs["last_hidden_state"] for rows in raw.rows]
        if self.task == "question-answering":
            return [
                self._answer(context, rows, top_k=top_k, max_answer_tokens=max_answer_tokens)
                for (_, context), rows in zip(raw.inputs, raw.rows, strict=True)
            ]
        if self.task == "fill-mask":
            return [
                decode.fill(rows[0].outputs["logits"], self._spell, top_k=top_k or DEFAULT_TOP_K) for rows in raw.rows
            ]
        if self.task == "token-classification":
            return [self._tag(item, rows[0]) for item, rows in zip(raw.inputs, raw.rows, strict=True)]
        return [self._classify(rows[0].outputs["logits"], top_k=top_k, threshold=threshold) for rows in raw.rows]

    def _raw(self, items: list[Any], *, batch_size: int, progress: Progress | None) -> Raw:
        encoded, self.truncated = self._encode(items, progress=_share(progress, 0.0, TOKENIZING))
        done = run_rows(
            self._run,
            encoded,
            task=self.task,
            names=self._names,
            settings=self.settings,
            keep=[self._kept(row) for row in encoded],
            batch_size=batch_size,
            streams=self._streams,
            progress=_share(progress, TOKENIZING, 1.0),
        )
        rows: list[list[Row]] = [[] for _ in items]
        for row in done:
            rows[row.encoded.item].append(row)
        return Raw(items, rows, self.truncated)

    def _encode(self, items: list[Any], *, progress: Progress | None) -> tuple[list[Encoded], int]:
        if self.task == "question-answering":
            return encode_questions(self.tokenizer, items, self.settings, progress=progress)
        words = has_words(self.task, items)
        return encode_texts(self.tokenizer, items, self.settings, words=words, progress=progress)

    def _kept(self, row: Encoded) -> np.ndarray | None:
        """For fill-mask the masked positions ([tokens, vocabulary] is 15 MB a row), else None for all."""
        if self.task != "fill-mask":
            return None
        token = self.runtime.get("mask_token")
        mask = self.tokenizer.token_to_id(str(token)) if token else None
        if mask is None:
            raise InputRefused("the tokenizer has no mask token", where=f"runtime.mask_token = {token!r}")
        positions = np.flatnonzero(np.array(row.encoding.ids, dtype=np.int64) == mask)
        if not len(positions) and not row.encoding.overflowing:
            raise UsageError(
                f"there is no {token} in the text",
                where=f"input {row.item}",
                hint=f"for example {EXAMPLES[self.task].replace('[MASK]', str(token))}",
            )
        return positions

    def _classify(self, logits: np.ndarray, *, top_k: int | None, threshold: float) -> Any:
        kind = self.runtime.get("problem_type")
        if kind == "regression":
            return float(logits[0]) if len(logits) == 1 else tuple(float(value) for value in logits)
        labels = self.labels(len(logits))
        if kind == "multi_label_classification":
            return decode.multi_label(logits, labels, threshold=threshold, top_k=top_k)
        return decode.classify(logits, labels, top_k=top_k)

    def _tag(self, item: str | list[str], row: Row) -> Any:
        logits = row.outputs["logits"]
        labels = self.labels(logits.shape[-1])
        if isinstance(item, str):
            return decode.entities(item, logits, row.encoded.words, row.encoded.offsets, labels)
        return decode.tag_words(logits, row.encoded.words, len(item), labels)

    def _answer(self, context: str, rows: list[Row], *, top_k: int | None, max_answer_tokens: int) -> Span | list[Span]:
        windows = [
            answers.Window(
                row.outputs["start_logits"], row.outputs["end_logits"], row.encoded.offsets, row.encoded.parts
            )
            for row in rows
        ]
        spans = answers.best_spans(context, windows, top_k=top_k or 1, max_answer_tokens=max_answer_tokens)
        return spans[0] if top_k is None else spans

    def _spell(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)

    def _width(self) -> int:
        """d of the sentence embedding where the manifest knows it, else 0."""
        outputs = (self.manifest.get("signature") or {}).get("outputs") or {}
        last = (outputs.get("sentence_embedding") or [None])[-1]
        return last if isinstance(last, int) else 0


def _share(progress: Progress | None, start: float, end: float) -> Progress | None:
    """A progress function that fills the bar from *start* to *end*."""
    if progress is None:
        return None
    return lambda message, fraction: progress(message, start + fraction * (end - start))


def _input_names(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple((manifest.get("signature") or {}).get("inputs") or INPUT_NAMES[:2])
    for name in names:
        if name not in INPUT_NAMES:
            raise InputRefused(
                f"the model wants an input {name!r} that a text does not give",
                where="signature.inputs",
                why=f"known: {', '.join(INPUT_NAMES)}",
            )
    return names
