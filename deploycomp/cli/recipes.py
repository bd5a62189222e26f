"""From flags to the full recipe: every flag is a short way to write one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploycomp.errors import UsageError
from deploycomp.recipe import FACTOR_GOALS, PRUNE_GOALS, Gate, Recipe, find_recipes

__all__ = [
    "build_gate",
    "build_recipe",
    "compression_steps",
    "default_checkpoint",
    "default_output",
    "list_recipes",
    "read_named",
    "recipe_text",
]

Values = dict[str, Any]


def build_recipe(
    recipe: str | None,
    *,
    top: Values,
    export: Values,
    int8: bool = False,
    compression: Sequence[Values] = (),
    quantization: Values | None = None,
    calibrate: Values,
    evaluate: Values,
    benchmark: Values | None = None,
    measure: bool = True,
) -> Recipe:
    """Lay the given flags over a recipe (or over the defaults) and check the whole.

    Args:
        recipe: A file, a name, an artifact's manifest, or None.
        top: Values of the recipe itself; None means that the flag was not given.
        export: Values of its export step.
        int8: Whether an int8 step is wanted.
        compression: Torch steps to add, see `compression_steps`; one that the recipe has takes these values.
        quantization: Values of its int8 step.
        calibrate: Values of its calibration.
        evaluate: Values of its evaluation; without data they must all be absent.
        benchmark: Values of its benchmark.
        measure: False leaves the benchmark out.

    Raises:
        UsageError: Flags that contradict each other or the recipe.
    """
    data = _base(recipe)
    data.update(_given(top))
    steps: list[Values] = [dict(step) for step in data.get("steps", [{"step": "export"}])]
    for step in steps:
        if step.get("step") == "export":
            step.update(_given(export))
    if int8 and all(step.get("step") != "int8" for step in steps):
        steps.append({"step": "int8"})
    steps = _compression(steps, compression)
    _quantization(steps, _given(quantization or {}), _given(calibrate))
    data["steps"] = steps
    if _given(calibrate):
        data["calibrate"] = {**(data.get("calibrate") or {}), **_given(calibrate)}
    if export.get("dtype") == "fp16" and "target" not in data:
        data["target"] = "cuda"
    _evaluation(data, _given(evaluate))
    if not measure:
        if _given(benchmark or {}):
            raise UsageError("--no-benchmark and shapes to measure contradict each other")
        data["benchmark"] = None
    elif _given(benchmark or {}):
        data["benchmark"] = {**(data.get("benchmark") or {}), **_given(benchmark or {})}
    return Recipe.check(data, where=recipe or "command line")


_GOAL = re.compile(r"(?:(?:speed=)?(?P<speedup>[0-9.]+)x|(?P<name>[a-z]+)=(?P<value>[0-9.]+)(?P<percent>%?))")
_PRUNE = "1.5x, flops=0.6, parameters=70% or bytes=70%"
_FACTORIZE = "size=50%, ratio=3 or 1.1x"


def compression_steps(
    *,
    prune: str | None,
    recover: float | None,
    drop_layers: int | None,
    prune_vocabulary: bool,
    factorize: str | None = None,
    factorize_method: str | None = None,
) -> list[Values]:
    """Turn the compressing flags into steps, in the order that pays: vocabulary, depth, width, rank (methods.md).

    Args:
        prune: A goal: `1.5x`, `flops=0.6`, `parameters=70%` or `bytes=70%`.
        recover: Minutes of distillation after pruning.
        drop_layers: Layers to drop.
        prune_vocabulary: Whether pieces that the calibration data does not need go.
        factorize: A goal: `size=50%`, `ratio=3` or `1.1x`.
        factorize_method: How.

    Raises:
        UsageError: A goal cannot be read, or --recover or --factorize-method stands alone.
    """
    steps: list[Values] = []
    if prune_vocabulary:
        steps.append({"step": "prune_vocabulary"})
    if drop_layers is not None:
        steps.append({"step": "drop_layers", "count": drop_layers})
    if prune is not None:
        more = {} if recover is None else {"recover": recover}
        steps.append({"step": "prune", **_goal(prune, "--prune", _PRUNE, PRUNE_GOALS), **more})
    elif recover is not None:
        raise UsageError("--recover mends what pruning broke", hint="--prune 1.5x --recover 3")
    if factorize is not None:
        more = {} if factorize_method is None else {"method": factorize_method}
        steps.append({"step": "factorize", **_goal(factorize, "--factorize", _FACTORIZE, FACTOR_GOALS), **more})
    elif factorize_method is not None:
        raise UsageError("--factorize-method needs a goal", hint="--factorize size=50%")
    return steps


def _goal(text: str, option: str, hint: str, names: Sequence[str]) -> Values:
    found = _GOAL.fullmatch(text.strip())
    try:
        if found and found["speedup"]:
            return {"speedup": float(found["speedup"])}
        if found and found["name"] in names and found["name"] != "speedup":
            return {found["name"]: float(found["value"]) / (100 if found["percent"] else 1)}
    except ValueError:
        pass
    raise UsageError(f"{option} cannot be read: {text!r}", why="it names a goal", hint=f"{option} {hint}")


def _compression(steps: list[Values], wanted: Sequence[Values]) -> list[Values]:
    """Lay torch steps over those of the recipe; new ones come before the export, in the order given."""
    names = [step.get("step") for step in steps]
    for step in wanted:
        if step["step"] in names:
            place = names.index(step["step"])
            every = {*PRUNE_GOALS, *FACTOR_GOALS}
            goals = every & set(step)
            kept = {key: value for key, value in steps[place].items() if not (key in every and goals)}
            steps[place] = {**kept, **step}
    return [step for step in wanted if step["step"] not in names] + steps


def build_gate(recipe: str | None, given: Values) -> Gate:
    """Lay the given flags over the goals of a recipe, or over the defaults.

    Args:
        recipe: A file, a name, an artifact, or None.
        given: Values of `Gate`; None means that the flag was not given.

    Raises:
        UsageError: The recipe has no goals, or a value is out of range.
    """
    goals = _base(recipe).get("gate")
    if recipe is not None and goals is None:
        raise UsageError("the recipe has no `gate`", where=recipe, hint="gate: {max_slowdown: 0.05}")
    full = Recipe.check({"gate": {**(goals or {}), **_given(given)}}, where=recipe or "command line").gate
    assert full is not None
    return full


_SPELLING = {
    "activations": "--activations",
    "attention": "--attention",
    "ranges": "--calibration-method",
    "keep_float": "--keep-float",
    "data": "--calibration",
    "rows": "--calibration-rows",
    "allow_random": "--allow-random-calibration",
}


def _quantization(steps: list[Values], given: Values, calibrate: Values) -> None:
    int8 = [step for step in steps if step.get("step") == "int8"]
    learns = int8 or any(step.get("step") not in ("export", "int8") for step in steps)
    if (given and not int8) or (calibrate and not learns):
        flags = ", ".join(_SPELLING[name] for name in (*given, *calibrate))
        raise UsageError(f"{flags} needs an INT8 step", hint="--int8")
    for step in int8:
        step.update(given)


def _evaluation(data: Values, given: Values) -> None:
    if not given:
        return
    merged = {**(data.get("evaluate") or {}), **given}
    if "data" not in merged:
        flags = ", ".join(f"--{name.replace('_', '-').removesuffix('s')}" for name in given)
        raise UsageError(f"{flags} needs data to judge on", hint="--eval test.jsonl")
    data["evaluate"] = merged


def _base(recipe: str | None) -> Values:
    if recipe is None:
        return {}
    path = read_named(recipe)
    if path.name == "deploycomp.json":
        from deploycomp.artifact import Artifact

        stored = Artifact.open(path.parent).manifest.get("recipe", {})
        return Recipe.check(stored, where=str(path)).model_dump(mode="json")
    return Recipe.read(path).model_dump(mode="json", exclude_unset=True)


def read_named(recipe: str) -> Path:
    """Return the file of a recipe: a path, or a name from `find_recipes`.

    Raises:
        UsageError: There is none.
    """
    path = Path(recipe)
    if path.is_dir() and (path / "deploycomp.json").is_file():
        return path / "deploycomp.json"
    known = find_recipes()
    if path.is_file():
        return path
    if recipe in known:
        return known[recipe]
    raise UsageError(
        "there is no such recipe", where=recipe, why=f"known: {', '.join(known)}", hint="deploycomp recipes"
    )


def recipe_text(recipe: str) -> str:
    """Return a recipe as it is written, or in full what an artifact stored.

    Raises:
        UsageError: There is none, or the file is not one.
    """
    path = read_named(recipe)
    if path.name == "deploycomp.json":
        return Recipe.check(_base(recipe), where=str(path)).to_yaml()
    Recipe.read(path)
    return path.read_text(encoding="utf-8")


def list_recipes() -> dict[str, str]:
    """Return each shipped recipe with the first line that explains it."""
    return {
        name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").strip()
        for name, path in find_recipes().items()
    }


def default_output(recipe: Recipe) -> Path:
    """Name the output after the model and what it becomes: `my-model-int8`."""
    name = _model_name(recipe)
    int8 = any(step.step == "int8" for step in recipe.steps)
    return Path(f"{name}-{'int8' if int8 else recipe.export.dtype}")


def _model_name(recipe: Recipe) -> str:
    model = recipe.model or "model"
    return Path(os.path.normpath(Path(model).absolute())).name or model


def default_checkpoint(recipe: Recipe) -> Path:
    """Name a compressed checkpoint after the model: `my-model-compressed`."""
    return default_output(recipe).with_name(f"{_model_name(recipe)}-compressed")


def _given(values: Values) -> Values:
    return {name: value for name, value in values.items() if value is not None}
