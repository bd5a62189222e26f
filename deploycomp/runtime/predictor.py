"""`Predictor`: texts in, typed answers out, with onnxruntime, numpy and tokenizers only.

    predictor = Predictor.load("artifact")
    predictor(["a text", "another"])         # [Classification(label='positive', score=0.98, …), …]

    inputs ─check, encode─► rows ─batches of similar length─► run ─unpad, reorder─► Raw ─decode─► answers

`run` is any callable from feeds to outputs, so the PyTorch source goes through the very same steps. With
dynamic INT8 the range of an activation is taken over the whole batch, so batch mates change a score a little;
in FP32, and in INT8 with calibrated ranges, they do not.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deploycomp.artifact import Artifact, Version, read_version, verify_version
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
from deploycomp.runtime.entities import Aggregation, Tokens, check_aggregation, entities
from deploycomp.runtime.inputs import EXAMPLES, check_count, check_inputs, check_number, has_words
from deploycomp.runtime.raw import OUTPUTS, Raw, Row, run_rows
from deploycomp.runtime.results import Answered, Span
from deploycomp.runtime.session import Run, open_session, runner
from deploycomp.runtime.versions import check_onnxruntime

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Predictor"]

DEFAULT_BATCH_SIZE = 16
WEIGHTS_SUFFIX = ".data"
"""What weights outside of the graph are called after it; they are found by the graph's name only."""
TOKENIZING = 0.05
"""Share of the progress bar that tokenizing gets; running the model takes the rest."""
DEFAULT_TOP_K = 5
"""Candidates for each masked position."""
LABELLED = ("text-classification", "token-classification")
"""Tasks whose outputs have a column a label."""


class _Opened(NamedTuple):
    """What a predictor was made of, enough to make it again."""

    folder: str
    digest: str
    """Of the artifact's files: another artifact in the same place is not this predictor."""
    options: dict[str, Any]
    """Of `Predictor.load`."""


class Predictor:
    """A model with its tokenizer, ready to answer.

    Args:
        tokenizer: Its truncation and padding are set anew for every call. A predictor does that under a lock of its
            own; two of them with one tokenizer need one around both.
        manifest: See `deploycomp.json`: `task`, `signature` and `runtime` are read.
        run: (feeds, names of outputs) → outputs.
        streams: Batches that may run at once; *run* is then called from as many threads.

    Raises:
        InputRefused: The manifest has a task or an input that this version does not know.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, manifest: Mapping[str, Any], run: Run, *, streams: int = 1):
        streams = check_count("streams", streams)
        self.task: str = str(manifest.get("task"))
        if self.task not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise InputRefused(f"the manifest names an unknown task {self.task!r}", where="task", why=f"known: {known}")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.truncated = 0
        """Inputs of the last call that were cut to the maximum length; of several threads, of whichever came last."""
        self.runtime: Mapping[str, Any] = manifest.get("runtime") or {}
        self.settings = Settings.read(self.runtime)
        self._names = _input_names(manifest)
        self._continues: str | None = getattr(tokenizer.model, "continuing_subword_prefix", None)
        self._run = run
        self._streams = streams
        self._tokenizing = threading.Lock()
        self._opened: _Opened | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a folder and options, and open it again on the other side; no weight is copied.

        Raises:
            UsageError: It was not made by `load`, so there is no folder to open.
        """
        if self._opened is None:
            raise UsageError(
                "this predictor cannot be sent to another process",
                why="it was not made by Predictor.load, so there is no folder that could be opened there",
                hint="Predictor.load(FOLDER)",
            )
        return _reopen, self._opened

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

        A loaded predictor may be used by several threads. It can be pickled: it travels as its folder and these
        options, and is opened again in the other process.

        Raises:
            UsageError: *threads* or *streams* is no whole number of at least one.
            InputRefused: No artifact, one of another schema, a changed one (with *verify*), a broken model.
            EnvironmentFailed: A provider or a kernel is missing, or this onnxruntime is older than the artifact needs.
        """
        streams = check_count("streams", streams)
        every = default_threads() if threads is None else check_count("threads", threads)
        options = {"threads": threads, "streams": streams, "providers": providers, "spinning": spinning}

        def read(version: Version) -> Predictor:
            check_onnxruntime(version.manifest, where=str(folder))
            artifact = verify_version(version) if verify else Artifact(version.path, version.manifest)
            model = artifact.model
            name = str(artifact.manifest["model"])
            version.hold(["tokenizer.json", name])
            tokenizer = version.opened_by(load_tokenizer, "tokenizer.json")
            opening = functools.partial(
                open_session,
                threads=max(1, every // streams),
                providers=providers,
                spinning=spinning,
                config=(artifact.manifest.get("runtime") or {}).get("session"),
            )
            session = version.opened_by(opening, name, beside=f"{name}{WEIGHTS_SUFFIX}")
            loaded = Predictor(tokenizer, artifact.manifest, runner(session, model=model), streams=streams)
            loaded._opened = _Opened(str(artifact.path.absolute()), artifact.digest, {**options, "verify": verify})
            return loaded

        return read_version(Path(folder), read)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        top_k: int | None = None,
        threshold: float = 0.5,
        max_answer_tokens: int = answers.MAX_ANSWER_TOKENS,
        aggregation: str = "simple",
        prompt_name: str | None = None,
        null_score_diff_threshold: float | None = None,
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
            aggregation: How the tokens of a text become entities (token classification): simple, first, average or
                max, as in transformers' pipeline.
            prompt_name: The prompt of the model that is put before every text (sentence-similarity); by default the
                one that the model names as its default, where it does.
            null_score_diff_threshold: For models trained on SQuAD 2: the answer is empty where the null answer's score
                exceeds the best span's by more than this, 0 in the official scripts; None always gives a span.
            progress: Called with (message, fraction).

        Returns:
            For each input, or for the single one: `Classification`, `Labels` or float (text-classification),
            a list of `Entity` or `Tags` (token-classification), `Span` (question-answering), an array
            [tokens, d] (feature-extraction), a list of `Fill` for each mask (fill-mask). For
            sentence-similarity one array [n, d].

        Raises:
            UsageError: The task does not take such an input; the message has an example. Or an option is no such
                number.
            VerificationFailed: The model returned NaN.
        """
        grouped = check_aggregation(aggregation)
        options = self._options(top_k, threshold, max_answer_tokens, null_score_diff_threshold)  # before the model runs
        items, single = check_inputs(self.task, inputs)
        raw = self._raw(self._prompted(items, prompt_name), batch_size=batch_size, progress=progress)
        results = self.decode(raw, aggregation=grouped, **options)
        return results[0] if single else results

    def answer(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = DEFAULT_BATCH_SIZE,
        top_k: int | None = None,
        null_score_diff_threshold: float | None = None,
        progress: Progress | None = None,
    ) -> Answered:
        """Answer many inputs and say what else is known: the labels in the order of the model, and what was cut.

        Args:
            inputs: As for calling the predictor, a list.
            batch_size: Rows in a batch at most.
            top_k: As for calling the predictor.
            null_score_diff_threshold: As for calling the predictor.
            progress: Called with (message, fraction).

        Raises:
            UsageError, VerificationFailed: As for calling the predictor.
        """
        raw = self.raw(inputs, batch_size=batch_size, progress=progress)
        labels: tuple[str, ...] = ()
        if self.task in LABELLED and raw.rows:
            labels = tuple(self.labels(raw.rows[0][0].outputs["logits"].shape[-1]))
        values = self.decode(raw, top_k=top_k, null_score_diff_threshold=null_score_diff_threshold)
        return Answered(values, labels, raw.truncated)

    def tokens(self, inputs: Any) -> list[list[int]]:
        """Return the token ids that each input becomes, special tokens included; windows stand one after another.

        Args:
            inputs: As for calling the predictor.

        Raises:
            UsageError: The task does not take such an input.
        """
        items = self._prompted(check_inputs(self.task, inputs)[0], None)
        found: list[list[int]] = [[] for _ in items]
        for row in self._encode(items, progress=None)[0]:
            found[row.item] += row.encoding.ids
        return found

    def raw(self, inputs: Any, *, batch_size: int = DEFAULT_BATCH_SIZE, progress: Progress | None = None) -> Raw:
        """Run the model and return its outputs without padding, in the order of the inputs.

        Args:
            inputs: As for calling the predictor.
            batch_size: Rows in a batch at most.
            progress: Called with (message, fraction).

        Raises:
            UsageError, VerificationFailed: As for calling the predictor.
        """
        items = self._prompted(check_inputs(self.task, inputs)[0], None)
        return self._raw(items, batch_size=batch_size, progress=progress)

    def feeds(self, inputs: Any) -> Iterator[dict[str, np.ndarray]]:
        """Make what the graph is fed with, one row at a time at its own length, padded only to fixed sizes.

        Args:
            inputs: As for calling the predictor; a long context gives several rows.

        Raises:
            UsageError: The task does not take such an input.
        """
        for item in self._prompted(check_inputs(self.task, inputs)[0], None):
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
        aggregation: Aggregation = "simple",
        null_score_diff_threshold: float | None = None,
    ) -> Any:
        """Turn raw outputs into answers; see calling the predictor for the arguments and the types."""
        self._options(top_k, threshold, max_answer_tokens, null_score_diff_threshold)
        if self.task == "sentence-similarity":
            vectors = [rows[0].outputs["sentence_embedding"] for rows in raw.rows]
            return np.stack(vectors) if vectors else np.zeros((0, self._width()), dtype=np.float32)
        if self.task == "feature-extraction":
            return [rows[0].outputs["last_hidden_state"] for rows in raw.rows]
        if self.task == "question-answering":
            how = {"max_answer_tokens": max_answer_tokens, "null_score_diff_threshold": null_score_diff_threshold}
            pairs = zip(raw.inputs, raw.rows, strict=True)
            return [self._answer(context, rows, top_k=top_k, **how) for (_, context), rows in pairs]
        if self.task == "fill-mask":
            return [
                decode.fill(rows[0].outputs["logits"], self._spell, top_k=top_k or DEFAULT_TOP_K) for rows in raw.rows
            ]
        if self.task == "token-classification":
            return [self._tag(item, rows[0], aggregation) for item, rows in zip(raw.inputs, raw.rows, strict=True)]
        return [self._classify(rows[0].outputs["logits"], top_k=top_k, threshold=threshold) for rows in raw.rows]

    def _options(
        self, top_k: int | None, threshold: float, max_answer_tokens: int, null_score_diff_threshold: float | None
    ) -> dict[str, Any]:
        """The options of `decode`, checked."""
        if top_k is not None:
            top_k = check_count("top_k", top_k)
        if null_score_diff_threshold is not None:
            name = "null_score_diff_threshold"
            if self.task != "question-answering":
                raise UsageError(f"{name} is for question answering", where=name, why=f"the task is {self.task}")
            null_score_diff_threshold = check_number(name, null_score_diff_threshold)
        return {
            "top_k": top_k,
            "threshold": check_number("threshold", threshold, low=0, high=1),
            "max_answer_tokens": check_count("max_answer_tokens", max_answer_tokens),
            "null_score_diff_threshold": null_score_diff_threshold,
        }

    def _raw(self, items: list[Any], *, batch_size: int, progress: Progress | None) -> Raw:
        batch_size = check_count("batch_size", batch_size)
        encoded, truncated = self._encode(items, progress=_share(progress, 0.0, TOKENIZING))
        self.truncated = truncated
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
        return Raw(items, rows, truncated)

    def _encode(self, items: list[Any], *, progress: Progress | None) -> tuple[list[Encoded], int]:
        words = has_words(self.task, items)
        with self._tokenizing:  # a tokenizer has one state: how it cuts is set, then used
            if self.task == "question-answering":
                return encode_questions(self.tokenizer, items, self.settings, progress=progress)
            return encode_texts(self.tokenizer, items, self.settings, words=words, progress=progress)

    def _kept(self, row: Encoded) -> np.ndarray | None:
        """For fill-mask the masked positions ([tokens, vocabulary] is 15 MB a row), else None for all."""
        if self.task != "fill-mask":
            return None
        token = self.runtime.get("mask_token")
        with self._tokenizing:
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
            values = decode.sigmoid(logits) if self.runtime.get("activation") == "sigmoid" else logits
            return float(values[0]) if len(values) == 1 else tuple(float(value) for value in values)
        labels = self.labels(len(logits))
        if kind == "multi_label_classification":
            return decode.multi_label(logits, labels, threshold=threshold, top_k=top_k)
        return decode.classify(logits, labels, top_k=top_k)

    def _prompted(self, items: list[Any], name: str | None) -> list[Any]:
        """Texts with the prompt of that name before them, else with the model's default prompt, where it has one."""
        prompts: Mapping[str, str] = self.runtime.get("prompts") or {}
        if name is not None and name not in prompts:
            raise UsageError(
                f"the model has no prompt {name!r}",
                where="prompt_name",
                why=f"its prompts: {', '.join(prompts) or 'none'}",
            )
        prompt = prompts.get(name or self.runtime.get("default_prompt_name") or "", "")
        return [prompt + item for item in items] if prompt else items

    def _tag(self, item: str | list[str], row: Row, aggregation: Aggregation) -> Any:
        logits = row.outputs["logits"]
        labels = self.labels(logits.shape[-1])
        if isinstance(item, str):
            encoding = row.encoded.encoding
            unknown = self.runtime.get("unk_token_id")
            tokens = Tokens(
                encoding.tokens,
                encoding.offsets,
                encoding.special_tokens_mask,
                [each == unknown for each in encoding.ids],
            )
            return entities(item, logits, tokens, labels, aggregation=aggregation, prefix=self._continues)
        return decode.tag_words(logits, row.encoded.words, len(item), labels)

    def _answer(self, context: str, rows: list[Row], *, top_k: int | None, **how: Any) -> Span | list[Span]:
        windows = [
            answers.Window(
                row.outputs["start_logits"], row.outputs["end_logits"], row.encoded.offsets, row.encoded.parts
            )
            for row in rows
        ]
        spans = answers.best_spans(context, windows, top_k=top_k or 1, **how)
        return spans[0] if top_k is None else spans

    def _spell(self, token: int) -> str:
        with self._tokenizing:
            return self.tokenizer.decode([token], skip_special_tokens=False)

    def _width(self) -> int:
        """d of the sentence embedding where the manifest knows it, else 0."""
        outputs = (self.manifest.get("signature") or {}).get("outputs") or {}
        last = (outputs.get("sentence_embedding") or [None])[-1]
        return last if isinstance(last, int) else 0


def _reopen(folder: str, digest: str, options: dict[str, Any]) -> Predictor:
    """Open in this process what was sent to it.

    Raises:
        InputRefused: Another artifact is there by now.
    """
    if (found := Artifact.open(Path(folder)).digest) != digest:
        raise InputRefused(
            "the predictor's artifact is another one by now",
            where=folder,
            why=f"its digest was {digest[:12]} when it was loaded and is {found[:12]}",
            hint="load it again: Predictor.load(FOLDER)",
        )
    return Predictor.load(folder, **options)


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
