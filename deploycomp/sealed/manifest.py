"""Read a manifest or a report strictly, and check once what code relies on: a manifest may come from anywhere.

By hand, because the runtime has no pydantic.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, NoReturn, cast

from deploycomp.errors import InputRefused

__all__ = [
    "COMPRESSION",
    "EVIDENCE",
    "MANIFEST",
    "MAX_JSON_BYTES",
    "REPORT",
    "SCHEMA_VERSION",
    "SEAL",
    "check_files",
    "check_manifest",
    "is_name",
    "parse_object",
    "rendered_pages",
    "seal_of",
]

MANIFEST = "deploycomp.json"
COMPRESSION = "compression.json"
"""What `deploycomp compress` writes beside a checkpoint: the recipe, what each step did, and the files it wrote."""
REPORT = "report.json"
EVIDENCE = (REPORT, "report.md", "report.html")
"""Files that tell of one run on one machine and therefore differ between runs; `report.json` holds their hashes."""
SEAL = "seal"
"""Key of the manifest's own digest: an edited manifest says so. Who seals anew can write any."""
SCHEMA_VERSION = 1
MAX_JSON_BYTES = 50_000_000
"""No manifest or report of ours comes near this; a larger one is refused unread."""

MAX_NUMBER = 2**31 - 1
"""Lengths, token ids and dimensions are below it everywhere; ONNX Runtime and tokenizers overflow far above."""
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
PRECISIONS = ("fp32", "fp16", "int8")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def parse_object(data: bytes, *, where: str) -> dict[str, Any]:
    """Parse JSON that must be an object, strictly: readers disagree on duplicate keys, and NaN is no JSON.

    Args:
        data: UTF-8 text.
        where: Its path, for errors.

    Raises:
        InputRefused: Not UTF-8, not JSON, not an object, a duplicate key, half a character, a number beyond reason.
    """
    name = PurePosixPath(where).name
    try:
        value: Any = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # "\ud800" is an escape, and no character
    except (ValueError, RecursionError) as error:
        raise InputRefused(f"{name} cannot be read", where=where, why=str(error)) from None
    if not isinstance(value, dict):
        raise InputRefused(f"{name} is not a JSON object", where=where)
    return cast("dict[str, Any]", value)


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a manifest without its seal, independent of spaces and of the order of keys."""
    rest = {name: value for name, value in manifest.items() if name != SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_files(value: Mapping[str, Any], *, where: str) -> dict[str, str]:
    """Return name → SHA-256 of what a manifest or a compression report lists under `files`.

    Raises:
        InputRefused: It lists none, a name that leads out of the folder, or something that is no hash.
    """
    files: Any = value.get("files")
    if not isinstance(files, dict):
        raise InputRefused("the manifest names no files with their hashes", where=where)
    found: dict[str, str] = {}
    for name, entry in cast("dict[str, Any]", files).items():
        if not is_name(name):
            raise InputRefused(f"the manifest names a file outside its folder: {name!r}", where=where)
        digest: Any = cast("dict[str, Any]", entry).get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise InputRefused("the manifest names no files with their hashes", where=where, why=f"see {name!r}")
        found[name] = digest
    return found


def rendered_pages(report: Mapping[str, Any]) -> dict[str, str]:
    """Return name → SHA-256 of the pages that a report says were made from it."""
    rendered: Any = report.get("rendered")
    if not isinstance(rendered, dict):
        return {}
    pages = cast("dict[str, Any]", rendered)
    return {name: str(pages[name]) for name in EVIDENCE if name in pages}


def check_manifest(manifest: Mapping[str, Any], *, where: str) -> None:
    """Refuse a manifest whose parts are not what readers of it take them for; a part may be absent.

    Raises:
        InputRefused: Another schema, or a part of another shape, by its name.
    """
    version: Any = manifest.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise InputRefused(
            f"the artifact has schema version {version!r}, this deploycomp reads {SCHEMA_VERSION}",
            where=where,
            hint="export it again, or install the deploycomp that wrote it",
        )
    check_files(manifest, where=where)
    for path, (fits, wanted) in _SHAPES.items():
        found: Any = manifest
        for key in path.split("."):
            found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
        if found is not None and not fits(found):
            raise InputRefused(f"{path} in the manifest is not {wanted}", where=where, hint="export the model again")


def is_name(value: Any) -> bool:
    """Tell whether a value is the path of a file in the folder, spelled in one way only."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return all(part not in ("", ".", "..") for part in value.split("/"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} stands twice, and readers disagree on which counts")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:40]} is beyond every number")
    return float(text)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in cast("list[Any]", value))


def _is_number(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_NUMBER


def _is_one_of(*known: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in known


def _is_ports(value: Any) -> bool:
    """Names with their dimensions."""
    if not isinstance(value, dict):
        return False
    for dims in cast("dict[str, Any]", value).values():
        if not isinstance(dims, list) or not all(isinstance(dim, int | str) for dim in cast("list[Any]", dims)):
            return False
    return True


def _is_entries(value: Any) -> bool:
    """Session entries of ONNX Runtime: names with texts or numbers."""
    return isinstance(value, dict) and all(
        isinstance(each, str | int | float) for each in cast("dict[str, Any]", value).values()
    )


_TEXT = (_is_text, "a text")
_OBJECT = (_is_object, "an object")
_COUNT = (_is_number(1), f"a number from 1 to {MAX_NUMBER}")
_ID = (_is_number(0), f"a number from 0 to {MAX_NUMBER}")

_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": _TEXT,
    "target": _TEXT,
    "precision": (_is_one_of(*PRECISIONS), f"one of {', '.join(PRECISIONS)}"),
    "signature": _OBJECT,
    "signature.inputs": (_is_ports, "names with lists of dimensions"),
    "signature.outputs": (_is_ports, "names with lists of dimensions"),
    "runtime": _OBJECT,
    "runtime.max_length": _COUNT,
    "runtime.pad_token_id": _ID,
    "runtime.pad_token_type_id": _ID,
    "runtime.padding_side": (_is_one_of("left", "right"), "left or right"),
    "runtime.labels": (_is_texts, "a list of texts"),
    "runtime.problem_type": (_is_one_of(*PROBLEM_TYPES), f"one of {', '.join(PROBLEM_TYPES)}"),
    "runtime.mask_token": _TEXT,
    "runtime.fixed": _OBJECT,
    "runtime.fixed.batch": _COUNT,
    "runtime.fixed.sequence": _COUNT,
    "runtime.session": (_is_entries, "names with texts or numbers"),
    "source": _OBJECT,
    "source.name": _TEXT,
    "recipe": _OBJECT,
    "versions": _OBJECT,
    "steps": (_is_list, "a list"),
    "evidence": (_is_texts, "a list of texts"),
}
"""What readers take each part for."""
