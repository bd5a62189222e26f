"""No library is handed a graph whose tensors lie elsewhere, wherever in the graph they stand."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.external import check_external_data
from deploycomp.inspection import inspect_path
from deploycomp.runtime.session import open_session
from tests.cli import made

SECRET = "secret.bin"


def tensor(location: str, offset: object = None, length: object = None, name: str = "w") -> TensorProto:
    made_of = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            made_of.external_data.add(key=key, value=str(value))
    return made_of


def indices() -> TensorProto:
    return helper.make_tensor("i", TensorProto.INT64, [2], [0, 1])


def graph(nodes: list[Any] = (), **more: Any) -> Any:  # type: ignore[assignment]
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_graph(list(nodes), "g", [], [value], **more)


def node(**attributes: Any) -> Any:
    return helper.make_node("Constant", [], ["y"], **attributes)


def sparse(values: TensorProto, at: TensorProto | None = None) -> Any:
    return helper.make_sparse_tensor(values, at or indices(), [4])


def function(*nodes: Any) -> Any:
    return helper.make_function("own", "f", [], ["y"], list(nodes), [helper.make_opsetid("", 18)])


def at_training(each: TensorProto) -> Any:
    model = helper.make_model(graph([node(value_float=1.0)]))
    model.training_info.add(algorithm=graph([node(value=each)]))
    return model


def with_default(each: TensorProto) -> Any:
    made_of = function()
    made_of.attribute_proto.append(helper.make_attribute("a", each))
    return helper.make_model(graph(), functions=[made_of])


PLACES: dict[str, Callable[[TensorProto], Any]] = {
    "initializer": lambda each: helper.make_model(graph(initializer=[each])),
    "sparse initializer": lambda each: helper.make_model(graph(sparse_initializer=[sparse(each)])),
    "sparse indices": lambda each: helper.make_model(graph(sparse_initializer=[sparse(indices(), each)])),
    "attribute": lambda each: helper.make_model(graph([node(value=each)])),
    "list of tensors": lambda each: helper.make_model(graph([node(many=[indices(), each])])),
    "sparse attribute": lambda each: helper.make_model(graph([node(sparse_value=sparse(each))])),
    "sparse list": lambda each: helper.make_model(graph([node(many=[sparse(indices()), sparse(each)])])),
    "subgraph": lambda each: helper.make_model(
        graph([helper.make_node("If", ["c"], ["y"], then_branch=graph([node(value=each)]), else_branch=graph())])
    ),
    "list of subgraphs": lambda each: helper.make_model(graph([node(bodies=[graph(), graph(initializer=[each])])])),
    "function": lambda each: helper.make_model(graph(), functions=[function(node(value=each))]),
    "attribute of a function": with_default,
    "training": at_training,
}
"""Where a graph may hold a tensor."""

NAMES = {
    "/etc/hostname": "absolute",
    "../secret.bin": "leaves the folder",
    "a/../../secret.bin": "leaves the folder",
    "a//secret.bin": "leaves the folder",
    "..": "leaves the folder",
    "C:\\secret.bin": "another system",
    "C:/secret.bin": "another system",
    "..\\secret.bin": "another system",
    "a\0b": "no name",
    "": "no name",
    "file:///etc/hostname": "another system",
    "*/_ORT_MEM_ADDR_/*": None,
}
"""Places that are refused by their names alone; the last is how ONNX Runtime spells an address in its memory."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder beside a secret, with a good file in it."""
    (tmp_path / SECRET).write_bytes(b"\1" * 64)
    inside = tmp_path / "graph"
    (inside / "a").mkdir(parents=True)
    (inside / "w.bin").write_bytes(np.ones(16, np.float32).tobytes())
    return inside


def save(folder: Path, model: Any) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
def test_every_tensor_of_a_graph_is_seen(folder: Path, place: str):
    good = save(folder, PLACES[place](tensor("w.bin", 0, 8)))
    assert check_external_data(good) == ("w.bin",)
    bad = save(folder, PLACES[place](tensor("../secret.bin")))
    with pytest.raises(InputRefused, match="a tensor of the graph lies where it may not") as caught:
        check_external_data(bad)
    assert caught.value.where == f"{bad}: tensor 'w' in '../secret.bin'"
    assert caught.value.why == "the place leaves the folder of the graph"


@pytest.mark.parametrize(("location", "why"), NAMES.items(), ids=[repr(each) for each in NAMES])
def test_places_refused_by_their_names(folder: Path, location: str, why: str | None):
    path = save(folder, PLACES["initializer"](tensor(location)))
    with pytest.raises(InputRefused) as caught:
        check_external_data(path)
    assert why is None or why in str(caught.value.why)


def _link(folder: Path) -> None:
    (folder / "x").symlink_to(folder.parent / SECRET)


def _parent(folder: Path) -> None:
    (folder / "b").symlink_to(folder.parent)


def _inner(folder: Path) -> None:
    (folder / "x").symlink_to(folder / "w.bin")


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "link": ("x", _link, "x is a link"),
    "link inside": ("x", _inner, "x is a link"),
    "parent that is a link": ("b/secret.bin", _parent, "b is a link"),
    "hard link": ("x", lambda at: (at / "x").hardlink_to(at.parent / SECRET), "hard link"),
    "pipe": ("x", lambda at: os.mkfifo(at / "x"), "no plain file"),
    "folder": ("a", lambda at: None, "no plain file"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("place", ["initializer", "attribute", "sparse initializer", "subgraph", "function"])
def test_places_refused_by_what_they_are_and_nothing_is_opened(folder: Path, kind: str, place: str):
    location, build, why = FILES[kind]
    build(folder)
    path = save(folder, PLACES[place](tensor(location)))
    with pytest.raises(InputRefused, match=why):
        check_external_data(path)


RANGES = [
    (0, 64, None), (60, 4, None), (64, None, None), (0, 65, "ends at byte 65, the file has 64"), (65, None, "byte 65"),
    (2**64 - 1, 8, "ends at byte"), (-1, 4, "its offset is no number"), (0, -4, "its length is no number"),
    ("1e1", 4, "its offset is no number"), ("9" * 5000, 4, "its offset is no number"), ("٣", 4, "its offset is no"),
]  # fmt: skip


@pytest.mark.parametrize(("offset", "length", "why"), RANGES)
def test_the_file_holds_what_the_tensor_says(folder: Path, offset: object, length: object, why: str | None):
    path = save(folder, PLACES["initializer"](tensor("w.bin", offset, length)))
    if why is None:
        assert check_external_data(path) == ("w.bin",)
        return
    with pytest.raises(InputRefused, match="does not hold what the graph says") as caught:
        check_external_data(path)
    assert why in str(caught.value.why)


def test_a_second_place_does_not_hide_behind_the_first(folder: Path):
    """Libraries disagree on which of two entries counts, and a graph may come in pieces that protobuf joins."""
    both = tensor("w.bin")
    both.external_data.add(key="location", value="../secret.bin")
    with pytest.raises(InputRefused, match="where it may not"):
        check_external_data(save(folder, PLACES["initializer"](both)))
    pieces = PLACES["initializer"](tensor("w.bin")).SerializeToString()
    pieces += onnx.ModelProto(graph=graph(initializer=[tensor("../secret.bin")])).SerializeToString()
    (folder / "m.onnx").write_bytes(pieces)
    assert len(onnx.load(folder / "m.onnx", load_external_data=False).graph.initializer) == 2
    with pytest.raises(InputRefused, match="where it may not"):
        check_external_data(folder / "m.onnx")


def test_a_missing_file_and_one_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(folder, PLACES["initializer"](tensor("gone.bin")))
    with pytest.raises(InputRefused, match="weights file of the model is missing") as caught:
        check_external_data(path)
    assert caught.value.where == str(folder / "gone.bin")

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(EnvironmentFailed, match="cannot be read"):
        check_external_data(path)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.data())
def test_any_bytes_are_walked_in_time(tmp_path_factory: pytest.TempPathFactory, noise: bytes, data: Any):
    whole = PLACES["subgraph"](tensor("w.bin")).SerializeToString()
    at = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.getbasetemp() / "noise.onnx"
    for content in (noise, whole[:at], whole[:at] + noise + whole[at:]):
        path.write_bytes(content)
        with contextlib.suppress(InputRefused):
            check_external_data(path)


def test_a_deep_graph_ends():
    """A graph within a graph, a thousand times, is no recursion here."""
    from deploycomp.external import _tensors

    inner = b""
    for _ in range(1000):
        for field in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            inner = bytes([field << 3 | 2]) + _length(len(inner)) + inner
    assert list(_tensors(inner)) == []  # type: ignore[arg-type]


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


# ------------------------------------------------------------ wherever a graph is opened


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Files that Python or a library opens through it."""
    seen: list[str] = []
    watching = [True]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if watching[0] and event == "open":
            seen.append(str(arguments[0]))

    sys.addaudithook(hear)
    yield seen
    watching[0] = False


def hostile(folder: Path) -> Path:
    """A model that runs, with one of its weights elsewhere."""
    shutil.copytree(made.fp32().path, folder / "artifact")
    path = folder / "artifact" / "model.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(tensor("../../secret.bin", 0, 8, name="stolen"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("way", ["inspect", "session", "precision", "profile", "benchmark"])
def test_every_reader_refuses(folder: Path, opened: list[str], way: str):
    from deploycomp.assess import candidates_from
    from deploycomp.gating.answers import _precision
    from deploycomp.measure import profile
    from deploycomp.measure.benchmark import benchmark
    from deploycomp.recipe import Benchmark

    path = hostile(folder)
    request = {"model": str(path), "threads": 1, "session": {}, "provider": "cpu"}
    shape = Benchmark(batch_size=(1,), sequence_length=(8,), threads=(1,), blocks=2, block_seconds=0.01)
    ways: dict[str, Callable[[], object]] = {
        "inspect": lambda: inspect_path(str(path)),
        "session": lambda: open_session(path, threads=1),
        "precision": lambda: _precision(path),
        "profile": lambda: profile._record(request, []),
        "benchmark": lambda: benchmark(candidates_from([str(path)]), shape),
    }
    with pytest.raises(InputRefused, match="a tensor of the graph lies where it may not") as caught:
        ways[way]()
    assert caught.value.exit_code == 3
    assert not [each for each in opened if each.endswith(SECRET)]


def test_the_command_says_so(folder: Path):
    path = hostile(folder)
    child = made.start("inspect", path, cwd=folder)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (3, "")
    assert err.splitlines()[0] == "error: a tensor of the graph lies where it may not"


def test_what_is_beside_a_graph_counts_as_its_bytes(folder: Path):
    path = save(folder, PLACES["initializer"](tensor("w.bin", 0, 8)))
    found = inspect_path(str(path))
    assert found["external_data"] is True
    assert found["bytes"] == path.stat().st_size + 64


def test_a_large_graph_is_walked_without_its_weights(tmp_path: Path):
    """The weights are skipped by their lengths: whoever read this terabyte, which is not there, would never end."""
    weights = 1 << 40
    head = helper.make_tensor("w", TensorProto.FLOAT, [0], []).SerializeToString() + b"\x4a" + _length(weights)
    inner = b"\x2a" + _length(len(head) + weights) + head
    with (tmp_path / "m.onnx").open("wb") as file:
        file.write(b"\x3a" + _length(len(inner) + weights) + inner)
        file.seek(weights, os.SEEK_CUR)
        file.truncate()
    assert check_external_data(tmp_path / "m.onnx") == ()
