from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploycomp.measure import engines, worker
from deploycomp.measure.benchmark import Candidate, benchmark
from deploycomp.measure.candidate import examine
from deploycomp.measure.device import Program, bind, device_times, onnx_program, time_on_device, torch_program
from deploycomp.recipe import Benchmark
from deploycomp.runtime import providers_available
from tests.measure.models import onnx_model
from tests.tiny import build

CUDA = "CUDAExecutionProvider"
MS = 1_000_000


class Cuda:
    """torch.cuda with a stream that finishes nothing before somebody waits for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.stream = 0  # PyTorch's default

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 1

    def Stream(self) -> int:
        return 4711

    def set_stream(self, stream: int) -> None:
        self.stream = stream

    def current_stream(self) -> Any:
        return SimpleNamespace(cuda_stream=self.stream)

    def synchronize(self) -> None:
        self.log.append("wait")

    def Event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        return Event(self)

    def program(self) -> Program:
        """Batches are milliseconds on the device."""

        def launch(batch: Any) -> None:
            self.log.append("launch")
            self.now += batch

        return Program(lambda batch: batch, launch)


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def record(self) -> None:
        self.at = self.cuda.now

    def elapsed_time(self, end: Event) -> float:
        assert self.cuda.log[-1] == "wait", "CUDA refuses to read an event that has not passed"
        return end.at - self.at


def fake(cuda: Any) -> Any:
    return SimpleNamespace(cuda=cuda, __version__="9.9")


# ------------------------------------------------------------ events


def test_each_call_has_the_time_between_its_events_and_nothing_waits_between():
    cuda = Cuda()
    found = time_on_device(cuda.program(), [2.0, 3.5], 0.0, cuda=cuda, cycle=2)
    assert found == [2 * MS, 3.5 * MS, 2 * MS, 3.5 * MS]  # three calls at least, whole cycles only
    assert cuda.log == ["launch"] * 2 + ["wait"] + ["launch"] * 4 + ["wait"]


def test_every_cell_is_timed_on_a_program_that_is_opened_once():
    cuda, opened = Cuda(), []

    def program(torch: Any) -> Program:
        opened.append(torch)
        return cuda.program()

    found = device_times(program, [[1.0], [4.0, 6.0]], 0.0, whole=True, torch=fake(cuda))
    assert [each["device_ns"] for each in found] == [[MS] * 3, [4 * MS, 6 * MS] * 2]
    assert [each["device_note"] for each in found] == [None, None]
    assert len(opened) == 1


def test_a_pytorch_without_cuda_says_so():
    cuda = SimpleNamespace(is_available=lambda: False)
    found = device_times(Cuda().program, [[1.0], [2.0]], 0.0, torch=fake(cuda))  # type: ignore[arg-type]
    note = "torch 9.9 sees no CUDA device, and the time on one is told by its events"
    assert found == [{"device_ns": None, "device_note": note}] * 2


def test_a_device_that_fails_leaves_a_note_in_place_of_its_times():
    def fail(torch: Any) -> Program:
        raise RuntimeError("CUDA out of memory")

    found = device_times(fail, [[1.0]], 0.0, torch=fake(Cuda()))
    assert found == [{"device_ns": None, "device_note": "RuntimeError: CUDA out of memory"}]


# ------------------------------------------------------------ programs


def test_a_session_runs_on_the_stream_that_pytorch_records_its_events_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: dict[str, Any] = {}
    session = SimpleNamespace(
        get_inputs=list,
        get_outputs=list,
        set_providers=lambda names, options: said.update(names=names, options=options),
        run_with_iobinding=lambda binding, options: said.update(binding=binding, run=options),
    )
    monkeypatch.setattr("deploycomp.runtime.session.open_session", lambda model, **asked: session)
    cuda = Cuda()
    request = examine(Candidate("a", "onnx", onnx_model(tmp_path), provider="cuda")).request()
    program = onnx_program({**request, "threads": 1}, fake(cuda))
    assert said["names"] == [CUDA, "CPUExecutionProvider"]
    assert said["options"] == [{"device_id": "1", "user_compute_stream": "4711"}, {}]
    assert cuda.stream == 4711 != 0  # ONNX Runtime takes 0 for none
    program.launch(("binding", []))
    assert said["binding"] == "binding"
    assert said["run"].get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_a_bound_session_answers_as_a_plain_one(tmp_path: Path):
    """On the CPU, whose memory ONNX Runtime and PyTorch share as well."""
    torch = pytest.importorskip("torch")
    import onnxruntime as ort

    session = ort.InferenceSession(str(onnx_model(tmp_path)), providers=["CPUExecutionProvider"])
    program = bind(session, torch=torch, device=("cpu", 0))
    batches = [
        {"input_ids": np.full(shape, token), "attention_mask": np.ones(shape, np.int64)}
        for shape, token in (((2, 3), 5), ((1, 4), 9))
    ]
    placed = [program.place(batch) for batch in batches]
    for _ in range(2):
        for batch, each in zip(batches, placed, strict=True):
            program.launch(each)
            (expected,) = session.run(None, batch)
            (got,) = each[0].copy_outputs_to_cpu()
            assert np.array_equal(expected, got)
            held = [tensor.tolist() for tensor in each[1]]  # a binding holds addresses, and no memory
            assert held == [batch["input_ids"].tolist(), batch["attention_mask"].tolist()]


def test_a_pytorch_model_gets_its_inputs_on_the_device_in_its_order():
    modes: list[str] = []
    tensor = lambda value: SimpleNamespace(to=lambda where: f"{value}@{where}")  # noqa: E731

    @contextlib.contextmanager
    def inference_mode():
        modes.append("in")
        yield
        modes.append("out")

    torch = SimpleNamespace(from_numpy=tensor, inference_mode=inference_mode)
    seen: list[Any] = []
    program = torch_program(lambda *args: seen.append((args, list(modes))), ("b", "a"), torch)
    program.launch(program.place({"a": 1, "b": 2}))  # type: ignore[dict-item]
    assert seen == [(("2@cuda", "1@cuda"), ["in"])]


# ------------------------------------------------------------ in the child


def asked(model: Path) -> dict[str, Any]:
    subject = examine(Candidate("a", "onnx", model)).request()
    cpus = sorted(os.sched_getaffinity(0))
    return {**subject, "threads": 1, "cpus": cpus, "cells": [[1, 4], [2, 4]], "block_seconds": 0.01}


def opener(program: Callable[[Any], Program]) -> Callable[[dict[str, Any]], engines.Engine]:
    plain = engines.open_engine
    return lambda request: plain(request)._replace(program=program)


def test_a_child_adds_the_times_to_its_cells_after_its_memory_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []

    def times(opened: Any, pools: Any, seconds: float, *, whole: bool) -> list[dict[str, Any]]:
        order.append("device")
        assert [batches[0]["input_ids"].shape for batches in pools] == [(1, 4), (2, 4)]
        assert (seconds, whole) == (0.01, False)
        return [{"device_ns": [MS], "device_note": None}] * 2

    memory = worker.memory
    monkeypatch.setattr(worker, "memory", lambda: order.append("memory") or memory())
    monkeypatch.setattr("deploycomp.measure.device.device_times", times)
    monkeypatch.setattr(engines, "open_engine", opener(lambda torch: Cuda().program()))
    answer = worker.measure(asked(onnx_model(tmp_path)))
    assert order == ["memory", "device"]
    assert [cell["device_ns"] for cell in answer["cells"]] == [[MS], [MS]]
    assert all(cell["samples_ns"] for cell in answer["cells"])


def test_a_candidate_on_the_cpu_has_no_time_on_a_device(tmp_path: Path):
    assert engines.open_engine(asked(onnx_model(tmp_path))).program is None
    assert all("device_ns" not in cell for cell in worker.measure(asked(onnx_model(tmp_path)))["cells"])


# ------------------------------------------------------------ on a real device


def needs_cuda(*, session: bool) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    if session and CUDA not in providers_available():
        pytest.skip("this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu")


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_the_time_on_a_real_device(kind: Any, tmp_path: Path):
    needs_cuda(session=kind == "onnx")
    path = onnx_model(tmp_path) if kind == "onnx" else build(tmp_path / "m", "bert", "text-classification")
    settings = Benchmark(batch_size=(2,), sequence_length=(8,), threads=(1,), blocks=3, block_seconds=0.05)
    found = benchmark([Candidate("a", kind, path, provider="cuda")], settings, samples=True)
    (cell,) = found["cells"]
    assert cell["device_note"] is None
    assert 0 < cell["device_p50_ms"] < 10 * cell["p50_ms"]
    assert cell["intervals"]["device_p50_ms"][0] <= cell["device_p50_ms"] <= cell["intervals"]["device_p50_ms"][1]
    assert len(cell["block_device_ns"]) == 3
    if kind == "onnx":
        assert CUDA in found["context"]["children"]["a"]["placement"][0]["provider_shares"]
