from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploycomp.errors import EnvironmentFailed, InputRefused
from deploycomp.measure.candidate import Candidate
from deploycomp.measure.profile import CALLS, check_placement, summarize
from deploycomp.measure.rounds import open_bench
from deploycomp.recipe import Benchmark
from tests.measure.models import onnx_model
from tests.tiny import build

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def kernel(node: str, op: str, *, ts: int, dur: int, provider: str = CPU) -> dict[str, Any]:
    return {"name": f"{node}_kernel_time", "ts": ts, "dur": dur, "args": {"op_name": op, "provider": provider}}


def run(ts: int) -> dict[str, Any]:
    return {"name": "model_run", "ts": ts, "dur": 90}


def call(ts: int, first: int, second: int) -> list[dict[str, Any]]:
    """One run: two products and a shape."""
    return [
        run(ts),
        kernel("m1", "MatMul", ts=ts + 10, dur=first),
        kernel("m2", "MatMul", ts=ts + 20, dur=second),
        kernel("s", "Shape", ts=ts + 30, dur=20),
    ]


OTHER = [{"name": "session_initialization", "ts": 0, "dur": 5}, {"name": "m1_fence_before", "ts": 209, "dur": 1}]
EVENTS = [*OTHER, *call(100, 9000, 9000), *call(200, 35, 25), *call(300, 55, 45)]


def test_shares_leave_out_the_first_calls():
    found = summarize(EVENTS, skip=1)
    assert found["calls"] == 2
    assert found["operators"] == [
        {"name": "MatMul", "share": 0.8, "ms": 0.08},
        {"name": "Shape", "share": 0.2, "ms": 0.02},
    ]
    assert [(each["name"], each["operator"]) for each in found["nodes"]] == [
        ("m1", "MatMul"),
        ("m2", "MatMul"),
        ("s", "Shape"),
    ]
    assert found["providers"] == {CPU: 3}
    assert found["provider_shares"] == {CPU: 1.0}
    assert found["products"] == {CPU: 2}


def test_only_the_slowest_nodes_are_listed():
    assert [each["name"] for each in summarize(EVENTS, skip=1, top=1)["nodes"]] == ["m1"]


def test_a_profile_without_enough_calls_is_empty():
    found = summarize(EVENTS, skip=3)
    assert (found["calls"], found["operators"], found["providers"]) == (0, [], {})


def placed(**providers: str) -> list[dict[str, Any]]:
    """Node name → provider; the operator is the node's name."""
    short = {"cuda": CUDA, "cpu": CPU}
    kernels = [kernel(op, op, ts=110, dur=1, provider=short[where]) for op, where in providers.items()]
    return [summarize([run(100), *kernels], skip=0)]


def test_copies_are_counted():
    (found,) = placed(MemcpyFromHost="cuda", MemcpyToHost="cuda", MatMul="cuda")
    assert found["copies"] == {"device_to_host": 1, "host_to_device": 1}


def test_the_share_of_nodes_on_each_provider():
    (found,) = placed(MatMul="cuda", Add="cuda", Mul="cuda", Shape="cpu")
    assert found["provider_shares"] == {CPU: 0.25, CUDA: 0.75}


def test_shapes_on_the_cpu_are_no_fall_back():
    check_placement(placed(MatMul="cuda", FusedGemm="cuda", Shape="cpu", Gather="cpu"), CUDA, who="a")


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ({"MatMul": "cuda", "MatMulInteger": "cpu", "Add": "cuda", "Mul": "cuda"}, "1 of 2 matrix products"),
        ({"MatMul": "cpu", "Gather": "cpu"}, "1 of 1 matrix products"),
        ({"Gather": "cpu"}, "1 of 1 nodes"),
    ],
)
def test_products_on_the_cpu_are_a_fall_back(nodes: dict[str, str], what: str):
    with pytest.raises(EnvironmentFailed, match=f"'a' falls back from {CUDA}: {what} run elsewhere") as caught:
        check_placement(placed(**nodes), CUDA, who="a")
    share = sum(each == "cpu" for each in nodes.values()) / len(nodes)
    assert f"{CPU} {share:.0%}" in str(caught.value.why)


def settings(**changes: Any) -> Benchmark:
    return Benchmark(
        **{"batch_size": (1,), "sequence_length": (4, 8), "threads": (1,), "block_seconds": 0.02, **changes}
    )


def test_a_graph_is_profiled_in_a_child_at_every_shape_it_takes(tmp_path: Path):
    bench = open_bench([Candidate("a", "onnx", onnx_model(tmp_path, shape=(1, 8)))], settings())
    (found,) = bench.profile("a", threads=1)
    assert (found["sequence_length"], found["calls"]) == (8, CALLS)
    assert {each["name"] for each in found["operators"]} == {"Gather", "Cast", "Unsqueeze", "Mul"}
    assert sum(each["share"] for each in found["operators"]) == pytest.approx(1)
    assert found["providers"] == {CPU: 4}


def test_pytorch_is_not_profiled(tmp_path: Path):
    bench = open_bench([Candidate("a", "torch", build(tmp_path / "m", "bert", "text-classification"))], settings())
    with pytest.raises(InputRefused, match="only ONNX graphs are profiled"):
        bench.profile("a", threads=1)


def test_a_provider_that_is_not_here_is_refused_before_anything_is_timed(tmp_path: Path):
    from deploycomp.runtime import providers_available

    if CUDA in providers_available():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EnvironmentFailed, match=r"this ONNX Runtime, [\d.]+, has no CUDAExecutionProvider"):
        open_bench([Candidate("a", "onnx", onnx_model(tmp_path), provider="cuda")], settings())
