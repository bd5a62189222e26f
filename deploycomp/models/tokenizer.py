"""Load a checkpoint's tokenizer and check it against the model."""

from __future__ import annotations

import importlib.util
from typing import Any

from deploycomp.errors import DeploycompError, EnvironmentFailed, InputRefused, in_words, panicked
from deploycomp.models.source import Source
from deploycomp.models.stage import Stage

__all__ = ["check_tokenizer", "load_tokenizer"]

TRIED = ("a good text", "", "漢字 مرحبا 😀 \u0301\uffff", "A-1 [x] (y)")
"""Texts that every tokenizer has to read."""

_SENTENCEPIECE = ("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model")


def load_tokenizer(stage: Stage, task: str) -> tuple[Any, tuple[str, ...]]:
    """Load the fast tokenizer, padding on the right.

    Args:
        stage: The private folder of a checkpoint.
        task: What it is loaded for: only sentence embeddings follow sentence-transformers' own settings.

    Returns:
        The tokenizer and notes on what was changed.

    Raises:
        InputRefused: There is none, it cannot be read, or it has no fast backend.
        EnvironmentFailed: It needs a package that is not installed.
    """
    from transformers import AutoTokenizer

    source = stage.source
    _check_files(source)
    _check_class(source)
    where = str(source.encoder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(stage.folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:
        if isinstance(error, DeploycompError) or not (isinstance(error, Exception) or panicked(error)):
            raise
        text = stage.plain(str(error)).strip()
        why = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
        raise InputRefused("the tokenizer cannot be read", where=where, why=why) from error
    if not getattr(tokenizer, "is_fast", False):
        raise InputRefused(
            "the tokenizer has no fast backend",
            where=where,
            why=f"{type(tokenizer).__name__} runs in Python; the artifact runs the tokenizers library",
            hint="convert it to tokenizer.json with transformers.convert_slow_tokenizer",
        )
    notes: list[str] = []
    if tokenizer.padding_side != "right":
        # Positions of BERT-likes count from the first column, so a row padded on the left would be another input.
        tokenizer.padding_side = "right"
        notes.append("the tokenizer pads on the left; the artifact pads on the right, as encoders expect")
    if task == "sentence-similarity" and source.sentence is not None and source.sentence.lower_case:
        _lower(tokenizer)
    return tokenizer, tuple(notes)


def _check_ids(tokenizer: Any, rows: int, source: Source) -> None:
    """Read texts with and without characters that a vocabulary may lack: settings can break what a file held together.

    Raises:
        InputRefused: A text cannot be read, or becomes a token that the embedding has no row for.
    """
    try:
        found = [*tokenizer(list(TRIED))["input_ids"], *tokenizer(list(TRIED), list(TRIED))["input_ids"]]
    except Exception as error:
        raise InputRefused(
            "the tokenizer fails on a text",
            where=str(source.encoder),
            why=in_words(error),
            hint="save it again with the library that trained it; it needs a token for unknown characters",
        ) from error
    largest = max((token for ids in found for token in ids), default=0)
    if largest >= rows:
        raise InputRefused(
            f"the tokenizer makes token {largest} of a text, and the embedding has {rows} rows",
            where=str(source.encoder),
            why="its post-processor or its added tokens belong to another model",
            hint="take tokenizer and weights from the same model",
        )


def _check_files(source: Source) -> None:
    """Without files, transformers builds a tokenizer of five tokens and says nothing."""
    names = {name.rpartition("/")[2] for name in source.files}
    complete = "tokenizer.json" in names or "vocab.txt" in names or {"vocab.json", "merges.txt"} <= names
    pieces = sorted(names.intersection(_SENTENCEPIECE))
    if not complete and not pieces:
        raise InputRefused(
            "the checkpoint has no tokenizer",
            where=str(source.encoder),
            why="no tokenizer.json, vocab.txt, vocab.json with merges.txt, or SentencePiece model",
            hint="save it beside the weights: AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(folder)",
        )
    if not complete and importlib.util.find_spec("sentencepiece") is None:
        raise EnvironmentFailed(
            f"the tokenizer is a SentencePiece model ({pieces[0]}), and sentencepiece is not installed",
            where=str(source.encoder),
            hint="pip install 'deploycomp[sentencepiece]'",
        )


def _check_class(source: Source) -> None:
    """A name that transformers does not have it replaces without a word; one of another kind it would call."""
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for file, said in (
        ("tokenizer_config.json", source.settings.get("tokenizer_config.json", {})),
        ("config.json", source.config),
    ):
        name = said.get("tokenizer_class")
        found: Any = tokenizer_class_from_name(name) if name else PreTrainedTokenizerBase
        if not isinstance(found, type) or not issubclass(found, PreTrainedTokenizerBase):
            raise InputRefused(
                f"transformers has no tokenizer class {name!r}",
                where=str(source.encoder / file),
                why="it would take another in its place",
                hint=f'set "tokenizer_class": "PreTrainedTokenizerFast" in {file}, which reads tokenizer.json as it is',
            )


def _lower(tokenizer: Any) -> None:
    """Put lower-casing before everything else, as sentence-transformers' `do_lower_case` does."""
    from tokenizers import normalizers

    backend = tokenizer.backend_tokenizer
    rest = [backend.normalizer] if backend.normalizer is not None else []
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def check_tokenizer(tokenizer: Any, module: Any, source: Source, task: str) -> None:
    """Check that every token has a row in the embedding, and that the tokens a task needs exist.

    Args:
        tokenizer: A fast tokenizer.
        module: The model.
        source: Where both came from.
        task: What they are for.

    Raises:
        InputRefused: The tokenizer is larger than the embedding, or lacks a padding or mask token.
    """
    where = str(source.encoder)
    try:
        rows = int(module.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError) as error:
        why = f"its embedding is of an unknown kind ({type(error).__name__})"
        raise InputRefused(f"the architecture {source.model_type} is not supported", where=where, why=why) from error
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    beyond = sorted((index, token) for token, index in vocabulary.items() if index >= rows)
    if beyond:
        names = ", ".join(repr(token) for _, token in beyond[:5])
        raise InputRefused(
            f"the tokenizer is larger than the embedding: {beyond[-1][0] + 1} tokens, {rows} rows",
            where=where,
            why=f"without a row: {names}" + (f" and more, {len(beyond)} in all" if len(beyond) > 5 else ""),
            hint="call model.resize_token_embeddings(len(tokenizer)) before training, and save both",
        )
    _check_ids(tokenizer, rows, source)
    needed = [("pad_token", "rows of a batch are padded with it")]
    needed += [("mask_token", "fill-mask fills it")] if task == "fill-mask" else []
    for name, why in needed:
        if getattr(tokenizer, name) is None:
            raise InputRefused(f"the tokenizer has no {name}", where=where, why=why, hint=f"set tokenizer.{name}")
