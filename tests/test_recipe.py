"""The grammar: what is written reads back, and what is wrong is said with its place and a remedy."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deploycomp import recipe as module
from deploycomp.errors import UsageError
from deploycomp.recipe import (
    MAX_RECIPE_BYTES,
    TARGETS,
    TASKS,
    Benchmark,
    Calibrate,
    Evaluate,
    Export,
    Fixed,
    Gate,
    Int8,
    Recipe,
    find_recipes,
)
from deploycomp.yamlcore import Loader, dump
from tests.cli.made import ROOT

# ------------------------------------------------------------ round trip

POSITIVE = st.integers(1, 10**6)
SOME = st.lists(POSITIVE, max_size=3).map(tuple)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
FRACTION = st.floats(0, 1, allow_nan=False)

EXPORTS = st.builds(
    Export,
    ops=st.sampled_from(["fused", "standard"]),
    opset=st.none() | st.integers(18, 26),
    fixed=st.builds(Fixed, batch=st.none() | POSITIVE, sequence=st.none() | POSITIVE),
    external_data_bytes=st.integers(0, 2**40),
)
INT8S = st.builds(
    Int8,
    weight_bits=st.sampled_from(["auto", 7, 8]),
    embeddings=st.booleans(),
    activations=st.sampled_from(["auto", "static", "dynamic"]),
    ranges=st.sampled_from(["minmax", "mse", "percentile", "entropy"]),
    smooth=st.booleans(),
    keep_float=st.lists(TEXT, max_size=3).map(tuple),
)
STEPS = st.tuples(EXPORTS) | st.tuples(EXPORTS, INT8S)
RECIPES = st.builds(
    Recipe,
    model=st.none() | TEXT,
    revision=st.none() | TEXT,
    task=st.sampled_from(["auto", *TASKS]),
    target=st.sampled_from(TARGETS),
    steps=STEPS,
    calibrate=st.none()
    | st.builds(
        Calibrate,
        data=st.none() | TEXT,
        split=st.none() | TEXT,
        columns=st.dictionaries(TEXT, TEXT, max_size=3),
        rows=POSITIVE,
        held_out=st.integers(0, 10**6),
        allow_random=st.booleans(),
    ),
    tune=st.none() | st.booleans(),
    evaluate=st.none()
    | st.builds(
        Evaluate,
        data=TEXT,
        split=st.none() | TEXT,
        columns=st.dictionaries(TEXT, TEXT, max_size=3),
        limit=st.none() | POSITIVE,
        max_drop=st.none() | FRACTION,
        batch_size=POSITIVE,
    ),
    benchmark=st.none()
    | st.builds(
        Benchmark,
        batch_size=SOME,
        sequence_length=SOME,
        threads=SOME,
        blocks=st.integers(2, 100),
        block_seconds=st.floats(1e-6, 1e6),
    ),
    layout=st.sampled_from(["default", "transformers.js", "sentence-transformers"]),
    keep_fp32=st.booleans(),
)


@settings(deadline=None)
@given(RECIPES)
def test_what_is_written_reads_back(recipe: Recipe):
    assert Recipe.parse(recipe.to_yaml()) == recipe
    assert Recipe.check(recipe.model_dump(mode="json")) == recipe
    assert Recipe.parse(recipe.to_yaml()).to_yaml() == recipe.to_yaml()


@settings(deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_recipe_or_a_usage_error(text: str):
    with contextlib.suppress(UsageError):
        Recipe.parse(text)


@pytest.mark.parametrize("name", ["grün", "a\x85b", "a\u2028b", " a ", "a\nb", "\ufeffa", "no", "1", "~", "a: b", "#a"])
def test_any_name_reads_back(name: str):
    assert Recipe.parse(Recipe(model=name).to_yaml()).model == name
    assert ("grün" in Recipe(model=name).to_yaml()) is (name == "grün")


def test_defaults_are_spelled_out():
    text = Recipe(model="m").to_yaml()
    assert "target: portable\n" in text
    assert "opset: null\n" in text
    assert "max_drop" not in text  # nothing is judged without data


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().target = "cuda"  # type: ignore[misc]


# ------------------------------------------------------------ refusals

BAD = [
    # not YAML, or not a mapping
    ("a: [1, 2", "recipe:1:9", "not valid YAML", "expected ',' or ']'", None),
    ("\t- a", "recipe:1:1", "not valid YAML", "'\\t' that cannot start any token", None),
    ("\x00", "recipe", "not valid YAML", "special characters are not allowed", None),
    ("", "recipe", "a recipe is a mapping", None, "deploycomp recipes"),
    ("- step: export", "recipe", "a recipe is a mapping", None, "deploycomp recipes"),
    ("a: 1\n---\nb: 2", "recipe:2:1", "not valid YAML", "another document", None),
    ("[" * 5000, "recipe", "nested too deeply", None, None),
    # YAML that does more than say
    ("model: a\u2028b", "recipe:1:9", "not valid YAML", "U+2028 ends a line for some readers", None),
    ("a: 1\nmodel: \x85", "recipe:2:8", "not valid YAML", "U+0085 ends a line for some readers", None),
    ("steps: [" + "[" * 5000, "recipe", "nested too deeply", None, None),
    ("a: &x [1]\nb: *x", "recipe:2:4", "not valid YAML", "anchors and aliases are not allowed", None),
    ("steps: &x\n - *x", "recipe:2:4", "not valid YAML", "anchors and aliases are not allowed", None),
    ("a: 1\n<<: {b: 1}", "recipe: a", "Extra inputs", None, "known keys"),
    ("!!merge <<: {target: cuda}", "recipe:1:1", "not valid YAML", "could not determine a constructor", None),
    ("model: !!timestamp 2020-01-01", "recipe:1:8", "not valid YAML", "could not determine a constructor", None),
    ("model: !!binary aGk=", "recipe:1:8", "not valid YAML", "could not determine a constructor", None),
    ("a: 1\nb: !!int '1:30'", "recipe:2:4", "not valid YAML", "'1:30' is no int", None),
    ("calibrate:\n  rows: " + "1" * 5000, "recipe:2:9", "not valid YAML", "a number of 5,000 characters", None),
    ("benchmark: {block_seconds: 0." + "1" * 5000 + "}", "recipe:1:28", "not valid YAML", "5,002 characters", None),
    ("!!python/object/apply:os.system [id]", "recipe:1:1", "not valid YAML", "could not determine a constructor", None),
    ("{[1]: 2}", "recipe:1:2", "not valid YAML", "unhashable key", None),
    ("target: cuda\ntarget: portable", "recipe:2:1", "not valid YAML", "'target' stands twice", None),
    ("steps: [{step: export, opset: 18, opset: 20}]", "recipe:1:35", "not valid YAML", "'opset' stands twice", None),
    # keys
    ("stepps: []", "recipe: stepps", "Extra inputs", None, "did you mean 'steps'?"),
    ("1: 2", "recipe: 1", "Keys should be strings", None, None),
    ("limit: 3", "recipe: limit", "Extra inputs", None, "'limit' belongs to evaluate"),
    ("benchmark: {batchsize: [1]}", "recipe: benchmark.batchsize", "Extra inputs", None, "did you mean 'batch_size'?"),
    ("steps: [{step: export, opsett: 18}]", "recipe: steps.0.export.opsett", "Extra", None, "did you mean 'opset'?"),
    ("zzz: 3", "recipe: zzz", "Extra inputs", None, "known keys: activations, allow_random, attention, batch"),
    ("evaluate: {limit: 3}", "recipe: evaluate.data", "Field required", None, None),
    # values
    ("version: 2", "recipe: version", "should be 1", None, None),
    ("target: x86", "recipe: target", "'portable'", None, None),
    ("task: chat", "recipe: task", "'fill-mask'", None, None),
    ("layout: flat", "recipe: layout", "'transformers.js'", None, None),
    ("model: {a: b}", "recipe: model", "valid string", None, None),
    ("model: 17", "recipe: model", "valid string", None, "put it in quotes"),
    ("model: 0x1F", "recipe: model", "valid string", None, "put it in quotes"),
    ("model: true", "recipe: model", "valid string", None, "put it in quotes"),
    ("keep_fp32: yes", "recipe: keep_fp32", "valid boolean", None, "true or false"),
    ("keep_fp32: off", "recipe: keep_fp32", "valid boolean", None, "true or false"),
    ("keep_fp32: 1", "recipe: keep_fp32", "valid boolean", None, "true or false"),
    ("calibrate: {rows: 1_000}", "recipe: calibrate.rows", "valid integer", None, "a whole number without quotes"),
    ("calibrate: {rows: 1:30}", "recipe: calibrate.rows", "valid integer", None, "a whole number without quotes"),
    ("calibrate: {rows: '8'}", "recipe: calibrate.rows", "valid integer", None, "a whole number without quotes"),
    ("calibrate: {rows: 8.0}", "recipe: calibrate.rows", "valid integer", None, "a whole number without quotes"),
    ("calibrate: {rows: 0b11}", "recipe: calibrate.rows", "valid integer", None, "a whole number without quotes"),
    ("gate: {budget: 1:30}", "recipe: gate.budget", "valid number", None, "a number without quotes"),
    ("gate: {budget: 1e400}", "recipe: gate.budget", "finite number", None, None),
    ("calibrate: {rows: 2020-13-45}", "recipe: calibrate.rows", "valid integer", None, "a whole number"),
    ("steps: 3", "recipe: steps", "valid tuple", None, None),
    ("steps: [1]", "recipe: steps.0", "valid dictionary", None, None),
    ("steps: [{}]", "recipe: steps.0", "discriminator 'step'", None, None),
    ("steps: [{step: int9}]", "recipe: steps.0", "'int9' found using 'step' does not match", None, None),
    ("steps: [{step: export, opset: 17}]", "recipe: steps.0.export.opset", "greater than or equal to 18", None, None),
    ("steps: [{step: export, opset: 27}]", "recipe: steps.0.export.opset", "less than or equal to 26", None, None),
    ("steps: [{step: export, ops: fast}]", "recipe: steps.0.export.ops", "'fused' or 'standard'", None, None),
    ("steps: [{step: export, fixed: {batch: 0}}]", "recipe: steps.0.export.fixed.batch", "greater than", None, None),
    ("steps: [{step: export}, {step: int8, weight_bits: 4}]", "recipe: steps.1.int8.weight_bits", "7 or 8", None, None),
    ("evaluate: {data: a, max_drop: 5}", "recipe: evaluate.max_drop", "less than or equal to 1", None, None),
    ("evaluate: {data: a, max_drop: -0.1}", "recipe: evaluate.max_drop", "greater than or equal to 0", None, None),
    ("evaluate: {data: a, max_drop: .nan}", "recipe: evaluate.max_drop", "finite number", None, None),
    ("evaluate: {data: a, limit: 0}", "recipe: evaluate.limit", "greater than", None, None),
    ("benchmark: {block_seconds: .inf}", "recipe: benchmark.block_seconds", "finite number", None, None),
    ("benchmark: {block_seconds: 0}", "recipe: benchmark.block_seconds", "greater than 0", None, None),
    ("benchmark: {blocks: 1}", "recipe: benchmark.blocks", "greater than or equal to 2", None, None),
    ("benchmark: {threads: [0]}", "recipe: benchmark.threads.0", "greater than or equal to 1", None, None),
    ("calibrate: {rows: 0}", "recipe: calibrate.rows", "greater than or equal to 1", None, None),
    ("calibrate: {held_out: -1}", "recipe: calibrate.held_out", "greater than or equal to 0", None, None),
    ("tune: often", "recipe: tune", "valid boolean", None, "true or false"),
    ("steps: [{step: export}, {step: int8, ranges: max}]", "recipe: steps.1.int8.ranges", "'minmax'", None, None),
    ("steps: [{step: export}, {step: int8, keep_float: a}]", "recipe: steps.1.int8.keep_float", "tuple", None, None),
    ("held_out: 3", "recipe: held_out", "Extra inputs", None, "'held_out' belongs to calibrate"),
    # order
    ("steps: []", "recipe", "exactly one 'export' step, this one has 0", None, None),
    ("steps: [{step: int8}]", "recipe", "exactly one 'export' step, this one has 0", None, None),
    ("steps: [{step: export}, {step: export}]", "recipe", "exactly one 'export' step, this one has 2", None, None),
    ("steps: [{step: export}, {step: int8}, {step: int8}]", "recipe", "step 'int8' stands twice", None, None),
    ("steps: [{step: int8}, {step: export}]", "recipe", "'int8' works on onnx and must come after", None, None),
    ("steps: [{step: export, dtype: fp16}, {step: int8}]", "recipe", "use either dtype fp16 or int8", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "what", "why", "hint"), BAD, ids=[each[0][:40] for each in BAD])
def test_bad_recipes(text: str, where: str, what: str, why: str | None, hint: str | None):
    with pytest.raises(UsageError) as caught:
        Recipe.parse(text)
    error = caught.value
    assert error.exit_code == 2
    assert error.where == where
    assert what in error.what
    assert (why is None and error.why is None) or (why is not None and error.why is not None and why in error.why)
    assert (hint is None) == (error.hint is None)
    assert hint is None or (error.hint is not None and error.hint.startswith(hint))


@pytest.mark.parametrize("data", [{"model": "m\udce4rz"}, {"evaluate": {"data": "m\udce4rz.jsonl"}}])
def test_a_name_that_is_not_utf_8_is_refused_before_any_work(data: dict[str, object]):
    """The manifest could not say it, and would be written at the very end."""
    with pytest.raises(UsageError, match="a name in the recipe is not UTF-8") as caught:
        Recipe.check(data, where="command line")
    assert "m\\udce4" in str(caught.value.why)
    str(caught.value).encode()


def test_a_large_recipe_is_refused(tmp_path: Path):
    text = "# " + "x" * MAX_RECIPE_BYTES + "\nversion: 1\n"
    with pytest.raises(UsageError, match="at most 1,000,000 bytes"):
        Recipe.parse(text)
    (tmp_path / "large.yaml").write_text(text)
    with pytest.raises(UsageError, match="at most 1,000,000 bytes"):
        Recipe.read(tmp_path / "large.yaml")


def test_a_huge_file_is_not_read_whole(tmp_path: Path):
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that is not there
    with pytest.raises(UsageError, match="at most 1,000,000 bytes"):
        Recipe.read(tmp_path / "huge.yaml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\xff\xfe\x00", "invalid start byte")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, reason: str):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        Recipe.read(path)
    assert caught.value.where == str(path)
    assert caught.value.hint == "deploycomp recipes"


def test_errors_name_the_file(tmp_path: Path):
    (tmp_path / "my.yaml").write_text("taget: cuda")
    with pytest.raises(UsageError, match="did you mean 'target'") as caught:
        Recipe.read(tmp_path / "my.yaml")
    assert caught.value.where == f"{tmp_path / 'my.yaml'}: taget"


# ------------------------------------------------------------ YAML 1.2, core schema

INTEGER = st.integers(-(10**30), 10**30)
DIGITS = st.text("0123456789", min_size=1, max_size=12)


def signed(text: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}".format, st.sampled_from(["", "+", "-"]), text)


def same(found: object, wanted: object) -> bool:
    return type(found) is type(wanted) and (found == wanted or (found != found and wanted != wanted))


SCALARS = (
    st.sampled_from(["", "~", "null", "Null", "NULL"]).map(lambda text: (text, None))
    | st.sampled_from(["true", "True", "TRUE"]).map(lambda text: (text, True))
    | st.sampled_from(["false", "False", "FALSE"]).map(lambda text: (text, False))
    | signed(DIGITS).map(lambda text: (text, int(text)))
    | st.integers(0, 2**70).map(lambda number: (f"0o{number:o}", number))
    | st.integers(0, 2**70).map(lambda number: (f"0x{number:x}", number))
    | st.integers(0, 2**70).map(lambda number: (f"0x{number:X}", number))
    | signed(st.builds("{}.{}".format, DIGITS | st.just(""), DIGITS)).map(lambda text: (text, float(text)))
    | signed(DIGITS.map("{}.".format)).map(lambda text: (text, float(text)))
    | st.builds("{}e{}".format, signed(DIGITS), signed(st.integers(0, 400).map(str))).map(lambda t: (t, float(t)))
    | signed(st.sampled_from([".inf", ".Inf", ".INF"])).map(lambda text: (text, float(text.replace(".", ""))))
    | st.sampled_from([".nan", ".NaN", ".NAN"]).map(lambda text: (text, float("nan")))
    # Numbers, booleans and dates to YAML 1.1, texts to the core schema.
    | st.sampled_from(
        ["yes", "No", "ON", "off", "y", "n", "nULL", "tRUE", "0b11", "1_000", "0x_1", "0o8", "-0x1", "0O7", "1e", "e3",
         "1:30", "190:20:30", "190:20:30.15", "2020-01-01", "2001-12-14t21:59:43.10-05:00", "=", "<<", "inf", "nan"]
    ).map(lambda text: (text, text))
)  # fmt: skip
"""What is written and what the core schema says that it is (YAML 1.2.2, 10.3.2)."""


@settings(deadline=None, max_examples=400)
@given(SCALARS)
def test_a_scalar_is_what_the_core_schema_says(case: tuple[str, object]):
    text, value = case
    assert same(Loader(f"key: {text}\n").get_single_data()["key"], value)
    assert not text or same(Loader(f"[{text}, x]").get_single_data()[0], value)
    assert Loader(f"key: '{text}'\n").get_single_data() == {"key": text}


@settings(deadline=None)
@given(SCALARS | TEXT.map(lambda text: (text, text)) | st.floats().map(lambda number: ("", number)))
def test_what_is_dumped_means_the_same_to_both_versions(case: tuple[str, object]):
    for value in case:
        written = dump({"key": value})
        assert written.count("\n") == 1
        assert same(Loader(written).get_single_data()["key"], value)
        assert same(yaml.safe_load(written)["key"], value)


def test_numbers_of_a_recipe_are_those_of_the_core_schema():
    assert Recipe.parse("calibrate: {rows: 017}").calibrate == Calibrate(rows=17)
    assert Recipe.parse("calibrate: {rows: 0o17}").calibrate == Calibrate(rows=15)
    assert Recipe.parse("gate: {budget: 1e3}").gate == Gate(budget=1000)
    assert Recipe.parse("gate: {budget: 90}").gate == Gate(budget=90)
    assert Recipe.parse("model: 2020-01-01").model == "2020-01-01"
    assert Recipe.parse("model: 1:30").model == "1:30"
    assert Recipe.parse("model: no").model == "no"


@settings(deadline=None)
@given(TEXT | st.sampled_from(["::error::x", "a\n::error::x", "a" * 90 + " ::error::x", "- ", "a\n\n  next:  x"]))
def test_no_name_begins_a_line_of_a_recipe(name: str):
    recipe = Recipe(
        model=name, evaluate=Evaluate(data=name, columns={name: name}), steps=(Export(), Int8(keep_float=(name,)))
    )
    assert recipe.to_yaml().count("\n") == Recipe.model_validate({**recipe.model_dump(), "model": "x"}).to_yaml().count(
        "\n"
    )
    assert not re.search(r"(?m)^\s*::", recipe.to_yaml())
    assert Recipe.parse(recipe.to_yaml()) == recipe


# ------------------------------------------------------------ the recipes that come along

SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_recipes_parse_and_explain_themselves(path: Path):
    recipe = Recipe.read(path)
    assert recipe == Recipe.check(yaml.safe_load(path.read_text(encoding="utf-8")))  # YAML 1.1 reads it alike
    assert recipe.model is None  # the user's
    first, second, command, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert 20 < len(first) < 121
    assert first.endswith(".")
    assert second == "#"
    assert command.strip("# ").startswith(f"deploycomp export MODEL --recipe {path.stem}")


def test_recipes_are_found_in_the_repository():
    assert find_recipes() == {path.stem: path for path in SHIPPED}
    assert {"fp32", "int8", "int8-here", "int8-guarded", "fp16-gpu"} <= set(find_recipes())


def test_recipes_are_found_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "deploycomp"
    (package / "_recipes").mkdir(parents=True)
    (package / "_recipes" / "int8.yaml").write_text("version: 1")
    monkeypatch.setattr(module, "__file__", str(package / "recipe.py"))
    assert find_recipes() == {"int8": package / "_recipes" / "int8.yaml"}
    (package / "_recipes" / "int8.yaml").unlink()
    (package / "_recipes").rmdir()
    assert find_recipes() == {}


@pytest.mark.parametrize(
    ("recipe", "opset"),
    [
        (Recipe(), 24),
        (Recipe(steps=(Export(opset=20),)), 20),
        (Recipe(steps=(Export(ops="standard"),)), 18),
        (Recipe(target="cuda"), 18),
        (Recipe(layout="transformers.js"), 18),
    ],
)
def test_the_opset_is_the_fastest_that_its_readers_know(recipe: Recipe, opset: int):
    assert recipe.opset == opset
