"""Keep the pieces of a vocabulary that a corpus needs, and number them anew.

    tokenizer.json + corpus → ids that stay, in their old order → the same tokenizer with fewer pieces

The rows of the embedding follow `Vocabulary.kept`; no weight is seen here. A text whose pieces all stay is cut as
before, because taking other pieces away cannot make the winner lose:

    WordPiece   the longest match stays the longest match
    BPE         what merges inside a piece does not depend on what surrounds it: with the merge tree of every kept
                piece, all merges of such a text stay, in their order
    Unigram     the best path stays the best path; an unknown character costs the worst score and a constant, so a piece
                with the worst score stays

One exception: WordPiece may know a word that was unknown before, if a kept piece contains a character that is no piece
by itself. BERT's vocabulary has no such piece.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from deploycomp.errors import InputRefused

__all__ = ["Change", "Vocabulary", "compare", "prune_vocabulary", "rewrite_files"]

Text = str | tuple[str, str]
Progress = Callable[[str, float], None]

_MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_BATCH = 256
"""Texts that are tokenized at a time: enough to use all cores, and memory does not grow with the corpus."""
_LARGEST_FIXED = 1000
"""All ids up to one that may not move stay; with more of them, nothing would be saved."""
_EXAMPLES = 5
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SENTENCEPIECE = ("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model")


@dataclass(frozen=True)
class Vocabulary:
    """A pruned vocabulary.

    Attributes:
        kept: Old ids that stay, ascending; the new id is the place in this tuple.
        tokenizer: The rewritten tokenizer.json.
        pieces: How many pieces there were.
    """

    kept: tuple[int, ...]
    tokenizer: str
    pieces: int


@dataclass(frozen=True)
class Change:
    """What pruning changed in text that it has not seen.

    Attributes:
        rows: Texts compared.
        changed: Texts that are cut otherwise than before.
        examples: The part that differs in some of them: pieces before → pieces after.
    """

    rows: int
    changed: int
    examples: tuple[str, ...]


def prune_vocabulary(
    tokenizer: str,
    texts: Iterable[Text],
    *,
    pad_token_id: int | None,
    also: Iterable[int] = (),
    progress: Progress | None = None,
) -> Vocabulary:
    """Keep the pieces that the corpus needs, all added tokens, and every single character and byte.

    Args:
        tokenizer: The content of a tokenizer.json; of a loaded tokenizer, `backend_tokenizer.to_str()`.
        texts: The corpus; it is read once.
        pad_token_id: The id that must not move, because positions are counted from it; None where none must stay.
        also: Further ids that stay.
        progress: Called with (message, fraction) where the length of the corpus is known.

    Raises:
        InputRefused: The tokenizer cannot be read or is of an unknown kind, the corpus has no text, an id has no piece,
            or the padding id would move.
    """
    reader, document = _read(tokenizer)
    ids = reader.get_vocab(with_added_tokens=True)
    reached = _reached(reader, texts, progress)
    stay = reached | _always(reader, document, ids) | set(also)
    # transformers writes the unknown id of Unigram down in code (XLM-R: 3, ALBERT: 1), so it may not move either.
    fixed = [index for index in (pad_token_id, document["model"].get("unk_id")) if index is not None]
    last = max((index for index in fixed if index <= _LARGEST_FIXED), default=-1)
    stay |= {index for index in ids.values() if index <= last}
    if document["model"]["type"] == "BPE":
        stay |= _trees(document["model"], ids, stay)
    kept = tuple(sorted(stay))
    _check(kept, ids, pad_token_id)
    return Vocabulary(kept, _rewrite(document, ids, kept), len(ids))


def rewrite_files(folder: Path, vocabulary: Vocabulary) -> None:
    """Write the pruned tokenizer over every tokenizer file of a saved checkpoint.

    Files that hold the vocabulary in a form that cannot be rewritten (SentencePiece) are removed: loaders would prefer
    or fall back to them, and tokenizer.json holds all. Ids in config.json are left alone.

    Args:
        folder: Where tokenizer.json and the files beside it are.
        vocabulary: What stays.

    Raises:
        InputRefused: A file names an added token that the pruned tokenizer does not have.
    """
    _write(folder / "tokenizer.json", vocabulary.tokenizer)
    contents = _vocabulary_files(json.loads(vocabulary.tokenizer)["model"])
    for name in ("vocab.txt", "vocab.json", "merges.txt", *_SENTENCEPIECE):
        path = folder / name
        if path.is_file() and name in contents:
            _write(path, contents[name])
        elif path.is_file():
            path.unlink()
    ids = Tokenizer.from_str(vocabulary.tokenizer).get_vocab(with_added_tokens=True)
    _rewrite_added(folder, ids)


def compare(before: str, vocabulary: Vocabulary, texts: Iterable[Text]) -> Change:
    """Count the rows of held-out text that the pruned tokenizer cuts otherwise than the one before.

    Args:
        before: The tokenizer.json that was pruned.
        vocabulary: What stayed.
        texts: Rows that need not be in the corpus.
    """
    old, new = _read(before)[0], _read(vocabulary.tokenizer)[0]
    rows = changed = 0
    examples: list[str] = []
    for batch in _batches(texts):
        rows += len(batch)
        for was, now in zip(old.encode_batch(batch), new.encode_batch(batch), strict=True):
            if was.ids == [vocabulary.kept[index] for index in now.ids]:
                continue
            changed += 1
            if len(examples) < _EXAMPLES:
                examples.append(_difference(was.tokens, now.tokens))
    return Change(rows, changed, tuple(examples))


def _read(tokenizer: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Return the tokenizer, never cutting rows short, and its file in today's spelling.

    The library writes the file anew, so that old spellings (no type of the model, merges as "a b") need no code here.
    """
    try:
        named = json.loads(tokenizer).get("model", {}).get("type")
    except (ValueError, AttributeError) as error:
        raise InputRefused("the tokenizer is not a tokenizer.json", why=str(error)) from None
    if named is not None and named not in _MODELS:
        raise InputRefused(
            f"the vocabulary of a {named} tokenizer cannot be pruned",
            why=f"known kinds are {', '.join(_MODELS)}",
            hint="leave vocabulary pruning out for this model",
        )
    try:
        reader = Tokenizer.from_str(tokenizer)
    except Exception as error:  # the library raises nothing narrower
        raise InputRefused("the tokenizer cannot be read", where="tokenizer.json", why=str(error)) from error
    document = json.loads(reader.to_str())
    reader.no_truncation()
    reader.no_padding()
    if document["model"].get("dropout"):
        reader.model.dropout = None
    return reader, document


def _batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _reached(reader: Tokenizer, texts: Iterable[Text], progress: Progress | None) -> set[int]:
    """Return the ids that the corpus is cut into."""
    rows, done = operator.length_hint(texts), 0
    reached: set[int] = set()
    for batch in _batches(texts):
        for row in reader.encode_batch_fast(batch, add_special_tokens=False):
            reached.update(row.ids)
        done += len(batch)
        if progress is not None and rows:
            progress("count pieces", done / rows)
    if not reached:
        raise InputRefused(
            "the corpus has no text, so no piece of the vocabulary would be known to be needed",
            why=f"{done} rows, and none holds a word",
            hint="name a split and columns that hold text as the model will see it",
        )
    return reached


def _always(reader: Tokenizer, document: dict[str, Any], ids: dict[str, int]) -> set[int]:
    """Return the ids that stay whatever the corpus holds."""
    model = document["model"]
    stay = set(reader.get_added_tokens_decoder())
    stay |= {holder[key] for holder, key in _id_places(document)}
    if model.get("unk_token") in ids:
        stay.add(ids[model["unk_token"]])
    prefix, suffix = _affixes(model)
    for piece, index in ids.items():
        inner = piece.removeprefix(prefix).removesuffix(suffix)
        if _BYTE.fullmatch(piece) or (
            len(inner) <= 1 and (inner == piece or not _stands_alone(reader, document, inner))
        ):
            stay.add(index)
    if model["type"] == "Unigram":
        # The library takes the cost of an unknown character from the worst score that it finds.
        stay.add(min(range(len(model["vocab"])), key=lambda index: model["vocab"][index][1]))
    return stay


def _stands_alone(reader: Tokenizer, document: dict[str, Any], character: str) -> bool:
    """Whether no word has this character inside, so that its piece for the inside of words is out of reach.

    BERT makes a word of every punctuation mark and Chinese character, whatever stands around it: the 336 such pieces of
    its vocabulary come up in no text.
    """
    steps = (document["normalizer"] or {}).get("type"), (document["pre_tokenizer"] or {}).get("type")
    if document["model"]["type"] != "WordPiece" or steps != ("BertNormalizer", "BertPreTokenizer"):
        return False
    text = reader.normalizer.normalize_str(f"a{character}a")
    words = [word for word, _ in reader.pre_tokenizer.pre_tokenize_str(text)]
    return bool(character) and not any(character in word and len(word) > 1 for word in words)


def _id_places(document: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key) of every id in the file outside the vocabulary and the added tokens."""
    if document["padding"]:
        yield document["padding"], "pad_id"
    if document["model"].get("unk_id") is not None:
        yield document["model"], "unk_id"
    processors = [document["post_processor"] or {}]
    while processors:
        processor = processors.pop()
        processors += processor.get("processors", [])
        for special in processor.get("special_tokens", {}).values():
            yield from ((special["ids"], place) for place in range(len(special["ids"])))
        for name in ("cls", "sep"):  # BertProcessing and RobertaProcessing: [piece, id]
            if name in processor:
                yield processor[name], 1


def _affixes(model: dict[str, Any]) -> tuple[str, str]:
    """Return what a piece begins with inside a word, and ends with at its end."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _check(kept: tuple[int, ...], ids: dict[str, int], pad: int | None) -> None:
    hint = "correct the ids in config.json and tokenizer.json, or leave vocabulary pruning out for this model"
    unknown = sorted(set(kept).difference(ids.values()))
    if unknown:
        raise InputRefused(
            f"id {unknown[0]} must stay, and the tokenizer has no piece with that id",
            why=f"{len(unknown)} such ids; the tokenizer and the model's settings disagree",
            hint=hint,
        )
    if pad is not None and kept[pad : pad + 1] != (pad,):
        raise InputRefused(
            f"the padding id {pad} cannot stay where it is",
            why=f"positions are counted from it, and not all ids below it stay (they do up to {_LARGEST_FIXED})",
            hint=hint,
        )


def _trees(model: dict[str, Any], ids: dict[str, int], stay: set[int]) -> set[int]:
    """Return the ids of every piece on the way to a kept one."""
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    affixes = _affixes(model)
    return {ids[part] for piece, index in ids.items() if index in stay for part in _passed(piece, ranks, affixes)}


def _passed(piece: str, ranks: dict[tuple[str, str], int], affixes: tuple[str, str]) -> set[str]:
    """Merge a piece's characters as the library does; return all that came up, or nothing if they do not end in it."""
    prefix, suffix = affixes
    inner = piece.removeprefix(prefix)
    body = inner.removesuffix(suffix)
    parts = [character if place == 0 else prefix + character for place, character in enumerate(body)]
    if not parts:
        return set()
    parts[0] = piece[: len(piece) - len(inner)] + parts[0]
    parts[-1] += inner[len(body) :]
    passed: set[str] = set()
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        place = min(range(len(pairs)), key=lambda place: ranks.get(pairs[place], len(ranks)))
        if pairs[place] not in ranks:
            return set()
        passed.update(pairs[place])
        parts[place : place + 2] = [_joined(*pairs[place], prefix)]
    return passed


def _joined(left: str, right: str, prefix: str) -> str:
    return left + right[len(prefix) :]


def _rewrite(document: dict[str, Any], ids: dict[str, int], kept: tuple[int, ...]) -> str:
    """Return the file with the kept pieces under their new ids."""
    new = {old: place for place, old in enumerate(kept)}
    model = document["model"]
    for holder, key in _id_places(document):
        holder[key] = new[holder[key]]
    for token in document["added_tokens"]:
        token["id"] = new[ids[token["content"]]]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
    else:
        model["vocab"] = {piece: new[old] for piece, old in model["vocab"].items() if old in new}
    if model["type"] == "BPE":
        vocab, prefix = model["vocab"], _affixes(model)[0]
        # Merges that no text of the corpus needed stay where their pieces do: other text is then cut as before too.
        model["merges"] = [
            [left, right]
            for left, right in model["merges"]
            if left in vocab and right in vocab and _joined(left, right, prefix) in vocab
        ]
    text = json.dumps(document, ensure_ascii=False)
    _check_loaded(text, {piece: new[old] for piece, old in ids.items() if old in new})
    return text


def _check_loaded(tokenizer: str, expected: dict[str, int]) -> None:
    """The library numbers added tokens itself when it loads them, whatever the file says."""
    if Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True) != expected:
        raise InputRefused(
            "the vocabulary cannot be numbered anew",
            where="tokenizer.json",
            why="its added tokens would get other ids when the file is loaded: two share an id, or ids are missing",
            hint="load and save the tokenizer with transformers, or leave vocabulary pruning out",
        )


def _vocabulary_files(model: dict[str, Any]) -> dict[str, str]:
    """Return the files beside tokenizer.json that older loaders read, as this kind of model writes them."""
    if model["type"] == "WordPiece":
        return {"vocab.txt": "".join(f"{piece}\n" for piece in sorted(model["vocab"], key=model["vocab"].__getitem__))}
    if model["type"] == "BPE":
        merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
        return {"vocab.json": json.dumps(model["vocab"], ensure_ascii=False), "merges.txt": f"#version: 0.2\n{merges}"}
    return {}


def _rewrite_added(folder: Path, ids: dict[str, int]) -> None:
    """Renumber the added tokens in the files of transformers; special_tokens_map.json holds no ids."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "added_tokens_decoder" in config:
        tokens = {token["content"]: token for token in config["added_tokens_decoder"].values()}
        config["added_tokens_decoder"] = {str(_new_id(piece, ids, path)): token for piece, token in tokens.items()}
        _write(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    path = folder / "added_tokens.json"
    if path.is_file():
        added = {piece: _new_id(piece, ids, path) for piece in json.loads(path.read_text(encoding="utf-8"))}
        _write(path, json.dumps(added, indent=2, ensure_ascii=False) + "\n")


def _new_id(piece: str, ids: dict[str, int], path: Path) -> int:
    if piece not in ids:
        raise InputRefused(
            f"{path.name} adds the token {piece!r}, which tokenizer.json does not have",
            where=str(path),
            hint="load and save the tokenizer with transformers before pruning its vocabulary",
        )
    return ids[piece]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _difference(was: list[str], now: list[str]) -> str:
    """Return the pieces that differ, without what both rows begin and end with."""
    start = 0
    while start < min(len(was), len(now)) and was[start] == now[start]:
        start += 1
    end = 0
    while end < min(len(was), len(now)) - start and was[-1 - end] == now[-1 - end]:
        end += 1
    return f"{' '.join(was[start : len(was) - end])} → {' '.join(now[start : len(now) - end])}"
