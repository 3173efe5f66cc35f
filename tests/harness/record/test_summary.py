"""What a table says of a trial fits together: its medians, its rate, its rounds."""

import msgspec
import pytest
from feedrate.harness.record.summary import summarise

from ... import samples


def runs(*rounds):
    """One trial's launches, each given as the seconds of its passes."""
    return [
        samples.sample(seconds, turn=turn, pass_=number)
        for turn, times in enumerate(rounds)
        for number, seconds in enumerate(times)
    ]


def test_the_rate_is_of_the_medians_that_tables_show():
    # The median of the sums is 9 s, the sum of the medians 6 s.
    (found,) = summarise(runs((1, 9), (5, 4), (2, 1)))
    assert (found.first_s, found.later_s) == (2, 4)
    assert found.total_s == 6
    assert found.rows_per_s == pytest.approx(2 * 100 / 6)


def test_a_single_pass_has_no_later_ones():
    (found,) = summarise(runs((3,), (1,), (2,)))
    assert (found.first_s, found.later_s, found.total_s) == (2, None, 2)


def test_a_round_that_was_cut_counts_neither_in_the_first_nor_in_later_passes():
    (found,) = summarise(runs((1, 2, 2), (100, 100)))
    assert (found.first_s, found.later_s) == (1, 2)
    assert len(found.totals) == 1


def test_a_launch_of_one_pass_counts_as_if_it_had_them_all_where_that_was_planned():
    short = [samples.sample(4, turn=turn, backend="original", passes=1) for turn in (1, 2)]
    whole = [
        samples.sample(wall, turn=0, pass_=number, backend="original")
        for number, wall in enumerate((5, 3, 4))
    ]
    (found,) = summarise([*whole, *short])
    assert found.totals == {0: 12, 1: 12, 2: 12}
    assert found.first_passes == {0: 5, 1: 4, 2: 4}
    assert found.later_passes == {0: 3.5}
    assert (found.first_s, found.later_s, found.total_s) == (4, 4, 12)


def test_a_launch_that_measured_memory_counts_only_if_it_came_to_its_end():
    def launch(turn, peaks, verdict="ok"):
        rows = [
            samples.sample(
                1.0, turn=turn, pass_=number, phase="memory", metrics={"peak_pss_bytes": peak}
            )
            for number, peak in enumerate(peaks)
        ]
        if verdict != "ok":
            rows[-1] = msgspec.structs.replace(rows[-1], verdict=verdict)
        return rows

    timed = [samples.sample(1.0, turn=0, pass_=number) for number in range(3)]

    def peak_of(*launches):
        (found,) = summarise([*timed, *(one for some in launches for one in some)], 3)
        return found.peak_pss_bytes, [one.verdict for one in found.unmeasured]

    assert peak_of(launch(80, [4e8, 6e8])) == (6e8, [])
    assert peak_of(launch(80, [4e8, None], "out-of-memory")) == (None, ["out-of-memory"])
    assert peak_of(launch(80, [4e8])) == (None, [])  # a kill has cut it
    assert peak_of(launch(80, [4e8, 6e8]), launch(81, [9e8])) == (6e8, [])
