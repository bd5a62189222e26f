"""The gate put together: what is refused, what fails before anything is measured, and what the rounds say.

Models are hand-made and real, their answers too; only how long a process takes is made up, so nothing here is timed.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploycomp.errors import GateFailed, Inconclusive, InputRefused, UsageError, VerificationFailed
from deploycomp.gate.rounds import BASELINE, CANDIDATE, Rules
from deploycomp.gating import Data, Goals, Setting, calibrate, raise_verdict, run_gate
from deploycomp.measure import rounds as measuring
from deploycomp.measure.candidate import examine_all
from deploycomp.report.gate import load_gate_schema
from tests.measure.models import onnx_model

RSS = 50_000_000
SETTING = Setting(batch_size=(1,), sequence_length=(8,), threads=(1,), seed=0)
QUICK = Rules(budget=1e9)
"""Made-up processes take no time, so every gate has as many rounds as there may be."""
MOST = 40


class Runner:
    """Made-up times of processes, in place of those of `Bench`."""

    def __init__(self, *, slower: float = 1.0, larger: float = 1.0, spread: float = 0.01):
        self.factors = {BASELINE: (1.0, 1.0), CANDIDATE: (slower, larger)}
        self.spread, self.draw, self.calls = spread, random.Random(0), 0
        self.neighbour = 0.0
        self.opened: list[tuple[str, int]] = []
        self.digests: Callable[[str, int], list[str]] = lambda side, block: [side]

    def alternate(
        self, bench: measuring.Bench, names: list[str], *, threads: int, block: int
    ) -> dict[str, dict[str, Any]]:
        self.opened.append((names[0], block))
        found: dict[str, dict[str, Any]] = {name: {"cells": [], "skipped": []} for name in names}
        for batch, sequence in bench.plan.cells:
            slowed = [math.exp(self.neighbour * self.draw.random()) for _ in range(9)]
            for name, answer in found.items():
                nanoseconds = 1e6 * sequence * self.factors[name][0] * math.exp(self.draw.gauss(0, self.spread))
                samples = [int(nanoseconds * each) for each in slowed]
                shape = {"batch_size": batch, "sequence_length": sequence}
                answer["cells"].append({**shape, "samples_ns": samples, "digests": self.digests(name, block)})
        return found

    def weigh(self, bench: measuring.Bench, name: str, *, threads: int, block: int) -> dict[str, Any]:
        self.calls += 1
        return {"cells": [], "skipped": [], "peak_rss_bytes": int(RSS * self.factors[name][1])}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    made = Runner()

    def open_bench(candidates: Any, settings: Any, *, seed: int) -> measuring.Bench:
        plan = measuring._plan(settings, seed=seed, child_seconds=None)
        return measuring.Bench({each.candidate.name: each for each in examine_all(candidates)}, plan, {})

    monkeypatch.setattr(measuring, "open_bench", open_bench)
    monkeypatch.setattr(measuring.Bench, "alternate", lambda *a, **k: made.alternate(*a, **k))
    monkeypatch.setattr(measuring.Bench, "weigh", lambda *a, **k: made.weigh(*a, **k))
    monkeypatch.setattr("deploycomp.measure.reference.measure_reference", lambda cpu: 2.0)
    monkeypatch.setattr("deploycomp.gate.rounds.MAX_ROUNDS", MOST)
    return made


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """(candidate, baseline), equal."""
    return onnx_model(tmp_path / "new"), onnx_model(tmp_path / "old")


def change(model: Path, how: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Change the weights of a hand-made model."""
    graph = onnx.load(model)
    table = numpy_helper.to_array(graph.graph.initializer[0])
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(how(table).astype(np.float32), "table"))
    onnx.save(graph, model)
    return model


def gate(models: tuple[Path, Path], goals: Goals | None = None, **how: Any) -> dict[str, Any]:
    result = run_gate(*models, goals, **{"rules": QUICK, "setting": SETTING, **how})
    jsonschema.validate(json.loads(json.dumps(result, allow_nan=False)), load_gate_schema())
    return result


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {each["kind"]: each["verdict"] for each in result["checks"]}


# ------------------------------------------------------------ measured


def test_equal_models_pass(runner: Runner, models: tuple[Path, Path]):
    result = gate(models)
    assert result["verdict"] == "pass"
    assert verdicts(result) == {**dict.fromkeys(("size", "answers", "latency", "memory"), "pass"), "text": "skipped"}
    assert result["why"] == "all 4 checks hold"
    assert result["rounds"] == result["looks"][-1]["rounds"]
    assert runner.calls == 2 * (result["rounds"] + 1)
    assert len(result["samples"]["numbers"][0]["candidate"]) == result["rounds"]
    assert result["samples"]["seed"] == 0
    raise_verdict(result)


def test_a_slower_model_fails(runner: Runner, models: tuple[Path, Path]):
    runner.factors[CANDIDATE] = (1.1, 1.0)
    result = gate(models)
    assert verdicts(result)["latency"] == "fail"
    assert verdicts(result)["memory"] == "pass"
    with pytest.raises(GateFailed, match="fails the gate") as failed:
        raise_verdict(result)
    assert failed.value.why == result["why"]
    assert result["why"].startswith("latency, 1 thread, 1×8: +")


def test_a_neighbour_that_slows_both_is_taken_out(runner: Runner, models: tuple[Path, Path]):
    runner.neighbour = 1.0  # up to twice as slow
    equal = gate(models)
    assert equal["verdict"] == "pass"
    runner.factors[CANDIDATE] = (1.1, 1.0)
    slower = gate(models)
    assert verdicts(slower)["latency"] == "fail"
    assert slower["checks"][3]["ratio"] == pytest.approx(1.1, abs=0.01)
    times = slower["samples"]["numbers"][0]
    assert np.std(np.log(times[BASELINE])) > 0.1  # a process is as slow as it is
    assert np.std(np.log(np.divide(times[CANDIDATE], times[BASELINE]))) < 0.02


def test_a_coin_draws_who_is_opened_first(runner: Runner, models: tuple[Path, Path]):
    result = gate(models)
    assert [first for first, _ in runner.opened[1:]] == result["samples"]["first"]["1"]
    assert [block for _, block in runner.opened] == list(range(result["rounds"] + 1))  # once a round, for both
    assert {first for first, _ in runner.opened} == {BASELINE, CANDIDATE}


def test_a_model_that_needs_more_memory_fails(runner: Runner, models: tuple[Path, Path]):
    runner.factors[CANDIDATE] = (1.0, 1.2)
    assert verdicts(gate(models)) == {
        "size": "pass",
        "text": "skipped",
        "answers": "pass",
        "latency": "pass",
        "memory": "fail",
    }


def test_three_percent_slower_does_not_fail_at_five(runner: Runner, models: tuple[Path, Path]):
    runner.factors[CANDIDATE] = (1.03, 1.0)
    assert gate(models)["verdict"] == "pass"
    assert gate(models, Goals(max_slowdown=0.0))["verdict"] == "fail"


def test_a_ratio_at_the_limit_is_inconclusive_and_never_a_pass(runner: Runner, models: tuple[Path, Path]):
    runner.factors[CANDIDATE], runner.spread = (1.05, 1.0), 0.05
    result = gate(models)
    assert result["verdict"] == "inconclusive"
    assert result["next"]
    with pytest.raises(Inconclusive):
        raise_verdict(result)


def test_every_shape_and_thread_count_is_a_check(runner: Runner, models: tuple[Path, Path], monkeypatch: Any):
    monkeypatch.setattr(measuring, "affinity", lambda: [0, 1])
    setting = Setting(batch_size=(1, 2), sequence_length=(4, 8), threads=(1, 2), seed=0)
    result = gate(models, setting=setting)
    cells = [each["cell"] for each in result["checks"] if each["kind"] == "latency"]
    assert len({tuple(cell.values()) for cell in cells}) == len(cells) == 8
    assert sum(each["kind"] == "memory" for each in result["checks"]) == 2
    assert {cell["threads"] for cell in cells} == {1, 2}


def test_processes_of_one_model_must_answer_the_same(runner: Runner, models: tuple[Path, Path]):
    runner.digests = lambda side, block: ["other" if (side, block) == (CANDIDATE, 5) else side]
    with pytest.raises(VerificationFailed, match="processes answered differently"):
        gate(models)


def test_a_shape_that_a_model_cannot_run_is_refused(runner: Runner, models: tuple[Path, Path]):
    whole = runner.weigh
    skipped = [{"batch_size": 1, "sequence_length": 8, "reason": "the model takes at most 4 tokens"}]
    runner.weigh = lambda *a, **k: {**whole(*a, **k), "skipped": skipped}  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="the baseline cannot run 1×8"):
        gate(models)


def test_the_coins_are_drawn_anew_unless_a_seed_is_given(runner: Runner, models: tuple[Path, Path]):
    setting = Setting(batch_size=(1,), sequence_length=(8,), threads=(1,))
    seeds = {gate(models, setting=setting)["samples"]["seed"] for _ in range(3)}
    assert len(seeds) == 3


# ------------------------------------------------------------ decided before anything is measured


def test_a_larger_model_fails_and_nothing_is_measured(runner: Runner, models: tuple[Path, Path]):
    models[0].with_name("model.onnx.data").write_bytes(bytes(100_000))
    result = gate(models)
    assert verdicts(result) == {
        "size": "fail",
        "text": "skipped",
        "answers": "skipped",
        "latency": "skipped",
        "memory": "skipped",
    }
    assert runner.calls == 0
    assert result["next"] is None
    assert gate(models, Goals(max_size_growth=1000.0))["verdict"] == "pass"


@pytest.mark.parametrize("how", [lambda table: -table, lambda table: table * np.nan, lambda table: table + 0.01])
def test_faster_but_wrong_fails(runner: Runner, models: tuple[Path, Path], how: Callable[[np.ndarray], np.ndarray]):
    runner.factors[CANDIDATE] = (0.5, 0.5)
    change(models[0], how)
    result = gate(models)
    assert verdicts(result) == {
        "size": "pass",
        "text": "skipped",
        "answers": "fail",
        "latency": "skipped",
        "memory": "skipped",
    }
    assert runner.calls == 0
    assert result["checks"][2]["reason"].startswith("the answers are not the baseline's")


def test_differences_that_the_precision_may_cost_pass(runner: Runner, models: tuple[Path, Path]):
    change(models[0], lambda table: table * (1 + 1e-6))
    assert verdicts(gate(models))["answers"] == "pass"


def test_a_broken_baseline_is_refused(runner: Runner, models: tuple[Path, Path]):
    change(models[1], lambda table: table * np.inf)
    with pytest.raises(InputRefused, match="baseline's own answers"):
        gate(models)


def test_answers_to_different_questions_are_not_compared(runner: Runner, models: tuple[Path, Path]):
    (models[0].parent / "config.json").write_text('{"vocab_size": 32}')
    with pytest.raises(UsageError, match="different vocabulary") as refused:
        gate(models)
    assert "--retrained" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"retrained": True}, "answers may only differ where data judge them"),
        ({"goals": Goals(max_drop=0.01)}, "a largest drop needs data"),
        ({"setting": Setting(threads=(10_000,))}, "10000 threads cannot be measured"),
        ({"setting": Setting(batch_size=(0,))}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    runner: Runner, models: tuple[Path, Path], how: dict[str, Any], what: str
):
    with pytest.raises(UsageError, match=what):
        gate(models, **how)


@pytest.mark.parametrize("value", [-0.01, math.inf, math.nan])
def test_goals_are_fractions(value: float):
    with pytest.raises(UsageError, match="max_slowdown"):
        Goals(max_slowdown=value)


def test_files_that_do_not_exist(runner: Runner, models: tuple[Path, Path], tmp_path: Path):
    for pair in ((tmp_path / "none", models[1]), (models[0], tmp_path / "none"), (models[0], tmp_path / "none.json")):
        with pytest.raises(UsageError, match="there is no such"):
            gate(pair)


# ------------------------------------------------------------ calibration, noise, stored baselines


@pytest.fixture
def calibrated(runner: Runner, models: tuple[Path, Path], tmp_path: Path) -> Path:
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(calibrate(models[1], rules=QUICK, setting=SETTING), allow_nan=False))
    return path


def test_calibration_says_what_this_machine_can_decide(calibrated: Path):
    found = json.loads(calibrated.read_text())
    latency, memory = found["numbers"]
    assert (latency["name"], memory["kind"]) == ("latency, 1 thread, 1×8", "memory")
    times = found["samples"]["numbers"][0]
    differences = np.abs(np.log(np.divide(times["candidate"], times["baseline"])))
    assert latency["spread"] == pytest.approx(1.4826 * np.median(differences))
    assert 0 < latency["floor"] < latency["detectable"] - 0.05 < 0.05
    assert latency["value"] == pytest.approx(8, rel=0.02)
    assert memory["spread"] == 0
    assert found["rounds"] == MOST
    assert len(found["samples"]["reference_ms"]["1"]) == MOST


def test_a_tolerance_below_the_noise_floor_is_refused(runner: Runner, models: tuple[Path, Path], calibrated: Path):
    assert gate(models, noise=calibrated)["verdict"] == "pass"
    with pytest.raises(UsageError, match="below the noise floor") as refused:
        gate(models, Goals(max_slowdown=0.0001), noise=calibrated)
    hint = refused.value.hint or ""
    percent = float(hint.split()[1].rstrip("%,"))
    assert gate(models, Goals(max_slowdown=percent / 100), noise=calibrated)["verdict"] != "fail"


def test_noise_of_another_setting_is_refused(runner: Runner, models: tuple[Path, Path], calibrated: Path):
    with pytest.raises(UsageError, match=r"budget: 1000000000\.0 then, 60\.0 now"):
        _refuse(gate, models, rules=Rules(), noise=calibrated)
    other = Setting(batch_size=(1,), sequence_length=(4,), threads=(1,), seed=0)
    with pytest.raises(UsageError, match="1×4 is not known"):
        gate(models, setting=other, noise=calibrated)
    spoiled = json.loads(calibrated.read_text())
    spoiled["context"]["fingerprint"]["governor"] = "another"
    calibrated.write_text(json.dumps(spoiled))
    with pytest.raises(UsageError, match="another machine"):
        gate(models, noise=calibrated)
    calibrated.write_text("{}")
    with pytest.raises(InputRefused, match="not what `gate calibrate` writes"):
        gate(models, noise=calibrated)


def _refuse(call: Callable[..., Any], *arguments: Any, **how: Any) -> None:
    """Match the reason, too."""
    try:
        call(*arguments, **how)
    except UsageError as error:
        raise UsageError(f"{error.what} {error.why}") from None


def test_a_stored_baseline_of_this_machine_is_as_good(runner: Runner, models: tuple[Path, Path], calibrated: Path):
    result = gate((models[0], calibrated))
    assert (result["verdict"], result["advisory"]) == ("pass", False)
    assert verdicts(result) == {
        "size": "pass",
        "text": "skipped",
        "answers": "skipped",
        "latency": "pass",
        "memory": "pass",
    }
    runner.factors[CANDIDATE] = (1.1, 1.0)
    assert verdicts(gate((models[0], calibrated)))["latency"] == "fail"


def test_it_is_scaled_to_how_fast_the_machine_is_now(
    runner: Runner, models: tuple[Path, Path], calibrated: Path, monkeypatch: pytest.MonkeyPatch
):
    runner.factors[CANDIDATE] = (1.5, 1.0)
    monkeypatch.setattr("deploycomp.measure.reference.measure_reference", lambda cpu: 3.0)
    result = gate((models[0], calibrated))
    assert result["verdict"] == "pass"
    assert result["checks"][3]["ratio"] == pytest.approx(1.0, abs=0.02)


def test_an_earlier_gate_without_the_kernel_is_advisory(runner: Runner, models: tuple[Path, Path], tmp_path: Path):
    runner.factors[CANDIDATE] = (1.06, 1.0)
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(gate(models)))
    runner.factors[CANDIDATE] = (1.06, 1.0)
    refused = gate((models[0], earlier))
    assert (refused["verdict"], refused["advisory"], refused["rounds"]) == ("inconclusive", True, 0)
    assert "no reference kernel" in refused["why"]
    allowed = gate((models[0], earlier), allow_advisory=True)
    assert (allowed["verdict"], allowed["advisory"]) == ("pass", True)


def test_a_stored_baseline_of_another_machine_is_advisory(runner: Runner, models: tuple[Path, Path], calibrated: Path):
    stored = json.loads(calibrated.read_text())
    stored["context"]["fingerprint"]["cpu name"] = "Another CPU"
    calibrated.write_text(json.dumps(stored))
    before = runner.calls
    refused = gate((models[0], calibrated))
    assert (refused["verdict"], refused["advisory"]) == ("inconclusive", True)
    assert "cpu name: Another CPU then" in refused["why"]
    assert runner.calls == before
    assert gate((models[0], calibrated), allow_advisory=True)["advisory"]


def test_a_stored_baseline_must_fit(runner: Runner, models: tuple[Path, Path], calibrated: Path):
    with pytest.raises(UsageError, match="answers no data"):
        gate((models[0], calibrated), data=Data("rows.jsonl"))
    other = Setting(batch_size=(1,), sequence_length=(4,), threads=(1,), seed=0)
    with pytest.raises(UsageError, match="lacks latency, 1 thread, 1×4"):
        gate((models[0], calibrated), setting=other)
    stored = json.loads(calibrated.read_text())
    for number in stored["samples"]["numbers"]:
        number["candidate"] = number["candidate"][:5]
    calibrated.write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="holds 5 processes, and it takes 11"):
        gate((models[0], calibrated))
