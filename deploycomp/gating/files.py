"""Stored baselines and noise files: read, and refused where they do not belong to this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused, UsageError
from deploycomp.gate.fingerprint import differences
from deploycomp.gate.rounds import Quantity, Rules
from deploycomp.gate.sequential import least_rounds
from deploycomp.gate.stored import Stored, read_stored
from deploycomp.gating.goals import Goals

__all__ = ["check_noise", "load_stored", "why_advisory"]

MAX_JSON_BYTES = 50_000_000
"""No result of ours comes near this."""
PER_MILLE = 1000


def load_stored(path: Path, rules: Rules) -> Stored:
    """Read a stored baseline.

    Raises:
        InputRefused: It is not the JSON of a gate or a benchmark.
        UsageError: It holds several candidates, or too few processes to decide anything.
    """
    stored = read_stored(_read_json(path), where=str(path))
    least = least_rounds(hypotheses=len(stored.values), false_alarm=rules.false_alarm, missed=rules.missed)
    if stored.rounds < least:
        raise UsageError(
            f"the stored baseline holds {stored.rounds} processes, and it takes {least} to decide",
            where=str(path),
            hint="deploycomp gate calibrate BASELINE --output FILE measures enough of them",
        )
    return stored


def why_advisory(stored: Stored, here: Mapping[str, Any]) -> list[str]:
    """Say why a stored baseline proves little on this machine, one clause each; empty where it may be compared."""
    found = [f"it differs in {each}" for each in differences(here, stored.fingerprint)]
    return found if stored.reference else [*found, "it has no reference kernel to be normalised by"]


def check_noise(
    path: Path, here: Mapping[str, Any], goals: Goals, rules: Rules, quantities: Iterable[Quantity]
) -> None:
    """Refuse a tolerance that an unchanged model would not pass on this machine.

    Args:
        path: What `calibrate` wrote.
        here: The fingerprint of this machine.
        goals: With the tolerances.
        rules: A floor is that of a budget and of error rates.
        quantities: What will be measured.

    Raises:
        InputRefused: The file is not one.
        UsageError: It is from elsewhere, lacks a shape, or has a floor above a tolerance.
    """
    again = f"deploycomp gate calibrate BASELINE --budget {rules.budget:g} --output {path}"
    known = _read_json(path)
    try:
        differ = differences(here, known["context"]["fingerprint"])
        differ += [f"{name}: {known[name]} then, {value} now" for name, value in _rules(rules) if known[name] != value]
        floors = {each["name"]: each["floor"] for each in known["numbers"]}
    except (KeyError, TypeError, AttributeError):
        raise InputRefused("this is not what `gate calibrate` writes", where=str(path), hint=again) from None
    if differ:
        raise UsageError(
            "the noise was measured on another machine or in another setting",
            where=str(path),
            why="; ".join(differ),
            hint=again,
        )
    for quantity in quantities:
        if quantity.name not in floors:
            raise UsageError(f"the noise of {quantity.name} is not known", where=str(path), hint=again)
        _check_floor(quantity, goals.limit(quantity), floors[quantity.name], path)


def _rules(rules: Rules) -> list[tuple[str, float]]:
    return [("false_alarm", rules.false_alarm), ("missed", rules.missed), ("budget", rules.budget)]


def _check_floor(quantity: Quantity, limit: float, floor: float | None, path: Path) -> None:
    option = "--max-memory-growth" if quantity.kind == "memory" else "--max-slowdown"
    if floor is None:
        raise UsageError(
            f"{quantity.name} is too noisy on this machine to be gated",
            where=str(path),
            hint="calibrate again on a quieter machine, or with a longer --budget",
        )
    if limit < floor:
        raise UsageError(
            f"{option} {100 * limit:g}% is below the noise floor of this machine, {100 * floor:.2g}%",
            where=f"{path}: {quantity.name}",
            why="not even an unchanged model would pass it reliably within the budget",
            hint=f"{option} {math.ceil(PER_MILLE * floor) / 10:g}%, or calibrate with a longer --budget",
        )


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputRefused(f"the file is larger than {MAX_JSON_BYTES:,} bytes", where=str(path))
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused("the file cannot be read as JSON", where=str(path), why=str(error)) from None
