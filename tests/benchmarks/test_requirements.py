import dataclasses

import pytest

from benchmarks import requirements
from benchmarks.requirements import (
    ABOVE,
    ADDED,
    AT_LEAST,
    AT_MOST,
    BELOW,
    GROWTH,
    SPEEDUP,
    TIMES,
    Requirement,
    exit_status,
    judge,
)

ROW = Requirement("frame", "flights", "frames", "ours", ("original",), AT_LEAST, 4)


def changed(**fields):
    return dataclasses.replace(ROW, **fields)


def test_a_ratio_is_taken_within_each_round_and_its_median_is_judged():
    outcome = judge(ROW, {"ours": [1.0, 2.0, 1.0], "original": [4.0, 8.0, 400.0]}, {})
    assert outcome.figures == (4.0, 4.0, 400.0)
    assert outcome.median == 4.0
    assert outcome.met
    assert outcome.verdict == "met"
    assert outcome.measured == "4x (4x to 400x)"


def test_the_fastest_of_several_peers_counts_in_each_round():
    row = changed(peer=("a", "b"))
    outcome = judge(row, {"ours": [1.0, 1.0], "a": [3.0, 9.0], "b": [5.0, 2.0]}, {})
    assert outcome.figures == (3.0, 2.0)


@pytest.mark.parametrize(
    ("relation", "met"), [(AT_LEAST, True), (ABOVE, False), (AT_MOST, True), (BELOW, False)]
)
def test_a_figure_on_the_bound_is_judged_by_the_relation(relation, met):
    outcome = judge(changed(relation=relation), {"ours": [1.0], "original": [4.0]}, {})
    assert outcome.met is met


def test_a_fact_that_does_not_hold_misses_the_requirement_and_is_named():
    row = changed(facts=("writable", "isolated"))
    samples = {"ours": [1.0], "original": [9.0]}
    outcome = judge(row, samples, {"writable": True, "isolated": False})
    assert not outcome.met
    assert outcome.verdict == "MISSED, not isolated"
    assert judge(row, samples, {"writable": True, "isolated": True}).met


def test_a_fact_that_was_not_looked_at_is_an_error():
    with pytest.raises(KeyError):
        judge(changed(facts=("writable",)), {"ours": [1.0], "original": [9.0]}, {})


@pytest.mark.parametrize(
    ("measure", "figure", "shown"),
    [(SPEEDUP, 0.5, "0.5x"), (GROWTH, 1.0, "+100.0%"), (ADDED, 5.0, "5.0 MiB")],
)
def test_each_measure_compares_our_sample_with_the_peer(measure, figure, shown):
    outcome = judge(changed(measure=measure), {"ours": [10.0], "original": [5.0]}, {})
    assert outcome.figures == (figure,)
    assert outcome.measured.startswith(shown)


def test_without_a_peer_the_sample_is_the_figure():
    row = changed(peer=(), measure=TIMES, relation=AT_MOST, bound=1.9)
    outcome = judge(row, {"ours": [1.7, 1.8, 2.5]}, {})
    assert outcome.median == 1.8
    assert outcome.met
    assert row.must_be == "≤ 1.90x"


def test_the_requirement_names_what_it_is_compared_with_and_what_must_hold():
    assert changed(facts=("isolated",)).must_be == "≥ 4x original, isolated"


def test_the_exit_status_is_zero_only_if_something_was_measured_and_all_of_it_is_met():
    met = judge(ROW, {"ours": [1.0], "original": [5.0]}, {})
    missed = judge(ROW, {"ours": [1.0], "original": [3.0]}, {})
    assert exit_status([met]) == 0
    assert exit_status([met, missed]) == 1
    assert exit_status([]) == 1


def test_no_requirement_stands_twice():
    rows = [(r.comparison, r.ours, r.peer, r.relation) for r in requirements.REQUIREMENTS]
    assert len(set(rows)) == len(rows)
