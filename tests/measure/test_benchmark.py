from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import EnvironmentFailed, InputRefused, UsageError
from deploycomp.measure.benchmark import Candidate, benchmark, interleave, ratios
from deploycomp.measure.cell import why_skipped
from deploycomp.recipe import Benchmark
from tests.measure.models import artifact, onnx_model

CELL = {"candidate", "threads", "batch_size", "sequence_length", "cv", "intervals", "digest"} | {
    *("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "throughput_per_s", "samples", "block_p50_ms")
}
"""What the contract of report.json has in a cell, no more and no less."""

FACTS = {"kind", "provider", "dtype", "compiled", "bytes", "load_ms", "cold_start_ms", "intervals"} | {
    *("peak_rss_bytes", "pss_bytes", "peak_rss_over_baseline_bytes", "pss_over_baseline_bytes")
}


def quick(**changes: Any) -> Benchmark:
    values = {"batch_size": (1, 2), "sequence_length": (4, 8), "threads": (1,), "blocks": 2}
    return Benchmark(**{**values, "block_seconds": 0.02, **changes})


# ------------------------------------------------------------ order


@given(st.sets(st.text(min_size=1), min_size=1, max_size=5), st.integers(1, 3), st.integers(2, 5), st.integers())
def test_each_round_measures_everything_once(names: set[str], threads: int, blocks: int, seed: int):
    counts = range(1, threads + 1)
    order = interleave(sorted(names), counts, blocks=blocks, seed=seed)
    size = len(names) * threads
    for block in range(blocks):
        here = order[block * size : (block + 1) * size]
        assert sorted(here) == sorted(product([block], names, counts))


def test_the_order_follows_from_the_seed_and_changes_between_rounds():
    def order(seed: int) -> list[tuple[int, str, int]]:
        return interleave(["a", "b", "c"], [1, 2], blocks=4, seed=seed)

    assert order(0) == order(0) != order(1)
    rounds = [[each[1:] for each in order(0)[start : start + 6]] for start in range(0, 24, 6)]
    assert len({tuple(each) for each in rounds}) > 1


# ------------------------------------------------------------ end to end


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("measured")
    plain = onnx_model(folder / "plain")
    types = ("input_ids", "attention_mask", "token_type_ids")
    runtime = {"max_length": 6, "session": {"session.intra_op.allow_spinning": "0"}}
    mine = artifact(folder / "artifact", runtime=runtime, inputs=types)
    said: list[tuple[str, float]] = []
    found = benchmark(
        [Candidate("fp32", "onnx", plain), Candidate("artifact", "onnx", mine)],
        quick(),
        progress=lambda message, fraction: said.append((message, fraction)),
    )
    return {"found": found, "said": said, "bytes": plain.stat().st_size}


def test_the_result_is_the_benchmark_part_of_the_report(measured: dict[str, Any]):
    found = measured["found"]
    assert set(found) == {"settings", "context", "candidates", "cells"}
    assert found["settings"] == {**quick().model_dump(mode="json"), "seed": 0}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for facts in found["candidates"].values():
        assert set(facts) == FACTS
        assert facts["cold_start_ms"] > facts["load_ms"] > 0
        assert facts["intervals"] == {"load_ms": None, "cold_start_ms": None}  # two blocks
    assert found["candidates"]["fp32"]["bytes"] == measured["bytes"]


def test_every_cell_that_fits_is_measured(measured: dict[str, Any]):
    cells = measured["found"]["cells"]
    assert [(cell["candidate"], cell["batch_size"], cell["sequence_length"]) for cell in cells] == [
        *(("fp32", batch, length) for batch in (1, 2) for length in (4, 8)),
        *(("artifact", batch, 4) for batch in (1, 2)),
    ]
    for cell in cells:
        assert set(cell) == CELL
        assert len(cell["block_p50_ms"]) == 2
        assert cell["samples"] >= 6
        assert 0 < min(cell["block_p50_ms"]) <= cell["p50_ms"] <= max(cell["block_p50_ms"])


def test_rows_that_are_too_long_are_skipped_with_the_reason(measured: dict[str, Any]):
    assert measured["found"]["context"]["skipped"] == [
        {
            "candidate": "artifact",
            "threads": 1,
            "batch_size": batch,
            "sequence_length": 8,
            "reason": "the model takes at most 6 tokens",
        }
        for batch in (1, 2)
    ]


def test_the_context_tells_of_the_children(measured: dict[str, Any]):
    found = measured["found"]
    context = found["context"]
    facts, child = found["candidates"]["fp32"], context["children"]["fp32"]
    for name in ("peak_rss", "pss"):
        over = facts[f"{name}_bytes"] - context[f"baseline_{name.removeprefix('peak_')}_bytes"]
        assert facts[f"{name}_over_baseline_bytes"] == over > 0
    assert facts["pss_bytes"] < facts["peak_rss_bytes"]
    assert child["verified_batches"] >= 8 * 3  # eight cells of two blocks, three calls at least
    assert child["import_ms"] > 0
    assert child["vocabulary"] == 64
    assert 0 <= child["unsettled_warmups"] <= child["warmups"] == 8
    assert {"steal_share", "foreign_share", "load"} <= set(context)


def test_ratios_read_the_result(measured: dict[str, Any]):
    entries = ratios(measured["found"], "artifact", "fp32")
    assert [entry["cell"]["batch_size"] for entry in entries] == [1, 2]
    assert all(entry["low"] <= entry["ratio"] <= entry["high"] for entry in entries)


def test_progress_goes_from_zero_to_one(measured: dict[str, Any]):
    messages, fractions = zip(*measured["said"], strict=True)
    assert fractions == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert "measuring fp32, threads 1, block 1 of 2" in messages


def test_a_fixed_graph_is_measured_where_it_fits(tmp_path: Path):
    model = onnx_model(tmp_path, shape=(1, 8))
    found = benchmark([Candidate("fixed", "onnx", model)], quick())
    assert [(cell["batch_size"], cell["sequence_length"]) for cell in found["cells"]] == [(1, 8)]
    assert [skip["reason"] for skip in found["context"]["skipped"]] == [
        "the graph is fixed to sequence 8",
        "the graph is fixed to batch 1",
        "the graph is fixed to batch 1",
    ]


@pytest.mark.parametrize(
    ("fixed", "max_length", "reason"),
    [
        ((None, None), None, None),
        ((None, None), 8, None),
        ((2, 8), 8, None),
        ((None, None), 7, "the model takes at most 7 tokens"),
        ((3, None), None, "the graph is fixed to batch 3"),
        ((None, 16), None, "the graph is fixed to sequence 16"),
    ],
)
def test_reasons_to_skip(fixed: tuple[int | None, int | None], max_length: int | None, reason: str | None):
    assert why_skipped((2, 8), fixed=fixed, max_length=max_length) == reason


def test_files_in_the_working_directory_do_not_reach_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    found = benchmark([Candidate("a", "onnx", onnx_model(tmp_path))], quick(batch_size=(1,), sequence_length=(4,)))
    assert len(found["cells"]) == 1


# ------------------------------------------------------------ refusals


def refused(kind: type[Exception], model: Path) -> Any:
    with pytest.raises(kind) as caught:
        benchmark([Candidate("mine", "onnx", model)], quick())
    assert psutil.Process().children() == []
    return caught.value


def test_more_threads_than_processors_are_refused(tmp_path: Path):
    count = len(os.sched_getaffinity(0))
    with pytest.raises(UsageError, match=f"{count + 1} threads cannot be measured here") as caught:
        benchmark([Candidate("a", "onnx", onnx_model(tmp_path))], quick(threads=(1, count + 1)))
    assert f"may run on {count} processors" in str(caught.value.why)


def test_no_candidates_are_refused():
    with pytest.raises(UsageError, match="nothing to measure"):
        benchmark([], quick())


def test_a_missing_file_is_refused(tmp_path: Path):
    assert "candidate 'mine' does not exist" in str(refused(InputRefused, tmp_path / "gone.onnx"))


def test_unknown_inputs_are_refused_by_name(tmp_path: Path):
    error = refused(InputRefused, onnx_model(tmp_path, inputs=("input_ids", "pixel_mask")))
    assert error.what == "'mine' cannot be measured: no data can be made for input 'pixel_mask'"
    assert error.why == "known inputs are input_ids, attention_mask, token_type_ids"


@pytest.mark.parametrize(
    ("options", "is_"), [({"mask_type": 6}, "tensor(int32)"), ({"shape": ("n", "m", "k")}, "['n', 'm', 'k']")]
)
def test_inputs_of_another_kind_are_refused(tmp_path: Path, options: dict[str, Any], is_: str):
    why = refused(InputRefused, onnx_model(tmp_path, **options)).why
    assert is_ in why
    assert "expected tensor(int64) [batch, sequence]" in why


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    assert "'mine' cannot be measured: ONNX Runtime refuses" in str(refused(InputRefused, tmp_path / "model.onnx"))


def test_a_model_that_fails_while_it_runs_is_named(tmp_path: Path):
    error = refused(InputRefused, onnx_model(tmp_path, config={"vocab_size": 10_000}))
    assert "'mine' cannot be measured" in error.what
    assert "out of data bounds" in error.why


def test_the_time_limit_holds(tmp_path: Path):
    with pytest.raises(EnvironmentFailed, match=r"took longer than 0\.01 s"):
        benchmark([Candidate("a", "onnx", onnx_model(tmp_path))], quick(), child_seconds=0.01)
    assert psutil.Process().children() == []
