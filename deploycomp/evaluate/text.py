"""Parity from the text on: does the published folder answer a text as the source does in its own library?

    text ─ library ─► tokens, answer ┐
    text ─ runtime ─► tokens, answer ┴─ equal, or nothing is published

Probes are the texts at which tokenizers and settings part: upper case, accents, scripts without spaces, right to left,
emoji, invisible characters, words beyond every vocabulary, texts beyond the model, nothing at all; and rows of the
user's data. Tokens must be the same. Answers of a float graph must be the same but for rounding, decoding included;
rounding is part of INT8, so its answers are held to what INT8 may cost.

The probes travel in the manifest with what the source answered (`selftest`), so that any machine can ask again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deploycomp.errors import VerificationFailed
from deploycomp.evaluate.parity import LONGEST_PROBE, PROBE_TEXT, TOLERANCES

if TYPE_CHECKING:
    from deploycomp.evaluate.library import LibraryModel

__all__ = ["Answer", "TextProbe", "TextReference", "check_text", "probe_inputs", "record_texts", "sample_rows", "thin"]

STAGE = "text"
ROWS = 64
"""Rows of the user's data that are asked."""
ROW_CHARACTERS = 40_000
"""What they may have together: long documents would take minutes, and the first of them show what the last would."""
BATCH = 8
"""Inputs that the artifact answers at once. The source answers one at a time, so padding is checked too."""
SHOWN = 80
"""Characters of a text that a message shows."""
FIXED = ("text-classification", "sentence-similarity", "feature-extraction")
"""Tasks whose every answer has the same numbers: only there can rounding not change which they are."""

TEXTS = (
    "a charming and often affecting journey",
    "THE WHOLE Thing WAS NOT Good, AND I Would Not Go AGAIN",
    "Café déjà-vu: naïve façade, Ångström, señor, Übergröße, İstanbul, ΟΔΟΣ",
    "Cafe\u0301 na\u0131\u0308ve, combined marks",
    "我住在北京。今天天气很好，我们去上海吧！",
    "東京タワーとカタカナ、한국어 문장도 있습니다.",
    "مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם",
    "नमस्ते दुनिया สวัสดีชาวโลก",
    "so good 😀👍🏽 👩‍👩‍👧 🇩🇪 best ever ❤️!!!",
    "zero\u200bwidth, soft\u00adhyphen, no\u00a0break, \ufeffmark, \u202eright\u202c",
    "ｆｕｌｌ　ｗｉｄｔｈ ½ ① ﬁ ² ™",
    "don't re-use it: $42.50/day (50% off) at https://example.com/a?b=c&d=1 @you #tag 3.14e-10",
    "  leading, trailing and   several   spaces \t tab \n\n line  ",
    "Donaudampfschifffahrtsgesellschaftskapitän" * 12,
    "[CLS] [SEP] [MASK] </s> <s> <pad> <unk> ## ▁ Ġ",
    "x",
    "...",
    "",
    "   ",
)
"""Each of them has parted two tokenizers that looked the same."""

PAIRS = (
    ("the good film", "a great movie"),
    ("LONDON and Paris", "北京。 Café"),
    ("", "only the second"),
    ("only the first", ""),
)

WORD_LISTS = (
    ("Anna", "lives", "in", "LONDON", "."),
    ("我", "住在", "北京", "。"),
    ("re-use", "don't", "😀", "Donaudampfschifffahrtsgesellschaft", "x" * 60),
)

QUESTION = "Who paid for the TICKETS?"


@dataclass(frozen=True)
class Answer:
    """What two answers are compared by."""

    numbers: tuple[float, ...]
    """Scores, values or the numbers of a vector."""
    decision: tuple[Any, ...] = ()
    """Labels, places in the text, tokens: what must be the same, and not only near."""


@dataclass(frozen=True)
class TextProbe:
    """An input with what the source makes of it."""

    value: Any
    tokens: tuple[int, ...]
    answer: Answer | None
    """None where the input is too long to be run, see `LONGEST_PROBE`."""


@dataclass(frozen=True)
class TextReference:
    """Probes with the answers of the source in its own library."""

    task: str
    probes: tuple[TextProbe, ...]
    rows: tuple[TextProbe, ...]
    unanswered: int = 0
    """Probes that the source's own library does not take."""
    numbers: int | None = None
    """How many numbers of an answer were kept; None for all."""


def probe_inputs(task: str, *, max_length: int, mask: str | None, special: Sequence[str] = ()) -> list[Any]:
    """Return the probes of a task.

    Args:
        task: What the model does.
        max_length: Its longest input in tokens; one probe is longer.
        mask: The mask token, for fill-mask.
        special: The tokenizer's special tokens, as they may stand in a text.
    """
    texts = [*TEXTS, " ".join(special), _longer(max_length)]
    if task == "question-answering":
        return [(QUESTION, text) for text in texts]
    if task == "fill-mask":
        return [f"{mask} {text}" for text in texts]
    if task == "text-classification":
        return [*texts, *PAIRS, (texts[-1], texts[0]), (texts[-1], texts[-1])]
    if task == "token-classification":
        return [*texts, *(list(words) for words in WORD_LISTS)]
    return texts


def _longer(max_length: int) -> str:
    """A text of more tokens than the model takes, whose beginning and end differ: it shows on which side it is cut."""
    words = PROBE_TEXT.split()
    return " ".join(words[(index * 7) % len(words)] for index in range(max_length + len(words)))


def sample_rows(inputs: Sequence[Any]) -> list[Any]:
    """Return some of the user's inputs, spread evenly, at most `ROWS` and `ROW_CHARACTERS`."""
    step = max(1, len(inputs) // ROWS)
    found: list[Any] = []
    room = ROW_CHARACTERS
    for each in inputs[::step][:ROWS]:
        room -= len(each) if isinstance(each, str) else sum(len(part) for part in each)
        if room < 0 and found:
            break
        found.append(each)
    return found


def record_texts(model: LibraryModel, inputs: Sequence[Any], rows: Sequence[Any] = ()) -> TextReference:
    """Ask the source in its own library.

    Args:
        model: The source.
        inputs: Probes, see `probe_inputs`; those that the library does not take are counted and left out.
        rows: Inputs of the user's data, which it has to take.
    """
    probes = _ask_each(model, inputs)
    return TextReference(model.task, tuple(probes), tuple(_ask(model, list(rows))), len(inputs) - len(probes))


def _ask_each(model: LibraryModel, inputs: Sequence[Any]) -> list[TextProbe]:
    """Probes one by one where one of them makes the library fail: a tokenizer may make nothing of an empty text."""
    try:
        return _ask(model, list(inputs))
    except Exception:
        found: list[TextProbe] = []
        for each in inputs:
            try:
                found += _ask(model, [each])
            except Exception:  # whatever a library raises: counted, and told in the report
                continue
        return found


def _ask(model: LibraryModel, inputs: list[Any]) -> list[TextProbe]:
    tokens = [tuple(ids) for ids in _by_kind(inputs, model.tokens)]
    asked = [index for index, ids in enumerate(tokens) if len(ids) <= LONGEST_PROBE]
    answers = dict(
        zip(asked, _by_kind([inputs[each] for each in asked], lambda part: _answers(model, part, 1)), strict=True)
    )
    return [TextProbe(value, tokens[index], answers.get(index)) for index, value in enumerate(inputs)]


def _by_kind(inputs: list[Any], ask: Any) -> list[Any]:
    """Texts and lists of words apart, for no model takes both at once; the order stays."""
    found: dict[int, Any] = {}
    for words in (False, True):
        part = [index for index, each in enumerate(inputs) if isinstance(each, list) == words]
        if part:
            found.update(zip(part, ask([inputs[index] for index in part]), strict=True))
    return [found[index] for index in range(len(inputs))]


def _answers(model: LibraryModel, inputs: list[Any], batch_size: int) -> list[Answer]:
    top_k = 1 if model.task == "question-answering" else None
    labels = model.runtime.get("labels")
    return [_reduced(each, labels) for each in model.answer(inputs, batch_size=batch_size, top_k=top_k).values]


def thin(numbers: Sequence[float], count: int | None) -> tuple[float, ...]:
    """Return at most *count* numbers, evenly spaced."""
    step = -(-len(numbers) // count) if count and numbers else 1
    return tuple(numbers[::step])


def _reduced(answer: Any, labels: Sequence[str] | None) -> Answer:
    """What an answer of any kind is compared by."""
    if isinstance(answer, float):
        return Answer((answer,))
    if isinstance(answer, np.ndarray):
        vector = answer if answer.ndim == 1 else answer.mean(0)
        return Answer(tuple(float(each) for each in vector))
    if hasattr(answer, "scores") and isinstance(answer.scores, Mapping):
        order = labels or sorted(answer.scores)
        decided = answer.labels if hasattr(answer, "labels") else (answer.label,)
        return Answer(tuple(answer.scores[label] for label in order), tuple(decided))
    if hasattr(answer, "scores"):
        return Answer(tuple(answer.scores), tuple(answer.labels))
    if isinstance(answer, tuple) and not hasattr(answer, "_fields"):
        return Answer(tuple(float(each) for each in answer))
    return _listed(answer)


def _listed(answer: Sequence[Any]) -> Answer:
    """Entities, spans, or the candidates of each mask, of which the best counts."""
    flat = [each[0] if isinstance(each, list) else each for each in answer]
    decided = tuple(
        tuple(value for name, value in each._asdict().items() if name not in ("score", "text")) for each in flat
    )
    return Answer(tuple(float(each.score) for each in flat), decided)


def check_text(model: LibraryModel, reference: TextReference, precision: str) -> dict[str, Any]:
    """Ask what was made, and fail where it reads or answers a text otherwise than the source does.

    Args:
        model: The artifact as its user opens it.
        reference: What the source made of the texts.
        precision: `fp32`, `fp16` or `int8`, a key of `TOLERANCES`.

    Returns:
        The facts of a parity stage.

    Raises:
        VerificationFailed: Other tokens, another decision, or numbers beyond the tolerance.
    """
    probes = (*reference.probes, *reference.rows)
    _check_tokens(model, probes)
    asked = [probe for probe in probes if probe.answer is not None]
    answers = _by_kind([probe.value for probe in asked], lambda part: _answers(model, part, BATCH))
    tolerance = TOLERANCES[precision]
    pairs = [
        (probe, probe.answer, replace(got, numbers=thin(got.numbers, reference.numbers)))
        for probe, got in zip(asked, answers, strict=True)
        if probe.answer is not None
    ]
    if precision == "fp32":
        for probe, want, got in pairs:
            if want.decision != got.decision or len(want.numbers) != len(got.numbers):
                raise _otherwise(probe, _shown(want), _shown(got))
    overall = tolerance.measure == "overall"
    errors = list(_errors(pairs, overall=overall)) if model.task in FIXED or not overall else []
    worst = max(errors, key=lambda error: error[0], default=(0.0, None))
    if not worst[0] <= tolerance.limit:
        probe = worst[1] or asked[0]
        raise _otherwise(probe, f"{tolerance.words} is {worst[0]:.3g}", f"allowed is {tolerance.limit:g}")
    return _facts(reference, precision, worst[0])


def _check_tokens(model: LibraryModel, probes: Sequence[TextProbe]) -> None:
    found = _by_kind([probe.value for probe in probes], model.tokens)
    for probe, ids in zip(probes, found, strict=True):
        if tuple(ids) != probe.tokens:
            at = next((i for i, (a, b) in enumerate(zip(ids, probe.tokens, strict=False)) if a != b), None)
            at = min(len(ids), len(probe.tokens)) if at is None else at
            raise VerificationFailed(
                "the artifact reads a text otherwise than its source does",
                where=f"text {_text(probe.value)}",
                why=f"from token {at} on: the source's library makes {list(probe.tokens[at : at + 6])}, the artifact "
                f"{list(ids[at : at + 6])} ({len(probe.tokens)} and {len(ids)} in all)",
                hint="a setting of the tokenizer is not carried over; please report it with tokenizer_config.json",
            )


def _errors(
    pairs: Sequence[tuple[TextProbe, Answer, Answer]], *, overall: bool
) -> Iterator[tuple[float, TextProbe | None]]:
    """The error of each probe, or of all together; only numbers that mean the same in both are compared."""
    squares, norms = 0.0, 0.0
    for probe, want, got in pairs:
        if len(want.numbers) != len(got.numbers):  # FP16 decides otherwise where two answers are as good
            continue
        a, b = np.array(want.numbers), np.array(got.numbers)
        if not np.isfinite(b).all():
            yield float("inf"), probe
        squares, norms = squares + float(((a - b) ** 2).sum()), norms + float((a**2).sum())
        if not overall:
            yield float(np.abs(a - b).max(initial=0.0)) / max(1.0, float(np.abs(a).max(initial=0.0))), probe
    if overall:
        yield float(np.sqrt(squares / max(norms, 1e-30))), None


def _otherwise(probe: TextProbe, want: str, got: str) -> VerificationFailed:
    return VerificationFailed(
        "the artifact answers a text otherwise than its source does",
        where=f"text {_text(probe.value)}",
        why=f"the source in its own library: {want}; the artifact: {got}",
        hint="a setting of the source is not carried over; please report it with config.json and tokenizer_config.json",
    )


def _text(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"


def _shown(answer: Answer) -> str:
    scores = ", ".join(f"{number:.4f}" for number in answer.numbers[:4])
    return f"{list(answer.decision[:4])} ({scores})"


def _facts(reference: TextReference, precision: str, worst: float) -> dict[str, Any]:
    tolerance = TOLERANCES[precision]
    facts: dict[str, Any] = {
        "stage": STAGE,
        "precision": precision,
        "checks": len(reference.probes) + len(reference.rows),
        "outputs": {
            "answers": {
                "worst": float(f"{worst:.3g}"),
                "tolerance": tolerance.limit,
                "measure": f"{tolerance.words}; tokens and, in float, decisions are equal",
                "shape": [],
                "padded": False,
            }
        },
    }
    notes = [f"{reference.unanswered} probes that the source's own library does not take"] * bool(reference.unanswered)
    long = sum(probe.answer is None for probe in (*reference.probes, *reference.rows))
    notes += [f"{long} texts of more than {LONGEST_PROBE} tokens compared by their tokens alone"] * bool(long)
    if notes:
        facts["note"] = "; ".join(notes)
    return facts
