from __future__ import annotations

import math
import random
import statistics

import pytest

from deploycomp.measure.benchmark import ratios
from deploycomp.report import format as fmt
from deploycomp.report.compression import compression_lines
from deploycomp.report.verdict import build_verdict, change_words, headline
from deploycomp.report.view import Report, Shape, speed
from tests.report.example import bare, benchmark, cell, interval, loses, wins

FLAGS_WITH_VNNI = ["avx2", "avx512_vnni"]


def said(report) -> str:
    return " ".join(build_verdict(report)["warnings"])


def test_the_headline_names_shape_reference_interval_and_noise():
    assert headline(wins()) == (
        "3.9× smaller, at least 6.2× faster than PyTorch at 1×128, "
        "accuracy 89.45 % → 89.33 % (−0.11 pt, 95 % CI −1.03…+0.80, within noise)"
    )


def test_a_real_change_is_not_called_noise():
    assert "within noise" not in headline(loses())
    assert "The loss of accuracy is real, not noise: −1.72 pt, 95 % CI −2.98…−0.46." in said(loses())


def test_what_was_not_measured_is_said():
    assert headline(bare()) == "Same size, latency not measured, quality not evaluated"
    assert build_verdict(bare())["warnings"] == []


def test_threads_are_named_where_there_are_several():
    report = wins()
    report["benchmark"]["cells"] += [
        cell("source", 1, 128, 30.6, threads=1),
        cell("artifact", 1, 128, 6.0, threads=1),
    ]
    assert "at least 6.2× faster than PyTorch at 1×128, 2 threads" in headline(report)


def test_identical_answers_are_no_change():
    report = wins()
    report["evaluation"]["drop"]["artifact"] = {**interval(0.0, 0.0, 0.0), "p_value": None}
    assert change_words(report["evaluation"], "artifact") == "no change"
    assert change_words({**report["evaluation"], "drop": {}}, "artifact") == "change unknown"


def test_correlations_are_no_points():
    report = wins()
    evaluation = report["evaluation"]
    evaluation["metric"] = "spearman"
    evaluation["scores"] = {name: {"spearman": interval(0.8512, 0.84, 0.86)} for name in ("source", "fp32", "artifact")}
    evaluation["drop"]["artifact"] = {**interval(0.0021, -0.001, 0.005), "p_value": 0.2}
    assert "Spearman ρ 0.8512 → 0.8512 (−0.0021, 95 % CI −0.0050…+0.0010, within noise)" in headline(report)


def test_slower_than_pytorch_is_in_the_headline_and_a_warning():
    report = wins()
    report["benchmark"] = benchmark({(1, 128): (10.0, 8.0, 12.0)})
    assert "up to 1.23× slower than PyTorch at 1×128" in headline(report)
    assert "ONNX INT8 is slower than PyTorch on this machine at 1×128 (1.20×)" in said(report)
    report["benchmark"] = benchmark({(1, 128): (10.0, 8.0, 10.0)})
    assert "speed beside PyTorch at 1×128: no clear difference, accuracy" in headline(report)


def test_poor_calibration_rows_are_said_once_however_many_steps_learned_from_them():
    report = loses()
    for step in report["steps"]:
        step["facts"]["calibration"] = {"warnings": ["All rows are the same.", "One row was left out."]}
    assert len(report["steps"]) > 1
    warnings = build_verdict(report)["warnings"]
    assert warnings.count("All rows are the same.") == warnings.count("One row was left out.") == 1
    facts = {"trail": [], "calibration": {"warnings": ["All rows are the same."]}}
    plain = {
        "source": {"parameters": 10},
        "result": {"parameters": 5},
        "steps": [{"step": "drop_layers", "facts": facts}] * 2,
        "evaluation": None,
    }
    assert compression_lines(plain)[-1:] == ["warning: All rows are the same."]
    assert len(compression_lines(plain)) == 2


def measured(source: tuple[float, ...], artifact: tuple[float, ...]) -> Report:
    """A report whose blocks took so long at 1×128."""
    report = wins()
    report["benchmark"] = bench = benchmark({(1, 128): (1.0, 1.0, 1.0)})
    for cell_ in bench["cells"]:
        blocks = {"source": source, "fp32": source, "artifact": artifact}[cell_["candidate"]]
        cell_.update(p50_ms=statistics.median(blocks), block_p50_ms=list(blocks))
    bench["ratios"] = {"source": ratios(bench, "artifact", "source")}
    bench["fp32_ratios"] = ratios(bench, "fp32", "source")
    return report


@pytest.mark.parametrize(
    ("source", "artifact", "words"),
    [
        ((10.0, 10.2, 9.9), (2.0, 2.1, 1.9), "at least 4.6× faster than PyTorch at 1×128"),
        ((859.0, 20.0, 5200.0), (1.0, 0.9, 1.1), "speed beside PyTorch at 1×128: not measurable here"),
        ((10.0, 10.2, 9.9), (0.01, 0.02, 0.05), "speed beside PyTorch at 1×128: not measurable here"),
        ((10.0, 14.0, 9.0), (9.0, 4.0, 10.0), "speed beside PyTorch at 1×128: not measurable here"),
        ((10.0, 10.2, 9.9), (10.1, 10.0, 10.0), "speed beside PyTorch at 1×128: no clear difference"),
        ((10.0, 10.0, 10.0), (9.99, 9.99, 9.99), "same speed as PyTorch at 1×128"),
        ((10.0,), (1.0,), "speed beside PyTorch at 1×128: not measurable here"),
        ((2.0, 2.1, 1.9), (10.0, 10.2, 9.9), "up to 5.5× slower than PyTorch at 1×128"),
    ],
    ids=["faster", "859 times", "unsteady artifact", "wide", "alike", "same", "one block", "slower"],
)
def test_the_speed_is_the_end_of_its_interval_that_is_worst(
    source: tuple[float, ...], artifact: tuple[float, ...], words: str
):
    report = measured(source, artifact)
    assert f", {words}, accuracy" in headline(report)
    entry = report["benchmark"]["ratios"]["source"][0]
    found = speed(report, "artifact", Shape(2, 1, 128))
    assert found.words in words
    assert found.slower == (entry["low"] is not None and entry["low"] > 1)
    assert found.brief in (fmt.DASH, f"≥{fmt.ratio(1 / entry['high'])}" if entry["high"] else fmt.DASH)
    assert speed(report, "fp32", Shape(2, 1, 128)).words in ("same speed", "no clear difference", "not measurable here")


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
def test_what_is_claimed_is_reached_by_nearly_every_repetition(noise: float):
    """Three times as fast, and lognormal noise: of a hundred runs hardly any claims more, however noisy the machine."""
    draw, claimed = random.Random(5), []
    for _ in range(100):
        source, artifact = (tuple(time * math.exp(draw.gauss(0, noise)) for _ in range(3)) for time in (30.0, 10.0))
        brief = speed(measured(source, artifact), "artifact", Shape(2, 1, 128)).brief
        claimed.append(0.0 if brief == fmt.DASH else float(brief.strip("≥×").replace(",", "")))
    assert sum(each > 3.005 for each in claimed) <= 7  # 2.5 % are meant, and digits are rounded


def test_int8_slower_than_fp32_is_said_with_the_reason_of_this_cpu():
    words = said(loses())
    assert "ONNX INT8 is slower than ONNX FP32 on this machine at 1×16 (1.07×) and 1×128 (1.13×)" in words
    assert "this CPU has no INT8 dot product" in words


def test_an_interval_around_one_is_not_called_slower():
    assert "no faster than ONNX FP32 at 8×16 (1.01×): the interval of the ratio includes 1" in said(loses())


def test_other_reasons_to_be_slower():
    report = loses()
    report["machine"]["flags"] = FLAGS_WITH_VNNI
    words = said(report)
    assert "at 1×16 (1.07×): with so few tokens" in words
    assert "at 1×128 (1.13×): the facts of this run do not say why" in words
    report["steps"][1]["facts"]["bytes"] = {"int8": 10, "float": 90}
    words = said(report)
    assert "at 1×128 (1.13×): only 10 % of the weight bytes are INT8" in words
    assert "Only 10 % of the weight bytes are INT8" in words


def test_fp16_on_a_cpu_says_that_it_is_for_gpus():
    report = wins()
    report["artifact"].update(precision="fp16", target="cuda", fp32_bytes=report["artifact"]["bytes"])
    report["benchmark"] = benchmark({(1, 128): (10.0, 8.0, 12.0)})
    assert "FP16 is for GPUs" in said(report)
    report["artifact"]["precision"] = "fp32"
    assert "nothing was quantized" in said(report)


def test_a_goal_that_the_data_cannot_prove():
    assert "within the goal of 0.50 pt, but 872 rows cannot exclude one of 1.03 pt" in said(wins())
    report = wins()
    report["evaluation"]["max_drop"] = 0.02
    assert "goal" not in said(report)


def test_answers_that_depend_on_batch_mates_are_named():
    assert "batch mates" not in said(wins())  # 99.66 %
    words = (
        "Answers depend on batch mates: one row at a time accuracy is 89.45 %, and 98.51 % (97.5…99.1) of the answers"
    )
    assert words in said(loses())


def test_memory_size_and_unfused_attention():
    report = loses()
    assert "ONNX INT8 needs 1.07× the memory of PyTorch (655 MB)." in said(report)
    report["artifact"]["bytes"] = report["artifact"]["fp32_bytes"]
    assert "ONNX INT8 is no smaller than ONNX FP32." in said(report)
    report["steps"][0]["facts"]["unfused_attention"] = 6
    assert "6 attention blocks could not be fused" in said(report)
    report["steps"][0]["facts"]["ops"] = "standard"
    assert "could not be fused" not in said(report)


def test_a_noisy_machine_is_named():
    assert "The machine was noisy: the blocks of PyTorch at 1×16 differ by 22 %" in said(loses())
    report = wins()
    report["benchmark"]["context"] |= {"steal_share": 0.04, "foreign_share": 0.11}
    assert "Other work took 15 % of the CPU" in said(report)


def test_shapes_that_did_not_run_are_named():
    report = wins()
    skipped = {"candidate": "artifact", "threads": 2, "batch_size": 8, "sequence_length": 16}
    report["benchmark"]["context"]["skipped"] = [{**skipped, "reason": "the graph is fixed to batch 1"}]
    report["benchmark"]["cells"] = [
        each
        for each in report["benchmark"]["cells"]
        if not (each["candidate"] == "artifact" and each["batch_size"] == 8 and each["sequence_length"] == 16)
    ]
    assert "Not measured at 8×16, ONNX INT8: the graph is fixed to batch 1." in said(report)
