"""Named arrays over a pipe: eight bytes of length, then an .npz. Standard library and numpy only."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

__all__ = ["Arrays", "read_frame", "write_frame"]

HEAD = 8
Arrays = dict[str, np.ndarray]


def write_frame(pipe: BinaryIO, arrays: Arrays) -> None:
    """Send *arrays*."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    pipe.write(buffer.tell().to_bytes(HEAD, "little") + buffer.getvalue())
    pipe.flush()


def read_frame(pipe: BinaryIO) -> Arrays | None:
    """Receive arrays; None where the other side has ended."""
    head = pipe.read(HEAD)
    if len(head) < HEAD:
        return None
    size = int.from_bytes(head, "little")
    body = pipe.read(size)
    if len(body) < size:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        return dict(found)
