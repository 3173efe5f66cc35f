"""A saving is told only where its interval excludes zero; else what could have been seen."""

import doctest
import math

import pytest
from feedrate.harness.record import savings
from feedrate.harness.record.savings import BETWEEN_PROCESSES, Saving, advice, known_savings, saved
from feedrate.harness.record.statistics import Ratio


def test_examples_in_docstrings_hold():
    assert doctest.testmod(savings).failed == 0


def test_the_interval_of_rounds_in_one_process_is_widened_by_what_processes_differ_in():
    found = saved("merged_pct", Ratio(0.8, 0.7, 0.9, 0.98, 8))
    factor = math.exp(BETWEEN_PROCESSES)
    assert found.percent == pytest.approx(20)
    assert found.low == pytest.approx(100 * (1 - 0.9 * factor))
    assert found.high == pytest.approx(100 * (1 - 0.7 / factor))


@pytest.mark.parametrize(
    ("percent", "low", "high", "shown"),
    [(20, 1, 40, True), (20, -1, 40, False), (3, 1, 5, False), (-20, -30, -10, False)],
)
def test_a_saving_is_shown_where_it_is_sure_and_worth_telling(percent, low, high, shown):
    assert Saving("merged_pct", percent, low, high).shown is shown


def test_the_largest_savings_are_told_first_with_their_intervals():
    found = [
        Saving("uncompressed_pct", 12.0, 6.0, 18.0),
        Saving("merged_pct", 60.0, 55.0, 64.0),
        Saving("row_groups_pct", 9.0, -2.0, 20.0),
    ]
    assert [text.rpartition(" would take ")[2] for text in advice(found)] == [
        "60% less [55, 64]", "12% less [6, 18]",
    ]  # fmt: skip


def test_where_nothing_is_shown_it_is_said_what_would_have_been_seen():
    found = [Saving("merged_pct", 6.0, -1.0, 13.2), Saving("uncompressed_pct", 1.0, -4.0, 5.0)]
    (told,) = advice(found)
    assert told.startswith("tried without a clear saving: merged files, no compression (")
    assert told.endswith("(savings above 14% are ruled out)")
    assert advice([]) == []


def test_a_saving_without_its_interval_is_not_reported():
    assert list(known_savings({"merged_pct": 60.0}.get)) == []
    whole = {"merged_pct": 60.0, "merged_low_pct": 50.0, "merged_high_pct": 70.0}
    assert list(known_savings(whole.get)) == [Saving("merged_pct", 60.0, 50.0, 70.0)]


def test_the_columns_that_are_left_out_are_named():
    whole = {"fewer_columns_pct": 60.2, "fewer_columns_low_pct": 55.4, "fewer_columns_high_pct": 64}
    (found,) = known_savings(whole.get, "the 2 columns of lists ('tags', 'ids')")
    (told,) = advice([found])
    assert told == (
        "without the 2 columns of lists ('tags', 'ids'), loading would take 60% less [55, 64]"
    )
    assert found.tried == "leaving out the 2 columns of lists ('tags', 'ids')"
