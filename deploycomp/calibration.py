"""Which rows ranges and choices are taken from: never those that the result is judged on.

--calibration DATA, else the train split beside the evaluation data
    └─ a seeded draw of it ─┬─ calibration rows: ranges, means, rounding
                            └─ held-out rows: choices, such as the layers that stay in float
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploycomp.errors import DeploycompError, UsageError
from deploycomp.onnxmodel import Facts
from deploycomp.recipe import Calibrate, Evaluate, Recipe

if TYPE_CHECKING:
    import numpy as np

    from deploycomp.data import Rows
    from deploycomp.models.model import TorchModel
    from deploycomp.runtime import Predictor

__all__ = ["Calibration", "find_calibration", "graph_predictor", "training_place"]

SEED = 0
ROWS = 256
"""For ranges; pruning takes more."""
HELD_OUT = 0.25
"""Share of data that is too small for both that goes to choices."""
RANDOM_LENGTH = 32
"""Tokens of a random row: as long as an ordinary sentence."""


@dataclass(frozen=True)
class Calibration:
    """Rows to calibrate and to choose on."""

    feeds: Sequence[dict[str, np.ndarray]]
    """What the graph is fed, one row at a time at its own length; made when it is asked for."""
    facts: Facts
    """Where the rows come from, for the report."""
    held_out: Rows | None
    """Rows of the same data that calibrate nothing; None where there are none."""
    held_out_feeds: Sequence[dict[str, np.ndarray]] = ()
    """What the graph is fed for them."""
    rows: Rows | None = None
    """What `feeds` were made of; None where it is random."""


class _Feeds(Sequence[Any]):
    """Feeds of inputs, one at a time: all of them together would be held in memory for nothing."""

    def __init__(self, predictor: Predictor, inputs: list[Any]):
        self._predictor, self._inputs = predictor, inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: Any) -> Any:
        return next(self._predictor.feeds([self._inputs[index]]))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._predictor.feeds(self._inputs)


def find_calibration(
    recipe: Recipe, model: TorchModel, judged: Rows | None, *, rows: int = ROWS, labeled: bool = False
) -> tuple[Calibration | None, str]:
    """Read the calibration rows of a recipe.

    Args:
        recipe: Its `calibrate`, else the train split beside its `evaluate` data.
        model: What is calibrated.
        judged: The rows that the result will be judged on.
        rows: How many, where the recipe does not say.
        labeled: Whether every row must have a label.

    Returns:
        The rows, or None, and a sentence that says why there are none.

    Raises:
        UsageError: The rows are those that the result is judged on, or there is no such data.
    """
    from deploycomp.evaluate import inputs_of

    asked = recipe.calibrate or Calibrate()
    predictor = graph_predictor(recipe, model)
    place = training_place(recipe, judged)
    if place is None and asked.allow_random:
        return _random(recipe, model, asked.rows or rows), ""
    if place is None:
        return None, "no calibration data was given, and the evaluation data has no train split beside it"
    try:
        found = _load(place, asked, recipe.evaluate, model, labeled=labeled)
    except DeploycompError as error:
        if asked.data is not None:
            raise
        return None, f"the train split beside the evaluation data cannot be used: {error.what}"
    if judged is not None and _same(found, judged):
        raise UsageError(
            "calibration and evaluation use the same rows",
            where=found.name,
            why="what is chosen on rows cannot be judged on them",
            hint="--calibration train.jsonl",
        )
    wanted = (asked.rows or rows) + asked.held_out
    picked = random.Random(SEED).sample(range(len(found)), min(len(found), wanted))
    rows = asked.rows or min(rows, len(picked) - min(asked.held_out, int(HELD_OUT * len(picked))))
    facts = {"data": found.name, "split": found.split, "rows": min(rows, len(picked)), "digest": found.digest}
    taken = _take(found, picked[:rows])
    feeds = _Feeds(predictor, inputs_of(taken, predictor))
    if not picked[rows:]:
        return Calibration(feeds, facts, None, rows=taken), ""
    rest = _take(found, picked[rows:])
    return Calibration(feeds, facts, rest, _Feeds(predictor, inputs_of(rest, predictor)), taken), ""


def graph_predictor(recipe: Recipe, model: TorchModel) -> Predictor:
    """The source model as a `Predictor` that pads as the graph will need it: to the dimensions that it fixes."""
    from deploycomp.assess import source_predictor
    from deploycomp.runtime import Predictor

    source = source_predictor(model)
    runtime = {**source.runtime, "fixed": recipe.export.fixed.model_dump()}
    return Predictor(source.tokenizer, {**source.manifest, "runtime": runtime}, model.run)


def training_place(recipe: Recipe, judged: Rows | None) -> tuple[str, str | None] | None:
    """Return data and split that a recipe learns from, or None.

    Args:
        recipe: Its `calibrate`, else the train split beside its `evaluate` data, unless the result is judged on that.
        judged: The rows that it is judged on.
    """
    from deploycomp.data import find_training

    if recipe.calibrate is not None and recipe.calibrate.data is not None:
        return recipe.calibrate.data, recipe.calibrate.split
    evaluate = recipe.evaluate
    if evaluate is None or (judged is not None and judged.split == "train"):
        return None
    return find_training(evaluate.data)


def _same(found: Rows, judged: Rows) -> bool:
    """Whether two data sets are one: of one name and split, or of the same inputs row by row."""
    if (found.name, found.split) == (judged.name, judged.split):
        return True
    inputs = [{name: row.get(name) for name in found.rows[0]} for row in judged.rows]
    return inputs == found.rows


def _load(
    place: tuple[str, str | None], asked: Calibrate, evaluate: Evaluate | None, model: TorchModel, *, labeled: bool
) -> Rows:
    from deploycomp.assess import read_rows

    data, split = place
    named = asked.columns or (evaluate.columns if evaluate is not None and asked.data is None else {})
    labeled |= evaluate is not None and evaluate.max_drop is not None  # ranges need no labels, a goal does
    return read_rows(model, data, split=split, columns=named, labeled=labeled)


def _take(rows: Rows, indices: Sequence[int]) -> Rows:
    """Rows in the order they were drawn: who needs fewer takes the first, and data is often sorted by label."""
    from deploycomp.data import Rows

    return Rows.of(
        [rows.rows[index] for index in indices],
        task=rows.task,
        name=rows.name,
        split=rows.split,
        columns=rows.columns,
        labels=rows.labels,
        problem_type=rows.problem_type,
        available=rows.available,
    )


def _random(recipe: Recipe, model: TorchModel, rows: int) -> Calibration:
    """Random tokens: ranges of no text that anybody writes, so only where they were allowed aloud."""
    import numpy as np

    draw = np.random.default_rng(SEED)
    fixed = recipe.export.fixed
    shape = fixed.batch or 1, fixed.sequence or min(RANDOM_LENGTH, model.max_length)
    vocabulary = len(model.tokenizer)

    def row() -> dict[str, np.ndarray]:
        ids = draw.integers(0, vocabulary, shape, np.int64)
        every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return {name: every[name] for name in model.inputs}

    facts = {"data": "random tokens", "split": None, "rows": rows, "digest": None}
    return Calibration([row() for _ in range(rows)], facts, None)
