"""Sealed folders: stage beside the destination, hash, write the manifest last, publish by rename, verify.

    out/
      deploycomp.json   the manifest: recipe, source, facts and the sha256 of every file below
      model.onnx …      the payload
      report.json …     the evidence of one run: measurements, durations, the machine

Two runs of one recipe write identical payloads and manifests. Only the evidence differs, and it is declared so: the
manifest names it without hashing it, and `report.json` holds the hashes of the pages rendered from it.

A folder without a valid manifest is not a result. Nothing is ever written into the destination while it has its final
name, and staging lies on the destination's file system, so that publishing is one rename. Only what a valid manifest
lists, unchanged, is ever replaced; one run at a time writes an output; a reader sees the old version or the new one.

This is the front door; `deploycomp.sealed` holds the parts.
"""

from __future__ import annotations

from deploycomp.sealed.artifact import Artifact, verify_version
from deploycomp.sealed.disk import digest_files, is_full, scratch, sha256, translate_os_error, write_whole
from deploycomp.sealed.manifest import COMPRESSION, EVIDENCE, MANIFEST, SCHEMA_VERSION
from deploycomp.sealed.staging import Staging, check_destination, stage
from deploycomp.sealed.version import Version, read_version

__all__ = [
    "COMPRESSION",
    "EVIDENCE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Artifact",
    "Staging",
    "Version",
    "check_destination",
    "digest_files",
    "is_full",
    "read_version",
    "scratch",
    "sha256",
    "stage",
    "translate_os_error",
    "verify_version",
    "write_whole",
]
