"""What the machine is, and what else it did while we measured. No heavy imports.

A latency without this is a rumour: the same binary ran 35 % slower on the same machine an hour later.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from deploycomp.runtime.cpu import detect

__all__ = ["Watch", "affinity", "context"]

ROOT = Path("/")

FLAGS = re.compile(r"sse4|avx|amx|fma$|f16c|asimd|sve|sme2?$|i8mm|bf16|neon")
"""CPU flags that decide which kernels run; the others say nothing about speed."""

PACKAGES = ("deploycomp", "numpy", "onnxruntime", "tokenizers", "torch", "transformers")

KHZ_PER_MHZ = 1000

NO_LIMIT = 1 << 60
"""cgroup v1 writes a huge number for "no limit"; no machine has an exbibyte."""


def affinity() -> list[int]:
    """Return the processors this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def context(*, root: Path = ROOT) -> dict[str, Any]:
    """Describe this machine as plain values for report.json; what it does not tell is None.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        CPU, its frequency now in MHz, load averages over 1, 5 and 15 minutes, governor, cgroup limits, memory in bytes,
        versions.
    """
    cpu = detect(root=root)
    return {
        "cpu": {
            "vendor": cpu.vendor,
            "name": cpu.name,
            "arch": cpu.arch,
            "cores": cpu.cores,
            "flags": sorted(flag for flag in cpu.flags if FLAGS.match(flag)),
        },
        "threads_available": cpu.threads,
        "affinity": affinity(),
        "cpu_quota": cpu.quota,
        "mhz": _mhz(root),
        "governor": _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load": [round(value, 2) for value in os.getloadavg()],
        "memory_bytes": _memory(root, "MemTotal"),
        "memory_available_bytes": _memory(root, "MemAvailable"),
        "memory_limit_bytes": _memory_limit(root),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


@dataclass(frozen=True)
class Watch:
    """Counts from here on what the machine does besides our own work.

    Source: /proc/stat, which is the whole machine even inside a container.
    """

    total: float
    """CPU seconds of all processors so far, idle ones too."""
    busy: float
    stolen: float
    own: float
    """CPU seconds of this process and of its children that have ended."""

    @staticmethod
    def start(*, root: Path = ROOT) -> Watch | None:
        """Begin to watch; None where there is no /proc/stat."""
        line = _read(root / "proc/stat").partition("\n")[0].split()
        if len(line) < 9 or line[0] != "cpu":
            return None
        second = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, wait, irq, soft, stolen = (int(each) / second for each in line[1:9])
        busy = user + nice + system + irq + soft
        return Watch(busy + idle + wait + stolen, busy, stolen, sum(os.times()[:4]))

    def stop(self, *, root: Path = ROOT) -> dict[str, float]:
        """Return, as shares of the machine's CPU time since `start`, what the hypervisor and others took."""
        now = Watch.start(root=root)
        if now is None or now.total <= self.total:
            return {}
        span = now.total - self.total
        foreign = (now.busy - self.busy) - (now.own - self.own)
        return {
            "steal_share": round((now.stolen - self.stolen) / span, 4),
            "foreign_share": round(max(0.0, foreign / span), 4),
        }


def _read(path: Path) -> str:
    """The text of a small system file, empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _mhz(root: Path) -> float | None:
    """The frequency of the processors that this process may run on, on average, now."""
    found = [
        int(text) / KHZ_PER_MHZ
        for cpu in affinity()
        if (text := _read(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq")).isdigit()
    ]
    if not found:  # virtual machines have no cpufreq, and say what they were told at start
        found = [
            float(each) for each in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", _read(root / "proc/cpuinfo"), re.MULTILINE)
        ]
    return round(sum(found) / len(found), 1) if found else None


def _memory(root: Path, name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _memory_limit(root: Path) -> int | None:
    """The memory that the cgroup at the mount's root grants: what a container sees of its own limit."""
    base = root / "sys/fs/cgroup"
    for text in (_read(base / "memory.max"), _read(base / "memory/memory.limit_in_bytes")):
        if text.isdigit() and int(text) < NO_LIMIT:
            return int(text)
    return None


def _versions() -> dict[str, str]:
    """Versions of what is installed, without importing any of it."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
