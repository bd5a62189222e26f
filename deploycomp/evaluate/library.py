"""A checkpoint as its own library answers for it: transformers' pipelines, sentence-transformers' encode and predict.

This is the judge of everything that deploycomp makes. Between a text and an answer nothing of ours stands here: the
library reads the settings, tokenizes, runs its own model and decodes. Whatever both sides of a comparison share, no
comparison can see. Two things have no library to ask: a word's tag is that of its first token, as in transformers' own
example (run_ner), and the answer to a question is searched in windows as in run_qa, since version 5 has no pipeline.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from deploycomp.errors import DeploycompError, InputRefused, in_words
from deploycomp.runtime import answers
from deploycomp.runtime.decode import tag_words, trim
from deploycomp.runtime.encode import QA_MAX_LENGTH, qa_stride
from deploycomp.runtime.results import Answered, Classification, Entity, Fill, Labels

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Library", "LibraryModel", "import_library", "open_library"]

CHUNK = 256
"""Inputs that are handed to a library at once; between two chunks progress is told and Ctrl-C is heard."""
THRESHOLD = 0.5
"""From which probability on a label holds (multi-label)."""

_PIPELINES = {
    "text-classification": "text-classification",
    "token-classification": "token-classification",
    "feature-extraction": "feature-extraction",
    "fill-mask": "fill-mask",
}
"""Task → transformers' pipeline; for question answering there is none any more."""

_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
}
"""Task → the class of transformers that its documentation names for it."""

_FUNCTIONS = {"sigmoid": "sigmoid", "identity": "none"}
"""What stands over one score, as the pipeline calls it: a CrossEncoder that was cut is run by the pipeline."""

Progress = Callable[[str, float], None]


class Asked(NamedTuple):
    """How a library is asked; see `Predictor.answer`."""

    batch_size: int
    top_k: int | None
    null_score_diff_threshold: float | None


Ask = Callable[[list[Any], Asked], list[Any]]


class LibraryModel(Protocol):
    """What evaluation reads of a model, whoever stands behind it: a `Library` or a `Predictor`."""

    @property
    def task(self) -> str:
        """What it does."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, of either library: `get_vocab` is called."""
        ...

    @property
    def runtime(self) -> Mapping[str, Any]:
        """A manifest's `runtime` block: labels, problem_type and mask_token are read."""
        ...

    def answer(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = ...,
        top_k: int | None = ...,
        null_score_diff_threshold: float | None = ...,
        progress: Progress | None = ...,
    ) -> Answered:
        """Answer many inputs, see `Predictor.answer`."""
        ...

    def tokens(self, inputs: Any) -> list[list[int]]:
        """Return the token ids that each input becomes."""
        ...


class Library:
    """A checkpoint behind its own library's pre- and post-processing; see `open_library`.

    Args:
        task: What it does.
        runtime: What the checkpoint says of itself; only names are read here (task, labels, the kind of problem).
        tokenizer: transformers' tokenizer as it loads itself.
        ask: (inputs, how) → the library's answers, in their order.
        encode: Input → the token ids of each of its rows.
    """

    def __init__(
        self,
        task: str,
        runtime: Mapping[str, Any],
        tokenizer: Any,
        ask: Ask,
        encode: Callable[[Any], list[list[int]]],
    ):
        self.task = task
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.digest: str | None = None
        """Of the checkpoint, where whoever opened it knows it."""
        self._ask = ask
        self._encode = encode

    def tokens(self, inputs: Any) -> list[list[int]]:
        """Return the token ids that the library makes of each input; windows stand one after another."""
        with _refusing():
            return [[token for row in self._encode(each) for token in row] for each in inputs]

    def answer(
        self,
        inputs: Sequence[Any],
        *,
        batch_size: int = 16,
        top_k: int | None = None,
        null_score_diff_threshold: float | None = None,
        progress: Progress | None = None,
    ) -> Answered:
        """Answer many inputs as the library does, see `Predictor.answer`.

        Inputs of similar length are handed over together. A tokenizer that pads on the left is given one at a time:
        positions of a padded row would be others.
        """
        if self.tokenizer.padding_side != "right":
            batch_size = 1
        how = Asked(batch_size, top_k, null_score_diff_threshold)
        order = sorted(range(len(inputs)), key=lambda index: -_length(inputs[index]))
        found: dict[int, Any] = {}
        for start in range(0, len(order), CHUNK):
            part = order[start : start + CHUNK]
            with _refusing():
                found.update(zip(part, self._ask([inputs[each] for each in part], how), strict=True))
            if progress:
                progress("predict", len(found) / len(order))
        labels = tuple(self.runtime.get("labels") or ())
        return Answered([found[index] for index in range(len(inputs))], labels)


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a library raises on an input into a refusal with its words."""
    try:
        yield
    except DeploycompError:
        raise
    except Exception as error:
        raise InputRefused("the model's own library does not take an input", why=in_words(error)) from error


def _length(item: Any) -> int:
    return len(item) if isinstance(item, str) else sum(len(each) for each in item)


def import_library(task: str, *, cross_encoder: bool = False) -> None:
    """Import what `open_library` needs, which may take seconds and start programs.

    Raises:
        ImportError: sentence-transformers is needed and not installed.
    """
    import transformers.pipelines  # noqa: F401

    if task == "sentence-similarity" or cross_encoder:
        import sentence_transformers  # noqa: F401


def open_library(
    folder: Path,
    encoder: Path,
    task: str,
    runtime: Mapping[str, Any],
    *,
    module: Any = None,
    cross_encoder: bool = False,
) -> Library:
    """Open a checkpoint with its own library, in FP32 on the CPU.

    Args:
        folder: The checkpoint.
        encoder: Where its config.json and tokenizer are: *folder* itself, or `0_Transformer` in it.
        task: What it is for.
        runtime: See `Library`; `max_length` bounds the library's own limit, which may lie beyond the position table.
        module: The model, where the library cannot load it itself: one that was cut.
        cross_encoder: Whether sentence-transformers' CrossEncoder made it.

    Raises:
        ImportError: sentence-transformers is needed and not installed.
    """
    if task == "sentence-similarity":
        return _sentences(folder, runtime, module)
    if cross_encoder and module is None:
        return _cross(folder, runtime)
    import torch
    import transformers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(encoder, local_files_only=True, trust_remote_code=False)
    if module is None:
        auto: Any = getattr(transformers, _CLASSES[task])
        module = auto.from_pretrained(encoder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
    module = module.eval()
    limit = min(int(tokenizer.model_max_length), int(runtime["max_length"]))
    if task == "question-answering":
        return _questions(tokenizer, module, runtime, limit)
    if task == "token-classification":
        return _tags(tokenizer, module, runtime, limit)
    return _pipeline(task, tokenizer, module, runtime, limit, cross_encoder=cross_encoder)


def _pipeline(
    task: str, tokenizer: Any, module: Any, runtime: Mapping[str, Any], limit: int, *, cross_encoder: bool
) -> Library:
    from transformers import pipeline

    pipe: Any = pipeline(_PIPELINES[task], model=module, tokenizer=tokenizer, device="cpu")  # type: ignore[call-overload]
    cut = {"truncation": True, "max_length": limit}
    over = {"function_to_apply": _FUNCTIONS[runtime["activation"]]} if cross_encoder else {}

    def classify(inputs: list[Any], how: Asked) -> list[Any]:
        found = pipe([_pair(item) for item in inputs], top_k=None, batch_size=how.batch_size, **over, **cut)
        return [_classified(each, runtime) for each in found]

    def extract(inputs: list[Any], _how: Asked) -> list[Any]:
        found = pipe(inputs, return_tensors=True, batch_size=1, tokenize_kwargs=cut)  # a batch would keep its padding
        return [np.asarray(each[0], np.float32) for each in found]

    def fill(inputs: list[Any], how: Asked) -> list[Any]:
        return [_filled(pipe(each, top_k=how.top_k or 5, tokenizer_kwargs=cut), tokenizer) for each in inputs]

    readers: dict[str, Ask] = {"text-classification": classify, "feature-extraction": extract, "fill-mask": fill}
    return Library(task, runtime, tokenizer, readers[task], lambda item: [_ids(tokenizer, item, limit)])


def _pair(item: Any) -> Any:
    """A pair as a batch of one: transformers takes a single pair whose second text is empty for a text alone."""
    return item if isinstance(item, str) else {"text": [item[0]], "text_pair": [item[1]]}


def _ids(tokenizer: Any, item: Any, limit: int) -> list[int]:
    given = [[item]] if isinstance(item, str) else [[part] for part in item]
    return tokenizer(*given, truncation=True, max_length=limit)["input_ids"][0]


def _classified(scores: list[dict[str, Any]], runtime: Mapping[str, Any]) -> Any:
    """What the pipeline says of one text, as our own answers are written."""
    found = {str(each["label"]): float(each["score"]) for each in scores}
    kind = runtime.get("problem_type")
    if kind == "regression":
        values = tuple(found[label] for label in runtime["labels"])
        return values[0] if len(values) == 1 else values
    if kind == "multi_label_classification":
        return Labels(tuple(label for label, score in found.items() if score >= THRESHOLD), found)
    label = max(found, key=found.__getitem__)
    return Classification(label, found[label], found)


def _filled(found: Any, tokenizer: Any) -> list[list[Fill]]:
    """Candidates of each mask, spelled by the tokenizer's backend: the pipeline strips the space before a word."""
    masks = found if found and isinstance(found[0], list) else [found]
    spell = tokenizer.backend_tokenizer.decode
    return [
        [Fill(spell([each["token"]], skip_special_tokens=False), float(each["score"])) for each in mask]
        for mask in masks
    ]


def _tags(tokenizer: Any, module: Any, runtime: Mapping[str, Any], limit: int) -> Library:
    """Texts through the pipeline; lists of words as transformers' run_ner reads them: a word's first token decides."""
    from transformers import pipeline

    # The pipeline cuts at the tokenizer's own limit alone, and hands on no other.
    tokenizer.model_max_length = limit
    pipe: Any = pipeline("token-classification", model=module, tokenizer=tokenizer, device="cpu")
    labels: Sequence[str] = runtime["labels"]

    def encode(item: Any) -> Any:
        return tokenizer(item, is_split_into_words=not isinstance(item, str), truncation=True, return_tensors="pt")

    def tag(item: Any) -> Any:
        if isinstance(item, str):
            return [
                Entity(str(each["entity_group"]), float(each["score"]), start, end, item[start:end])
                for each in pipe(item, aggregation_strategy="simple")
                for start, end in [trim(item, int(each["start"]), int(each["end"]))]
            ]
        encoded = encode(list(item))
        return tag_words(_outputs(module, encoded, "logits")[0][0], encoded.word_ids(0), len(item), labels)

    def ids(item: Any) -> list[list[int]]:
        return [encode(item if isinstance(item, str) else list(item))["input_ids"][0].tolist()]

    return Library("token-classification", runtime, tokenizer, lambda inputs, _: [tag(each) for each in inputs], ids)


def _outputs(module: Any, encoded: Any, *names: str) -> list[np.ndarray]:
    import torch

    with torch.inference_mode():
        result = module(**encoded)
    return [result[name].float().numpy() for name in names]


def _questions(tokenizer: Any, module: Any, runtime: Mapping[str, Any], limit: int) -> Library:
    """Windows as transformers' run_qa makes them: the context is cut into pieces that overlap, the question is not."""
    length = min(QA_MAX_LENGTH, limit)

    def encode(item: Any) -> Any:
        question, context = item
        start = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if len(start["input_ids"]) > length // 2:
            question = question[: start["offset_mapping"][length // 2 - 1][1]]
        return tokenizer(
            [question],
            [context],
            truncation="only_second",
            max_length=length,
            stride=qa_stride(length, tokenizer.num_special_tokens_to_add(pair=True)),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def ask(item: Any, how: Asked) -> Any:
        encoded = encode(item)
        names = [name for name in tokenizer.model_input_names if name in encoded]
        windows = [
            answers.Window(start, end, encoded["offset_mapping"][index], encoded.sequence_ids(index))
            for index, (start, end) in enumerate(_windows(module, encoded, names))
        ]
        threshold = how.null_score_diff_threshold
        return answers.best_spans(item[1], windows, top_k=how.top_k or 1, null_score_diff_threshold=threshold)

    return Library(
        "question-answering",
        runtime,
        tokenizer,
        lambda inputs, how: [ask(each, how) for each in inputs],
        lambda item: encode(item)["input_ids"],
    )


def _windows(module: Any, encoded: Any, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import torch

    for index in range(len(encoded["input_ids"])):
        feeds = {name: torch.tensor([encoded[name][index]]) for name in names}
        start, end = _outputs(module, feeds, "start_logits", "end_logits")
        yield start[0], end[0]


def _sentences(folder: Path, runtime: Mapping[str, Any], module: Any) -> Library:
    import torch
    from sentence_transformers import SentenceTransformer

    model: Any = (
        SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
        if module is None
        else _around(folder, module)
    )
    model.max_seq_length = min(int(model.max_seq_length), int(runtime["max_length"]))
    prompt = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None

    def ask(inputs: list[Any], how: Asked) -> list[Any]:
        return list(np.asarray(model.encode(inputs, batch_size=how.batch_size, show_progress_bar=False), np.float32))

    def ids(item: Any) -> list[list[int]]:
        return [model.preprocess([item], prompt=prompt)["input_ids"][0].tolist()]

    return Library("sentence-similarity", runtime, model.tokenizer, ask, ids)


def _around(folder: Path, module: Any) -> Any:
    """The modules of a sentence-transformers folder around an encoder that was cut, which it cannot load itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.util import import_from_string

    class Given(Transformer):
        def _load_model(self, *_: Any, **__: Any) -> Any:
            return module

    def told(name: str) -> Any:
        return json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}

    modules: list[Any] = [
        (Given if index == 0 else import_from_string(each["type"])).load(
            str(folder), subfolder=each["path"], local_files_only=True
        )
        for index, each in enumerate(told("modules.json"))
    ]
    prompts = {name: told("config_sentence_transformers.json").get(name) for name in ("prompts", "default_prompt_name")}
    return SentenceTransformer(modules=modules, device="cpu", **prompts)


def _cross(folder: Path, runtime: Mapping[str, Any]) -> Library:
    import torch
    from sentence_transformers import CrossEncoder

    model: Any = CrossEncoder(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    limit = min(int(model.tokenizer.model_max_length), int(runtime["max_length"]))
    model.tokenizer.model_max_length = limit

    def ask(inputs: list[Any], how: Asked) -> list[Any]:
        scores = np.asarray(model.predict(inputs, batch_size=how.batch_size, show_progress_bar=False), np.float64)
        return [float(each) for each in scores.reshape(len(inputs))]

    tokenizer = model.tokenizer
    return Library("text-classification", runtime, tokenizer, ask, lambda item: [_ids(tokenizer, item, limit)])
