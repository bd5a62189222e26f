"""What is kept when variants are measured: decisions on given milliseconds, never on this machine's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploycomp import tuning
from deploycomp.measure.candidate import Candidate
from deploycomp.recipe import Benchmark
from deploycomp.tuning import SESSION_OPTIONS, Tuned, tune

GRAPHS = {name: Path(name) for name in ("static", "dynamic", "=fp32")}
NOISE = (1.0, 1.01, 0.99, 1.005, 0.995, 1.0)
"""What each round adds, alike for all candidates of a round."""

Measured = Callable[..., list[list[Candidate]]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Give every candidate its milliseconds, by name (1 where none is given); returns who was measured, each time."""

    def install(*, jitter: float = 0.0, **milliseconds: float) -> list[list[Candidate]]:
        asked: list[list[Candidate]] = []

        def fake(candidates: Sequence[Candidate], settings: Benchmark, **_: Any) -> dict[str, Any]:
            asked.append(list(candidates))
            return {"cells": [_cell(each.name, settings, milliseconds, jitter) for each in candidates]}

        monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", fake)
        return asked

    return install


def _cell(name: str, settings: Benchmark, milliseconds: dict[str, float], jitter: float) -> dict[str, Any]:
    speed = milliseconds.get(name.strip("=").replace(" ", "_"), 1.0)
    signs = (1, -1) * 3 if name != "static" else (-1, 1) * 3
    assert settings.blocks == len(NOISE)
    blocks = [speed * noise * (1 + jitter * sign) for noise, sign in zip(NOISE, signs, strict=True)]
    return {"candidate": name, "threads": 1, "batch_size": 1, "sequence_length": 8, "p50_ms": speed,
            "block_p50_ms": blocks}  # fmt: skip


def row(tuned: Tuned, name: str) -> dict[str, Any]:
    return next(each for each in tuned.facts["variants"] if each["name"] == name and each["what"] == "graph")


def test_the_default_stays_where_nothing_is_faster(measured: Measured):
    measured(dynamic=1.2)
    tuned = tune(GRAPHS, Benchmark())
    assert (tuned.graph, tuned.session) == ("static", {})
    assert row(tuned, "static")["why"] == "kept"
    assert row(tuned, "dynamic")["why"].startswith("not clearly faster: 1.20 of the default's time")


def test_less_than_a_percent_changes_nothing(measured: Measured):
    measured(dynamic=0.995)
    assert tune(GRAPHS, Benchmark()).graph == "static"


def test_a_gain_within_the_noise_changes_nothing(measured: Measured):
    measured(dynamic=0.97, jitter=0.2)
    tuned = tune(GRAPHS, Benchmark())
    assert tuned.graph == "static"
    assert row(tuned, "dynamic")["high"] > 1


def test_a_clearly_faster_variant_is_kept_and_the_others_have_reasons(measured: Measured):
    measured(dynamic=0.8, third=0.9, fp32=3.0)
    tuned = tune({**GRAPHS, "third": Path("third")}, Benchmark())
    assert tuned.graph == tuned.facts["kept"] == "dynamic"
    assert row(tuned, "dynamic")["kept"] is True
    assert row(tuned, "dynamic")["ratio"] == pytest.approx(0.8)
    assert row(tuned, "third")["why"] == "another one is faster"
    assert row(tuned, "static")["kept"] is False
    assert [each["name"] for each in tuned.facts["variants"] if each["kept"] and each["what"] == "graph"] == ["dynamic"]


def test_the_comparison_is_never_kept(measured: Measured):
    measured(fp32=0.1)
    tuned = tune(GRAPHS, Benchmark())
    assert tuned.graph == "static"
    assert row(tuned, "fp32")["why"] == "for comparison"
    assert row(tuned, "fp32")["kept"] is False


def test_session_options_are_tried_on_the_winner(measured: Measured):
    asked = measured(dynamic=0.8, denormals_are_zero=0.8, dynamic_block_size=0.6, threads_sleep_between_operators=0.7)
    tuned = tune(GRAPHS, Benchmark())
    assert [each.name for each in asked[1]] == ["dynamic", *SESSION_OPTIONS]
    assert {each.path for each in asked[1]} == {Path("dynamic")}
    assert [dict(each.session) for each in asked[1]] == [{}, *(dict(each) for each in SESSION_OPTIONS.values())]
    assert tuned.session == tuned.facts["session"] == SESSION_OPTIONS["dynamic block size"]
    kept = [each["name"] for each in tuned.facts["variants"] if each["what"] == "session" and each["kept"]]
    assert kept == ["dynamic block size"]


def test_a_spent_budget_skips_the_session_options(measured: Measured, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "BUDGET_SECONDS", 0.0)
    asked = measured(denormals_are_zero=0.5)
    tuned = tune(GRAPHS, Benchmark())
    assert len(asked) == 1
    assert tuned.session == {}
    assert {each["what"] for each in tuned.facts["variants"]} == {"graph"}


def test_variants_that_were_not_measured_are_listed_with_the_reason(measured: Measured):
    measured()
    tuned = tune({"static": Path("static")}, Benchmark(), refused={"dynamic": "answers differ"})
    refused = row(tuned, "dynamic")
    assert (refused["why"], refused["kept"], refused["ratio"]) == ("answers differ", False, None)


def test_the_shapes_of_the_recipe_are_measured(monkeypatch: pytest.MonkeyPatch):
    seen: list[Benchmark] = []

    def fake(candidates: Sequence[Candidate], settings: Benchmark, **_: Any) -> dict[str, Any]:
        seen.append(settings)
        return {"cells": [_cell(each.name, settings, {}, 0.0) for each in candidates]}

    monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", fake)
    tune(GRAPHS, Benchmark(batch_size=(3,), sequence_length=(5,), threads=(1,), blocks=2))
    assert {(each.batch_size, each.sequence_length, each.threads) for each in seen} == {((3,), (5,), (1,))}
    assert {each.blocks for each in seen} == {tuning.BLOCKS}


def test_progress_goes_from_nothing_to_all(monkeypatch: pytest.MonkeyPatch):
    def fake(candidates: Sequence[Candidate], settings: Benchmark, *, progress: Any) -> dict[str, Any]:
        for share in (0.0, 0.5, 1.0):
            progress("measure", share)
        return {"cells": [_cell(each.name, settings, {}, 0.0) for each in candidates]}

    monkeypatch.setattr("deploycomp.measure.benchmark.benchmark", fake)
    told: list[float] = []
    tune(GRAPHS, Benchmark(), progress=lambda _, share: told.append(share))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)
