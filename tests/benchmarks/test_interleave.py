import itertools

import pytest

from benchmarks.data import Setup
from benchmarks.interleave import Comparison, Prepared, Side, measure, run_rounds


def recorded(name, calls):
    return Side(lambda: calls.append(name))


def test_every_side_is_warmed_up_and_then_takes_turns_in_alternating_order():
    calls = []
    run_rounds({name: recorded(name, calls) for name in "abc"}, 3)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"


def test_samples_are_the_seconds_of_the_rounds_without_the_warm_up():
    ticks = itertools.accumulate(itertools.chain([0.0, 100.0], itertools.cycle([1.0, 2.0])))
    samples = run_rounds({"a": Side(lambda: None)}, 2, clock=lambda: next(ticks))
    assert samples == {"a": [2.0, 2.0]}


def test_a_side_that_measures_itself_returns_its_samples():
    values = iter([9.0, 1.0, 2.0])
    samples = run_rounds({"a": Side(lambda: next(values), measures_itself=True)}, 2)
    assert samples == {"a": [1.0, 2.0]}


def test_the_result_of_the_warm_up_is_checked_before_anything_counts():
    calls = []

    def check(result):
        assert result == "wrong", "only the warm-up's result is looked at"
        raise AssertionError("rows differ")

    sides = {"a": Side(lambda: calls.append("run") or "wrong", check)}
    with pytest.raises(AssertionError, match="rows differ"):
        run_rounds(sides, 5)
    assert calls == ["run"]


def test_a_comparison_must_prepare_the_sides_it_declares(tmp_path):
    setup = Setup(str(tmp_path), str(tmp_path))
    wrong = Comparison("name", "title", ("a", "b"), 1, lambda _: Prepared({"a": Side(dict)}))
    with pytest.raises(AssertionError, match="name prepared"):
        measure(wrong, setup, 1)


def test_facts_are_looked_at_after_the_rounds(tmp_path):
    calls = []

    def facts():
        return {"done": calls == ["a", "a"]}

    prepared = Prepared({"a": recorded("a", calls)}, facts)
    comparison = Comparison("name", "title", ("a",), 1, lambda _: prepared)
    found = measure(comparison, Setup(str(tmp_path), str(tmp_path)), 1)
    assert found.facts == {"done": True}
    assert len(found.samples["a"]) == 1
