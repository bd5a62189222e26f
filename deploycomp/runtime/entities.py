"""Logits of a text's tokens → its entities, grouped as transformers' token classification pipeline groups them.

    simple     every token by itself: neighbours of one label are one entity
    first      a word has the label of its first token
    average    … of the mean of its tokens' probabilities
    max        … of the token that is surest

`B-X` begins an entity; `I-X` (or a bare `X`) continues one of the same label and begins one otherwise; `O` ends it.
Beyond the pipeline, which knows B and I alone: where every label has a prefix, S and U begin an entity, and E, L and M
continue one. A word is what the pipeline takes for one: WordPiece marks the pieces that continue a word, other
tokenizers do not, and there a space begins a word. So `first`, `average` and `max` need a script with spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from deploycomp.errors import UsageError
from deploycomp.runtime.decode import OUTSIDE, softmax, trim
from deploycomp.runtime.results import Entity

__all__ = ["AGGREGATIONS", "Aggregation", "Tokens", "check_aggregation", "entities"]

Aggregation = Literal["simple", "first", "average", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

BEGIN = frozenset("BSU")
CONTINUE = frozenset("IELM")
"""Prefixes of BIO, BIOES (S, E) and BILOU (U, L; M in BMES)."""


class Tokens(NamedTuple):
    """What is known of a text's tokens; every field has one value for each token."""

    spelled: Sequence[str]
    """As the vocabulary spells them."""
    offsets: Sequence[tuple[int, int]]
    """Their characters, `[start, end)`."""
    special: Sequence[int]
    """1 for [CLS] and its like."""
    unknown: Sequence[bool]
    """Whether a token stands for characters that the vocabulary lacks."""


class _Piece(NamedTuple):
    """A token or a word: where it is, and how likely each label is."""

    start: int
    end: int
    chances: np.ndarray
    inside: bool
    """Whether it continues the word before it."""


def check_aggregation(name: str) -> Aggregation:
    """Return the name of a way to group tokens.

    Raises:
        UsageError: There is no such way.
    """
    for each in AGGREGATIONS:
        if each == name:
            return each
    raise UsageError(f"there is no aggregation {name!r}", hint=f"one of {', '.join(AGGREGATIONS)}")


def entities(
    text: str,
    logits: np.ndarray,
    tokens: Tokens,
    labels: Sequence[str],
    *,
    aggregation: Aggregation = "simple",
    prefix: str | None = None,
) -> list[Entity]:
    """Find the entities of a text, see the rule at the top of this file.

    Args:
        text: The text.
        logits: [tokens, labels].
        tokens: Its tokens.
        labels: The tags.
        aggregation: How tokens are grouped.
        prefix: What marks a piece that continues a word (WordPiece's "##"), where the tokenizer has that.

    Returns:
        Entities in the order of the text, without white space at their ends; the score is the mean over the pieces.
    """
    pieces = list(_pieces(text, softmax(logits), tokens, prefix))
    if aggregation == "simple":
        units = [_labelled(piece, piece.chances, labels) for piece in pieces]
    else:
        units = [_word(word, labels, aggregation) for word in _words(pieces)]
    found: list[Entity] = []
    for label, members in _merge(units, schemed=_schemed(labels)):
        start, end = trim(text, members[0][0], members[-1][1])
        found.append(Entity(label, float(np.mean([score for *_, score in members])), start, end, text[start:end]))
    return found


def _pieces(text: str, chances: np.ndarray, tokens: Tokens, prefix: str | None) -> Iterator[_Piece]:
    """Tokens of the text itself."""
    every = zip(tokens.spelled, tokens.offsets, tokens.special, tokens.unknown, chances, strict=True)
    for spelled, (start, end), special, unknown, row in every:
        if special:
            continue
        marked = len(spelled) != end - start  # "##ing" stands for three characters
        inside = marked if prefix else start > 0 and " " not in text[start - 1 : start + 1]
        yield _Piece(start, end, row, inside and not unknown)


def _words(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    word: list[_Piece] = []
    for piece in pieces:
        if word and not piece.inside:
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


_Unit = tuple[int, int, str, float]
"""(start, end, tag, its probability)."""


def _labelled(piece: _Piece, chances: np.ndarray, labels: Sequence[str]) -> _Unit:
    best = int(chances.argmax())
    return piece.start, piece.end, labels[best], float(chances[best])


def _word(word: list[_Piece], labels: Sequence[str], aggregation: Aggregation) -> _Unit:
    every = np.stack([piece.chances for piece in word])
    chances = {"first": every[0], "average": every.mean(0), "max": every[int(every.max(1).argmax())]}[aggregation]
    start, _, tag, score = _labelled(word[0], chances, labels)
    return start, word[-1].end, tag, score


def _schemed(labels: Sequence[str]) -> bool:
    """Whether labels are prefix-name; otherwise "E-MAIL" is a name of its own."""
    return all(label == OUTSIDE or (label[0] in BEGIN | CONTINUE and label[1:2] == "-") for label in labels if label)


def _merge(units: Sequence[_Unit], *, schemed: bool) -> Iterator[tuple[str, list[_Unit]]]:
    """(label, members) of each entity, from the tag of each token or word."""
    label, members = OUTSIDE, list[_Unit]()
    for unit in (*units, (0, 0, OUTSIDE, 0.0)):
        tag = unit[2]
        prefix, name = (tag[0], tag[2:]) if schemed and tag != OUTSIDE else _split(tag)
        if members and (tag == OUTSIDE or prefix in BEGIN or name != label):
            yield label, members
            members = []
        if tag != OUTSIDE:
            label = name
            members.append(unit)


def _split(tag: str) -> tuple[str, str]:
    """Prefix and name of a tag as the pipeline splits them: B- and I- alone."""
    return (tag[0], tag[2:]) if tag.startswith(("B-", "I-")) else ("I", tag)
