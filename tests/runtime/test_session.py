from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError
from deploycomp.runtime import session
from deploycomp.runtime.versions import version_hint
from tests.runtime.graphs import onnx_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model("text-classification"), path)
    return path


def _one_node(path: Path, op: str, kind: int, domain: str = "") -> Path:
    values = [helper.make_tensor_value_info(name, kind, [2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name="mine", domain=domain)], "g", values[:1], values[1:]
    )
    imports = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def test_a_session_has_the_options_that_were_asked_for(model: Path):
    opened = session.open_session(model, threads=1, spinning=False, config={"session.x64quantprecision": "1"})
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.inter_op_num_threads == 1
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.log_severity_level == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert opened.get_providers() == ["CPUExecutionProvider"]


def test_threads_come_from_the_machine_by_default(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "default_threads", lambda: 3)
    assert session.open_session(model).get_session_options().intra_op_num_threads == 3


def test_the_config_overrules_spinning(model: Path):
    opened = session.open_session(model, threads=1, config={"session.intra_op.allow_spinning": "0"})
    assert opened.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2"])
def test_no_whole_number_of_threads_is_refused(model: Path, threads: Any):
    with pytest.raises(UsageError, match=f"threads is a whole number of at least one, not {threads!r}"):
        session.open_session(model, threads=threads)


def test_one_provider_is_a_list_of_one(model: Path):
    with pytest.raises(UsageError, match="providers is a list of names") as caught:
        session.open_session(model, threads=1, providers="CPUExecutionProvider")
    assert caught.value.hint == "providers=['CPUExecutionProvider']"


def test_a_missing_kernel_names_operator_and_node(tmp_path: Path):
    path = _one_node(tmp_path / "m.onnx", "Sigmoid", TensorProto.BFLOAT16)
    with pytest.raises(EnvironmentFailed, match="no kernel for Sigmoid on CPUExecutionProvider") as caught:
        session.open_session(path)
    assert "node 'mine'" in str(caught.value.where)
    assert "Could not find an implementation" in str(caught.value.why)


def test_a_graph_that_is_newer_than_the_runtime_says_what_to_type(tmp_path: Path):
    path = _one_node(tmp_path / "m.onnx", "Sigmoid", TensorProto.FLOAT)
    graph = onnx.load(path)
    graph.opset_import[0].version = 99
    onnx.save(graph, path)
    with pytest.raises(InputRefused, match="refuses the model") as caught:
        session.open_session(path)
    assert "or export with --opset 18" in str(caught.value.hint)


def test_an_invalid_graph_is_refused(tmp_path: Path):
    path = _one_node(tmp_path / "m.onnx", "Sigmoid", TensorProto.INT8)
    with pytest.raises(InputRefused, match="refuses the model") as caught:
        session.open_session(path)
    assert "Type 'tensor(int8)'" in str(caught.value.why)


@pytest.mark.parametrize("domain", ["", "nowhere"])
def test_an_unknown_operator_hints_at_the_version(tmp_path: Path, domain: str):
    path = _one_node(tmp_path / "m.onnx", "FooBar", TensorProto.FLOAT, domain)
    with pytest.raises(InputRefused, match="refuses the model") as caught:
        session.open_session(path)
    assert ort.__version__ in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"", b"this is not a model" * 9])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputRefused, match="refuses the model"):
        session.open_session(tmp_path / "m.onnx")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(InputRefused, match="model file is missing"):
        session.open_session(tmp_path / "m.onnx")


def test_missing_external_data_is_named(tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(onnx_model("fill-mask"), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    session.open_session(path, threads=1)
    (tmp_path / "model.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(InputRefused, match="weights file of the model is missing") as caught:
        session.open_session(path, threads=1)
    assert caught.value.where == str(tmp_path / "model.onnx.data")
    assert "beside model.onnx" in str(caught.value.hint)
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(InputRefused, match="does not hold what the graph says") as caught:
        session.open_session(path, threads=1)
    assert "the file has 5" in str(caught.value.why)


def test_a_provider_that_is_not_there_is_an_error_and_not_a_fallback(model: Path, capfd: pytest.CaptureFixture[str]):
    if "CUDAExecutionProvider" in session.providers_available():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EnvironmentFailed, match="no CUDAExecutionProvider") as caught:
        session.open_session(model, providers=["CUDAExecutionProvider"])
    assert "CPUExecutionProvider" in str(caught.value.why)
    assert "onnxruntime-gpu" in str(caught.value.hint)
    with pytest.raises(EnvironmentFailed, match="no Cuda"):
        session.open_session(model, providers=["Cuda", "CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")


class _Fallback:
    """What ONNX Runtime gives when a GPU provider is built in but the driver is missing."""

    def __init__(self, *args, **kwargs):
        assert kwargs["enable_fallback"] == 0

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_silent_fallback_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(session, "providers_available", lambda: ("CUDAExecutionProvider", "CPUExecutionProvider"))
    monkeypatch.setattr(ort, "InferenceSession", _Fallback)
    with pytest.raises(EnvironmentFailed, match=r"CUDAExecutionProvider did not start, .* CPUExecutionProvider"):
        session.open_session(model, providers=["CUDAExecutionProvider"])


@pytest.mark.parametrize(
    ("message", "kind", "what"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation: std::bad_alloc",
            EnvironmentFailed,
            "memory ran out",
        ),
        ("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for 8 GB", EnvironmentFailed, "memory ran out"),
        ("CUDA failure 35: driver too old", EnvironmentFailed, "CUDAExecutionProvider failed"),
        ("[ONNXRuntimeError] : 11 : EP_FAIL : lost device", EnvironmentFailed, "CUDAExecutionProvider failed"),
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : odd", InputRefused, "refuses the model"),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : something new", EnvironmentFailed, "no kernel for an operator"),
    ],
)
def test_messages_of_onnxruntime_are_sorted(message: str, kind: type, what: str):
    error = session._translate(RuntimeError(message), model=Path("m.onnx"), providers=["CUDAExecutionProvider"])
    assert type(error) is kind
    assert what in error.what


def test_errors_of_a_run_are_ours(model: Path):
    run = session.runner(session.open_session(model, threads=1), model=model)
    feeds = {name: np.ones((1, 3), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    assert run(feeds, ("logits",))[0].shape == (1, 3)
    with pytest.raises(InputRefused, match="refuses the model"):
        run({**feeds, "input_ids": np.ones((1, 3), dtype=np.float32)}, ("logits",))


# ------------------------------------------------------------ versions


def _relu(path: Path, opset: int, ir_version: int, op: str = "Relu", domain: str = "") -> Path:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"], domain=domain)], "g", [x], [y])
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version), path)
    return path


@pytest.mark.parametrize(
    ("opset", "ir_version", "op", "domain", "hint"),
    [
        (99, 10, "Relu", "", "does not know opset 99: pip install --upgrade onnxruntime, or export with --opset 18"),
        (18, 99, "Relu", "", "does not know IR version 99: pip install --upgrade onnxruntime"),
        (18, 10, "Nonesuch", "", "a newer one may know the operator: pip install --upgrade onnxruntime"),
        (18, 10, "Nonesuch", "com.microsoft", "a newer one may know the operator: pip install --upgrade onnxruntime"),
    ],
)
def test_a_graph_of_another_time_names_the_version_found(
    tmp_path: Path, opset: int, ir_version: int, op: str, domain: str, hint: str
):
    with pytest.raises(InputRefused, match="ONNX Runtime refuses the model") as caught:
        session.open_session(_relu(tmp_path / "m.onnx", opset, ir_version, op, domain), threads=1)
    assert f"onnxruntime {ort.__version__}" in str(caught.value.hint)
    assert str(caught.value.hint).endswith(hint)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Opset 26 is under development", "this is onnxruntime 1.20.1, opset 26 needs 1.25"),
        (
            "Opset 23 is under development",
            'opset 23 needs 1.23: pip install "onnxruntime>=1.23", or export',
        ),
        (
            "Unsupported model IR version: 11, max supported",
            'IR version 11 needs 1.22: pip install "onnxruntime>=1.22"',
        ),
    ],
)
def test_the_version_that_is_needed_is_named(said: str, hint: str):
    """As ONNX Runtime 1.20 says it, which is not here."""
    assert hint in str(version_hint(said, found="1.20.1"))
    assert version_hint("something else", found="1.20.1") is None
