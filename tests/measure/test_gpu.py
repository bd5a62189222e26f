from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from deploycomp.measure.gpu import process_memory_bytes


def nvml(*devices: list[tuple[int, int | None]]) -> Any:
    """NVML of a machine whose devices run these (pid, bytes)."""
    running = [[SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in each] for each in devices]
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(running),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetComputeRunningProcesses=lambda index: running[index],
    )


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ([], None),
        ([[(8, 100)]], None),
        ([[(7, 100), (8, 50)], [(7, 20)]], 120),
        ([[(7, None)]], None),  # a driver that does not tell
    ],
)
def test_the_memory_of_one_process_over_all_devices(devices: list[Any], expected: int | None):
    assert process_memory_bytes(pid=7, nvml=nvml(*devices)) == expected


def test_without_a_driver_nothing_is_told():
    def fail() -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    assert process_memory_bytes(nvml=SimpleNamespace(nvmlInit=fail)) is None


def test_a_process_on_a_gpu_has_memory_there():
    torch = pytest.importorskip("torch")
    pytest.importorskip("pynvml", reason="pynvml is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    held = torch.zeros(1 << 20, device="cuda")
    assert (process_memory_bytes(pid=os.getpid()) or 0) >= held.nbytes
