"""The short spellings that people type, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.cli import options
from deploycomp.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, None),
        ("0.5%", 0.005),
        ("1 %", 0.01),
        (" 2.25% ", 0.0225),
        (".5%", 0.005),
        ("5.%", 0.05),
        ("0%", 0.0),
        ("100%", 1.0),
    ],
)
def test_percent(text: str | None, value: float | None):
    assert options.percent(text, "--max-drop") == value


@pytest.mark.parametrize(
    "text",
    ["0.5", "0.005", "-1%", "101%", "%", "", "half", "1e1%", "nan%", "inf%", "1,5%", "0.5%%", "0.5% of it", "٣%\n5%"],
)
def test_percent_refuses(text: str):
    with pytest.raises(UsageError, match="--max-drop takes a percentage") as caught:
        options.percent(text, "--max-drop")
    assert caught.value.where == f"--max-drop {text}"
    assert caught.value.hint == "--max-drop 0.5%"


@given(st.floats(0, 100).map(lambda value: f"{value:.6f}"))
def test_any_percentage_is_its_hundredth(text: str):
    assert options.percent(f"{text}%", "x") == float(text) / 100


@pytest.mark.parametrize(("text", "value"), [(None, None), ("1", (1,)), ("1,8", (1, 8)), ("16, 128", (16, 128))])
def test_integers(text: str | None, value: tuple[int, ...] | None):
    assert options.integers(text, "--batch-size") == value


@pytest.mark.parametrize("text", ["", ",", "1,", "0", "1,-2", "1.5", "one", "1;2", "0x8"])
def test_integers_refuse(text: str):
    with pytest.raises(UsageError, match="--batch-size takes whole numbers from 1") as caught:
        options.integers(text, "--batch-size")
    assert caught.value.where == f"--batch-size {text}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (None, {}),
        ("", {}),
        ("batch=1", {"batch": 1}),
        ("sequence=128", {"sequence": 128}),
        ("batch=1, sequence=128", {"batch": 1, "sequence": 128}),
        ("sequence=128,batch=1", {"batch": 1, "sequence": 128}),
    ],
)
def test_fixed(text: str | None, value: dict[str, int]):
    assert options.fixed(text) == value


@pytest.mark.parametrize(
    "text", ["batch", "batch=0", "batch=-1", "batch=x", "batch=1,", "length=3", "batch=1,batch=2", "batch=1 sequence=2"]
)
def test_fixed_refuses(text: str):
    with pytest.raises(UsageError, match="--fixed takes batch=N, sequence=N or both") as caught:
        options.fixed(text)
    assert caught.value.hint == "--fixed batch=1,sequence=128"


def test_columns():
    assert options.columns(None) == {}
    assert options.columns(["text=sentence", "label=a=b"]) == {"text": "sentence", "label": "a=b"}


@pytest.mark.parametrize("pair", ["text", "text=", "=sentence", "="])
def test_columns_refuse(pair: str):
    with pytest.raises(UsageError, match="--column takes OURS=THEIRS") as caught:
        options.columns([pair])
    assert caught.value.hint == "--column text=sentence"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["export", "m", "--max-drop", "0.5"], "--max-drop takes a percentage"),
        (["export", "m", "--max-drop", "0.5%"], "--max-drop needs data to judge on"),
        (["export", "m", "--split", "test", "--column", "text=a"], "--split, --column needs data to judge on"),
        (["export", "m", "--batch-size", "x"], "--batch-size takes whole numbers"),
        (["export", "m", "--threads", "0"], "--threads takes whole numbers"),
        (["export", "m", "--no-benchmark", "--threads", "1"], "contradict each other"),
        (["export", "m", "--fixed", "batch"], "--fixed takes batch=N"),
        (["export", "m", "--target", "toaster"], "'portable'"),
        (["export", "m", "--task", "chat"], "'fill-mask'"),
        (["export", "m", "--opset", "99"], "less than or equal to 26"),
        (["export", "m", "--ops", "fancy"], "'fused' or 'standard'"),
        (["export", "m", "--layout", "flat"], "'transformers.js'"),
        (["export", "m", "--external-data-bytes", "-1"], "greater than or equal to 0"),
        (["export", "m", "--int8", "--fp16"], "use either dtype fp16 or int8"),
        (["export", "m", "--keep-float", "*.dense"], "--keep-float needs an INT8 step"),
        (
            ["export", "m", "--activations", "static", "--calibration-method", "mse"],
            "--activations, --calibration-method needs an INT8 step",
        ),
        (["export", "m", "--calibration", "t.jsonl"], "--calibration needs an INT8 step"),
        (["export", "m", "--allow-random-calibration"], "--allow-random-calibration needs an INT8 step"),
        (["export", "m", "--int8", "--calibration-rows", "0"], "greater than or equal to 1"),
        (["export", "m", "--int8", "--calibration-method", "max"], "'minmax'"),
        (["export", "m", "--int8", "--activations", "float"], "'static'"),
        (["export", "m", "--recipe", "nonesuch"], "there is no such recipe"),
        (["export"], "no model was named"),
        (["evaluate", "m", "data.jsonl", "--max-drop", "1%"], "--max-drop compares with a source"),
        (["evaluate", "m", "data.jsonl", "--column", "x"], "--column takes OURS=THEIRS"),
        (["benchmark", "m", "--sequence-length", "x"], "--sequence-length takes whole numbers"),
        (["benchmark", __file__, "--block-seconds", "inf"], "finite number"),
        (["recipes", "nonesuch"], "there is no such recipe"),
    ],
)
def test_commands_refuse_with_exit_code_2(run: Callable[..., Any], arguments: list[str], reason: str):
    done = run(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert reason in done.err
    again = run(*arguments, "--json")
    assert again.code == again.json["exit_code"] == 2
    assert again.json["error"] == "UsageError"
    assert reason in json_text(again.json)
    assert again.err == ""


def json_text(error: dict[str, Any]) -> str:
    return " ".join(str(value) for value in error.values())
