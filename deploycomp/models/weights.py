"""Check the weight files of a checkpoint by content: safetensors only, pickles are never opened.

A safetensors file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, and the data, which
the offsets must cover without gap or overlap (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deploycomp.errors import InputRefused
from deploycomp.models import strictjson
from deploycomp.models.place import check_place, exists

__all__ = ["INDEX", "SINGLE", "Weights", "check_weights", "read_header"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

MAX_HEADER_BYTES = 100_000_000
"""`MAX_HEADER_SIZE` of the safetensors library."""

MAX_INDEX_BYTES = 100_000_000

LENGTH_BYTES = 8

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

CONVERT = (
    "convert it once, at your own risk and away from anything precious: "
    "python -c \"import torch, safetensors.torch as s; w = torch.load('{name}', map_location='cpu', "
    "weights_only=True); s.save_file({{k: v.clone().contiguous() for k, v in w.items()}}, "
    "'model.safetensors', metadata={{'format': 'pt'}})\""
)
"""The clone unties shared tensors, which safetensors refuses to store."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

_MAGIC = (
    (b"PK\x03\x04", "a zip archive (what torch.save writes, with a pickle inside)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights"),
    *((bytes((0x80, protocol)), "a pickle") for protocol in range(2, 6)),
)
_LFS_HINT = "run `git lfs pull` in the folder it came from"


@dataclass(frozen=True)
class Weights:
    """What the weight files of a folder hold, from their headers."""

    files: tuple[str, ...]
    numel: int
    notes: tuple[str, ...]
    tensors: tuple[str, ...]


def check_weights(folder: Path, *, inside: Path) -> Weights:
    """Find the weights that transformers will read in *folder*, and check every header.

    Args:
        folder: The folder with the weights.
        inside: The model's folder, which no file may leave through a link.

    Raises:
        InputRefused: No safetensors, or one that is truncated, inconsistent or something else by content.
    """
    names = sorted(path.name for path in folder.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    notes: list[str] = []
    if SINGLE in names:
        files = (SINGLE,)
        tensors = read_header(folder / SINGLE, inside=inside)
        notes += [f"{INDEX} ignored: {SINGLE} is used"] if INDEX in names else []
    elif INDEX in names:
        files, tensors = _check_shards(folder, inside)
    else:
        raise _no_weights(folder, names, pickles)
    if not tensors:
        raise InputRefused("the weight file holds no tensors", where=str(folder / files[0]))
    notes += [f"{name} ignored: safetensors is used" for name in pickles if _is_weight(name)]
    return Weights(files, sum(math.prod(shape) for shape in tensors.values()), tuple(notes), tuple(tensors))


def _is_weight(name: str) -> bool:
    """Whether a pickle holds weights; a Trainer leaves others beside them (training_args.bin, optimizer.pt)."""
    return not name.startswith(("training_args", "optimizer", "scheduler", "scaler", "rng_state"))


def _no_weights(folder: Path, names: list[str], pickles: list[str]) -> InputRefused:
    weights = [name for name in pickles if _is_weight(name)]
    if weights:
        return InputRefused(
            "the checkpoint holds its weights as pickle only",
            where=str(folder / weights[0]),
            why="a pickle can run code when it is opened; it was not opened",
            hint=CONVERT.format(name=weights[0]),
        )
    others = [name for name in names if name.endswith((".safetensors", ".h5", ".msgpack", ".onnx", ".gguf"))]
    return InputRefused(
        f"the checkpoint has no {SINGLE}",
        where=str(folder),
        why=f"found only {', '.join(others)}" if others else "no weight file was found",
        hint="save it with model.save_pretrained(folder) of transformers, which writes safetensors",
    )


def read_header(path: Path, *, inside: Path) -> dict[str, tuple[int, ...]]:
    """Check one safetensors file by content, reading its header only.

    Args:
        path: The file.
        inside: The model's folder, which the file may not leave through a link.

    Returns:
        Tensor name → shape.

    Raises:
        InputRefused: Truncated, not safetensors, or a header that contradicts itself or the file's size.
    """
    where = str(path)
    check_place(path, inside=inside)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        head = start + file.read(len(b"version https://git-lfs"))
        if len(start) < LENGTH_BYTES:
            raise _truncated(path, f"at least {LENGTH_BYTES}", size)
        if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES) or head[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
            raise _not_safetensors(path, head, length, size)
        file.seek(LENGTH_BYTES)
        header = strictjson.parse(file.read(length), where=where)
    if not isinstance(header, dict):
        raise InputRefused("the safetensors header is not a JSON object", where=where)
    entries = cast("dict[str, Any]", header)
    metadata = entries.pop("__metadata__", None)
    texts = metadata is None or (
        isinstance(metadata, dict)
        and all(isinstance(value, str) for value in cast("dict[str, Any]", metadata).values())
    )
    if not texts:
        raise InputRefused("the safetensors metadata is not a mapping of text to text", where=where)
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: _start(item[1])):
        end = _check_tensor(name, entry, begin=end, where=where)
    expected = LENGTH_BYTES + length + end
    if size < expected:
        raise _truncated(path, str(expected), size)
    if size > expected:
        raise InputRefused(
            f"the safetensors file has bytes that no tensor owns: {size:,}, expected {expected:,}",
            where=where,
        )
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def _start(entry: Any) -> int:
    """Where a tensor begins, 0 for a malformed entry, which `_check_tensor` then refuses."""
    offsets = cast("dict[str, Any]", entry).get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if _naturals(offsets) and offsets else 0


def _check_tensor(name: str, entry: Any, *, begin: int, where: str) -> int:
    """Check one entry of a header against where the one before it ended, and return its end."""
    here = f"{where}: {name}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputRefused("a tensor of the safetensors header lacks dtype, shape or data_offsets", where=here)
    fields = cast("dict[str, Any]", entry)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise InputRefused(f"a tensor has an unknown dtype: {dtype!r}", where=here)
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise InputRefused("a tensor's shape or data_offsets are not natural numbers", where=here)
    if offsets[0] != begin or offsets[1] < begin:
        why = f"it lies at {offsets[0]:,}…{offsets[1]:,}, the tensor before it ends at {begin:,}"
        raise InputRefused("the safetensors offsets overlap or leave a gap", where=here, why=why)
    expected = math.prod(shape) * _BITS[dtype] // 8
    if offsets[1] - offsets[0] != expected:
        raise InputRefused(
            f"a tensor's size does not fit its dtype and shape: {offsets[1] - offsets[0]:,} bytes, "
            f"{dtype} {shape} takes {expected:,}",
            where=here,
        )
    return offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in cast("list[Any]", value))


def _truncated(path: Path, expected: str, size: int) -> InputRefused:
    return InputRefused(
        f"the safetensors file is truncated: {size} bytes, expected {expected}",
        where=str(path),
        hint="download or copy it again",
    )


def _not_safetensors(path: Path, head: bytes, length: int, size: int) -> InputRefused:
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    if kind is not None:
        hint = _LFS_HINT if head.startswith(b"version") else CONVERT.format(name=path.name)
        return InputRefused(f"the file is no safetensors but {kind}", where=str(path), hint=hint)
    if head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and length <= MAX_HEADER_BYTES:
        return _truncated(path, f"at least {LENGTH_BYTES + length}", size)
    return InputRefused(
        "the file is not safetensors",
        where=str(path),
        why=f"its first 8 bytes announce a header of {length:,} bytes (at most {MAX_HEADER_BYTES:,} are allowed) "
        "that must begin with '{'",
        hint="download or copy it again",
    )


def _check_shards(folder: Path, inside: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Check an index against its shards, and return its files and all tensors."""
    where = str(folder / INDEX)
    weight_map = _index(folder, inside).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputRefused("the index has no weight_map", where=where)
    placed = cast("dict[str, Any]", weight_map)
    tensors: dict[str, tuple[int, ...]] = {}
    home: dict[str, str] = {}
    shards = sorted({str(shard) for shard in placed.values()})
    for shard in shards:
        if Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise InputRefused(
                "the index names a file outside its folder, or no safetensors", where=where, why=repr(shard)
            )
        if not exists(folder / shard):
            raise InputRefused(f"a shard is missing: {shard}", where=where, hint="download or copy it again")
        found = read_header(folder / shard, inside=inside)
        for name in sorted(found.keys() & tensors.keys()):
            raise InputRefused(f"two shards hold the tensor {name}: {home[name]} and {shard}", where=where)
        tensors |= found
        home |= dict.fromkeys(found, shard)
    for name, shard in sorted(placed.items()):
        if home.get(name) != shard:
            raise InputRefused(f"the index places the tensor {name} in {shard}, which lacks it", where=where)
    return (INDEX, *shards), tensors


def _index(folder: Path, inside: Path) -> dict[str, Any]:
    index = strictjson.read(folder / INDEX, inside=inside, limit=MAX_INDEX_BYTES)
    return strictjson.as_object(index, where=folder / INDEX)
