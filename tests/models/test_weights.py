"""Weight files are checked by content, and pickles are never opened."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.models.weights import check_weights, read_header


def write(path: Path, header: dict | str | bytes, data: bytes = b"") -> Path:
    """Write a safetensors file by hand."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def tensor(start: int = 0, end: int = 8, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def header_of(path: Path) -> dict[str, tuple[int, ...]]:
    return read_header(path, inside=path.parent)


def test_a_good_file_gives_shapes(tmp_path):
    entries = {"b": tensor(8, 16), "a": tensor(), "empty": tensor(16, 16, (0, 3)), "__metadata__": {"format": "pt"}}
    assert header_of(write(tmp_path / "m.safetensors", entries, bytes(16))) == {"a": (2,), "b": (2,), "empty": (0, 3)}


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        ({"a": tensor()}, bytes(7), r"truncated: \d+ bytes, expected \d+"),
        ({"a": tensor()}, bytes(9), "bytes that no tensor owns"),
        ({"a": tensor(4, 12)}, bytes(12), "overlap or leave a gap"),
        ({"a": tensor(), "b": tensor(4, 12)}, bytes(12), "overlap or leave a gap"),
        ({"a": tensor(), "b": tensor(12, 20)}, bytes(20), "overlap or leave a gap"),
        ({"a": tensor(0, -8)}, bytes(8), "not natural numbers"),
        ({"a": tensor(shape=(3,))}, bytes(8), "does not fit its dtype and shape: 8 bytes, F32"),
        ({"a": tensor(dtype="F64")}, bytes(8), "does not fit its dtype and shape"),
        ({"a": tensor(dtype="PY")}, bytes(8), "unknown dtype: 'PY'"),
        ({"a": tensor(shape=(-2,))}, bytes(8), "not natural numbers"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), "lacks dtype, shape or data_offsets"),
        ({"a": tensor(), "__metadata__": {"x": 1}}, bytes(8), "metadata is not a mapping"),
        ('{"a": 1, "a": 2}', b"", "duplicate key: 'a'"),
        ('{"a": ', b"", "not valid JSON"),
        ("{}}", b"", "not valid JSON"),
        ("[]", b"", "not safetensors"),
        (b"{\xff}", b"", "not valid JSON"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, data, what):
    path = write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(InputRefused, match=what) as caught:
        header_of(path)
    assert str(path) in str(caught.value.where)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputRefused, match="not safetensors") as caught:
        header_of(path)
    assert "1,152,921,504,606,846,976 bytes" in str(caught.value.why)


@pytest.mark.parametrize("keep", [0, 4, 7, 8, 30, 500, -5000, -1])
def test_a_truncated_file_names_both_sizes(folder, keep):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(InputRefused, match=r"truncated|not safetensors") as caught:
        check_weights(folder, inside=folder)
    assert caught.value.where == str(path)
    if keep != 8:
        assert f"{len(data[:keep])} bytes, expected" in caught.value.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(60), "no safetensors but a zip archive"),
        (pickle.dumps({"weight": list(range(99))}), "no safetensors but a pickle"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(60), "no safetensors but a 7z archive"),
        (b"\x1f\x8b\x08" + bytes(60), "no safetensors but a gzip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<html>not found</html>", "not safetensors"),
    ],
)
def test_another_format_under_the_name_is_refused_by_content(folder, content, what):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputRefused, match=what):
        check_weights(folder, inside=folder)


# ------------------------------------------------------------------------------------------------------------ pickles


class Bomb:
    """A pickle of this runs code when it is opened."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def bomb(path: Path, canary: Path) -> Path:
    path.write_bytes(pickle.dumps(Bomb(canary)))
    return path


def test_the_bomb_works(tmp_path):
    pickle.loads(bomb(tmp_path / "bomb", tmp_path / "canary").read_bytes())
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt", "weights.pth"])
def test_a_pickle_only_checkpoint_is_refused_unopened(folder, tmp_path, events, name):
    (folder / "model.safetensors").unlink()
    path = bomb(folder / name, tmp_path / "canary")
    events.clear()
    with pytest.raises(InputRefused, match="pickle only") as caught:
        check_weights(folder, inside=folder)
    assert caught.value.exit_code == 3
    assert f"torch.load('{name}'" in str(caught.value.hint)
    assert "weights_only=True" in str(caught.value.hint)
    assert "save_file" in str(caught.value.hint)
    assert not (tmp_path / "canary").exists()
    assert ("open", str(path)) not in events
    assert not [event for event in events if event[0] == "pickle.find_class"]


def test_a_renamed_pickle_is_refused_unexecuted(folder, tmp_path, events):
    bomb(folder / "model.safetensors", tmp_path / "canary")
    with pytest.raises(InputRefused, match="no safetensors but a pickle"):
        check_weights(folder, inside=folder)
    assert not (tmp_path / "canary").exists()
    assert not [event for event in events if event[0] == "pickle.find_class"]


def test_safetensors_win_over_a_pickle_and_that_is_noted(folder, tmp_path):
    bomb(folder / "pytorch_model.bin", tmp_path / "canary")
    bomb(folder / "training_args.bin", tmp_path / "canary")
    found = check_weights(folder, inside=folder)
    assert found.notes == ("pytorch_model.bin ignored: safetensors is used",)
    assert found.files == ("model.safetensors",)
    assert not (tmp_path / "canary").exists()


def test_the_conversion_to_type_works(folder, tmp_path, monkeypatch):
    import torch
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InputRefused) as caught:
        check_weights(folder, inside=folder)
    code = str(caught.value.hint).split('python -c "', 1)[1].rstrip('"')
    monkeypatch.chdir(folder)
    exec(compile(code, "hint", "exec"), {})
    assert check_weights(folder, inside=folder).numel == sum(tensor.numel() for tensor in weights.values())


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "adapter.safetensors"])
def test_no_weights_that_are_read(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputRefused, match=r"the checkpoint has no model.safetensors") as caught:
        check_weights(folder, inside=folder)
    assert name in str(caught.value.why)


def test_an_empty_file_of_tensors_is_refused(folder):
    write(folder / "model.safetensors", "{}")
    with pytest.raises(InputRefused, match="holds no tensors"):
        check_weights(folder, inside=folder)


# ------------------------------------------------------------------------------------------------------------- shards

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / ONE, {"a": tensor()}, bytes(8))
    write(tmp_path / TWO, {"b": tensor()}, bytes(8))
    index(tmp_path, {"a": ONE, "b": TWO})
    return tmp_path


def index(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_good_shards(shards):
    found = check_weights(shards, inside=shards)
    assert found.files == ("model.safetensors.index.json", ONE, TWO)
    assert found.numel == 4


@pytest.mark.parametrize(
    ("weight_map", "what"),
    [
        ({"a": ONE, "b": "model-00003.safetensors"}, r"a shard is missing: model-00003.safetensors"),
        ({"a": ONE, "b": TWO, "c": TWO}, "places the tensor c in .* which lacks it"),
        ({"a": TWO, "b": TWO}, "places the tensor a in"),
        ({"a": ONE, "b": "../" + TWO}, "outside its folder"),
        ({"a": ONE, "b": "/etc/passwd"}, "outside its folder"),
        ({"a": ONE, "b": "pytorch_model.bin"}, "outside its folder, or no safetensors"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(shards, weight_map, what):
    index(shards, weight_map)
    with pytest.raises(InputRefused, match=what):
        check_weights(shards, inside=shards)


def test_two_shards_with_one_tensor_are_refused(shards):
    write(shards / TWO, {"a": tensor(), "b": tensor(8, 16)}, bytes(16))
    with pytest.raises(InputRefused, match="two shards hold the tensor a"):
        check_weights(shards, inside=shards)


def test_a_truncated_shard_is_refused(shards):
    (shards / TWO).write_bytes((shards / TWO).read_bytes()[:-1])
    with pytest.raises(InputRefused, match="truncated") as caught:
        check_weights(shards, inside=shards)
    assert TWO in str(caught.value.where)


def test_a_shard_that_is_a_link_outwards_is_refused(shards, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / TWO
    shutil.move(shards / TWO, other)
    (shards / TWO).symlink_to(other)
    with pytest.raises(InputRefused, match="leaves the model's folder"):
        check_weights(shards, inside=shards)


def test_an_index_beside_a_whole_file_is_noted(shards):
    write(shards / "model.safetensors", {"a": tensor()}, bytes(8))
    assert check_weights(shards, inside=shards).notes == (
        "model.safetensors.index.json ignored: model.safetensors is used",
    )


# --------------------------------------------------------------------------------------------------------- properties

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(cut=st.integers(0, 200))
def test_every_cut_is_refused(tmp_path, cut):
    path = write(tmp_path / "model.safetensors", {"a": tensor(), "b": tensor(8, 24, (4,))}, bytes(24))
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(InputRefused):
        header_of(path)


@QUICK
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_never_crash_the_reader(tmp_path, flips):
    path = write(tmp_path / "model.safetensors", {"a": tensor(), "b": tensor(8, 24, (4,))}, bytes(24))
    data = bytearray(path.read_bytes())
    for place, mask in flips:
        data[place % len(data)] ^= mask
    path.write_bytes(data)
    with contextlib.suppress(InputRefused):
        header_of(path)


@QUICK
@given(content=st.binary(max_size=64))
def test_any_bytes_are_refused_or_valid(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(InputRefused):
        assert header_of(path) == {}
