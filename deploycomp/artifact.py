"""Sealed folders: stage beside the destination, hash, write the manifest last, publish by rename, verify.

    out/
      deploycomp.json   the manifest: recipe, source, facts and the sha256 of every file below
      model.onnx …      the payload
      report.json …     the evidence of one run: measurements, durations, the machine

Two runs of one recipe write identical payloads and manifests. Only the evidence differs, and it is declared so: the
manifest names it without hashing it, and `report.json` holds the hashes of the pages rendered from it.

A folder without a valid manifest is not a result. Nothing is ever written into the destination while it has its final
name, and staging lies on the destination's filesystem, so that publishing is one rename.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError

__all__ = [
    "COMPRESSION",
    "EVIDENCE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Artifact",
    "Staging",
    "check_destination",
    "digest_files",
    "sha256",
    "stage",
    "translate_os_error",
]

MANIFEST = "deploycomp.json"
COMPRESSION = "compression.json"
"""What `deploycomp compress` writes beside a checkpoint: the recipe and what each step did."""
SCHEMA_VERSION = 1
EVIDENCE = ("report.json", "report.md", "report.html")
"""Files that tell of one run on one machine and therefore differ between runs; `report.json` holds their hashes."""

MAX_JSON_BYTES = 50_000_000
"""No manifest or report of ours comes near this; a larger one is refused unread."""

_HASH_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_files(files: dict[str, str]) -> str:
    """Return one SHA-256 over a mapping of file name to SHA-256, independent of its order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


@contextlib.contextmanager
def translate_os_error(path: Path) -> Generator[None]:
    """Turn an operating system's error while writing *path* into one with a remedy.

    Raises:
        EnvironmentFailed: No space, no permission, a read-only file system, or any other OSError.
    """
    try:
        yield
    except OSError as error:
        free = f"{shutil.disk_usage(_existing(path)).free / 1e6:,.0f} MB free"
        hints = {
            errno.ENOSPC: f"free some space there ({free}) or choose another --output",
            errno.EDQUOT: "your quota is used up; choose another --output",
            errno.EACCES: "choose an --output that you may write to",
            errno.EPERM: "choose an --output that you may write to",
            errno.EROFS: "the file system is read-only; choose another --output",
            errno.ENAMETOOLONG: "choose a shorter --output",
        }
        raise EnvironmentFailed(
            "the output cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            hint=hints.get(error.errno or 0),
        ) from error


def check_destination(destination: Path, *, overwrite: bool = False, source: Path | None = None) -> Path:
    """Refuse a destination that cannot or must not be written, before any work is done.

    Args:
        destination: The folder to publish.
        overwrite: Allow an existing artifact (or an empty folder) to be replaced.
        source: The checkpoint that is read; the destination may not be it, contain it or lie in it.

    Returns:
        The absolute destination.

    Raises:
        UsageError: It exists, is a file or a link, is the source, or is a folder that is no artifact.
        EnvironmentFailed: Its parent cannot be written.
    """
    destination = destination.absolute()
    with translate_os_error(destination):  # also a name that is too long, or a parent that may not be read
        return _checked(destination, overwrite=overwrite, source=source)


def _checked(destination: Path, *, overwrite: bool, source: Path | None) -> Path:
    where = str(destination)
    if destination.is_symlink():
        raise UsageError("the output is a symbolic link", where=where, hint="name the folder that it points to")
    if source is not None and source.exists():
        inside, home = destination.resolve(), source.resolve()
        if inside == home or home in inside.parents or inside in home.parents:
            raise UsageError(
                "the output may not be, contain or lie inside the source model",
                where=where,
                why=f"the source is {home} and is never written to",
                hint="choose an --output beside it",
            )
    if destination.exists():
        _check_existing(destination, overwrite=overwrite)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(destination.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return destination


def _check_existing(destination: Path, *, overwrite: bool) -> None:
    where = str(destination)
    if not destination.is_dir():
        raise UsageError("the output exists and is not a folder", where=where, hint="choose another --output")
    if not overwrite:
        raise UsageError("the output exists", where=where, hint="add --overwrite, or choose another --output")
    ours = any((destination / name).is_file() for name in (MANIFEST, COMPRESSION))
    if any(destination.iterdir()) and not ours:
        raise UsageError(
            "--overwrite replaces only what deploycomp wrote",
            where=where,
            why=f"the folder is not empty and holds no {MANIFEST} and no {COMPRESSION}",
            hint="choose another --output, or remove the folder yourself",
        )


def _existing(path: Path) -> Path:
    """The nearest ancestor of *path* that exists."""
    for each in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):  # a name that is too long
            if each.exists():
                return each
    return Path("/")


@dataclass
class Staging:
    """A private folder beside the destination: `path` becomes the artifact, or nothing does; `work` is scratch."""

    root: Path
    destination: Path
    overwrite: bool

    @property
    def path(self) -> Path:
        """The folder that will be published."""
        return self.root / "artifact"

    @property
    def work(self) -> Path:
        """Scratch on the same filesystem, removed in any case."""
        return self.root / "work"

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            shutil.rmtree(self.root, ignore_errors=True)
        except KeyboardInterrupt:  # in the middle of cleaning up: clean up first
            shutil.rmtree(self.root, ignore_errors=True)
            raise

    def seal(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Hash every file, then write the manifest, each synced to disk.

        Args:
            manifest: What to record; `schema_version` and `files` are added.

        Returns:
            The manifest as written.

        Raises:
            EnvironmentFailed: The disk is full or the folder went away.
        """
        with translate_os_error(self.path):
            files: dict[str, dict[str, str | int]] = {}
            for path in _payload(self.path):
                _sync(path)
                files[path.relative_to(self.path).as_posix()] = {
                    "sha256": sha256(path),
                    "bytes": path.stat().st_size,
                }
            full = {"schema_version": SCHEMA_VERSION, **manifest, "evidence": list(EVIDENCE), "files": files}
            text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            (self.path / MANIFEST).write_text(text, encoding="utf-8")
            _sync(self.path / MANIFEST)
            return full

    def publish(self) -> Artifact:
        """Rename the sealed folder to its destination, swapping an existing one whole.

        Raises:
            UsageError: The destination appeared in the meantime.
            EnvironmentFailed: The rename failed.
        """
        self.release()
        return Artifact.open(self.destination)

    def release(self) -> None:
        """Rename the folder to its destination, sealed or not.

        Raises:
            UsageError: The destination appeared in the meantime.
            EnvironmentFailed: The rename failed.
        """
        if self.destination.exists():
            _check_existing(self.destination, overwrite=self.overwrite)
        with translate_os_error(self.destination):
            for name in EVIDENCE:
                if (self.path / name).exists():
                    _sync(self.path / name)
            _sync(self.path)
            if self.destination.exists():
                _exchange(self.path, self.destination)
            else:
                self.path.rename(self.destination)
        with contextlib.suppress(OSError):  # it is published; some file systems cannot sync a folder
            _sync(self.destination.parent)


def stage(destination: Path, *, overwrite: bool = False, source: Path | None = None) -> Staging:
    """Make a staging folder beside *destination*, and sweep those that dead runs left there.

    Raises:
        UsageError, EnvironmentFailed: See `check_destination`.
    """
    destination = check_destination(destination, overwrite=overwrite, source=source)
    root = destination.parent / f".{destination.name}.{_boot_id()}.{os.getpid()}.partial"
    staging = Staging(root, destination, overwrite)
    with translate_os_error(root):
        _sweep(destination)
        try:
            for folder in (root, staging.path, staging.work):
                folder.mkdir()
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
    return staging


@dataclass(frozen=True)
class Artifact:
    """A sealed folder that was read back."""

    path: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Artifact:
        """Read the manifest of an artifact, without hashing the payload.

        Raises:
            InputRefused: No folder, no manifest, or one of an unknown schema.
        """
        manifest = _read_json(folder / MANIFEST)
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputRefused(
                f"the artifact has schema version {version!r}, this deploycomp reads {SCHEMA_VERSION}",
                where=str(folder / MANIFEST),
                hint="export it again, or install the deploycomp that wrote it",
            )
        return Artifact(folder, manifest)

    @property
    def model(self) -> Path:
        """The deliverable ONNX file, which must lie in the artifact: a manifest may come from anywhere."""
        name = self.manifest.get("model")
        if not isinstance(name, str) or not (self.path / name).resolve().is_relative_to(self.path.resolve()):
            raise InputRefused(f"the manifest names no model in its folder: {name!r}", where=str(self.path))
        return self.path / name

    @property
    def digest(self) -> str:
        """One SHA-256 for the payload: equal digests are equal artifacts."""
        return digest_files(self._hashes())

    def _hashes(self) -> dict[str, str]:
        try:
            return {str(name): str(entry["sha256"]) for name, entry in self.manifest["files"].items()}
        except (AttributeError, KeyError, TypeError):
            raise InputRefused(
                "the manifest names no files with their hashes", where=str(self.path / MANIFEST)
            ) from None

    def verify(self) -> None:
        """Check every byte against the manifest, and that nothing was added.

        Raises:
            InputRefused: A file is missing, changed, added, or not a plain file.
        """
        expected = self._hashes()
        if (self.path / "report.json").is_file():
            rendered = cast("dict[str, str]", _read_json(self.path / "report.json").get("rendered", {}))
            expected.update({name: rendered[name] for name in EVIDENCE if name in rendered})
        found = {path.relative_to(self.path).as_posix() for path in _files(self.path)} - {
            MANIFEST,
            "report.json",
        }
        for name, why in (
            *((name, "is missing") for name in sorted(expected.keys() - found)),
            *((name, "was added") for name in sorted(found - expected.keys())),
        ):
            raise InputRefused(f"the artifact is not what was sealed: {name} {why}", where=str(self.path))
        for name, digest in sorted(expected.items()):
            if sha256(self.path / name) != digest:
                raise InputRefused(
                    f"the artifact is not what was sealed: {name} has changed",
                    where=str(self.path),
                    hint="export it again; an artifact is never edited",
                )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputRefused(f"the file is larger than {MAX_JSON_BYTES:,} bytes", where=str(path))
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputRefused(
            f"there is no artifact here: {path.name} is missing",
            where=str(path.parent),
            hint="deploycomp export MODEL -o FOLDER writes one",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"{path.name} cannot be read", where=str(path), why=str(error)) from None
    if not isinstance(value, dict):
        raise InputRefused(f"{path.name} is not a JSON object", where=str(path))
    return cast("dict[str, Any]", value)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below *folder*, sorted; links and special files are refused."""
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            raise InputRefused("an artifact holds plain files only", where=str(path))


def _payload(folder: Path) -> Iterator[Path]:
    names = {MANIFEST, *EVIDENCE}
    return (path for path in _files(folder) if path.relative_to(folder).as_posix() not in names)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one system call where the kernel can, else by moving the old one aside."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    aside.rename(new)


def _boot_id() -> str:
    """A short name for this boot, so that a process id is not mistaken for one of an earlier boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        return "unknown"


def _sweep(destination: Path) -> None:
    """Remove staging folders of runs that are dead: another boot, or a process id that no longer exists."""
    prefix = f".{destination.name}."
    for path in destination.parent.iterdir():
        parts = path.name.removeprefix(prefix).split(".")
        if not path.name.startswith(prefix) or len(parts) != 3 or parts[2] != "partial":
            continue
        alive = parts[0] == _boot_id() and parts[1].isdigit() and Path("/proc", parts[1]).exists()
        if alive and parts[1] != str(os.getpid()):
            raise EnvironmentFailed(
                "another deploycomp run is writing this output",
                where=str(destination),
                why=f"process {parts[1]} is staging in {path.name}",
                hint="wait for it, or choose another --output",
            )
        shutil.rmtree(path, ignore_errors=True)
