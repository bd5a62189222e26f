"""A surgery plan is read strictly, written the same way every time, and says each thing once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploycomp.errors import InputRefused
from deploycomp.models.plan import SURGERY, Bias, Cut, Factored, Heads, Layers, Neurons, Plan, Vocabulary, read_plan

kept = st.lists(st.integers(0, 5000), unique=True, max_size=12).map(sorted).map(tuple)
layers = st.integers(0, 50)
cuts = st.one_of(
    st.builds(Heads, layers, kept),
    st.builds(Neurons, layers, kept),
    st.builds(Layers, kept),
    st.builds(Vocabulary, kept),
    st.builds(Bias, st.text()),
    st.builds(
        Factored,
        st.lists(st.text(), min_size=1, max_size=4, unique=True).map(tuple),
        st.text(),
        st.sampled_from(["smaller", "faster"]),
        st.dictionaries(st.text(), st.integers(0, 10**6), max_size=4),
    ),
)
bases = st.fixed_dictionaries(
    {},
    optional={
        "num_hidden_layers": st.integers(1, 99),
        "n_layers": st.integers(1, 99),
        "vocab_size": st.integers(1, 10**6),
        "layer_types": st.lists(st.sampled_from(["full_attention", "sliding_attention"])),
    },
)
plans = st.builds(Plan, bases, st.lists(cuts, max_size=8).map(tuple))


def read(folder: Path, text: str) -> Plan:
    (folder / SURGERY).write_text(text, encoding="utf-8")
    return read_plan(folder / SURGERY, inside=folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


# ------------------------------------------------------------------------------------------------ writing and reading


@given(plan=plans)
def test_what_is_written_is_read_back(place: Path, plan: Plan):
    again = read(place, plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()


@given(plan=plans, seed=st.integers(0, 99))
def test_equal_plans_are_equal_bytes(plan: Plan, seed: int):
    items = list(plan.base.items())
    random.Random(seed).shuffle(items)
    assert Plan(dict(items), tuple(plan.cuts)).to_json() == plan.to_json()


def test_a_line_a_cut():
    plan = Plan({"vocab_size": 9, "num_hidden_layers": 2}, (Heads(3, (0, 2)), Bias("a.b")))
    assert plan.to_json() == (
        '{"format": 1, "base": {"num_hidden_layers": 2, "vocab_size": 9}, "cuts": [\n'
        '  {"cut": "heads", "layer": 3, "kept": [0, 2]},\n'
        '  {"cut": "bias", "module": "a.b"}\n'
        "]}\n"
    )


def test_a_plan_without_cuts_is_false():
    assert not Plan({"vocab_size": 9})
    assert Plan().then(Layers((0,)))


# ------------------------------------------------------------------------------------------------------------ merging


def then(*every: Cut) -> Plan:
    plan = Plan()
    for cut in every:
        plan = plan.then(cut)
    return plan


@pytest.mark.parametrize("kind", [Heads, Neurons])
@given(first=kept, data=st.data())
def test_a_second_cut_at_the_same_place_is_one_with_the_first(kind: Any, first: tuple[int, ...], data: st.DataObject):
    places = st.sets(st.sampled_from(range(len(first)))) if first else st.just(set())
    second = tuple(sorted(data.draw(places)))
    others: tuple[Cut, ...] = (kind(7, (1, 2)), Neurons(6, (0,)), Heads(6, (3,)), Vocabulary((0, 1)), Bias("a"))
    merged = then(kind(4, first), *others, kind(4, second))
    assert merged.cuts == (kind(4, tuple(first[index] for index in second)), *others)


def test_other_places_and_other_kinds_do_not_merge():
    every = (Heads(0, (1, 3)), Neurons(0, (0, 1)), Heads(1, (0,)))
    assert then(*every).cuts == every


def test_cuts_on_both_sides_of_a_layers_cut_do_not_merge():
    every = (Heads(1, (0, 2, 3)), Layers((1,)), Heads(0, (1, 2)), Heads(1, (0,)))
    assert then(*every).cuts == every
    assert then(*every, Heads(0, (1,))).cuts == (*every[:2], Heads(0, (2,)), every[3])
    assert then(*every, Heads(1, ())).cuts == (*every[:3], Heads(1, ()))


def test_the_first_value_before_a_cut_stands():
    plan = Plan().based_on({"num_hidden_layers": 6}).based_on({"num_hidden_layers": 4, "vocab_size": 9})
    assert plan.base == {"num_hidden_layers": 6, "vocab_size": 9}


# ----------------------------------------------------------------------------------------------------------- refusals


def with_cut(**cut: Any) -> str:
    return json.dumps({"format": 1, "base": {}, "cuts": [{"cut": "bias", "module": "a"}, cut]})


def whole(**changes: Any) -> str:
    return json.dumps({"format": 1, "base": {}, "cuts": []} | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (with_cut(cut="legs", layer=0), "holds an unknown cut"),
        (with_cut(layer=0, kept=[]), "holds an unknown cut"),
        (json.dumps({"format": 1, "base": {}, "cuts": ["heads"]}), "holds an unknown cut"),
        (with_cut(cut=["heads"], layer=0, kept=[]), "holds an unknown cut"),
        (with_cut(cut="heads", kept=[0]), "a cut has other keys"),
        (with_cut(cut="heads", layer=0, kept=[0], why="because"), "a cut has other keys"),
        (with_cut(cut="bias", module="a", kept=[]), "a cut has other keys"),
        (with_cut(cut="bias", module=3), "module is not a path"),
        (with_cut(cut="heads", layer=-1, kept=[0]), "layer is not a number"),
        (with_cut(cut="heads", layer="0", kept=[0]), "layer is not a number"),
        (with_cut(cut="heads", layer=True, kept=[0]), "layer is not a number"),
        (with_cut(cut="heads", layer=0.0, kept=[0]), "layer is not a number"),
        (with_cut(cut="layers", kept=3), "kept is not a list of numbers"),
        (with_cut(cut="layers", kept=[0, "1"]), "kept is not a list of numbers"),
        (with_cut(cut="layers", kept=[0, True]), "kept is not a list of numbers"),
        (with_cut(cut="layers", kept=[0.0]), "kept is not a list of numbers"),
        (with_cut(cut="layers", kept=[1, 0]), "kept does not ascend"),
        (with_cut(cut="layers", kept=[0, 0]), "kept does not ascend"),
        (with_cut(cut="layers", kept=[-1, 0]), "kept does not ascend"),
        (whole(format=2), "has format 2"),
        (whole(format="1"), "has format '1'"),
        (whole(format=True), "has format True"),
        (json.dumps({"base": {}, "cuts": []}), "has format None"),
        (json.dumps({"format": 1, "base": {}}), "is no surgery plan"),
        (whole(more=1), "is no surgery plan"),
        (whole(base=[]), "is no surgery plan"),
        (whole(cuts={}), "is no surgery plan"),
        (whole(base={"auto_map": {}}), "base holds 'auto_map'"),
        (whole(base={"vocab_size": 9, "hidden_size": 9}), "base holds 'hidden_size'"),
        (whole(base={"vocab_size": "9"}), "base holds no such vocab_size"),
        (whole(base={"num_hidden_layers": True}), "base holds no such num_hidden_layers"),
        (whole(base={"n_layers": -1}), "base holds no such n_layers"),
        (whole(base={"layer_types": "full_attention"}), "base holds no such layer_types"),
        (whole(base={"layer_types": [1]}), "base holds no such layer_types"),
        ('{"format": 1, "base": {}, "cuts": [], "cuts": []}', "duplicate key: 'cuts'"),
        ('{"format": 1, "base": {}, "cuts": [{"cut": "layers", "kept": [0], "kept": [1]}]}', "duplicate key: 'kept'"),
        ("[]", "is not a JSON object"),
        ("cuts", "not valid JSON"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputRefused, match=message) as caught:
        read(tmp_path, text)
    assert SURGERY in str(caught.value.where)


def test_the_cut_that_is_wrong_is_named(tmp_path: Path):
    with pytest.raises(InputRefused, match="does not ascend") as caught:
        read(tmp_path, with_cut(cut="layers", kept=[1, 0]))
    assert str(caught.value.where).endswith("cut 1")


def test_a_newer_format_asks_for_an_update(tmp_path: Path):
    with pytest.raises(InputRefused) as caught:
        read(tmp_path, whole(format=2))
    assert "update deploycomp" in str(caught.value.hint)


def test_too_many_cuts(tmp_path: Path):
    one = {"cut": "bias", "module": "a"}
    assert len(read(tmp_path, whole(cuts=[one] * 10_000)).cuts) == 10_000
    with pytest.raises(InputRefused, match="more than 10,000 cuts"):
        read(tmp_path, whole(cuts=[one] * 10_001))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path):
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "elsewhere.json").write_text(Plan().to_json())
    (inside / SURGERY).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(InputRefused):
        read_plan(inside / SURGERY, inside=inside)
