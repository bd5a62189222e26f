"""Where a file really lies: inside the model's folder, and a plain file, or it is refused unread."""

from __future__ import annotations

import stat
from pathlib import Path

from deploycomp.errors import InputRefused

__all__ = ["check_place", "exists"]


def exists(path: Path) -> bool:
    """Whether something of that name is there, dangling links included."""
    return path.exists() or path.is_symlink()


def check_place(path: Path, *, inside: Path) -> None:
    """Refuse a link that leaves the folder, and anything that is no plain file.

    In the hub's cache, files of `models--x/snapshots/<commit>` are links into `models--x/blobs`.
    """
    root = inside.resolve()
    roots = [root]
    for parent in (root, *root.parents[:3]):
        if parent.parent.name == "snapshots" and (parent.parent.parent / "blobs").is_dir():
            roots.append(parent.parent.parent / "blobs")
    target = path.resolve()
    if not any(place in target.parents for place in roots):
        raise InputRefused("a file is a symbolic link that leaves the model's folder", where=str(path))
    if not target.exists():
        raise InputRefused("a file is a symbolic link to nothing", where=str(path))
    if not stat.S_ISREG(target.stat().st_mode):
        raise InputRefused(f"{path.name} is not a plain file", where=str(path))
