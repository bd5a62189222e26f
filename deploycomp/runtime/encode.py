"""Texts → rows of token ids → batches of rows of similar length → what the graph is fed.

    texts ──tokenize──► rows ──sort by length, cut where it is cheapest──► batches ──pad to the longest row──► feeds

Only `tokenizer.json` and the manifest's `runtime` section are read; truncation and padding that the former
carries from training are replaced. A row knows its input, so the order is restored afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deploycomp.errors import InputRefused, UsageError, panicked

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "INPUT_NAMES",
    "Encoded",
    "Settings",
    "encode_questions",
    "encode_texts",
    "load_tokenizer",
    "make_feeds",
    "plan_batches",
    "qa_stride",
]

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")

QA_MAX_LENGTH = 384
QA_STRIDE = 128
"""Window and overlap in tokens of extractive question answering: the values of BERT's run_squad.py."""

CALL_TOKENS = 4
"""What a call costs besides its tokens, in tokens: 0.15 ms where a token of a 6-layer encoder takes 0.04 ms."""

CHUNK = 1024
"""Inputs tokenized at once; between two chunks progress is told and Ctrl-C is heard."""

DEFAULT_MAX_LENGTH = 512

Progress = Callable[[str, float], None]
Side = Literal["right", "left"]


@dataclass(frozen=True)
class Settings:
    """What the manifest's `runtime` section says about the graph's input."""

    max_length: int = DEFAULT_MAX_LENGTH
    pad_token_id: int = 0
    pad_token_type_id: int = 0
    padding_side: Side = "right"
    truncation_side: Side = "right"
    split_special_tokens: bool = False
    """Whether "[SEP]" in a text is five characters like any others; otherwise it is the token."""
    fixed_batch: int | None = None
    fixed_sequence: int | None = None

    @staticmethod
    def read(runtime: Mapping[str, Any]) -> Settings:
        """Read the section; `max_length` is cut to a fixed sequence length."""
        fixed = runtime.get("fixed") or {}
        sequence = fixed.get("sequence")
        length = int(runtime.get("max_length") or DEFAULT_MAX_LENGTH)
        return Settings(
            max_length=min(length, sequence) if sequence else length,
            pad_token_id=int(runtime.get("pad_token_id") or 0),
            pad_token_type_id=int(runtime.get("pad_token_type_id") or 0),
            padding_side="left" if runtime.get("padding_side") == "left" else "right",
            truncation_side="left" if runtime.get("truncation_side") == "left" else "right",
            split_special_tokens=runtime.get("split_special_tokens") is True,
            fixed_batch=fixed.get("batch"),
            fixed_sequence=sequence,
        )


@dataclass(frozen=True)
class Encoded:
    """One row of the graph's input: a text, a pair, a list of words, or one window of a long context."""

    item: int
    """Index of the input that it comes from."""
    encoding: tokenizers.Encoding

    def __len__(self) -> int:
        return len(self.encoding)

    @property
    def words(self) -> list[int | None]:
        """For each token the word it belongs to, None for special tokens. Words count from 0 in each part."""
        return self.encoding.word_ids

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """For each token its characters `[start, end)` in its part (in its word, for pre-split words)."""
        return self.encoding.offsets

    @property
    def parts(self) -> list[int | None]:
        """For each token 0 (first text) or 1 (second text), None for special tokens."""
        return self.encoding.sequence_ids


def load_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json.

    Raises:
        InputRefused: It is missing or not a tokenizer.
    """
    import tokenizers

    if not path.is_file():
        raise InputRefused("the tokenizer is missing", where=str(path), hint="export the model again")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises a plain Exception, or panics
        if isinstance(error, Exception) or panicked(error):
            raise InputRefused("the tokenizer cannot be read", where=str(path), why=str(error)) from error
        raise


def encode_texts(
    tokenizer: tokenizers.Tokenizer,
    inputs: Sequence[str | tuple[str, str] | list[str]],
    settings: Settings,
    *,
    words: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Encoded], int]:
    """Tokenize texts, pairs or lists of words; what is too long is cut, the longer text of a pair first.

    Args:
        tokenizer: Its truncation and padding are set here.
        inputs: Texts and pairs, or with *words* lists of words.
        settings: See `Settings`.
        words: The inputs are split into words already.
        progress: Called with ("tokenize", fraction).

    Returns:
        One row for each input, in order, and how many were cut.

    Raises:
        InputRefused: The maximum length leaves no room beside the special tokens.
        UsageError: A text is not valid Unicode.
    """
    _check_length(tokenizer, settings.max_length)
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = settings.split_special_tokens
    tokenizer.enable_truncation(settings.max_length, strategy="longest_first", direction=settings.truncation_side)
    rows: list[Encoded] = []
    truncated = 0
    for encoding in _encode(tokenizer, inputs, words=words, progress=progress):
        truncated += bool(encoding.overflowing)
        rows.append(Encoded(len(rows), encoding))
    return rows, truncated


def encode_questions(
    tokenizer: tokenizers.Tokenizer,
    pairs: Sequence[tuple[str, str]],
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> tuple[list[Encoded], int]:
    """Tokenize (question, context); a long context becomes overlapping windows, so that none of it is lost.

    A window has at most 384 tokens and overlaps the next by 128. A question may take half of a window, a
    longer one is cut.

    Args:
        tokenizer: Its truncation and padding are set here.
        pairs: (question, context).
        settings: See `Settings`.
        progress: Called with ("tokenize", fraction).

    Returns:
        The windows, those of one input one after another, and how many questions were cut.

    Raises:
        InputRefused: The maximum length leaves no room for a question and a context.
        UsageError: A text is not valid Unicode.
    """
    length = min(QA_MAX_LENGTH, settings.max_length)
    _check_length(tokenizer, length)
    limit = length // 2
    room = length - limit - tokenizer.num_special_tokens_to_add(True)
    if room < 1:
        raise InputRefused(f"a maximum length of {length} tokens has no room for a question and a context")
    stride = qa_stride(length, tokenizer.num_special_tokens_to_add(True))
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = settings.split_special_tokens
    questions = [_cut(tokenizer, question, limit) for question, _ in pairs]
    tokenizer.enable_truncation(length, stride=stride, strategy="only_second", direction=settings.truncation_side)
    inputs = [(question, context) for question, (_, context) in zip(questions, pairs, strict=True)]
    rows: list[Encoded] = []
    for item, encoding in enumerate(_encode(tokenizer, inputs, words=False, progress=progress)):
        rows += [Encoded(item, window) for window in (encoding, *encoding.overflowing)]
    return rows, sum(cut != question for cut, (question, _) in zip(questions, pairs, strict=True))


def qa_stride(length: int, specials: int) -> int:
    """Return the overlap of windows of *length* tokens: always below the room that the longest question leaves.

    Args:
        length: Tokens of a window.
        specials: Special tokens that a pair takes.
    """
    return min(QA_STRIDE, length // 3, length - length // 2 - specials - 1)


def plan_batches(lengths: Sequence[int], batch_size: int, *, fixed: bool = False) -> list[list[int]]:
    """Group rows so that calls and padding together cost least: rows of one length, unless they are few.

    The optimal partition of the rows by length: cost(batch) = rows · longest + `CALL_TOKENS`, by dynamic programming
    (Bellman 1954) over the rows in order of length.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a batch at most.
        fixed: Whether every batch is filled up to *batch_size* rows.

    Returns:
        Indices of rows; each index stands in exactly one batch. The longest rows come first, so that memory peaks at
        once and not at the end.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    cost, start = [0.0], [0]
    for end in range(1, len(order) + 1):
        best, first = float("inf"), end - 1
        for begin in range(max(0, end - batch_size), end):
            rows = batch_size if fixed else end - begin
            total = cost[begin] + rows * lengths[order[begin]] + CALL_TOKENS
            if total < best:
                best, first = total, begin
        cost.append(best)
        start.append(first)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[start[end] : end])
        end = start[end]
    return batches[::-1]


def make_feeds(rows: Sequence[Encoded], names: Sequence[str], settings: Settings) -> dict[str, np.ndarray]:
    """Pad rows to the longest of them (or to the fixed shape) and stack them.

    A fixed batch is filled up by repeating its last row: that cannot produce a NaN and does not widen the
    range that dynamic quantization sees. A text without tokens gets one attended padding token.

    Returns:
        name → int64 array [batch, sequence], for each of *names*.
    """
    height = settings.fixed_batch or len(rows)
    width = settings.fixed_sequence or max(1, *(len(row) for row in rows))
    ids = np.full((height, width), settings.pad_token_id, dtype=np.int64)
    types = np.full((height, width), settings.pad_token_type_id, dtype=np.int64)
    mask = np.zeros((height, width), dtype=np.int64)
    for index in range(height):
        row = rows[min(index, len(rows) - 1)]
        here = row_slice(len(row), width, settings)
        ids[index, here], types[index, here] = row.encoding.ids, row.encoding.type_ids
        mask[index, here if len(row) else row_slice(1, width, settings)] = 1
    every: dict[str, np.ndarray] = dict(zip(INPUT_NAMES, (ids, mask, types), strict=True))
    return {name: every[name] for name in names}


def row_slice(length: int, width: int, settings: Settings) -> slice:
    """Where the *length* real tokens of a row of *width* lie."""
    return slice(width - length, width) if settings.padding_side == "left" else slice(0, length)


def _check_length(tokenizer: tokenizers.Tokenizer, length: int) -> None:
    specials = tokenizer.num_special_tokens_to_add(True)
    if length <= specials:
        raise InputRefused(f"a maximum length of {length} tokens has no room beside the {specials} special ones")


def _encode(
    tokenizer: tokenizers.Tokenizer, inputs: Sequence[Any], *, words: bool, progress: Progress | None
) -> Iterator[tokenizers.Encoding]:
    for start in range(0, len(inputs), CHUNK):
        chunk = inputs[start : start + CHUNK]
        try:
            yield from tokenizer.encode_batch(chunk, is_pretokenized=words)
        except TypeError as error:  # types were checked before, what is left are lone surrogates
            raise UsageError(
                "a text cannot be tokenized",
                where=f"inputs {start} to {start + len(chunk) - 1}",
                why=f"not valid Unicode ({error})",
            ) from error
        except BaseException as error:
            if isinstance(error, Exception) or panicked(error):
                where = f"inputs {start} to {start + len(chunk) - 1}"
                raise InputRefused("the tokenizer fails on a text", where=where, why=str(error)) from error
            raise
        if progress:
            progress("tokenize", min(1.0, (start + CHUNK) / len(inputs)))


def _cut(tokenizer: tokenizers.Tokenizer, text: str, limit: int) -> str:
    """The start of *text* that has at most *limit* tokens."""
    tokenizer.no_truncation()
    while len(encoding := tokenizer.encode(text, add_special_tokens=False)) > limit:
        end = encoding.offsets[limit - 1][1]
        text = text[: end if end < len(text) else len(text) // 2]
    return text
