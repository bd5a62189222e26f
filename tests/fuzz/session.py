"""Drive the fuzzed process: one mutation at a time, with a limit on its time and its memory."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Session"]

ROOT = Path(__file__).parent.parent.parent

CPU_SECONDS = 10.0
"""The longest that a mutation may keep a processor busy: a trace takes three."""
WALL_SECONDS = 120.0
"""For what waits and does not compute; far above, because other tests share the machine."""
GROWTH_BYTES = 1_000_000_000
"""The most that a mutation of a tiny model may take on top: a trace takes 50 MB."""
START_SECONDS = 300.0
LOOK = 0.05
LINES = 12


@dataclass
class Session:
    """A process that is fuzzed, started anew where a mutation ended it.

    Args:
        folder: Where it works.
        mutations: How many are to come, roughly: a share of them is traced.
    """

    folder: Path
    mutations: int
    _child: subprocess.Popen[str] | None = None
    _lines: queue.Queue[str] = field(default_factory=queue.Queue)
    _starts: int = 0

    def ask(self, subject: str, seed: int, index: int) -> dict[str, Any]:
        """Run one mutation and return what became of it; a hang, a crash and a flood of memory are faults."""
        asked = {"subject": subject, "seed": seed, "index": index}
        child = self._started()
        base, began = _resident(child.pid), (time.monotonic(), _busy(child.pid))
        assert child.stdin is not None
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
        while True:
            try:
                return json.loads(self._lines.get(timeout=LOOK))
            except queue.Empty:
                fault = self._watch(child, base, *began)
            if fault:
                self.stop()
                return {**asked, "fault": fault, "done": f"{self._input()}\n{self._last_words()}"}

    def stop(self) -> None:
        """End the process and all that it started."""
        if self._child is None:
            return
        for each in _family(self._child.pid):
            each.kill()
        self._child.kill()
        self._child.communicate()
        self._child = None

    def _watch(self, child: subprocess.Popen[str], base: int, began: float, busy: float) -> str | None:
        if child.poll() is not None:
            return f"the process ended: {child.returncode}"
        if _resident(child.pid) - base > GROWTH_BYTES:
            return f"it takes more than {GROWTH_BYTES / 1e6:,.0f} MB of memory"
        if _busy(child.pid) - busy > CPU_SECONDS:
            return f"it computes for more than {CPU_SECONDS:.0f} s"
        return f"it takes more than {WALL_SECONDS:.0f} s" if time.monotonic() - began > WALL_SECONDS else None

    def _started(self) -> subprocess.Popen[str]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._starts += 1
        folder = self.folder / str(self._starts)
        folder.mkdir(parents=True)
        self._lines = queue.Queue()
        with (folder / "log").open("w", encoding="utf-8") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.worker", str(folder), str(self.mutations)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        threading.Thread(target=_read, args=(self._child, self._lines), daemon=True).start()
        assert json.loads(self._lines.get(timeout=START_SECONDS)) == {"ready": True}
        return self._child

    def _input(self) -> str:
        """What the process was given when it ended."""
        from tests.fuzz.bench import Bench, changes

        return changes(Bench(self.folder / str(self._starts)))

    def _last_words(self) -> str:
        log = (self.folder / str(self._starts) / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join([line for line in log.strip().splitlines() if "Loading weights" not in line][-LINES:])


def _read(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    total = 0
    for each in _family(pid):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _busy(pid: int) -> float:
    """Seconds of processor time of a process, its children, and those that ended."""
    total = 0.0
    for each in _family(pid):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
