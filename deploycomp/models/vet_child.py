"""The child of `vet.py`: read one tokenizer.json and tokenize probes, within bounds; print one line of JSON.

    python -I -S vet_child.py tokenizer.json FOLDERS_OF_PACKAGES BYTES SECONDS

It imports the tokenizers library alone. A bound that is reached ends the process; the parent tells why.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["main"]

MAX_GROWTH = 32
"""A normalizer may make a text this many times as long; Unicode's longest decomposition (U+FDFA) has 18 letters."""

LONG = 4_000
"""Letters of the long probes, far longer than any word: what takes exponential time takes forever here."""

WORDS = "The quick brown fox, isn't it? jumps over 12,345.67 lazy dogs; e-mail me@example.org #now\n\ttwice  "
LETTERS = (
    "aA0 .,-_'\"@#/\\()[]{}<>|&%$éßöåñçÀİςЖю日本語한국어ไทยहिन्दीعربيעברית"
    "\u200b\u200d\ufeff\u0301🙂👩\u200d👩\u200d👧ﷺ½…\x00\x7f"
)


class Refused(Exception):
    """What is wrong with the file."""


def main() -> None:
    """Vet the file that the command line names."""
    path, packages, size, seconds = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(size), int(size)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, float(seconds))  # nobody may be left to stop it
    answer: dict[str, str] = {}
    try:
        vet(path, packages)
    except Refused as refused:
        answer = {"why": str(refused)}
    except MemoryError:
        answer = {"why": "it takes more memory than a tokenizer may"}
    except RecursionError:
        answer = {"why": "its JSON is nested too deep"}
    except BaseException as error:  # a panic of the library is no Exception
        answer = {"why": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer))


def vet(path: str, packages: str) -> None:
    """Read the file strictly, let the library read it, and tokenize every probe."""
    with open(path, "rb") as file:  # noqa: PTH123 (pathlib would take as long as all the rest)
        data = file.read().decode("utf-8")
    value = json.loads(data, object_pairs_hook=unique)
    if not isinstance(value, dict):
        raise Refused("it is not a JSON object")
    own = tuple(dict.fromkeys(patterns(value.get("normalizer"))))
    del value
    sys.path += packages.split(os.pathsep)
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_str(data)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for probe in probes(own):
        if tokenizer.normalizer is not None:
            grown = len(tokenizer.normalizer.normalize_str(probe))
            if grown > MAX_GROWTH * (len(probe) + 1):
                raise Refused(f"its normalizer makes {grown:,} letters of {len(probe):,}")
        tokenizer.encode(probe)
    tokenizer.encode(WORDS, LETTERS)
    tokenizer.encode(WORDS.split(), is_pretokenized=True)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: readers disagree on which of the two counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        raise Refused(f"the JSON has a duplicate key: {next(k for k, _ in pairs if k in seen or seen.add(k))!r}")
    return value


def patterns(value: Any) -> Iterator[str]:
    """What a normalizer looks for, wherever it is nested."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, list):
            stack += each
        elif isinstance(each, dict):
            stack += each.values()
            yield from (text for name, text in each.items() if name in ("String", "Regex") and isinstance(text, str))


def probes(own: tuple[str, ...]) -> Iterator[str]:
    """Texts short and long: every kind of letter, words, white space, and what the tokenizer itself looks for."""
    yield from ("", " ", WORDS, LETTERS, LETTERS[::-1])
    yield from own
    yield from (each * 64 for each in own if len(each) < LONG)
    for unit in ("a", " ", "0", "!", "日", "\n", "ab ", "a1-", WORDS):
        yield (unit * LONG)[:LONG]
        yield (unit * LONG)[:LONG] + "\x00"


if __name__ == "__main__":
    main()
