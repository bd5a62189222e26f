from __future__ import annotations

from deploycomp.report import doctor_lines, evaluation_lines
from tests.report.example import wins


def test_evaluation_lines():
    lines = evaluation_lines(wins()["evaluation"])
    assert lines[0] == "sst2/validation.jsonl: 872 rows"
    assert "  accuracy 89.33 % (95 % CI 87.1…91.2)" in lines
    assert "  agreement with the source 98.17 % (95 % CI 97.0…98.9)" in lines
    assert "  change of accuracy against the source −0.11 pt, 95 % CI −1.03…+0.80, within noise" in lines


def test_evaluation_lines_without_a_source():
    evaluation = wins()["evaluation"]
    alone = {"my-artifact\x1b[31m": evaluation["scores"]["artifact"]}
    lines = evaluation_lines({**evaluation, "split": "test", "scores": alone, "agreement": {}, "drop": {}})
    assert lines[:2] == ["sst2/validation.jsonl, split test: 872 rows", "my-artifact"]
    assert len(lines) == 4


def test_doctor_lines_on_this_machine():
    from deploycomp.runtime.doctor import doctor

    facts = {**doctor(), "warnings": ["the disk is nearly full"]}
    lines = doctor_lines(facts)
    assert lines[0].startswith("CPU ")
    assert any(line.startswith(("yes ", "no ")) for line in lines)
    assert lines[-1] == "warning: the disk is nearly full"
