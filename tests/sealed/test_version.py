"""A reader sees the old version or the new one, while another run swaps them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest

from deploycomp.artifact import MANIFEST, Artifact, read_version, stage
from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.runtime import Predictor
from deploycomp.sealed import staging as staging_module
from deploycomp.sealed import version as version_module
from tests.runtime.graphs import manifest, onnx_model, wordpiece
from tests.test_artifact import PAYLOAD, publish

TASK = "text-classification"
TEXT = "a big dog runs in graz"
VERIFIED, LOADED = 400, 40


def versions(folder: Path) -> list[Path]:
    """Two payloads: the second has its labels in another order, and the columns of its matrix with them."""
    labels = [["negative", "positive", "neutral"], ["neutral", "negative", "positive"]]
    made: list[Path] = []
    for number, names in enumerate(labels):
        place = folder / str(number)
        place.mkdir()
        model = onnx_model(TASK)
        if number:
            turn_outputs(model)
        onnx.save(model, place / "model.onnx")
        wordpiece().save(str(place / "tokenizer.json"))
        (place / "labels.json").write_text(json.dumps(names))
        made.append(place)
    return made


def turn_outputs(model: onnx.ModelProto) -> None:
    """Let the last logit be the first."""
    for each in model.graph.initializer:
        array = onnx.numpy_helper.to_array(each)
        if array.ndim == 2 and array.shape[1] == 3:
            each.CopyFrom(onnx.numpy_helper.from_array(array[:, [2, 0, 1]].copy(), each.name))
            return
    raise AssertionError("no matrix of labels")


def put(payload: Path, destination: Path) -> None:
    with stage(destination, overwrite=True) as staging:
        for each in payload.iterdir():
            shutil.copyfile(each, staging.path / each.name)
        staging.seal(manifest(TASK, labels=json.loads((payload / "labels.json").read_text())))
        staging.publish()


@contextlib.contextmanager
def swapping(payloads: list[Path], destination: Path, pause: float) -> Iterator[list[int]]:
    """Publish one version after the other for as long as the block takes."""
    put(payloads[0], destination)
    stop, swaps = threading.Event(), [0]
    errors: list[BaseException] = []

    def swap() -> None:
        try:
            for payload in itertools.cycle(reversed(payloads)):
                if stop.wait(pause):
                    return
                put(payload, destination)
                swaps[0] += 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield swaps
    finally:
        stop.set()
        thread.join()
    assert not errors


@pytest.mark.parametrize("kernel", ["swaps", "cannot swap"])
def test_a_reader_is_never_alarmed_and_never_mixes(tmp_path: Path, kernel: str, monkeypatch: pytest.MonkeyPatch):
    payloads, place = versions(tmp_path), tmp_path / "out"
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the faster it swaps, the harder it is to read
    if kernel == "cannot swap":
        monkeypatch.setattr(staging_module.ctypes, "CDLL", lambda *_, **__: object())
        monkeypatch.setattr("deploycomp.runtime.session.trim_memory", lambda: None)  # it asks ctypes, too
    put(payloads[0], place)
    (expected,) = Predictor.load(place, threads=1)([TEXT])
    seen: set[str] = set()
    with swapping(payloads, place, pause=0) as swaps:
        for _ in range(VERIFIED):
            seen.add(Artifact.open(place).verify().digest)
        for number in range(LOADED):
            predictor = Predictor.load(place, threads=1, verify=number % 2 == 0)
            (answer,) = predictor([TEXT])
            assert (answer.label, answer.score) == (expected.label, pytest.approx(expected.score, abs=1e-6))
            seen.add(" ".join(predictor.labels(3)))
        assert swaps[0] > 10
    assert len(seen) == 4  # both versions were met in both ways


def test_where_open_files_have_no_path_the_name_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other systems than Linux: files are opened by name, and the folder must be the same before and after."""
    monkeypatch.setattr(version_module, "DESCRIPTORS", tmp_path / "nowhere")
    payloads, place = versions(tmp_path), tmp_path / "out"
    put(payloads[0], place)
    (expected,) = Predictor.load(place, threads=1)([TEXT])
    with swapping(payloads, place, pause=0.03) as swaps:
        for _ in range(LOADED):
            assert Predictor.load(place, threads=1)([TEXT])[0].label == expected.label
        while swaps[0] < 2:
            time.sleep(0.001)


def test_an_open_version_outlives_its_folder(tmp_path: Path):
    place = publish(tmp_path / "out", PAYLOAD).path

    def use(version: version_module.Version) -> bytes:
        version.hold([MANIFEST, "model.onnx"])
        shutil.rmtree(place)
        return version.open("model.onnx").read()

    assert read_version(place, use) == PAYLOAD["model.onnx"]


def test_a_fault_of_a_folder_that_stays_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = publish(tmp_path / "out", PAYLOAD).path
    (place / "config.json").write_bytes(b"[]")
    calls: list[int] = []
    real = version_module.Version.hold
    monkeypatch.setattr(version_module.Version, "hold", lambda self, names: (calls.append(1), real(self, names))[1])
    with pytest.raises(InputRefused, match=r"config\.json has changed"):
        Artifact.open(place).verify()
    assert len(calls) == 1


def test_a_folder_that_never_rests_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = publish(tmp_path / "out", PAYLOAD).path
    monkeypatch.setattr(version_module, "ATTEMPTS", 3)

    def use(version: version_module.Version) -> None:
        (place / MANIFEST).write_bytes((place / MANIFEST).read_bytes())
        os.utime(place / MANIFEST, ns=(time.monotonic_ns(),) * 2)
        version.hold([MANIFEST])

    with pytest.raises(EnvironmentFailed, match="replaced again and again") as caught:
        read_version(place, use)
    assert caught.value.hint == "wait until nobody writes it"


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, name: str, kind: str):
    place = publish(tmp_path / "out", PAYLOAD).path
    (place / name).unlink()
    make: Callable[[Path], None] = os.mkfifo if kind == "pipe" else Path.mkdir
    make(place / name)
    with pytest.raises(InputRefused, match=r"plain files only|is missing"):
        Artifact.open(place).verify()


def test_errors_of_a_model_say_its_name(tmp_path: Path):
    """Opened by its descriptor first; but nobody knows a file as /proc/self/fd/7."""
    place = tmp_path / "out"
    put(versions(tmp_path)[0], place)
    for name in ("model.onnx", "tokenizer.json"):
        (place / name).write_bytes(b"garbage")
        with pytest.raises(InputRefused) as caught:
            Predictor.load(place, threads=1)
        assert caught.value.where == str(place / name)
        assert "/proc/" not in str(caught.value)
        put(tmp_path / "0", tmp_path / "again")
        shutil.copyfile(tmp_path / "again" / name, place / name)


def test_weights_beside_the_graph_are_found(tmp_path: Path):
    payload, place = versions(tmp_path)[0], tmp_path / "out"
    put(payload, place)
    (expected,) = Predictor.load(place, threads=1)([TEXT])
    model = onnx.load(payload / "model.onnx")
    (payload / "model.onnx").unlink()
    onnx.save(model, payload / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=100)
    put(payload, place)
    assert (place / "model.onnx.data").is_file()
    (answer,) = Predictor.load(place, threads=1, verify=True)([TEXT])
    assert answer.label == expected.label
