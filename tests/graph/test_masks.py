"""Attention that is told how many tokens are real: right padding is exact, and any other mask is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploycomp.errors import InputRefused
from deploycomp.export.emit import ATTENTION_OPSET
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.recipe import Export, Recipe
from deploycomp.runtime.session import open_session, runner
from tests import tiny
from tests.export.test_export import run_steps

LENGTH = 12
RIGHT = {
    "all real": [[1] * LENGTH, [1] * LENGTH],
    "padded on the right": [[1] * LENGTH, [1] * 5 + [0] * 7],
    "one token": [[1] + [0] * 11, [1] * LENGTH],
}
OTHER = {
    "a hole": [[1] * LENGTH, [1] * 4 + [0] + [1] * 7],
    "padded on the left": [[1] * LENGTH, [0] * 7 + [1] * 5],
    "padded on both sides": [[0] + [1] * 5 + [0] * 6, [1] * LENGTH],
    "the last token alone": [[0] * 11 + [1], [1] * LENGTH],
}


class Exported:
    """A tiny encoder that answers for every token, in PyTorch and as a graph."""

    def __init__(self, folder: Path, opset: int | None):
        self.source = load(resolve(str(tiny.build(folder / "model", "bert", "token-classification"))))
        onnx, _, context = run_steps(self.source, Recipe(steps=(Export(opset=opset),)), folder / "work")
        self.guard = next((node.name for node in onnx.model.graph if node.op_type == "TensorScatter"), None)
        self.operators = Counter(node.op_type for node in onnx.model.graph)
        path = context.path("export")
        self._run = runner(open_session(path, threads=1), model=path)
        self.source = load(resolve(str(folder / "model")))  # exporting lets go of the weights

    def feeds(self, mask: list[list[int]]) -> dict[str, Any]:
        ids = np.random.default_rng(0).integers(5, 100, (2, LENGTH))
        return {"input_ids": ids, "attention_mask": np.array(mask), "token_type_ids": np.zeros_like(ids)}

    def answer(self, mask: list[list[int]]) -> np.ndarray:
        return self._run(self.feeds(mask), ("logits",))[0]

    def expected(self, mask: list[list[int]]) -> np.ndarray:
        return self.source.run(self.feeds(mask), ("logits",))[0]


@pytest.fixture(scope="module")
def newest(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("newest"), None)


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("oldest"), 18)


def agree(exported: Exported, mask: list[list[int]]) -> None:
    real = np.array(mask, dtype=bool)
    np.testing.assert_allclose(exported.answer(mask)[real], exported.expected(mask)[real], rtol=1e-4, atol=1e-5)


def test_the_default_opset_has_attention_of_its_own(newest: Exported):
    assert Recipe().opset >= ATTENTION_OPSET
    assert (newest.operators["Attention"], newest.operators["MultiHeadAttention"]) == (tiny.LAYERS, 0)


def test_an_older_opset_has_attention_that_every_runtime_answers_rightly(oldest: Exported):
    assert (oldest.operators["Attention"], oldest.operators["MultiHeadAttention"]) == (0, 0)
    assert oldest.operators["Softmax"] == tiny.LAYERS


@pytest.mark.parametrize("mask", RIGHT.values(), ids=RIGHT)
def test_real_tokens_first_are_answered_as_by_the_source(newest: Exported, mask: list[list[int]]):
    agree(newest, mask)


@pytest.mark.parametrize("mask", OTHER.values(), ids=OTHER)
def test_any_other_mask_is_refused_rather_than_answered_wrongly(newest: Exported, mask: list[list[int]]):
    with pytest.raises(InputRefused, match="takes padding on the right only") as caught:
        newest.answer(mask)
    assert caught.value.hint == "pad on the right, or export with --opset 18: that takes any attention_mask"


def test_a_row_of_padding_alone_is_refused(newest: Exported):
    with pytest.raises(InputRefused, match="takes padding on the right only"):
        newest.answer([[1] * LENGTH, [0] * LENGTH])


def test_a_row_of_padding_alone_changes_no_other_row(oldest: Exported):
    """Its own answer means nothing: PyTorch's two attentions differ on it."""
    mask = [[1] * LENGTH, [0] * LENGTH]
    got = oldest.answer(mask)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0], oldest.expected(mask)[0], rtol=1e-4, atol=1e-5)


def test_the_guard_is_an_operator_of_its_own(newest: Exported):
    """Where Attention is expanded into a function, no kernel checks the number."""
    assert newest.operators["TensorScatter"] == 1
    assert newest.guard == "padding_must_be_on_the_right"


@pytest.mark.parametrize("mask", {**RIGHT, **OTHER}.values(), ids={**RIGHT, **OTHER})
def test_an_older_opset_takes_any_mask(oldest: Exported, mask: list[list[int]]):
    agree(oldest, mask)
