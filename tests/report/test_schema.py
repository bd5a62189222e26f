from __future__ import annotations

import copy

import jsonschema
import pytest

from deploycomp.report.schema import SCHEMA, load_schema
from tests.report.example import EXAMPLES, tuned, wins


@pytest.fixture(scope="module")
def validator():
    jsonschema.Draft202012Validator.check_schema(load_schema())
    return jsonschema.Draft202012Validator(load_schema())


def test_the_schema_lies_in_the_package():
    assert SCHEMA.is_file()
    assert load_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_valid(name, validator):
    validator.validate(EXAMPLES[name]())


def test_rendered_hashes_are_valid(validator):
    validator.validate({**wins(), "rendered": {"report.md": "0" * 64, "report.html": "f" * 64}})


def test_open_parts_take_what_they_are_given(validator):
    report = wins()
    report["machine"]["anything"] = {"nested": [1]}
    report["steps"][0]["facts"]["anything"] = {"nested": [1]}
    report["benchmark"]["context"]["anything"] = None
    validator.validate(report)


def test_the_facts_of_the_int8_step_have_a_shape(validator):
    for key, value in (("tuning", {"seconds": -1}), ("restored", []), ("activations", "int4"), ("calibration", "rows")):
        report = tuned()
        report["steps"][1]["facts"][key] = value
        assert not validator.is_valid(report), key


def broken(path: str, value: object) -> dict:
    report = copy.deepcopy(wins())
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = report
    for part in parents:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return report


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("surprise", 1, "'surprise' was unexpected"),
        ("schema_version", 2, "1 was expected"),
        ("verdict", ..., "'verdict' is a required property"),
        ("created", "yesterday", "does not match"),
        ("source/bytes", -1, "less than the minimum"),
        ("artifact/precision", "int4", "is not one of"),
        ("steps/0/facts/fused", {"Gelu": "six"}, "is not of type 'integer'"),
        ("layers/0/error", -0.1, "less than the minimum"),
        ("evaluation/scores/artifact/accuracy/low", ..., "'low' is a required property"),
        ("evaluation/drop/source", {}, "is not one of"),
        ("benchmark/cells/0/p50_ms", None, "is not of type 'number'"),
        ("benchmark/cells/0/p75_ms", 1.0, "'p75_ms' was unexpected"),
        ("rendered", {"report.md": "x", "report.html": "x"}, "does not match"),
    ],
)
def test_wrong_reports_are_refused(path, value, reason, validator):
    with pytest.raises(jsonschema.ValidationError) as caught:
        validator.validate(broken(path, value))
    best = jsonschema.exceptions.best_match(validator.iter_errors(broken(path, value)))
    messages = [best.message, caught.value.message, *(each.message for each in best.context or ())]
    assert any(reason in message for message in messages), messages
