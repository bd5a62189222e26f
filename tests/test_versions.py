"""The matrix of versions: what counts as wrong in it, and that code, locks and docs tell of the same versions."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.runtime.versions import MEASURED, lowest_onnxruntime

ROOT = Path(__file__).parent.parent
HERE = ROOT / "benchmarks" / "versions"
MASKS = ("no padding", "right", "left", "holes", "a row of padding only")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """The names of a script, found as when it runs by itself."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(HERE.parent))
    return lambda name: runpy.run_path(str(HERE / f"{name}.py"))


def kind(**changed: Any) -> dict[str, Any]:
    return {"name": "FP32", "precision": "fp32", "needs": {"lowest": "1.25", "padding": "right"}, **changed}


def seen(version: str, ours: str = "answers", **words: str) -> dict[str, Any]:
    """What a venv said, by mask; underscores for spaces."""
    all_right = {mask: "right" if mask in MASKS[:2] else "refused" for mask in MASKS}
    answers = {**all_right, **{mask.replace("_", " "): word for mask, word in words.items()}}
    told = {"opened": None, "ours": ours, "expanded": {}}
    told["answers"] = {mask: {"word": word} for mask, word in answers.items()}
    return {"onnxruntime": version, "kinds": {"FP32": told}}


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (seen("1.25.1"), None),
        (seen("1.32.0", left="wrong"), "padding left: wrong"),
        (seen("1.32.0", left="right"), "padding left: right"),
        (seen("1.32.0", right="refused"), "padding right: refused"),
        (seen("1.24.4", ours="needs 1.25", right="wrong"), None),
        (seen("1.24.4"), "our runtime opens it, and the manifest asks for 1.25"),
        (seen("1.26.0", ours="needs 1.25"), "refused (needs 1.25), and the manifest promises it"),
    ],
)
def test_a_pair_is_right_or_refused(found: dict[str, Any], wrong: str | None, script: Callable[[str], dict[str, Any]]):
    said = script("run")["failures"](found, [kind()])
    if wrong is None:
        assert said == []
    else:
        assert len(said) == 1
        assert wrong in said[0]


def test_any_padding_must_be_right_where_it_is_promised(script: Callable[[str], dict[str, Any]]):
    promised = kind(needs={"lowest": "1.18", "padding": "any"})
    said = script("run")["failures"](seen("1.18.1"), [promised])
    assert [each.split(": ")[2] for each in said] == [f"padding {mask}" for mask in MASKS[2:]]


def test_what_was_measured_is_what_is_tried(script: Callable[[str], dict[str, Any]]):
    matrix = script("matrix")
    assert (*matrix["OLDER"], matrix["pins"]()["onnxruntime"]) == MEASURED
    assert matrix["DEFAULT_NEEDS"].startswith(lowest_onnxruntime(24, {"TensorScatter"}))


def test_the_newest_are_pinned_and_no_older_than_the_lock(script: Callable[[str], dict[str, Any]]):
    matrix, numbers = script("matrix"), script("run")["numbers"]
    locked = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
    )
    assert set(matrix["pins"]()) == {"onnxruntime", "tokenizers", "transformers"}
    for name, version in matrix["pins"]().items():
        assert numbers(version) >= numbers(locked[name])
    assert numbers(matrix["lowest_transformers"]()) <= numbers(locked["transformers"])


def test_the_page_tells_of_every_kind_and_version(script: Callable[[str], dict[str, Any]]):
    run, kinds = script("run"), script("make")["KINDS"]
    page = (ROOT / "docs" / "versions.md").read_text("utf-8").split(run["BEGIN"])[1].split(run["END"])[0]
    assert [name for name in kinds if f"| {name} |" not in page] == []
    assert [version for version in MEASURED if f" {version} " not in page] == []
    assert "wrong" not in page
