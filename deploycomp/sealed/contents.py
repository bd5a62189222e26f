"""What in a folder is ours to replace: the files that its manifest or compression report lists, as they were written.

Everything else (a file that somebody added or changed, a link, a folder) is theirs, and is named instead of removed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from deploycomp.errors import InputRefused, UsageError
from deploycomp.sealed.disk import sha256
from deploycomp.sealed.manifest import (
    COMPRESSION,
    MANIFEST,
    REPORT,
    SCHEMA_VERSION,
    check_files,
    parse_object,
    rendered_pages,
)
from deploycomp.sealed.version import Version, read_version

__all__ = ["Marks", "check_ours", "marks"]

SHOWN = 3
"""Names in a message; the rest is counted."""

Marks = dict[str, tuple[int, ...]]
"""Every entry of a folder by name, with what changes when it does."""


def check_ours(folder: Path) -> Marks:
    """Refuse a folder that holds anything that deploycomp did not write, or that was changed since.

    Args:
        folder: An existing folder; an empty one is everybody's.

    Returns:
        Its marks as they were before the check.

    Raises:
        UsageError: It holds no valid manifest, or files that this does not list, or that are not as it says.
    """
    found = marks(folder)
    if not found:
        return found
    try:
        ours = _listed(folder)
    except InputRefused as error:
        raise UsageError(
            "--overwrite replaces only what deploycomp wrote",
            where=str(folder),
            why=f"the folder is not empty, and {error.what[0].lower()}{error.what[1:]}"
            + (f" ({error.why})" if error.why else ""),
            hint="choose another --output, or remove the folder yourself",
        ) from None
    theirs = list(_theirs(folder, found, ours))
    if theirs:
        more = f" and {len(theirs) - SHOWN} more" if len(theirs) > SHOWN else ""
        raise UsageError(
            "--overwrite would remove files that deploycomp did not write",
            where=str(folder),
            why=", ".join(theirs[:SHOWN]) + more,
            hint="move them out of the folder, or choose another --output",
        )
    return found


def marks(folder: Path) -> Marks:
    """Return every entry below a folder with device, inode, size and times; links are not followed."""
    found: Marks = {}
    for path in sorted(folder.rglob("*")):
        entry = path.lstat()
        times = (entry.st_mtime_ns, entry.st_ctime_ns) if not stat.S_ISDIR(entry.st_mode) else ()
        size = entry.st_size if not stat.S_ISDIR(entry.st_mode) else 0
        found[path.relative_to(folder).as_posix()] = (entry.st_mode, entry.st_dev, entry.st_ino, size, *times)
    return found


def _listed(folder: Path) -> dict[str, str | None]:
    """Name → SHA-256 of what we wrote; None for what is not hashed, because it holds the hashes."""
    seal = next((name for name in (MANIFEST, COMPRESSION) if (folder / name).is_file()), None)
    if seal is None:
        raise InputRefused(f"it holds no {MANIFEST} and no {COMPRESSION}", where=str(folder))
    return read_version(folder, _listed_in if seal == MANIFEST else _compressed_in)


def _listed_in(version: Version) -> dict[str, str | None]:
    where = str(version.path)
    ours: dict[str, str | None] = {MANIFEST: None, **check_files(version.manifest, where=where)}
    if (version.path / REPORT).is_file():
        ours |= {REPORT: None, **rendered_pages(parse_object(version.read(REPORT), where=f"{where}/{REPORT}"))}
    return ours


def _compressed_in(version: Version) -> dict[str, str | None]:
    where = str(version.path / COMPRESSION)
    report = parse_object(version.read(COMPRESSION), where=where)
    if report.get("schema_version") != SCHEMA_VERSION:
        raise InputRefused(f"{COMPRESSION} has schema version {report.get('schema_version')!r}", where=where)
    return {COMPRESSION: None, **check_files(report, where=where)}


def _theirs(folder: Path, found: Marks, ours: dict[str, str | None]) -> Iterator[str]:
    """Say of every entry that is not ours what it is, sorted."""
    homes = {"/".join(name.split("/")[:depth]) for name in ours for depth in range(1, name.count("/") + 1)}
    device = folder.stat().st_dev
    for name, (mode, home, *_) in found.items():
        if home != device:
            yield f"{name} (on another file system)"
        elif stat.S_ISDIR(mode):
            if name not in homes:
                yield f"{name}/"
        elif name not in ours or not stat.S_ISREG(mode):
            yield name
        elif ours[name] is not None and ours[name] != sha256(folder / name):
            yield f"{name} (changed since)"
