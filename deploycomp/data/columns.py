"""Which column of the data is the text, which the label: named by the user, or found by its usual names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploycomp.errors import UsageError

__all__ = ["ANSWERS", "PAIR_TASKS", "columns_of", "find_columns"]

PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_A", "sentence_B"),
    ("text1", "text2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
    ("query", "document"),
)
"""Usual names of two sentences that belong together (GLUE, SNLI, SICK, BoolQ, MS MARCO)."""

SINGLES = ("text", "sentence", "utterance", "query", "question", "content", "review", "tweet")

ALIASES = {
    "label": ("label", "labels", "intent", "class", "category", "target", "sentiment", "score"),
    "score": ("score", "label", "similarity", "similarity_score", "scores", "labels"),
    "tokens": ("tokens", "words"),
    "tags": ("tags", "ner_tags", "labels", "label"),
    "question": ("question", "query"),
    "context": ("context", "passage", "paragraph"),
    "answers": ("answers", "answer"),
}

PAIR_TASKS = ("sentence-similarity", "feature-extraction")
"""Tasks that are judged by the cosine of two sentences."""

ANSWERS = frozenset({"label", "tags", "answers", "score"})
"""Our columns that hold what is to be predicted."""

COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text-classification": (("text", "label"), ("text_pair",)),
    "token-classification": (("tokens", "tags"), ()),
    "question-answering": (("question", "context", "answers"), ()),
    "sentence-similarity": (("text", "text_pair", "score"), ()),
    "feature-extraction": (("text", "text_pair", "score"), ()),
    "fill-mask": (("text",), ("label",)),
}
"""Task → our columns that must be there, and those that may be."""


EXAMPLES = {
    "text-classification": '{"text": "a charming film", "label": "positive"}',
    "token-classification": '{"tokens": ["Ada", "ran"], "tags": ["B-PER", "O"]}',
    "question-answering": '{"question": "Who ran?", "context": "Ada ran.", "answers": ["Ada"]}',
    "sentence-similarity": '{"text": "a lamp", "text_pair": "a light", "score": 0.8}',
    "feature-extraction": '{"text": "a lamp", "text_pair": "a light", "score": 0.8}',
    "fill-mask": '{"text": "Graz is a city."}',
}
"""Task → a row that can be judged on."""


def columns_of(task: str, *, labeled: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return our column names for a task: those that must be there, and those that may be.

    Args:
        task: What the model does.
        labeled: False leaves out what is to be predicted.

    Raises:
        UsageError: There is nothing to evaluate for such a task.
    """
    if task not in COLUMNS:
        raise UsageError(f"task '{task}' has no metric", why=f"tasks with one: {', '.join(COLUMNS)}")
    required, optional = COLUMNS[task]
    if labeled:
        return required, optional
    free = ("text_pair",) if task in PAIR_TASKS else ()  # one sentence is enough where nothing is compared
    given = tuple(name for name in required if name not in ANSWERS and name not in free)
    return given, (*free, *(name for name in optional if name not in ANSWERS))


def find_columns(
    found: Sequence[str], *, task: str, named: Mapping[str, str] | None = None, labeled: bool = True, where: str
) -> dict[str, str]:
    """Map our columns to those of the data.

    Args:
        found: The columns of the data.
        task: The task, which says what is needed.
        named: What the user named, our name → theirs; these are not guessed.
        labeled: False leaves out what is to be predicted.
        where: The data, for errors.

    Returns:
        Our name → theirs, for every column that must be there and those optional ones that are.

    Raises:
        UsageError: A column is missing, ambiguous, or named but not there.
    """
    required, optional = columns_of(task, labeled=labeled)
    kept = {ours: theirs for ours, theirs in (named or {}).items() if labeled or ours not in ANSWERS}
    chosen = _check_named(kept, found, (*required, *optional), where=where)
    if "text" in required:
        pairs_only = "text_pair" in required
        chosen = {**_find_texts(found, chosen, task=task, pairs_only=pairs_only, where=where), **chosen}
    for ours in (*required, *optional):
        if ours in ALIASES and ours not in chosen:
            free = [name for name in found if name not in chosen.values()]
            theirs = _only(ours, [name for name in ALIASES[ours] if name in free], found, where=where)
            if theirs is not None:
                chosen[ours] = theirs
    if missing := [ours for ours in required if ours not in chosen]:
        raise _missing(missing, found, [name for name in found if name not in chosen.values()], task, where=where)
    return {ours: chosen[ours] for ours in (*required, *optional) if ours in chosen}


def _check_named(named: dict[str, str], found: Sequence[str], allowed: Sequence[str], *, where: str) -> dict[str, str]:
    for ours, theirs in named.items():
        if ours not in allowed:
            raise UsageError(
                f"'{ours}' is not a column that this task reads",
                where=where,
                why=f"it reads: {', '.join(allowed)}",
            )
        if theirs not in found:
            raise UsageError(
                f"the data has no column '{theirs}'", where=where, why=f"columns found: {', '.join(found)}"
            )
    return named


def _find_texts(
    found: Sequence[str], named: Mapping[str, str], *, task: str, pairs_only: bool, where: str
) -> dict[str, str]:
    """The column of the text, or the two of a sentence pair."""
    if "text" in named:
        partners = [second for first, second in PAIRS if first == named["text"] and second in found]
        return {"text_pair": partners[0]} if partners and "text_pair" not in named and task != "fill-mask" else {}
    pairs = [] if task == "fill-mask" else [pair for pair in PAIRS if pair[0] in found and pair[1] in found]
    if pairs and pairs[0] == PAIRS[0]:
        pairs = pairs[:1]  # our own names leave nothing to guess
    if len(pairs) > 1:
        raise _ambiguous("text", [" + ".join(pair) for pair in pairs], found, where=where)
    taken = {name for pair in pairs for name in pair} | set(named.values())
    singles = [name for name in SINGLES if name in found and name not in taken]
    if pairs and (pairs[0] == PAIRS[0] or not singles):
        return dict(zip(("text", "text_pair"), pairs[0], strict=True))
    if pairs:
        raise _ambiguous("text", [" + ".join(pairs[0]), *singles], found, where=where)
    if pairs_only:
        return {}
    text = _only("text", singles, found, where=where)
    return {} if text is None else {"text": text}


def _only(ours: str, candidates: Sequence[str], found: Sequence[str], *, where: str) -> str | None:
    """The one candidate; our own name wins over aliases, and two aliases are ambiguous."""
    if ours in candidates:
        return ours
    if len(candidates) > 1:
        raise _ambiguous(ours, candidates, found, where=where)
    return candidates[0] if candidates else None


def _ambiguous(ours: str, candidates: Sequence[str], found: Sequence[str], *, where: str) -> UsageError:
    example = candidates[0].split(" + ")[0]
    return UsageError(
        f"more than one column could be '{ours}': {', '.join(candidates)}",
        where=where,
        why=f"columns found: {', '.join(found)}",
        hint=f"name it: --column {ours}={example}",
    )


def _missing(missing: Sequence[str], found: Sequence[str], free: Sequence[str], task: str, *, where: str) -> UsageError:
    """Say what is there, and what to type: columns that are there, or a row with those that are not."""
    ours = missing[0]
    known = ALIASES.get(ours) or (SINGLES if ours == "text" else sorted({second for _, second in PAIRS}))
    if "text_pair" in missing and ours == "text":
        known = tuple(" + ".join(pair) for pair in PAIRS)
    options = " ".join(f"--column {name}={theirs}" for name, theirs in zip(missing, free, strict=False))
    enough = len(free) >= len(missing)
    return UsageError(
        f"no column for {' and '.join(map(repr, missing))} was found",
        where=where,
        why=f"columns found: {', '.join(found)}; looked for {ours}: {', '.join(known)}",
        hint=f"name it: {options}" if enough else f"a row needs every column: {EXAMPLES[task]}",
    )
