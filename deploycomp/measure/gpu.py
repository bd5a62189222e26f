"""What a GPU tells of this process, through NVML; None where it, its driver or its Python package is missing.

Source: nvmlDeviceGetComputeRunningProcesses, NVIDIA Management Library reference.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

__all__ = ["process_memory_bytes"]


def process_memory_bytes(*, pid: int | None = None, nvml: Any = None) -> int | None:
    """Return the device memory that a process holds now, summed over all GPUs.

    ONNX Runtime's arena and PyTorch's allocator keep what they took, so at the end of a process this is its peak.

    Args:
        pid: Of the process; default: this one.
        nvml: The `pynvml` module; default: the installed one.

    Returns:
        Bytes, or None where NVML cannot tell: it is not here, or this process has another id outside its container.
    """
    pid = os.getpid() if pid is None else pid
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or its own error where there is no driver
        return None
    try:
        found: list[int] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(device):
                if process.pid == pid and process.usedGpuMemory is not None:
                    found.append(int(process.usedGpuMemory))
        return sum(found) if found else None
    finally:
        nvml.nvmlShutdown()
