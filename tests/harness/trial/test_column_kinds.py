"""The kind of column that costs most is found by quick loads, and no other one is blamed."""

import doctest

import pyarrow as pa
import pytest
from feedrate.harness.trial import column_kinds
from feedrate.harness.trial.column_kinds import (
    QUICK_ROUNDS,
    QUICK_S,
    Kind,
    costliest,
    kinds_of,
    others,
)

FIELDS = [
    pa.field("i", pa.int64()), pa.field("f", pa.float32()), pa.field("b", pa.bool_()),
    pa.field("t", pa.timestamp("us")), pa.field("s", pa.string()),
    pa.field("s2", pa.large_string()),
    pa.field("l", pa.list_(pa.int64())), pa.field("l2", pa.list_(pa.string())),
    pa.field("d", pa.decimal128(9, 2)),
    pa.field("c", pa.dictionary(pa.int8(), pa.string())), pa.field("z", pa.timestamp("us", "UTC")),
]  # fmt: skip
TEXT, LISTS = Kind(("text",), ("s",)), Kind(("lists",), ("l",))
DECIMALS = Kind(("decimals",), ("d",))
LOADED = ("n", "s", "l", "d")


class Timed:
    """Seconds that each column takes; counts the loads, after each of which a clock goes on."""

    def __init__(self, step=0.0, **columns):
        self.columns, self.step = {"n": 1.0, **columns}, step
        self.loads, self.now = 0, 0.0

    def __call__(self, columns):
        self.loads += 1
        self.now += self.step
        return sum(self.columns[name] for name in (columns or self.columns))


def test_examples_in_docstrings_hold():
    assert doctest.testmod(column_kinds).failed == 0


def test_columns_are_grouped_by_what_they_hold_and_plain_numbers_are_no_kind():
    assert kinds_of(FIELDS) == [
        Kind(("text",), ("s", "s2")),
        Kind(("lists",), ("l", "l2")),
        Kind(("decimals",), ("d",)),
        Kind(("categories",), ("c",)),
        Kind(("timestamps with zone",), ("z",)),
    ]


def test_columns_that_make_pandas_read_the_files_are_one_kind_whatever_they_hold():
    deep = [pa.field("deep", pa.list_(pa.list_(pa.int8()))), pa.field("m", pa.map_("int8", "int8"))]
    assert kinds_of([*FIELDS[:5], *deep]) == [
        Kind(("text",), ("s",)),
        Kind(("lists of lists of numbers", "maps"), ("deep", "m")),
    ]


def test_a_kind_names_its_columns_and_of_many_the_first():
    many = Kind(("text",), tuple("abcdefg"))
    assert str(many) == "the 7 columns of text ('a', 'b', 'c', 'd', 'e' and 2 more)"
    assert str(TEXT) == "the column of text ('s')"


@pytest.mark.parametrize(
    ("took", "found"),
    [
        ({"s": 1.0, "l": 10.0, "d": 2.0}, LISTS),
        ({"s": 5.0, "l": 1.0, "d": 2.0}, TEXT),
        ({"s": 5.0, "l": 1.0, "d": 4.5}, Kind(("text", "decimals"), ("s", "d"))),
        ({"s": 0.0, "l": 0.0, "d": 0.0}, TEXT),
    ],
)
def test_the_kind_that_costs_most_is_found_with_those_that_cost_about_as_much(took, found):
    assert costliest([TEXT, LISTS, DECIMALS], LOADED, Timed(**took)) == found


def test_one_load_that_something_else_made_slow_blames_nobody():
    timed = Timed(s=1.0, l=5.0)
    slow = iter([1.0, 9.0, 1.0, 9.0, 1.0, 1.0])

    def seconds(columns):
        return timed(columns) * next(slow, 1.0)

    assert costliest([TEXT, LISTS], ("n", "s", "l"), seconds) == LISTS


def test_where_all_columns_cost_about_as_much_something_is_left_to_load():
    timed = Timed(s=5.0, l=5.1)
    del timed.columns["n"]
    assert costliest([TEXT, LISTS], ("s", "l"), timed) == LISTS


def test_one_kind_needs_no_quick_loads_and_slow_ones_no_second_round():
    timed = Timed(s=1.0)
    assert costliest([TEXT], ("n", "s"), timed) == TEXT
    assert timed.loads == 0
    for step, rounds in ((0.0, QUICK_ROUNDS), (QUICK_S, 1)):
        timed = Timed(step, s=1.0, l=5.0)
        costliest([TEXT, LISTS], ("n", "s", "l"), timed, lambda timed=timed: timed.now)
        assert timed.loads == 1 + 3 * rounds  # a warm-up first


def test_the_other_columns_keep_their_order():
    assert others(LISTS, LOADED) == ["n", "s", "d"]
