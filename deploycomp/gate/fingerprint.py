"""What must be equal before two runs on two occasions may be compared at all.

context of a run ──► fingerprint: processor, its flags, cores, limits, governor, versions, threads
now, then        ──► what differs, as sentences; nothing is equal as long as one of them is unknown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["differences", "fingerprint"]

CPU = ("vendor", "name", "arch", "cores", "flags")
MACHINE = ("affinity", "cpu_quota", "governor", "memory_limit_bytes", "python", "versions")


def fingerprint(context: Mapping[str, Any], threads: Sequence[int]) -> dict[str, Any]:
    """Take from the context of a run what decides its speed and does not change by itself.

    Args:
        context: As `deploycomp.measure.context.context` gives it.
        threads: Thread counts that were measured.
    """
    cpu: Mapping[str, Any] = context.get("cpu") or {}
    return {
        **{f"cpu {name}": cpu.get(name) for name in CPU},
        **{name: context.get(name) for name in MACHINE},
        "threads": sorted(threads),
    }


def differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    """Say what is not the same, one clause each: "governor: powersave then, performance now"."""
    found: list[str] = []
    for name in [*now, *(name for name in then if name not in now)]:
        one, other = then.get(name), now.get(name)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(other, one)
        elif isinstance(one, list) and isinstance(other, list) and name == "cpu flags":
            found += [f"cpu flags: {_only(one, other)} then only, {_only(other, one)} now only"]
        else:
            found.append(f"{name}: {_shown(one)} then, {_shown(other)} now")
    return found


def _only(some: list[Any], others: list[Any]) -> str:
    return ", ".join(str(each) for each in some if each not in others) or "none"


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
