import itertools
import math
import statistics as stdlib

import numpy as np
import pytest
from feedrate.harness.record.statistics import (
    Interval,
    hodges_lehmann,
    median,
    paired_ratio,
    signed_rank_distribution,
    stopping_errors,
    wilcoxon_interval,
)
from feedrate.loaders.base.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

numbers = st.floats(min_value=-1e6, max_value=1e6)
times = st.floats(min_value=1e-6, max_value=1e4)


def walsh(values):
    return sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2))


@given(st.lists(numbers, min_size=1, max_size=12))
def test_the_median_is_the_median(values):
    assert median(values) == pytest.approx(stdlib.median(values))


@given(st.lists(numbers, min_size=1, max_size=12))
def test_hodges_lehmann_is_the_median_of_pairwise_means(values):
    assert hodges_lehmann(values) == pytest.approx(stdlib.median(walsh(values)), abs=1e-9)


def test_one_outlier_hardly_moves_hodges_lehmann():
    assert hodges_lehmann([1, 2, 3, 4, 1000]) == 3


@pytest.mark.parametrize("n", range(1, 11))
def test_the_null_distribution_equals_an_enumeration_of_all_signs(n):
    sums = [
        sum(rank for rank, positive in enumerate(signs, start=1) if positive)
        for signs in itertools.product((False, True), repeat=n)
    ]
    expected = np.bincount(sums, minlength=n * (n + 1) // 2 + 1) / 2**n
    assert signed_rank_distribution(n) == pytest.approx(expected, abs=1e-15)


def test_the_null_distribution_of_a_large_sample_sums_to_one():
    chances = signed_rank_distribution(60)
    assert chances.sum() == pytest.approx(1, abs=1e-12)
    assert chances == pytest.approx(chances[::-1], abs=1e-15)


@pytest.mark.parametrize(
    ("n", "confidence"), [(1, 0), (2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)]
)
def test_few_pairs_give_their_whole_range_and_the_confidence_it_attains(n, confidence):
    values = [7.0, 1.0, 4.0, 2.0, 9.0][:n]
    assert wilcoxon_interval(values) == Interval(min(values), max(values), confidence)


@pytest.mark.parametrize("n", [6, 8, 10, 15, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_holds_what_the_exact_test_does_not_reject(n, confidence):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    interval = wilcoxon_interval(values.tolist(), confidence)
    assert interval.confidence_attained >= confidence or n == 6
    alpha = 1 - interval.confidence_attained
    for end, inwards in ((interval.low, 1), (interval.high, -1)):
        inside = stats.wilcoxon(values - (end + 1e-9 * inwards), method="exact").pvalue
        outside = stats.wilcoxon(values - (end - 1e-9 * inwards), method="exact").pvalue
        assert outside <= alpha + 1e-12 < inside


def test_the_interval_has_the_published_positions_for_twenty_pairs():
    # Wilcoxon's table: P(T+ <= 52) = 0.0242 and P(T+ <= 53) = 0.0266 for n = 20.
    values = np.random.default_rng(1).normal(size=20)
    averages = walsh(values)
    interval = wilcoxon_interval(values.tolist())
    assert (interval.low, interval.high) == pytest.approx((averages[52], averages[-53]))
    assert interval.confidence_attained == pytest.approx(1 - 2 * 0.0242, abs=1e-4)


@pytest.mark.parametrize("n", [3, 5, 8, 12])
def test_intervals_cover_the_truth_as_often_as_they_say(n):
    generator = np.random.default_rng(2)
    intervals = [wilcoxon_interval(generator.normal(size=n).tolist()) for _ in range(1500)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals) / 1500
    assert covered == pytest.approx(intervals[0].confidence_attained, abs=0.035)


@given(st.lists(numbers, min_size=1, max_size=15), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_the_interval_contains_the_estimate(values, confidence):
    interval = wilcoxon_interval(values, confidence)
    assert interval.low <= hodges_lehmann(values) <= interval.high


@given(st.lists(numbers, min_size=1, max_size=12))
def test_more_confidence_never_narrows_the_interval(values):
    some, more = wilcoxon_interval(values, 0.8), wilcoxon_interval(values, 0.99)
    assert more.low <= some.low
    assert more.high >= some.high
    assert more.confidence_attained >= some.confidence_attained


@given(st.lists(st.tuples(times, times), min_size=1, max_size=12))
@settings(max_examples=200)
def test_swapping_the_sides_inverts_the_ratio(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    ratio, inverse = paired_ratio(first, second), paired_ratio(second, first)
    assert ratio.estimate * inverse.estimate == pytest.approx(1)
    assert ratio.low * inverse.high == pytest.approx(1)
    assert ratio.high * inverse.low == pytest.approx(1)
    assert ratio.low <= ratio.estimate <= ratio.high
    assert (ratio.n, ratio.confidence) == (inverse.n, inverse.confidence)


@given(st.lists(times, min_size=1, max_size=10), st.floats(min_value=0.1, max_value=10))
def test_a_constant_factor_is_found_exactly(faster, factor):
    ratio = paired_ratio([time * factor for time in faster], faster)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((factor,) * 3)


def test_the_units_of_time_do_not_matter_and_rounds_may_differ_in_speed():
    slower, faster = [2.0, 4.2, 21.0, 6.1], [1.0, 2.0, 10.0, 3.0]
    ratio = paired_ratio(slower, faster)
    assert ratio.estimate == pytest.approx(2.07, abs=0.03)
    in_ms = paired_ratio([1e3 * t for t in slower], [1e3 * t for t in faster])
    assert in_ms.estimate == pytest.approx(ratio.estimate)


@pytest.mark.parametrize("function", [median, hodges_lehmann, wilcoxon_interval])
def test_no_values_and_values_that_are_not_finite_are_refused(function):
    with pytest.raises(InputError, match="at least one"):
        function([])
    with pytest.raises(InputError, match="hold nan"):
        function([1.0, math.nan])


@pytest.mark.parametrize(
    ("slower", "faster", "message"),
    [
        ([1.0, 2.0], [1.0], "2 times against 1"),
        ([1.0, 0.0], [1.0, 1.0], "a time is 0"),
        ([1.0], [-2.0], "a time is -2"),
        ([], [], "no times"),
        ([math.inf], [1.0], "hold inf"),
    ],
)
def test_times_that_cannot_be_paired_are_refused(slower, faster, message):
    with pytest.raises(InputError, match=message):
        paired_ratio(slower, faster)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, math.nan])
def test_a_confidence_lies_between_zero_and_one(confidence):
    with pytest.raises(InputError, match="confidence"):
        wilcoxon_interval([1.0, 2.0], confidence)


def test_a_bound_that_holds_at_any_stopping_time_is_broken_no_more_often_than_it_says():
    rounds = np.arange(1, 81)
    means = np.random.default_rng(1).standard_normal((4000, 80)).cumsum(axis=1) / rounds
    errors = means * np.sqrt(rounds)

    def ever_beyond(bound):
        return (errors > bound).any(axis=1).mean()

    bounds = np.array([stopping_errors(int(n)) for n in rounds])
    assert 0.02 < ever_beyond(bounds) <= 0.05  # 0.033, and two standard errors are 0.006
    assert ever_beyond(np.full(80, 1.96)) > 0.1  # a bound for one look, at 2.5%
