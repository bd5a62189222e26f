"""The probes of `text.py` in the manifest: what the source answered, to be asked again wherever the artifact is opened.

An entry is three short strings, so that a manifest stays readable: the input as JSON, token ids, and numbers. Of a
long vector evenly spaced numbers are kept. None of the user's data is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploycomp.errors import InputRefused
from deploycomp.evaluate.parity import TOLERANCES
from deploycomp.evaluate.text import Answer, TextProbe, TextReference, check_text, thin

if TYPE_CHECKING:
    from deploycomp.evaluate.library import LibraryModel

__all__ = ["check_selftest", "read_selftest", "write_selftest"]

NUMBERS = 16
"""Numbers kept of one answer."""
_PAIRS = ("text-classification", "question-answering")
"""Tasks whose pairs are tuples; JSON knows lists only."""
LONGEST_INPUT = 4_000
"""Characters of an input as JSON; a longer one is checked at export alone."""


def write_selftest(reference: TextReference) -> list[dict[str, str]]:
    """Return the probes of a reference as they stand in a manifest."""
    entries: list[dict[str, str]] = []
    for probe in reference.probes:
        value = json.dumps(probe.value, ensure_ascii=True)
        if probe.answer is None or len(value) > LONGEST_INPUT:
            continue
        entries.append(
            {
                "input": value,
                "tokens": " ".join(str(each) for each in probe.tokens),
                "numbers": " ".join(f"{each:.6g}" for each in thin(probe.answer.numbers, NUMBERS)),
                "decision": json.dumps(probe.answer.decision, ensure_ascii=True),
            }
        )
    return entries


def read_selftest(manifest: Mapping[str, Any]) -> TextReference | None:
    """Read the probes of a manifest; None where it has none, as before schema 1 knew them.

    Raises:
        InputRefused: They are not what `write_selftest` writes.
    """
    entries = manifest.get("selftest")
    if not entries:
        return None
    try:
        probes = tuple(_read(entry, str(manifest.get("task"))) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputRefused("the manifest's selftest cannot be read", where="selftest", why=str(error)) from None
    return TextReference(str(manifest.get("task")), probes, (), numbers=NUMBERS)


def check_selftest(model: LibraryModel, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Ask an artifact its own probes, here, with this runtime.

    Returns:
        The facts of a parity stage; None where the manifest has no probes.

    Raises:
        VerificationFailed: It reads or answers a text otherwise than its source did.
        InputRefused: See `read_selftest`.
    """
    reference = read_selftest(manifest)
    if reference is None:
        return None
    precision = manifest.get("precision")
    if precision not in TOLERANCES:
        raise InputRefused("the manifest names no known precision", where="precision", why=repr(precision))
    return check_text(model, reference, precision)


def _read(entry: Mapping[str, str], task: str) -> TextProbe:
    value = json.loads(entry["input"])
    if isinstance(value, list) and task in _PAIRS:
        value = tuple(value)
    numbers = tuple(float(each) for each in entry["numbers"].split())
    decision = _frozen(json.loads(entry["decision"]))
    return TextProbe(value, tuple(int(each) for each in entry["tokens"].split()), Answer(numbers, decision))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
