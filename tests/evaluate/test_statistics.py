"""Known values, properties, and how often the intervals hold what they promise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, pearsonr, spearmanr
from sklearn.metrics import f1_score

from deploycomp.evaluate import statistics as s

flags = st.lists(st.booleans(), min_size=1, max_size=60)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)
numbers = st.integers(-20, 20).map(float)


def weights_of(drawn: list[int]) -> np.ndarray:
    return np.array([drawn], np.float64)


# Shares


def test_wilson_by_hand() -> None:
    """81 of 263: Newcombe (1998), table I."""
    found = s.wilson(81, 263)
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4)) == (0.3080, 0.2553, 0.3662)
    assert s.wilson(0, 10).low == 0
    assert s.wilson(10, 10).high == 1


@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys_and_holds_its_value(rows: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, rows))
    found, other = s.wilson(hits, rows), binomtest(hits, rows).proportion_ci(method="wilson")
    assert found.low == pytest.approx(other.low, abs=1e-12)
    assert found.high == pytest.approx(other.high, abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_newcombe_by_hand() -> None:
    """36 both, 12 only the first, 2 only the second, 0 neither; worked step by step."""
    source = [True] * 48 + [False] * 2
    candidate = [True] * 36 + [False] * 12 + [True] * 2
    found = s.newcombe(source, candidate)
    first, second = s.wilson(48, 50), s.wilson(38, 50)
    phi = (36 * 0 - 12 * 2) / np.sqrt(48 * 2 * 38 * 12)
    low, high = first.value - first.low, second.high - second.value
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - np.sqrt(low**2 - 2 * phi * low * high + high**2))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0569, 0.3404)


@given(pairs)
def test_newcombe_holds_its_value_and_turns_its_sign(rows: list[tuple[bool, bool]]) -> None:
    source, candidate = zip(*rows, strict=True)
    found, turned = s.newcombe(source, candidate), s.newcombe(candidate, source)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert (found.value, found.low) == pytest.approx((-turned.value, -turned.high))


@given(flags)
def test_the_same_answers_have_no_drop(rows: list[bool]) -> None:
    drop = s.paired_shares(rows, rows)
    assert (drop.value, drop.p_value) == (0.0, 1.0)
    assert drop.low <= 0 <= drop.high


@pytest.mark.parametrize(
    ("lost", "won", "p_value"), [(0, 0, 1), (1, 0, 1), (5, 0, 0.0625), (8, 1, 0.0390625), (3, 3, 1)]
)
def test_mcnemar_by_hand(lost: int, won: int, p_value: float) -> None:
    """Twice the binomial tail with p = 1/2: 5 of 5 is 2/32, at most 1 of 9 is 2·10/512."""
    source = [True] * lost + [False] * won + [True] * 7
    candidate = [False] * lost + [True] * won + [True] * 7
    assert s.mcnemar(source, candidate) == pytest.approx(p_value)


def coverage(hold: list[bool]) -> float:
    return float(np.mean(hold))


def test_wilson_covers() -> None:
    random = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.98):
        drawn = [s.wilson(int(hits), 200) for hits in random.binomial(200, share, size=2000)]
        assert 0.92 < coverage([each.low <= share <= each.high for each in drawn]) < 0.98


def test_newcombe_covers() -> None:
    random = np.random.default_rng(0)
    hold = []
    for _ in range(1000):
        kind = random.choice(4, p=[0.8, 0.08, 0.04, 0.08], size=200)  # both, only source, only candidate, neither
        found = s.newcombe(kind <= 1, (kind == 0) | (kind == 2))
        hold.append(found.low <= 0.04 <= found.high)
    assert 0.92 < coverage(hold) < 0.99


def test_the_bootstrap_covers() -> None:
    random = np.random.default_rng(0)
    hold = {"mean": [], "pearson": [], "spearman": []}
    for _ in range(120):
        x = random.normal(size=150)
        y = 0.6 * x + 0.8 * random.normal(size=150)
        found = s.bootstrap({"mean": s.mean(x), "pearson": s.pearson(x, y), "spearman": s.spearman(x, y)}, 150)
        truth = {"mean": 0.0, "pearson": 0.6, "spearman": 6 / np.pi * np.arcsin(0.3)}
        for name, value in truth.items():
            hold[name].append(found[name].low <= value <= found[name].high)
    for name, each in hold.items():
        assert 0.87 < coverage(each) <= 0.995, name


def test_the_paired_bootstrap_sees_a_drop_and_does_not_invent_one() -> None:
    random = np.random.default_rng(1)
    false_alarms = 0
    for _ in range(100):
        source, noise = random.normal(size=100), random.normal(scale=0.5, size=100)
        false_alarms += s.paired_bootstrap(s.mean(source), s.mean(source + noise), 100).p_value < 0.05
    assert false_alarms <= 12
    assert s.paired_bootstrap(s.mean(source), s.mean(source - 0.3), 100).p_value < 0.01


# The bootstrap


def test_two_runs_are_the_same() -> None:
    values = np.arange(50.0)
    assert s.bootstrap({"x": s.mean(values)}, 50) == s.bootstrap({"x": s.mean(values)}, 50)


def test_resamples_are_counts_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(s._resamples(7)))
    monkeypatch.setattr(s, "_CHUNK", 70)
    chunks = list(s._resamples(7))
    assert whole.shape == (s.RESAMPLES, 7)
    assert (whole.sum(1) == 7).all()
    assert max(len(chunk) for chunk in chunks) == 10
    assert np.array_equal(np.concatenate(chunks), whole)


@given(st.lists(numbers, min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_an_interval_holds_its_value(values: list[float]) -> None:
    found = s.bootstrap({"x": s.mean(values), "y": s.pearson(values, values[::-1])}, len(values))
    for each in found.values():
        assert each.low <= each.value <= each.high


@given(st.lists(numbers, min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_no_drop_of_a_thing_against_itself(values: list[float]) -> None:
    drop = s.paired_bootstrap(s.mean(values), s.mean(values), len(values))
    assert drop.as_dict() == {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


# Statistics: the value on weighted rows is the library's value on repeated rows

weighted = st.integers(2, 25).flatmap(
    lambda size: st.tuples(
        st.lists(numbers, min_size=size, max_size=size),
        st.lists(numbers, min_size=size, max_size=size),
        st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any),
    )
)


@given(weighted)
def test_correlations_are_scipys_on_every_resample(rows: tuple[list[float], list[float], list[int]]) -> None:
    x, y, drawn = (np.array(each) for each in rows)
    many_x, many_y = np.repeat(x, drawn), np.repeat(y, drawn)
    for ours, scipys in ((s.pearson, pearsonr), (s.spearman, spearmanr)):
        value = ours(x, y)(weights_of(drawn.tolist()))[0]
        if len(set(many_x)) > 1 and len(set(many_y)) > 1:
            assert value == pytest.approx(scipys(many_x, many_y).statistic, abs=1e-9)
        else:
            assert value == 0


def test_a_constant_has_no_correlation() -> None:
    for statistic in (s.pearson, s.spearman):
        assert s.point(statistic([0.1] * 10, range(10)), 10) == 0
        assert s.point(statistic([1e9 + 0.1] * 10, range(10)), 10) == 0


classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(classes.filter(lambda rows: any(weight for _, _, weight in rows)))
def test_f1_is_scikit_learns_on_every_resample(rows: list[tuple[int, int, int]]) -> None:
    right, found, drawn = (np.array(each) for each in zip(*rows, strict=True))
    gold, guess = s.one_hot(right[:, None].tolist(), 4), s.one_hot(found[:, None].tolist(), 4)
    counts = (gold, guess, gold.multiply(guess).tocsr())
    many_right, many_found = np.repeat(right, drawn), np.repeat(found, drawn)
    for average in ("micro", "macro", "weighted"):
        ours = s.f1(*counts, average=average)(weights_of(drawn.tolist()))[0]
        assert ours == pytest.approx(f1_score(many_right, many_found, average=average, zero_division=0))
    ours = s.f1(*counts, average=1)(weights_of(drawn.tolist()))[0]
    assert ours == pytest.approx(f1_score(many_right == 1, many_found == 1, zero_division=0))


def test_precision_and_recall_by_hand() -> None:
    """3 entities, 4 found, 2 of them right."""
    gold, found, hits = ([[1.0], [2.0]], [[3.0], [1.0]], [[1.0], [1.0]])
    arrays = [np.array(each) for each in (gold, found, hits)]
    assert s.point(s.precision(arrays[1], arrays[2]), 2) == 2 / 4
    assert s.point(s.recall(arrays[0], arrays[2]), 2) == 2 / 3
    assert s.point(s.f1(*arrays, average="micro"), 2) == pytest.approx(4 / 7)


def test_nothing_over_nothing_is_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert s.point(s.ratio([0, 0], [0, 0]), 2) == 0
