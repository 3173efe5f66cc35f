"""The time of a pass is shared out among the stages that were under way, and none is lost."""

import pytest
from feedrate.harness.trial.timeline import attribute, mark_seconds
from feedrate.loaders.base.stages import Mark
from hypothesis import given
from hypothesis import strategies as st


def marks(*entries):
    """Marks of (thread, from, to, stage)."""
    made = []
    for thread, low, high, name in entries:
        made += [Mark(thread, low, name), Mark(thread, high, None)]
    return sorted(made, key=lambda mark: mark.at)


def test_a_moment_belongs_to_the_innermost_stage():
    found = attribute(
        [Mark(1, 0, "part"), Mark(1, 1, "decode"), Mark(1, 4, None), Mark(1, 5, None)], (0, 6)
    )
    assert found.shares == {"decode": 3, "handover": 3}
    assert found.parts == 1


def test_threads_at_once_share_a_moment():
    found = attribute(marks((1, 0, 4, "decode"), (2, 0, 4, "decode"), (3, 2, 4, "gather")), (0, 4))
    assert found.shares == {"decode": pytest.approx(2 + 4 / 3), "gather": pytest.approx(2 / 3)}


def test_what_lies_outside_the_pass_does_not_count():
    found = attribute(marks((1, -5, 1, "read"), (2, 9, 20, "gather")), (0, 10))
    assert found.shares == {"read": 1, "handover": 8, "gather": 1}


def test_a_stage_that_was_entered_before_the_recording_is_none():
    assert attribute([Mark(1, 2, None)], (0, 4)).shares == {"handover": 4}


def test_loading_behind_a_step_costs_nothing():
    found = attribute(marks((1, 0, 10, "decode")), (0, 10), steps=[(2, 9)])
    assert found.shares == {"decode": 3, "step": 7}


def test_parts_that_began_in_the_pass_are_counted():
    found = attribute(marks((1, -1, 1, "part"), (1, 2, 3, "part"), (2, 3, 4, "part")), (0, 5))
    assert found.parts == 2


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.floats(-1, 11),
            st.floats(0, 5),
            st.sampled_from(["part", "plan", "read", "decode", "gather"]),
        )
    )
)
def test_the_shares_add_up_to_the_pass(entries):
    made, ends = [], {}
    for thread, low, size, name in entries:
        start = max(low, ends.get(thread, low))
        ends[thread] = start + size
        made.append((thread, start, start + size, name))
    found = attribute(marks(*made), (0, 10))
    assert sum(found.shares.values()) == pytest.approx(10)


def test_a_mark_costs_microseconds():
    assert 0 < mark_seconds() < 1e-3
