from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from deploycomp.measure.context import Watch, affinity, context

KEYS = {
    "cpu",
    "threads_available",
    "affinity",
    "cpu_quota",
    "mhz",
    "governor",
    "load",
    "memory_bytes",
    "memory_available_bytes",
    "memory_limit_bytes",
    "system",
    "python",
    "versions",
}


def test_context_is_plain_values_about_this_machine():
    found = context()
    assert set(found) == KEYS
    assert json.loads(json.dumps(found)) == found
    assert set(found["cpu"]) == {"vendor", "name", "arch", "cores", "flags"}
    assert found["threads_available"] >= 1
    assert found["affinity"] == affinity() == sorted(os.sched_getaffinity(0))
    assert found["memory_bytes"] > found["memory_available_bytes"] > 0
    assert found["versions"]["numpy"]
    assert len(found["load"]) == 3


def machine(root: Path, *, ticks: str) -> Path:
    files = {
        "proc/stat": f"cpu  {ticks} 0 0\ncpu0 1 2 3\n",
        "proc/meminfo": "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        "sys/fs/cgroup/memory.max": "4096\n",
        "proc/cpuinfo": "processor : 0\ncpu MHz\t\t: 2500.000\n\nprocessor : 1\ncpu MHz\t\t: 2600.000\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_governor_memory_and_limit_are_read(tmp_path: Path):
    found = context(root=machine(tmp_path, ticks="1 2 3 4 5 6 7 8"))
    assert found["governor"] == "powersave"
    assert (found["memory_bytes"], found["memory_available_bytes"]) == (2048 * 1024, 1024 * 1024)
    assert found["memory_limit_bytes"] == 4096


def test_a_machine_that_tells_nothing_gives_none(tmp_path: Path):
    found = context(root=tmp_path)
    assert found["governor"] is found["memory_bytes"] is found["memory_limit_bytes"] is None
    assert Watch.start(root=tmp_path) is None


def test_no_limit_of_cgroup_v1_is_no_limit(tmp_path: Path):
    file = tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes"
    file.parent.mkdir(parents=True)
    file.write_text("9223372036854771712")
    assert context(root=tmp_path)["memory_limit_bytes"] is None


def test_steal_and_foreign_time_are_shares_of_the_machine(tmp_path: Path):
    second = os.sysconf("SC_CLK_TCK")
    watch = Watch.start(root=machine(tmp_path, ticks="0 0 0 0 0 0 0 0"))
    assert watch is not None
    ticks = " ".join(str(each * second) for each in (400, 0, 0, 500, 0, 0, 0, 100))
    shares = watch.stop(root=machine(tmp_path, ticks=ticks))
    assert shares["steal_share"] == 0.1
    assert 0.39 <= shares["foreign_share"] <= 0.4  # this test's own milliseconds are taken off
    assert watch.stop(root=machine(tmp_path, ticks="0 0 0 0 0 0 0 0")) == {}


def test_the_room_imports_nothing_heavy():
    heavy = {"torch", "transformers", "onnxruntime", "onnx", "scipy", "pandas"}
    code = f"import sys, deploycomp.measure.benchmark; print({heavy!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_worker_starts_with_the_standard_library_alone():
    code = "import sys, deploycomp.measure.worker; print({'numpy', 'pydantic', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_frequency_is_that_of_our_processors_or_what_cpuinfo_says(tmp_path: Path):
    root = machine(tmp_path, ticks="1 2 3 4 5 6 7 8")
    assert context(root=root)["mhz"] == 2550.0
    for cpu in affinity():
        file = root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1800000\n")
    assert context(root=root)["mhz"] == 1800.0
