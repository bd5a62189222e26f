"""What this CPU is, what it guarantees for INT8, and how many threads this process may really use.

    /proc/cpuinfo ──► flags ──► target: x86-vnni │ x86-avx512 │ x86-avx2 │ arm64-dotprod │ arm64 │ portable
    affinity ─┐
    quota ────┴──► threads = min(affinity, ⌈quota⌉), at least 1; OMP_NUM_THREADS overrules both

Standard library only. Every function that reads the machine takes the root of its file system, so that a test
can hand it another machine.
"""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "CpuFacts",
    "cgroup_folders",
    "default_threads",
    "detect",
    "fulfils",
    "has_int8_dot",
    "quota",
    "read_text",
    "resolve_target",
    "why_weight_bits",
]

Sysctl = Callable[[str], str]
"""Asks macOS for one value; the empty string when it does not know the name."""

ROOT = Path("/")
SYSCTL_SECONDS = 5

VNNI = frozenset({"avx512_vnni", "avx512vnni", "avx_vnni", "avxvnni"})
"""The INT8 dot product on x86 (VPDPBUSD), in the spellings of Linux, macOS and cpuid tools."""
AVX512 = frozenset({"avx512bw", "avx512vl"})
"""ONNX Runtime's AVX512 kernels need both (MLAS calls them "AVX512 core")."""
DOTPROD = frozenset({"asimddp", "feat_dotprod"})
"""The INT8 dot product on ARM (SDOT/UDOT), as Linux and macOS name it."""

INT8_DOT_TARGETS = frozenset({"x86-vnni", "arm64-dotprod", "cuda"})

ARM_NAMES = {
    ("0x41", "0xd03"): "Cortex-A53",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
}
"""(implementer, part) → name: Arm's MIDR_EL1 register, which is all that Linux prints on ARM."""
ARM_VENDORS = {"0x41": "ARM", "0x61": "Apple", "0x51": "Qualcomm", "0xc0": "Ampere", "0x4e": "NVIDIA"}

APPLE_FEATURES = ("FEAT_DotProd", "FEAT_I8MM", "FEAT_BF16", "FEAT_FP16")


@dataclass(frozen=True)
class CpuFacts:
    """A CPU as this process sees it."""

    vendor: str
    name: str
    arch: str
    """`x86_64`, `aarch64`, or whatever the kernel calls it."""
    flags: frozenset[str]
    """Features that every processor of the machine has, in lower case."""
    cores: int
    """Physical cores where the kernel tells, else processors."""
    affinity: int
    """Processors this process may run on."""
    quota: float | None
    """CPUs that the cgroup grants (1.5 = one and a half), None without a limit."""
    threads: int
    """Threads worth using, see `default_threads`."""


def detect(
    *,
    root: Path = ROOT,
    machine: str | None = None,
    affinity: int | None = None,
    sysctl: Sysctl | None = None,
) -> CpuFacts:
    """Read what this CPU is.

    Args:
        root: Where `proc` and `sys` are.
        machine: The architecture, instead of this machine's.
        affinity: Processors this process may run on, instead of asking the system.
        sysctl: How to ask macOS, used when there is no /proc/cpuinfo.

    Returns:
        The facts; unknown ones are empty strings, an empty set, or a count of processors. Never raises.
    """
    arch = _arch(machine or platform.machine())
    affinity = affinity or _affinity()
    blocks = _cpuinfo(root)
    if blocks:
        vendor, name, flags = _describe(blocks)
        cores = _physical_cores(blocks)
    else:
        vendor, name, flags, cores = _describe_apple(sysctl or _sysctl, fallback=affinity)
    limit = quota(root=root)
    return CpuFacts(vendor, name, arch, flags, cores, affinity, limit, threads=_threads(affinity=affinity, limit=limit))


def resolve_target(target: str, cpu: CpuFacts | None = None) -> str:
    """Turn `auto` into the target that this CPU (or *cpu*) fulfils; any other target passes through."""
    if target != "auto":
        return target
    cpu = cpu or detect()
    if cpu.arch == "aarch64":
        return "arm64-dotprod" if cpu.flags & DOTPROD else "arm64"
    if cpu.arch != "x86_64":
        return "portable"
    if cpu.flags & VNNI:
        return "x86-vnni"
    if cpu.flags >= AVX512:
        return "x86-avx512"
    return "x86-avx2" if "avx2" in cpu.flags else "portable"


def has_int8_dot(target: str) -> bool:
    """Whether every machine of *target* has an INT8 dot product that accumulates in int32."""
    return target in INT8_DOT_TARGETS


def fulfils(here: str, target: str) -> bool:
    """Whether a machine that is *here* (a resolved target) gives all that *target* asks for."""
    families = (("portable", "x86-avx2", "x86-avx512", "x86-vnni"), ("portable", "arm64", "arm64-dotprod"))
    return any(
        here in family and target in family and family.index(target) <= family.index(here) for family in families
    )


def why_weight_bits(target: str) -> tuple[int, str]:
    """Choose the bits of INT8 weights for a resolved target.

    Source: ONNX Runtime's MLAS kernels. VPMADDUBSW(U8 a, S8 w) = saturate_int16(a₀w₀ + a₁w₁).

    Returns:
        (8 or 7, the reason in one sentence).
    """
    if has_int8_dot(target):
        return (
            8,
            f"{target} guarantees an INT8 dot product that sums in int32, so 8 bits cannot saturate",
        )
    if target == "arm64":
        return 7, "arm64 does not guarantee the dot product (asimddp); 7 bits are safe with every kernel"
    return 7, (
        f"{target} does not guarantee VNNI, and VPMADDUBSW adds pairs of U8×S8 products in saturating int16: "
        "2·255·127 = 64770 is over 32767, 2·255·64 = 32640 is not"
    )


def default_threads(*, root: Path = ROOT, affinity: int | None = None) -> int:
    """Return how many threads to compute with.

    `OMP_NUM_THREADS`, where it is a positive integer; else the processors this process may run on, but no
    more than its cgroup quota rounded up (more threads than quota are only throttled), and at least 1.
    """
    return _threads(affinity=affinity or _affinity(), limit=quota(root=root))


def quota(*, root: Path = ROOT) -> float | None:
    """Return the CPUs that this process's cgroup and all above it grant (v2 and v1), None without a limit."""
    limits = (_granted(folder) for folder in cgroup_folders(root, "cpu"))
    return min((limit for limit in limits if limit is not None), default=None)


def _threads(*, affinity: int, limit: float | None) -> int:
    wish = os.environ.get("OMP_NUM_THREADS", "").strip()
    if wish.isascii() and wish.isdigit() and int(wish) > 0:
        return int(wish)
    return max(1, affinity if limit is None else min(affinity, math.ceil(limit)))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _arch(machine: str) -> str:
    name = machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def read_text(path: Path) -> str:
    """Return the text of a small system file, empty when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One mapping for each processor of /proc/cpuinfo."""
    blocks: list[dict[str, str]] = []
    for text in re.split(r"\n\s*\n", read_text(root / "proc" / "cpuinfo")):
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        block = {key.strip(): value.strip() for key, value in pairs}
        if "flags" in block or "Features" in block:
            blocks.append(block)
    return blocks


def _describe(blocks: list[dict[str, str]]) -> tuple[str, str, frozenset[str]]:
    """(vendor, name, flags); flags are the intersection, because big.LITTLE machines mix cores."""
    first = blocks[0]
    flags = _flags(first)
    for block in blocks[1:]:
        flags &= _flags(block)
    implementer, part = first.get("CPU implementer", ""), first.get("CPU part", "")
    vendor = first.get("vendor_id") or ARM_VENDORS.get(implementer, implementer)
    name = first.get("model name") or ARM_NAMES.get((implementer, part)) or part
    return vendor, name, flags


def _flags(block: dict[str, str]) -> frozenset[str]:
    return frozenset((block.get("flags") or block.get("Features") or "").lower().split())


def _physical_cores(blocks: list[dict[str, str]]) -> int:
    if all("core id" in block for block in blocks):
        return len({(block.get("physical id"), block["core id"]) for block in blocks})
    return len(blocks)


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name],
            capture_output=True,
            text=True,
            timeout=SYSCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _describe_apple(sysctl: Sysctl, *, fallback: int) -> tuple[str, str, frozenset[str], int]:
    """(vendor, name, flags, cores) from macOS; empty facts on a system that has no sysctl either."""
    listed = f"{sysctl('machdep.cpu.features')} {sysctl('machdep.cpu.leaf7_features')}".lower().split()
    named = [name.lower() for name in APPLE_FEATURES if sysctl(f"hw.optional.arm.{name}") == "1"]
    name = sysctl("machdep.cpu.brand_string")
    vendor = sysctl("machdep.cpu.vendor") or ("Apple" if name.startswith("Apple") else "")
    count = sysctl("hw.physicalcpu")
    return vendor, name, frozenset([*listed, *named]), int(count) if count.isdigit() else fallback


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Every folder that may limit *controller* (`cpu`, `memory`) for this process, in cgroup v2, hybrid and v1.

    A limit on a cgroup holds for all below it, so the process's own folder and each above it are given.
    """
    groups = [line.split(":", 2) for line in read_text(root / "proc" / "self" / "cgroup").splitlines()]
    groups = [group for group in groups if len(group) == 3]
    base = root / "sys" / "fs" / "cgroup"
    v1 = [mount for mount in sorted(base.glob("*")) if controller in mount.name.split(",")]
    for mounts, mine in (
        ([base, base / "unified"], [path for _, controllers, path in groups if not controllers]),
        (v1, [path for _, controllers, path in groups if controller in controllers.split(",")]),
    ):
        for mount in mounts:
            for path in mine or ["/"]:
                yield from _upwards(mount, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts:  # a cgroup outside of our namespace: only its root is visible
        parts = ()
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _granted(folder: Path) -> float | None:
    """CPUs that one cgroup grants: `cpu.max` is "quota period" or "max period"; v1 writes -1 for no limit."""
    v1 = f"{read_text(folder / 'cpu.cfs_quota_us').strip()} {read_text(folder / 'cpu.cfs_period_us').strip()}"
    for text in (read_text(folder / "cpu.max").strip(), v1):
        match = re.fullmatch(r"(\d+) (\d+)", text)
        if match and int(match[2]) > 0:
            return int(match[1]) / int(match[2])
    return None
