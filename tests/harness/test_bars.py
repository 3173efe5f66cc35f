"""Bars in text."""

from feedrate.harness.bars import Bar, Bars

CHART = Bars("rows/s", [Bar("original", 1.0, "1"), Bar("pytorch 2w 2p mem", 8.0, "8"),
                        Bar("x" * 90, 0.0, "0")])  # fmt: skip


def test_the_longest_bar_fills_the_line_and_none_is_longer():
    lines = list(CHART.lines(80))
    assert max(map(len, lines)) <= 80
    assert lines[1].count("█") == 8 * lines[0].count("█") or lines[0].count("█") in (4, 5)
    assert lines[0].index("█") == lines[1].index("█")


def test_what_is_nothing_still_has_a_sign_and_ascii_is_enough():
    assert "▏" in list(CHART.lines(80))[2]
    plain = list(CHART.lines(60, ascii_only=True))
    assert all(line.isascii() for line in plain)
    assert "#" in plain[2]
    assert list(Bars("none", []).lines(80)) == []
