from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from deploycomp.runtime import doctor as module
from deploycomp.runtime.doctor import doctor
from tests.runtime.test_cpu import AVX2_ONLY, INTEL_VNNI, NEOVERSE, OLD, _root

MEMINFO = "MemTotal:       8000000 kB\nMemFree: 100 kB\nMemAvailable:   6000000 kB\n"


@pytest.fixture(autouse=True)
def _no_omp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def _doctor(folder: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, machine: str = "x86_64", **files: str):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(module.cpu, "_affinity", lambda: 2)
    root = _root(folder, cpuinfo, **{"proc/meminfo": MEMINFO, "proc/loadavg": "0.10 0.20 0.30 1/99 7\n", **files})
    return doctor(root=root)


def _claim(facts: dict[str, Any], word: str) -> dict[str, Any]:
    (claim,) = [claim for claim in facts["claims"] if word in claim["claim"]]
    assert claim["reason"]
    return claim


def test_a_machine_with_vnni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    facts = _doctor(tmp_path, monkeypatch, INTEL_VNNI)
    assert facts["target"] == "x86-vnni"
    assert facts["cpu"]["flags"] == ["avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"]
    assert facts["weights"]["bits"] == 8
    assert _claim(facts, "INT8")["good"]
    assert "AVX-512" in _claim(facts, "FP32 runs")["claim"]
    assert not _claim(facts, "FP16")["good"]
    assert facts["memory_bytes"] == {"total": 8_192_000_000, "available": 6_144_000_000, "limit": None}
    assert facts["load"] == [0.1, 0.2, 0.3]
    assert "2 threads share 1 cores" in "\n".join(facts["warnings"])
    json.dumps(facts, allow_nan=False)


def test_a_machine_with_avx2_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    facts = _doctor(tmp_path, monkeypatch, AVX2_ONLY)
    claim = _claim(facts, "INT8")
    assert not claim["good"]
    assert "7 bits" in claim["claim"]
    assert "VPMADDUBSW" in claim["reason"]
    assert "no AVX-512" in _claim(facts, "FP32 runs on AVX2")["reason"]


def test_an_arm_and_an_old_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    facts = _doctor(tmp_path / "arm", monkeypatch, NEOVERSE, "aarch64")
    assert facts["target"] == "arm64-dotprod"
    assert _claim(facts, "NEON")["good"]
    assert "a few operators" in _claim(facts, "FP16")["reason"]
    facts = _doctor(tmp_path / "old", monkeypatch, OLD)
    assert not _claim(facts, "everything is slow")["good"]


def test_the_provider_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    facts = _doctor(tmp_path, monkeypatch, INTEL_VNNI)
    assert "onnxruntime-gpu" in _claim(facts, "nothing runs on a GPU")["reason"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    facts = _doctor(tmp_path, monkeypatch, INTEL_VNNI)
    assert "CUDAExecutionProvider" in _claim(facts, "can run on a GPU")["reason"]


def test_everything_that_disturbs_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 500_000_000))
    facts = _doctor(
        tmp_path,
        monkeypatch,
        AVX2_ONLY,
        **{
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "1000000000\n",
            "proc/loadavg": "7.5 1 1 1/1 1",
        },
    )
    said = "\n".join(facts["warnings"])
    for words in (
        "governor is 'powersave'",
        "load is 7.5 on 1 cores",
        "cgroup grants 1.5 CPUs",
        "spin",
        "only 0.5 GB of disk",
        "only 1.0 GB of memory",
    ):
        assert words in said
    assert facts["memory_bytes"]["limit"] == 1_000_000_000


def test_a_quiet_machine_has_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 0, 10**12))
    governor = {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n"}
    facts = _doctor(tmp_path, monkeypatch, AVX2_ONLY, **governor)
    assert facts["warnings"] == []
    assert facts["threads"] == {"count": 1, "why": "OMP_NUM_THREADS=1"}


def test_the_reason_for_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert _doctor(tmp_path, monkeypatch, AVX2_ONLY)["threads"]["why"] == "this process may use 2 processors"
    limited = _doctor(tmp_path, monkeypatch, AVX2_ONLY, **{"sys/fs/cgroup/cpu.max": "50000 100000"})
    assert limited["threads"]["count"] == 1
    assert "cgroup grants 0.5 CPUs" in limited["threads"]["why"]


def test_an_unlimited_cgroup_v1_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert _doctor(tmp_path, monkeypatch, AVX2_ONLY, **files)["memory_bytes"]["limit"] is None


def test_versions_are_read_without_importing():
    code = (
        "import sys; from deploycomp.runtime.doctor import doctor; facts = doctor();"
        "heavy = {'torch', 'transformers', 'onnx', 'optimum', 'neural_compressor', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy; assert facts['versions']['onnxruntime']; assert 'torch' in facts['versions']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
