from __future__ import annotations

import pytest

from deploycomp.report.markdown import to_markdown
from deploycomp.report.verdict import build_verdict
from deploycomp.report.words import step_choices, step_words
from tests.report.example import EXAMPLES, tuned

UNCALIBRATED = "no calibration data was given, and the evaluation data has no train split beside it"


def step(**facts):
    return {"step": "int8", "seconds": 1.0, "facts": facts}


def said(**facts) -> str:
    return "; ".join([*step_words(step(**facts)), *step_choices(step(**facts))])


def facts_of(report):
    return report["steps"][1]["facts"]


def warned(**facts) -> str:
    report = tuned()
    facts_of(report).update(facts)
    return " ".join(build_verdict(report)["warnings"])


def calibration(**more):
    return {"data": "sst2/train.jsonl", "split": None, "rows": 256, "digest": "0" * 64, **more}


def test_every_sentence_of_a_tuned_report():
    export, int8 = tuned()["steps"]
    assert step_words(export)[1:] == [
        "48 reshapes dropped",
        "a [CLS] head: 14 nodes compute the first token only",
    ]
    assert step_words(int8)[1:3] == [
        "static ranges from 256 rows of sst2/train.jsonl",
        "smoothed 24 activations, 18 with a multiplication of their own",
    ]
    assert step_choices(int8) == [
        "tuned here in 47 s: static kept; dynamic 1.07× its time (1.02…1.13), FP32 2.7× (2.1…3.1)",
        "session option kept: denormals are zero, 0.95× the time without (0.93…0.97): session.set_denormal_as_zero = 1",
        "kept in float so that the goal holds on 512 held-out rows: 2 layers "
        "(bert.encoder.layer.5.attention.output.dense, bert.pooler.dense)",
    ]


@pytest.mark.parametrize("name", ["wins", "bare"])
def test_nothing_is_said_of_what_is_not_known(name):
    words = to_markdown(EXAMPLES[name]())
    for absent in ("ranges:", "static", "dynamic", "smoothed", "saturate ", "tuned", "held-out", "[CLS", "reshape"):
        assert absent not in words, absent
    assert said() == ""
    for step_ in EXAMPLES[name]()["steps"]:
        assert step_choices(step_) == []


def test_rewrites_in_the_singular_and_none():
    one = {"step": "export", "facts": {"rewrites": {"reshapes_dropped": 1, "first_token_only": 1}}}
    assert step_words(one) == ["1 reshape dropped", "a [CLS] head: 1 node computes the first token only"]
    assert step_words({"step": "export", "facts": {"rewrites": {"reshapes_dropped": 0, "first_token_only": 0}}}) == []


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"activations": "static", "calibration": calibration()}, "static ranges from 256 rows of sst2/train.jsonl"),
        (
            {"activations": "static", "calibration": calibration(split="train", rows=1)},
            "static ranges from 1 row of sst2/train.jsonl, split train",
        ),
        (
            {"activations": "dynamic", "calibration": None, "uncalibrated": UNCALIBRATED},
            f"dynamic ranges: {UNCALIBRATED}",
        ),
        ({"activations": "dynamic", "calibration": None, "uncalibrated": ""}, "dynamic ranges"),
        (
            {"activations": "dynamic", "calibration": calibration()},
            "dynamic ranges; weights calibrated on 256 rows of sst2/train.jsonl",
        ),
    ],
)
def test_ranges(facts, words):
    assert said(**facts) == words


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        (["explicit"], "smoothed 1 activation, 1 with a multiplication of its own"),
        (["value", "norm", None], "smoothed 2 activations"),
        ([None], "smoothed none of 1 activation: none gained enough"),
        ([], ""),
    ],
)
def test_smoothing(folds, words):
    assert said(smoothing=[{"alpha": 0.8 if fold else 0.0, "fold": fold} for fold in folds]) == words


@pytest.mark.parametrize(
    ("target", "bits", "saturated", "words"),
    [
        ("x86-avx2", 7, 0, "0 of 1.4 billion pair sums saturate on CPUs without VNNI (calibration rows)"),
        ("x86-vnni", 7, 0, "0 of 1.4 billion pair sums saturate on CPUs without VNNI (calibration rows)"),
        ("portable", 8, 72_731, "72,731 of 1.4 billion pair sums saturate on CPUs without VNNI (calibration rows)"),
        ("x86-avx512", 8, 0, "0 of 1.4 billion pair sums saturate on CPUs without VNNI (calibration rows)"),
        ("x86-vnni", 8, 72_731, ""),
        ("arm64", 7, 0, ""),
        ("arm64-dotprod", 8, 72_731, ""),
    ],
)
def test_saturation_is_said_where_it_matters(target, bits, saturated, words):
    found = {"weight_bits": bits, "pairs": 1_377_828_864, "saturated": saturated}
    assert said(target=target, saturation=found) == words
    warning = "on CPUs without VNNI (calibration rows): answers there are silently wrong. Export with 7-bit weights."
    assert (warning in warned(target=target, saturation=found)) == (words.startswith("72,731"))
    assert said(target=target, saturation={**found, "pairs": 0}) == ""


def test_saturation_of_dynamic_ranges_is_a_lower_bound():
    found = {"weight_bits": 8, "pairs": 2_000_000, "saturated": 9}
    words = "at least 9 of 2.0 million pair sums saturate on CPUs without VNNI (calibration rows); dynamic ranges"
    assert said(target="portable", activations="dynamic", saturation=found) == words
    assert "At least 9 of 2.0 million pair sums" in warned(target="portable", activations="dynamic", saturation=found)


def variant(name, ratio, low, high, *, kept=False, what="graph"):
    return {"what": what, "name": name, "kept": kept, "why": "", "ratio": ratio, "low": low, "high": high}


def tuning(*variants, seconds=0.2, session=None):
    return {"seconds": seconds, "kept": "", "session": session or {}, "variants": list(variants)}


def test_a_variant_that_beat_the_default():
    rows = [variant("static", 1, 1, 1), variant("dynamic", 0.9, 0.88, 0.93, kept=True), variant("fp32", 2, 1.9, 2.2)]
    words = "tuned here in 1 s: dynamic kept; dynamic 0.90× the time of static (0.88…0.93), FP32 2.0× (1.90…2.2)"
    assert said(tuning=tuning(*rows)) == words


def test_one_variant_and_session_options_that_did_not_pay():
    options = [variant(f"option {place}", 1.01, 0.9, 1.1, what="session") for place in range(3)]
    static = variant("static", 1, 1, 1, kept=True)
    assert said(tuning=tuning(static)) == "tuned here in 1 s: static kept"
    assert said(tuning=tuning(static, *options)).endswith("; 3 session options tried, none clearly faster")


def test_a_variant_that_was_refused():
    refused = {"what": "graph", "name": "static", "ratio": None, "kept": False, "why": "logits differ"}
    words = said(tuning=tuning(variant("dynamic", 1, 1, 1, kept=True), refused))
    assert words == "tuned here in 1 s: dynamic kept; static refused: logits differ"
    assert said(tuning=tuning()) == ""


def test_layers_put_back():
    held = [{"layers": 8, "good": True}]
    many = said(restored={"layers": list("abcdef"), "rows": 512, "trail": held})
    assert many == "kept in float so that the goal holds on 512 held-out rows: 6 layers (a, b, c, d and 2 more)"
    none = said(restored={"layers": [], "rows": 512})
    assert none == "the goal holds on 512 held-out rows without a layer in float"


def test_a_goal_that_no_layers_in_float_reach():
    missed = {"layers": ["a"], "rows": 512, "trail": [{"layers": 0, "good": False}, {"layers": 1, "good": False}]}
    why = "the goal does not hold on 512 held-out rows whichever layers stay in float, so none was put back"
    assert said(restored=missed) == why
    assert "No choice of layers to keep in float reached the goal on 512 held-out rows." in warned(restored=missed)
    assert "held-out" not in warned()


def test_random_calibration_is_a_warning():
    random = calibration(data="random tokens", digest=None)
    assert "Calibrated on random tokens: " in warned(calibration=random)
    assert "random" not in warned(calibration=calibration(data="random tokens"))  # a file of that name
    assert said(activations="static", calibration=random) == "static ranges from 256 rows of random tokens"


def test_int8_that_lost_to_fp32_while_tuning_is_a_warning_where_nothing_was_measured_later():
    rows = tuning(variant("static", 1, 1, 1, kept=True), variant("fp32", 0.8, 0.75, 0.86))
    words = (
        "INT8 is slower than FP32 on this machine: while tuning, FP32 took 0.80× the time of the static INT8 graph "
        "(0.75…0.86)."
    )
    report = tuned()
    facts_of(report)["tuning"] = rows
    assert words not in build_verdict(report)["warnings"]
    report["benchmark"] = None
    assert words in build_verdict(report)["warnings"]
    rows["variants"][1]["high"] = 1.1
    assert build_verdict(report)["warnings"] == build_verdict({**tuned(), "benchmark": None})["warnings"]
