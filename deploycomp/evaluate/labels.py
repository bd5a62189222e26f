"""Labels that look permuted: the reference is worse than guessing, and another order of its labels makes it good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploycomp.errors import VerificationFailed
from deploycomp.evaluate.metrics import gold_labels
from deploycomp.evaluate.predictions import Predictions, RowsLike
from deploycomp.evaluate.statistics import SEED, mcnemar

__all__ = ["best_permutation", "check_labels"]

CHANCE = 0.1
"""Cohen's kappa below this is no better than chance: a random order still leaves a label or two in place."""

MARGIN = 0.3
"""How much higher kappa must be with the labels in another order, for that order to be believed."""

SIGNIFICANT = 0.01
"""McNemar's p-value of that gain; on a handful of rows any order may fit."""

_SHOWN = 4


def check_labels(rows: RowsLike, predictions: Predictions) -> str | None:
    """Look whether the reference's labels are those of the data.

    Args:
        rows: The rows with what is right.
        predictions: The answers of the reference; only single labels are looked at.

    Returns:
        A warning where it is less accurate than always answering the most frequent label, else None.

    Raises:
        VerificationFailed: It is no better than chance, and with its labels in another order it would be far better.
            The order is found on one half of the rows and tried on the other, so that it cannot be luck.
    """
    if predictions.kind != "label":
        return None
    gold, found = np.array(gold_labels(rows, predictions)), np.array(predictions.values)
    size = len(predictions.labels)
    accuracy = float((gold == found).mean())
    majority = float(np.bincount(gold, minlength=size).max()) / len(gold)
    numbers = f"accuracy {accuracy:.1%}, most frequent label {majority:.1%}"
    if _kappa(gold, found, size) < CHANCE and _helps(gold, found, size):
        order = best_permutation(gold, found, size)
        numbers += f"; {float((order[found] == gold).mean()):.1%} with the best matching permutation"
        raise VerificationFailed(
            "labels look permuted",
            where=rows.name,
            why=f"{numbers}: {_moves(order, found, predictions.labels)}",
            hint="put id2label of the model's config.json, or the labels of the data, in order",
        )
    if accuracy >= majority:
        return None
    return f"the reference is less accurate than always answering the most frequent label ({numbers})"


def best_permutation(gold: np.ndarray, found: np.ndarray, size: int) -> np.ndarray:
    """Return for each predicted label the one it should be, so that most rows are right (the assignment problem).

    Ties are broken towards leaving a label as it is.
    """
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((size, size))
    np.add.at(counts, (found, gold), 1.0)
    predicted, right = linear_sum_assignment(counts + 0.5 / size * np.eye(size), maximize=True)
    order = np.empty(size, np.int64)
    order[predicted] = right
    return order


def _moves(order: np.ndarray, found: np.ndarray, labels: Sequence[str]) -> str:
    """Which labels change places, of those that are predicted at all."""
    moved = [index for index in sorted(set(found.tolist())) if order[index] != index]
    pairs = [f"'{labels[index]}' means '{labels[int(order[index])]}'" for index in moved]
    return ", ".join(pairs[:_SHOWN]) + (f", … ({len(pairs)} in all)" if len(pairs) > _SHOWN else "")


def _helps(gold: np.ndarray, found: np.ndarray, size: int) -> bool:
    """Whether the order that fits one half of the rows is far better on the other, where it cannot be luck."""
    rows = np.random.default_rng(SEED).permutation(len(gold))
    fit, held = rows[::2], rows[1::2]
    if not len(held):
        return False
    order = best_permutation(gold[fit], found[fit], size)
    right, before, after = gold[held], found[held], order[found[held]]
    gain = _kappa(right, after, size) - _kappa(right, before, size)
    return gain >= MARGIN and mcnemar(after == right, before == right) <= SIGNIFICANT


def _kappa(gold: np.ndarray, found: np.ndarray, size: int) -> float:
    """Cohen's kappa: 0 for answers that know nothing of the labels, 1 for right ones."""
    shares = [np.bincount(each, minlength=size) / len(each) for each in (gold, found)]
    chance = float(shares[0] @ shares[1])
    return (float((gold == found).mean()) - chance) / (1 - chance) if chance < 1 else 0.0
