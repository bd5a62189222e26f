"""`deploycomp compress` and the compressing flags of `export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploycomp.cli.recipes import compression_steps
from deploycomp.errors import UsageError
from tests import tiny
from tests.cli import made

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("1.5x", {"speedup": 1.5}),
        ("2x", {"speedup": 2.0}),
        ("flops=0.6", {"flops": 0.6}),
        ("parameters=70%", {"parameters": 0.7}),
        ("bytes=60%", {"bytes": 0.6}),
    ],
)
def test_goals_in_one_word(text: str, goal: dict[str, float]):
    assert compression_steps(prune=text, recover=None, drop_layers=None, prune_vocabulary=False) == [
        {"step": "prune", **goal}
    ]


@pytest.mark.parametrize("text", ["fast", "1.5", "x", "flops", "flops=", "1..5x", "megabytes=5"])
def test_what_is_no_goal_is_refused(text: str):
    with pytest.raises(UsageError, match="--prune cannot be read"):
        compression_steps(prune=text, recover=None, drop_layers=None, prune_vocabulary=False)


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("size=50%", {"size": 0.5}),
        ("size=0.4", {"size": 0.4}),
        ("ratio=3", {"ratio": 3.0}),
        ("1.1x", {"speedup": 1.1}),
        ("speed=1.2x", {"speedup": 1.2}),
    ],
)
def test_goals_of_factorization_in_one_word(text: str, goal: dict[str, float]):
    given = {"prune": None, "recover": None, "drop_layers": None, "prune_vocabulary": False}
    assert compression_steps(**given, factorize=text) == [{"step": "factorize", **goal}]
    with_method = compression_steps(**given, factorize=text, factorize_method="svd")
    assert with_method == [{"step": "factorize", **goal, "method": "svd"}]


@pytest.mark.parametrize("text", ["half", "50%", "size", "flops=0.6", "speedup=1.1", "ratio="])
def test_what_is_no_goal_of_factorization_is_refused(text: str):
    with pytest.raises(UsageError, match="--factorize cannot be read"):
        compression_steps(prune=None, recover=None, drop_layers=None, prune_vocabulary=False, factorize=text)


def test_a_method_without_a_goal_is_refused():
    with pytest.raises(UsageError, match="--factorize-method needs a goal"):
        compression_steps(prune=None, recover=None, drop_layers=None, prune_vocabulary=False, factorize_method="svd")


def test_factorization_comes_last():
    steps = compression_steps(prune="2x", recover=None, drop_layers=1, prune_vocabulary=True, factorize="size=50%")
    assert [step["step"] for step in steps] == ["prune_vocabulary", "drop_layers", "prune", "factorize"]


def test_recovery_alone_is_refused():
    with pytest.raises(UsageError, match="--recover mends what pruning broke"):
        compression_steps(prune=None, recover=3.0, drop_layers=None, prune_vocabulary=False)


def test_steps_stand_in_the_order_that_pays():
    steps = compression_steps(prune="1.5x", recover=3.0, drop_layers=2, prune_vocabulary=True)
    assert [step["step"] for step in steps] == ["prune_vocabulary", "drop_layers", "prune"]
    assert steps[-1]["recover"] == 3.0


def test_export_writes_the_step_into_its_recipe(run: Run):
    done = run("export", made.model(), "--int8", "--prune", "1.5x", "--dry-run", "--json")
    assert [step["step"] for step in done.json["steps"]] == ["prune", "export", "int8"]
    assert done.json["steps"][0]["speedup"] == 1.5


def test_a_goal_on_the_command_line_replaces_the_recipes(run: Run, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nsteps:\n  - {step: prune, speedup: 2.0, rounds: 7}\n  - {step: export}\n")
    done = run("compress", made.model(), "--recipe", recipe, "--prune", "flops=0.5", "--dry-run", "--json")
    step = done.json["steps"][0]
    assert (step["speedup"], step["flops"], step["rounds"]) == (None, 0.5, 7)


def test_compress_tells_what_is_left(run: Run, tmp_path: Path):
    rows = made.write_rows(tmp_path / "train.jsonl", [{"text": text} for text in tiny.texts(80)])
    done = run(
        "compress", made.model(), "--prune", "flops=0.6", "--calibration", rows, "--calibration-rows", "50",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert "parameters →" in lines[0]
    assert sum(line.startswith("  layer ") for line in lines) == tiny.LAYERS
    assert lines[-1] == f"written: {tmp_path / 'out'}"
    again = run("compress", made.model(), "--prune", "flops=0.6", "--calibration", rows, "-o", tmp_path / "out")
    assert again.code == 2
    assert "the output exists" in again.err
    shown = run("inspect", tmp_path / "out")
    assert sum("heads █" in line for line in shown.out.splitlines()) == tiny.LAYERS


def test_compress_without_a_step_says_what_to_type(run: Run):
    done = run("compress", made.model())
    assert done.code == 2
    assert "--prune 1.5x" in done.err
