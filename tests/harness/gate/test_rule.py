"""The gate's rule: statistics that are right, and what each result comes to."""

import math

import numpy as np
import pytest
from feedrate.harness.choose.race import PER_SERVER, SERVER_SD
from feedrate.harness.gate.rule import (
    ALPHA,
    LOOK_ALPHA,
    TESTED_ALPHA,
    TESTED_LOOK_ALPHA,
    Rule,
    compare_pairs,
    compare_steady,
    compare_unpaired,
    differs,
    judge,
    needs_another_look,
    needs_confirming,
    seems_shifted,
)
from feedrate.harness.record.statistics import (
    holm,
    rank_sum_distribution,
    rank_sum_p,
    signed_rank_p,
    unpaired_ratio,
)
from feedrate.loaders.base.errors import InputError
from scipy import stats


def rounds(values):
    return dict(enumerate(values, start=1))


def pairs(ratio, count, sd=0.0, seed=0):
    noise = np.random.default_rng(seed).standard_normal(count) * sd
    return compare_pairs(rounds([1.0] * count), rounds(ratio * np.exp(noise - noise.mean())))


def pairs_about(ratio, count, sd, seed):
    noise = np.random.default_rng(seed).standard_normal(count) * sd
    return compare_pairs(rounds([1.0] * count), rounds(ratio * np.exp(noise)))


@pytest.mark.parametrize("n", [1, 3, 10, 20])
def test_p_values_are_those_of_scipy(n):
    random = np.random.default_rng(n)
    values, others = random.normal(0.4, 1, n), random.normal(0, 1, n + 2)
    assert signed_rank_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
    assert rank_sum_p(values, others) == pytest.approx(
        stats.mannwhitneyu(values, others, method="exact").pvalue
    )


def test_ties_share_their_rank_and_zeros_say_nothing():
    # By hand: |d| = 1, 1, 1, 2 have the ranks 2, 2, 2, 4; the one negative rank is 2. Of the 16
    # ways to give signs, 4 have a sum of at most 2 (nothing, or one of the three 2s).
    assert signed_rank_p([1, 1, -1, 2, 0, 0]) == pytest.approx(2 * 4 / 16)
    assert signed_rank_p([0.0, 0.0]) == 1.0
    assert rank_sum_p([1.0, 1.0], [1.0, 1.0]) == 1.0


def test_the_rank_sum_distribution_is_one_over_its_orders():
    # Of two and two values in six orders: U is 0, 1, 2, 2, 3, 4.
    assert rank_sum_distribution(2, 2).tolist() == pytest.approx(
        [1 / 6, 1 / 6, 2 / 6, 1 / 6, 1 / 6]
    )


def test_the_unpaired_interval_covers_the_truth_as_often_as_it_says():
    random, hits = np.random.default_rng(7), 0
    for _ in range(400):
        found = unpaired_ratio(np.exp(random.normal(0.1, 0.1, 8)), np.exp(random.normal(0, 0.1, 9)))
        hits += found.low <= math.exp(0.1) <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_holm_is_monotone_and_never_above_one():
    assert holm([0.6, 0.01, 0.04]) == pytest.approx([0.6, 0.03, 0.08])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_looks_together_have_the_level_of_one():
    correlated = stats.multivariate_normal([0, 0], [[1, math.sqrt(0.5)], [math.sqrt(0.5), 1]])
    bound = stats.norm.isf(LOOK_ALPHA / 2)
    inside = (
        correlated.cdf([bound, bound]) - correlated.cdf([-bound, bound])
        - correlated.cdf([bound, -bound]) + correlated.cdf([-bound, -bound])
    )  # fmt: skip
    assert 1 - inside == pytest.approx(ALPHA, rel=0.02)


def test_a_slowdown_beyond_the_threshold_fails_and_one_within_it_does_not():
    found = {
        "slow": pairs(1.2, 20, 0.1),
        "within": pairs(1.03, 20, 0.02),
        "same": pairs(1, 20, 0.1),
    }
    verdicts = {key: one.verdict for key, one in judge(found, dict.fromkeys(found, Rule())).items()}
    assert found["within"].p < LOOK_ALPHA  # significant, and yet small
    assert verdicts == {"slow": "regression", "within": "pass", "same": "pass"}


def test_what_is_too_wide_is_inconclusive_with_the_pairs_that_would_tell():
    wide = pairs(1.0, 10, 0.4)
    assert judge({"wide": wide}, {"wide": Rule()})["wide"].verdict == "inconclusive"
    assert needs_another_look("inconclusive", wide, Rule())
    needed = wide.pairs_needed(Rule())
    assert 10 < needed < 200
    told = [pairs_about(1.0, int(needed), wide.sd, seed).ratio.high < 1.15 for seed in range(100)]
    assert 0.7 <= sum(told) / 100 <= 0.95  # four runs of five


def test_pairs_that_share_servers_are_tested_at_levels_that_much_further_out():
    for level, tested in ((ALPHA, TESTED_ALPHA), (LOOK_ALPHA, TESTED_LOOK_ALPHA)):
        further = stats.norm.isf(tested / 2) / stats.norm.isf(level / 2)
        shared = 2 * SERVER_SD**2
        correlation = shared / (shared + 0.11**2)
        assert further == pytest.approx((1 + (PER_SERVER - 1) * correlation) ** 0.5, abs=0.01)


def test_a_family_of_many_needs_more_evidence_than_one_alone():
    alone = {0: pairs(1.11, 20, 0.1, seed=3)}
    p = alone[0].p
    assert 30 * p > LOOK_ALPHA > TESTED_LOOK_ALPHA > p
    many = alone | {number: pairs(1.0, 20, 0.1, seed=number) for number in range(1, 30)}
    assert judge(alone, {0: Rule()})[0].verdict == "regression"
    assert judge(many, dict.fromkeys(many, Rule()))[0].p == pytest.approx(30 * p)


def test_screening_lets_through_what_is_clearly_well_and_nothing_that_looks_slow():
    assert not needs_confirming(pairs(1.0, 10, 0.05), Rule())
    assert needs_confirming(pairs(1.1, 10, 0.05), Rule())
    assert needs_confirming(pairs(1.0, 10, 0.4), Rule())  # it may be slower than what is tolerated
    assert not needs_confirming(pairs(0.9, 10, 0.05), Rule())


def test_a_control_looks_off_either_way_once_it_is_beyond_its_threshold():
    assert seems_shifted(pairs(1.1, 10, 0.05), Rule())
    assert seems_shifted(pairs(0.9, 10, 0.05), Rule())
    assert not seems_shifted(pairs(1.04, 10, 0.01), Rule())
    assert not seems_shifted(pairs(0.96, 10, 0.01), Rule())
    assert not seems_shifted(pairs(1.06, 10, 0.4), Rule())  # by chance


def test_a_control_that_differs_either_way_tells_of_the_machine():
    assert differs(pairs(1.2, 20, 0.1), Rule())
    assert differs(pairs(0.8, 20, 0.1), Rule())
    assert not differs(pairs(1.0, 20, 0.1), Rule())


def test_the_smallest_detectable_effect_shrinks_with_pairs():
    few, many = (pairs(1.0, count, 0.11).detectable_effect(Rule()) for count in (10, 40))
    assert few > many > Rule().threshold
    assert few - 1 == pytest.approx(2 * (many - 1), rel=0.35)
    quiet = pairs(1.0, 10, 0.0001)
    assert quiet.detectable_effect(Rule()) == pytest.approx(1.05, abs=0.001)  # nothing less fails


def test_a_small_threshold_is_screened_by_half_of_it():
    exact = compare_pairs(rounds([100.0] * 10), rounds([102.0] * 10))
    assert needs_confirming(exact, Rule(1.01, 1.05))
    assert judge({0: exact}, {0: Rule(1.01, 1.05)})[0].verdict == "regression"
    assert not needs_confirming(exact, Rule(1.05, 1.15))


def test_an_interval_that_few_pairs_do_not_give_is_no_pass():
    few = pairs(1.0, 4)
    assert few.ratio.high < 1.15
    assert judge({0: few}, {0: Rule()})[0].verdict == "inconclusive"


def test_what_is_tolerated_grows_with_a_threshold_beyond_it():
    assert Rule.of(1.3) == Rule(1.3, 1.3)
    assert Rule.of() == Rule.of(1.05, 1.15) == Rule()


def test_without_common_rounds_there_is_nothing_to_compare():
    assert compare_pairs({1: 1.0}, {2: 1.0}) is None
    assert compare_unpaired({}, {1: 1.0}) is None
    with pytest.raises(InputError, match="above 0"):
        compare_pairs({1: 0.0}, {1: 1.0})


@pytest.mark.parametrize("wrong", [(0.9, 1.15), (1.2, 1.1)])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match="threshold"):
        Rule(*wrong)


def test_a_few_launches_tell_what_becomes_of_memory_that_hardly_varies():
    rule = Rule(1.10, 1.25)
    base = {1: 100.0, 2: 101.0, 3: 99.0}
    same = compare_steady(base, {1: 101.0, 2: 100.0, 3: 100.0})
    assert rule.is_met(same)
    assert not needs_confirming(same, rule)
    more = compare_steady(base, {turn: 1.2 * value for turn, value in base.items()})
    assert more.ratio.estimate == pytest.approx(1.2)
    assert needs_confirming(more, rule)
    assert judge({0: more}, {0: rule})[0].verdict == "regression"
    less = compare_steady(base, {turn: 1.08 * value for turn, value in base.items()})
    assert judge({0: less}, {0: rule})[0].verdict == "pass"


def test_launches_that_vary_more_than_usual_say_less():
    usual = compare_steady({1: 100.0, 2: 100.0, 3: 100.0}, {1: 120.0, 2: 120.0, 3: 120.0})
    varying = compare_steady({1: 100.0, 2: 100.0, 3: 100.0}, {1: 60.0, 2: 120.0, 3: 240.0})
    assert varying.ratio.estimate == pytest.approx(usual.ratio.estimate)
    assert varying.p > 100 * usual.p
    assert varying.ratio.low < 1 < usual.ratio.low


def test_memory_is_compared_with_launches_of_another_day():
    base, head = dict(enumerate([100.0, 101.0, 99.0] * 3)), {1: 120.0, 2: 121.0, 3: 119.0}
    found = compare_steady(base, head, paired=False)
    assert (found.of, found.ratio.n) == ("run", 3)
    assert found.ratio.estimate == pytest.approx(1.2, rel=1e-3)
    assert 1.15 < found.ratio.low < found.ratio.high < 1.25
    assert compare_steady({}, head, paired=False) is None
    with pytest.raises(InputError, match="above 0"):
        compare_steady({1: 0.0}, {1: 1.0})
