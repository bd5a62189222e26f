"""Files that must not be read: the kernel tells of every opening, by Python or by a library in Rust (inotify)."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
from pathlib import Path

IN_ACCESS, IN_OPEN = 0x1, 0x20
IN_NONBLOCK = os.O_NONBLOCK
HEADER = struct.Struct("iIII")


class Canary:
    """A file that sings when it is opened."""

    def __init__(self, path: Path, content: bytes = b"canary\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"):
        path.write_bytes(content)
        self.path = path
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(IN_NONBLOCK)
        assert self._queue >= 0, os.strerror(ctypes.get_errno())
        assert libc.inotify_add_watch(self._queue, bytes(path), IN_ACCESS | IN_OPEN) >= 0

    def __del__(self):
        os.close(self._queue)  # a user has 128 of them

    @property
    def sang(self) -> bool:
        """Whether it was opened since it was last asked."""
        try:
            return bool(os.read(self._queue, 1 << 16))
        except BlockingIOError:
            return False


class Evil:
    """A pickle that leaves a trace when it is opened."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def evil_pickle(trace: Path) -> bytes:
    return pickle.dumps({"weight": Evil(trace)})


def test_a_canary_sings(tmp_path):
    canary = Canary(tmp_path / "canary.txt")
    assert not canary.sang
    canary.path.read_bytes()
    assert canary.sang
    assert not canary.sang
