"""Which rows ranges and choices are taken from: never those that the result is judged on.

--calibration DATA, else the train split beside the evaluation data
    └─ without rows that are judged ─ a seeded draw ─┬─ calibration rows: ranges, means, rounding
                                                     └─ held-out rows, others: choices, such as layers left in float
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from deploycomp.errors import DeploycompError
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
LOOKED_AT = 1024
"""Rows whose variety is counted: enough to know, and a second at most."""


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
        UsageError: Too many rows are those that the result is judged on, or there is no such data.
        InputRefused: No row holds a token of text.
    """
    asked = recipe.calibrate or Calibrate()
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
    return _draw(found, judged, asked, graph_predictor(recipe, model), rows=rows), ""


def _draw(found: Rows, judged: Rows | None, asked: Calibrate, predictor: Predictor, *, rows: int) -> Calibration:
    """Draw calibration and held-out rows, and look at what was drawn."""
    from deploycomp.data import unlike, variety_of, without_judged
    from deploycomp.evaluate import inputs_of

    free = without_judged(found, judged)
    picked = random.Random(SEED).sample(range(len(free)), min(len(free), (asked.rows or rows) + asked.held_out))
    count = asked.rows or min(rows, len(picked) - min(asked.held_out, int(HELD_OUT * len(picked))))
    # In the order they were drawn: who needs fewer takes the first, and data is often sorted by label.
    taken, rest = free.take(picked[:count]), free.take(picked[count:])
    rest = unlike(rest, taken)
    feeds = _Feeds(predictor, inputs_of(taken, predictor))
    special = {token for token, added in predictor.tokenizer.get_added_tokens_decoder().items() if added.special}
    seen = (each["input_ids"][0] for each in islice(feeds, LOOKED_AT))
    variety = variety_of(seen, special=special, where=found.name)
    shared = len(found) - len(free)
    facts = {
        "data": found.name,
        "split": found.split,
        "rows": len(taken),
        "digest": found.digest,
        "distinct": variety.distinct,
        "left_out": shared,
        "warnings": [*_said(found.name, shared), *variety.warnings(found.name, wanted=asked.rows or min(rows, ROWS))],
    }
    held_out = rest if len(rest) else None
    return Calibration(feeds, facts, held_out, _Feeds(predictor, inputs_of(rest, predictor)) if held_out else (), taken)


def _said(data: str, shared: int) -> list[str]:
    rows = "1 row that is" if shared == 1 else f"{shared:,} rows that are"
    return [f"{rows} judged on stood in {data} too: left out of what is learned from."] if shared else []


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


def _load(
    place: tuple[str, str | None], asked: Calibrate, evaluate: Evaluate | None, model: TorchModel, *, labeled: bool
) -> Rows:
    from deploycomp.assess import read_rows

    data, split = place
    named = asked.columns or (evaluate.columns if evaluate is not None and asked.data is None else {})
    labeled |= evaluate is not None and evaluate.max_drop is not None  # ranges need no labels, a goal does
    return read_rows(model, data, split=split, columns=named, labeled=labeled)


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
