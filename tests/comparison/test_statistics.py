"""The statistics of the report against SciPy, published tables and laws that hold for all inputs."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ketune.comparison.statistics import (
    holm,
    mean_interval,
    paired_t_test,
    pareto_front,
    t_probability,
    t_quantile,
)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 10, 29, 30, 100, 1001])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.3, 1.0, 2.5, 12.7, 400.0])
def test_t_probability_is_scipys(t, dof):
    expected = scipy.stats.t.cdf(t, dof) - scipy.stats.t.cdf(-t, dof)
    assert t_probability(t, dof) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 9, 30, 500])
@pytest.mark.parametrize("confidence", [0.1, 0.5, 0.9, 0.95, 0.99, 0.9999])
def test_t_quantile_is_scipys(confidence, dof):
    assert t_quantile(confidence, dof) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, dof), rel=1e-9)


def test_t_quantile_gives_the_textbook_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}
    assert {dof: round(t_quantile(0.95, dof), 3) for dof in table} == table


@pytest.mark.parametrize(("confidence", "dof"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_t_quantile_refuses_what_has_no_quantile(confidence, dof):
    with pytest.raises(ValueError, match="need 0 < confidence < 1 and dof >= 1"):
        t_quantile(confidence, dof)


def test_mean_interval_is_scipys():
    values = [1.41, 1.37, 1.45, 1.40]
    low, high = scipy.stats.t.interval(0.95, 3, loc=numpy.mean(values), scale=scipy.stats.sem(values))
    interval = mean_interval(values)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.n == 4


def test_one_value_has_a_mean_and_no_interval():
    interval = mean_interval([1.5])
    assert (interval.mean, interval.half_width, interval.low, interval.high) == (1.5, None, None, None)


def test_no_value_has_no_mean():
    with pytest.raises(ValueError, match="pass at least one"):
        mean_interval([])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 9),
        st.tuples(st.floats(-5, 5).map(lambda x: round(x, 3)), st.floats(-5, 5).map(lambda x: round(x, 3))),
        min_size=2,
    )
)
def test_paired_t_test_is_scipys(pairs):
    ours = {seed: pair[0] for seed, pair in pairs.items()}
    theirs = {seed: pair[1] for seed, pair in pairs.items()}
    test = paired_t_test(ours, theirs)
    if len({round(a - b, 6) for a, b in pairs.values()}) == 1:
        assert test.p_value is None
        return
    expected = scipy.stats.ttest_rel(list(ours.values()), list(theirs.values()))
    assert test.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    interval = expected.confidence_interval(0.95)
    assert test.difference is not None
    assert (test.difference.low, test.difference.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert test.effect_size == pytest.approx(expected.statistic / math.sqrt(len(pairs)))


def test_paired_t_test_uses_only_the_seeds_that_both_have():
    test = paired_t_test({0: 1.0, 1: 1.2, 2: 1.1, 7: 50.0}, {2: 1.0, 1: 1.0, 0: 1.0, 9: -50.0})
    assert test.seeds == (0, 1, 2)
    assert test.difference is not None
    assert test.difference.mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ({0: 1.0}, {1: 1.0}, "no seed in common"),
        ({0: 1.0, 1: 2.0}, {1: 1.0}, "one seed in common; a test needs two"),
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, "the same in every seed"),
        ({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}, "the difference is the same in every seed"),
    ],
)
def test_a_test_that_cannot_be_made_says_why(ours, theirs, reason):
    test = paired_t_test(ours, theirs)
    assert test.p_value is None
    assert test.reason == reason


def test_holm_adjusts_as_in_the_worked_example():
    # Four hypotheses with p 0.01, 0.04, 0.03, 0.005: sorted 0.005*4, 0.01*3, 0.03*2, max(0.06, 0.04*1)
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == {key: pytest.approx(p) for key, p in {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}.items()}


def test_holm_leaves_out_what_was_not_tested():
    assert holm({"a": None, "b": 0.02, "c": 0.9}) == {"a": None, "b": 0.04, "c": 0.9}
    assert holm({}) == {}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_nor_reverses_two_and_stays_below_bonferroni(p_values):
    adjusted = holm(dict(enumerate(p_values)))
    for i, p in enumerate(p_values):
        value = adjusted[i]
        assert value is not None
        assert p <= value <= min(1.0, len(p_values) * p) + 1e-12
        for j, q in enumerate(p_values):
            other = adjusted[j]
            assert other is not None
            assert not (p < q and value > other)


def test_pareto_front_keeps_what_nothing_beats():
    points = [(10, 1.0), (20, 0.9), (20, 0.95), (30, 0.9), (5, 2.0), (10, 1.0)]
    assert pareto_front(points) == [4, 0, 5, 1]
    assert pareto_front([]) == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=10))
def test_every_point_off_the_front_is_beaten_by_one_on_it(points):
    front = pareto_front(points)
    for i, (a, b) in enumerate(points):
        beaten = any(points[j][0] <= a and points[j][1] <= b and points[j] != (a, b) for j in front)
        assert beaten != (i in front)
