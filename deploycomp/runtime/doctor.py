"""What this machine is, what will be fast on it and what will not, and why.

Versions are read from package metadata: nothing heavy is imported except ONNX Runtime, for its providers.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

from deploycomp.runtime import cpu
from deploycomp.runtime.cpu import CpuFacts

__all__ = ["PACKAGES", "doctor"]

PACKAGES = (
    "deploycomp",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "optimum",
    "neural-compressor",
    "numpy",
    "datasets",
)
SHOWN_FLAGS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "feat_dotprod",
    "feat_i8mm",
    "feat_bf16",
)
"""The flags that matter for a transformer, in the order in which they are shown."""

LOW_DISK_BYTES = 2_000_000_000
"""An export of a BERT-base writes its weights twice (FP32 and INT8) and needs room beside them."""
LOW_MEMORY_BYTES = 2_000_000_000
UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes a number near 2^63 for "no limit"."""
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "ROCMExecutionProvider")


def doctor(*, root: Path = cpu.ROOT, folder: Path | None = None) -> dict[str, Any]:
    """Describe this machine.

    Args:
        root: Where `proc` and `sys` are.
        folder: Where artifacts will be written, for the free space; by default the working directory.

    Returns:
        Plain values: `cpu`, `target`, `threads` {count, why}, `weights` {bits, why}, `claims`
        [{claim, good, reason}], `onnxruntime` {version, providers}, `versions`, `python`, `memory_bytes` {total,
        available, limit}, `disk_free_bytes`, `load` [1, 5, 15 minutes] or None, `warnings` [str].
    """
    facts = cpu.detect(root=root)
    target = cpu.resolve_target("auto", facts)
    bits, why = cpu.why_weight_bits(target)
    runtime = _onnxruntime()
    memory, load = _memory(root), _load(root)
    free = shutil.disk_usage(folder or Path.cwd()).free
    return {
        "cpu": {
            "vendor": facts.vendor,
            "name": facts.name,
            "arch": facts.arch,
            "flags": [flag for flag in SHOWN_FLAGS if flag in facts.flags],
            "cores": facts.cores,
            "affinity": facts.affinity,
            "quota": facts.quota,
        },
        "target": target,
        "threads": {"count": facts.threads, "why": _why_threads(facts)},
        "weights": {"bits": bits, "why": why},
        "claims": _claims(facts, target, runtime["providers"]),
        "onnxruntime": runtime,
        "versions": _versions(),
        "python": platform.python_version(),
        "memory_bytes": memory,
        "disk_free_bytes": free,
        "load": load,
        "warnings": _warnings(facts, root=root, memory=memory, free=free, load=load),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _onnxruntime() -> dict[str, Any]:
    try:
        import onnxruntime

        return {"version": onnxruntime.__version__, "providers": list(onnxruntime.get_available_providers())}
    except ImportError as error:
        return {"version": None, "providers": [], "error": str(error)}


def _why_threads(facts: CpuFacts) -> str:
    if os.environ.get("OMP_NUM_THREADS", "").strip() == str(facts.threads):
        return f"OMP_NUM_THREADS={facts.threads}"
    if facts.quota is not None and facts.threads < facts.affinity:
        return f"the cgroup grants {facts.quota:g} CPUs of the {facts.affinity} that this process may use"
    return f"this process may use {facts.affinity} processors"


def _claims(facts: CpuFacts, target: str, providers: list[str]) -> list[dict[str, Any]]:
    """What will be fast here and what not; `good` is False where something is slow or missing."""
    return [_int8_claim(target), _vector_claim(facts), _half_claim(facts), _gpu_claim(providers)]


def _claim(claim: str, reason: str, *, good: bool) -> dict[str, Any]:
    return {"claim": claim, "good": good, "reason": reason}


def _int8_claim(target: str) -> dict[str, Any]:
    bits, why = cpu.why_weight_bits(target)
    if bits == 8:
        return _claim("INT8 is fast here, with all 8 bits of a weight", why, good=True)
    return _claim("INT8 gains less time here than it could, and weights have 7 bits", why, good=False)


def _vector_claim(facts: CpuFacts) -> dict[str, Any]:
    if facts.arch == "aarch64":
        return _claim("FP32 runs on NEON", "every 64-bit ARM CPU has it", good=True)
    if facts.flags >= cpu.AVX512:
        return _claim("FP32 runs on AVX-512", "avx512bw and avx512vl are there", good=True)
    if "avx2" in facts.flags:
        return _claim("FP32 runs on AVX2", "there is no AVX-512 (avx512bw, avx512vl)", good=True)
    return _claim("everything is slow here", "the CPU shows neither AVX2 nor NEON", good=False)


def _half_claim(facts: CpuFacts) -> dict[str, Any]:
    some = "FP16 kernels for a few operators only" if facts.arch == "aarch64" else "hardly any FP16 kernel for this CPU"
    reason = f"ONNX Runtime has {some}, and casts to FP32 and back around the others"
    return _claim("FP16 is no faster than FP32 on this CPU; it is meant for GPUs", reason, good=False)


def _gpu_claim(providers: list[str]) -> dict[str, Any]:
    found = [name for name in GPU_PROVIDERS if name in providers]
    if found:
        return _claim("artifacts can run on a GPU", f"this ONNX Runtime has {', '.join(found)}", good=True)
    reason = "this ONNX Runtime has no GPU provider; pip install onnxruntime-gpu brings one"
    return _claim("nothing runs on a GPU", reason, good=False)


def _memory(root: Path) -> dict[str, int | None]:
    """Bytes: what the machine has, what is free, and what the cgroup allows."""
    text = cpu.read_text(root / "proc" / "meminfo")
    found = {key: int(value) * 1024 for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    limits = [
        int(text)
        for folder in cpu.cgroup_folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := cpu.read_text(folder / name).strip()).isdigit()
    ]
    limit = min((value for value in limits if value < UNLIMITED_BYTES), default=None)
    return {"total": found.get("MemTotal"), "available": found.get("MemAvailable"), "limit": limit}


def _load(root: Path) -> list[float] | None:
    fields = cpu.read_text(root / "proc" / "loadavg").split()[:3]
    return [float(field) for field in fields] if len(fields) == 3 else None


def _warnings(
    facts: CpuFacts, *, root: Path, memory: dict[str, int | None], free: int, load: list[float] | None
) -> list[str]:
    found: list[str] = []
    governor = cpu.read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    if governor and governor != "performance":
        found.append(f"the CPU governor is '{governor}', so latency varies: cpupower frequency-set -g performance")
    if load and load[0] > facts.cores:
        found.append(f"the load is {load[0]:g} on {facts.cores} cores: other work disturbs measurements")
    if facts.threads > facts.cores:
        found.append(f"{facts.threads} threads share {facts.cores} cores: try --threads {facts.cores}")
    if facts.quota is not None and facts.quota < facts.affinity:
        found.append(f"the cgroup grants {facts.quota:g} CPUs: more threads than that are throttled")
    if facts.threads > 1:
        found.append("a session's threads spin: for several sessions in one process open them with spinning=False")
    if free < LOW_DISK_BYTES:
        found.append(f"only {free / 1e9:.1f} GB of disk are free")
    known = [size for size in (memory["available"], memory["limit"]) if size is not None]
    available = min(known, default=None)
    if available is not None and available < LOW_MEMORY_BYTES:
        found.append(f"only {available / 1e9:.1f} GB of memory are available")
    return found
