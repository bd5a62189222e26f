"""`Artifact`: a sealed folder that was read back, and whether it is still what was sealed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploycomp.errors import InputRefused
from deploycomp.sealed.disk import digest_files
from deploycomp.sealed.manifest import (
    EVIDENCE,
    MANIFEST,
    REPORT,
    SEAL,
    check_files,
    is_name,
    parse_object,
    rendered_pages,
    seal_of,
)
from deploycomp.sealed.version import Version, read_version

__all__ = ["Artifact", "verify_version"]


@dataclass(frozen=True)
class Artifact:
    """A sealed folder that was read back."""

    path: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Artifact:
        """Read the manifest of an artifact, without hashing the payload.

        Raises:
            InputRefused: No folder, no manifest, one of an unknown schema or with a part of a wrong shape.
        """
        return read_version(folder, lambda version: Artifact(folder, version.manifest))

    @property
    def model(self) -> Path:
        """The deliverable ONNX file, which must lie in the artifact: a manifest may come from anywhere."""
        name = self.manifest.get("model")
        if (
            not isinstance(name, str)
            or not is_name(name)
            or not (self.path / name).resolve().is_relative_to(self.path.resolve())
        ):
            raise InputRefused(f"the manifest names no model in its folder: {name!r}", where=str(self.path))
        return self.path / name

    @property
    def digest(self) -> str:
        """One SHA-256 for the payload: equal digests are equal artifacts."""
        return digest_files(check_files(self.manifest, where=str(self.path / MANIFEST)))

    def verify(self) -> Artifact:
        """Check every byte of the folder against its manifest, and that nothing was added.

        Returns:
            What was verified: this artifact, or the one that has replaced it meanwhile.

        Raises:
            InputRefused: A file is missing, changed, added, or not a plain file.
        """
        return read_version(self.path, verify_version)


def verify_version(version: Version) -> Artifact:
    """Verify one version of a folder, see `Artifact.verify`."""
    expected = check_files(version.manifest, where=str(version.path / MANIFEST))
    if version.manifest.get(SEAL, seal_of(version.manifest)) != seal_of(version.manifest):
        raise InputRefused(
            f"the artifact is not what was sealed: {MANIFEST} has changed",
            where=str(version.path / MANIFEST),
            hint="export it again; an artifact is never edited",
        )
    found = version.names()
    version.hold(sorted((expected.keys() | {*EVIDENCE}) & found))
    if REPORT in found:
        expected |= rendered_pages(parse_object(version.read(REPORT), where=str(version.path / REPORT)))
    found -= {MANIFEST, REPORT}
    for name, why in (
        *((name, "is missing") for name in sorted(expected.keys() - found)),
        *((name, "was added") for name in sorted(found - expected.keys())),
    ):
        raise InputRefused(f"the artifact is not what was sealed: {name} {why}", where=str(version.path))
    for name, digest in sorted(expected.items()):
        if version.sha256(name) != digest:
            raise InputRefused(
                f"the artifact is not what was sealed: {name} has changed",
                where=str(version.path),
                hint="export it again; an artifact is never edited",
            )
    return Artifact(version.path, version.manifest)
