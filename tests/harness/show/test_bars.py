"""Bars in text."""

import pytest
from feedrate.harness.show.bars import Bar, Bars

CHART = Bars("rows/s", [Bar("original", 1.0, "1"), Bar("pytorch 2w 2p mem", 8.0, "8"),
                        Bar("x" * 90, 0.0, "0")])  # fmt: skip


def test_the_longest_bar_fills_the_line_and_the_others_are_to_scale():
    lines = list(CHART.lines(80))
    assert max(map(len, lines)) == 80
    assert lines[0].index("█") == lines[1].index("█")
    short, long = (line.split()[-2] for line in lines[:2])
    assert len(long) == pytest.approx(8 * len(short), abs=8)  # in eighths of a sign


def test_what_is_nothing_still_has_a_sign_and_ascii_is_enough():
    assert "▏" in list(CHART.lines(80))[2]
    plain = list(CHART.lines(60, ascii_only=True))
    assert all(line.isascii() for line in plain)
    assert "#" in plain[2]
    assert list(Bars("none", []).lines(80)) == []
