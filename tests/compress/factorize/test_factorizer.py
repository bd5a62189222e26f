"""A whole model in factors: what is asked for is what is stored, and of two ways the better one is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploycomp.compress.factorize.factorize import Factorizer
from deploycomp.models import resolve
from deploycomp.models.load import load
from deploycomp.recipe import Factorize
from tests import tiny
from tests.compress.test_batches import batches_of

SHARE = 0.6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Factorizer:
    folder = tiny.build(tmp_path_factory.mktemp("factorizer") / "bert", "bert", "text-classification")
    return factorizer(folder)


def factorizer(folder: Path, progress: Any = lambda _message, _share: None, **options: Any) -> Factorizer:
    model = load(resolve(folder))
    rows = [batches_of(model, count, seed=seed) for seed, count in ((1, 60), (2, 30))]
    config = Factorize.model_validate({"size": SHARE, "matrices": ["query", "key", "value", "ffn_in"], **options})
    return Factorizer(model, config, *rows, progress)


def test_the_budget_is_kept(made: Factorizer):
    student = made.run(made.requests(int(SHARE * made.whole)))
    stored = made.whole - (made.source.parameters - student.parameters)
    assert 0.5 * SHARE < stored / made.whole <= SHARE


@pytest.mark.parametrize("better", [False, True])
def test_what_held_out_rows_prefer_is_kept(made: Factorizer, better: bool, monkeypatch: pytest.MonkeyPatch):
    requests = made.requests(int(SHARE * made.whole))
    passes: list[tuple[bool, Any]] = []
    real = Factorizer._pass  # pyright: ignore[reportPrivateUsage]

    def seen(self: Factorizer, *arguments: Any, fitted: bool, **options: Any) -> Any:
        student = real(self, *arguments, fitted=fitted, **options)
        passes.append((fitted, student))
        return student

    monkeypatch.setattr(Factorizer, "_pass", seen)
    monkeypatch.setattr(Factorizer, "divergence", lambda _, student: float(student is not passes[better][1]))
    chosen = made.run(requests)
    assert [fitted for fitted, _ in passes] == [False, True]
    assert chosen is passes[int(better)][1]


def test_auto_is_no_worse_than_kfac(made: Factorizer):
    requests = made.requests(int(SHARE * made.whole))
    plain = factorizer(made.source.source.path, method="kfac").run(requests)
    assert made.divergence(made.run(requests)) <= made.divergence(plain)


def test_the_bar_never_goes_back(tmp_path: Path):
    shares: list[float] = []
    folder = tiny.build(tmp_path / "bert", "bert", "text-classification")
    some = factorizer(folder, lambda _message, share: shares.append(share))
    some.run(some.requests(int(SHARE * some.whole)))
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0
