"""Decimals, dates and all else become the very objects that pyarrow would make of them."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.parquet import objects
from feedrate.loaders.parquet.objects import SMALL_SPAN, SPAN_PER_ROW, distinct_objects, to_array
from hypothesis import given, settings
from hypothesis import strategies as st

bounded = settings(deadline=None)

TOP = 10**38 - 1
WORD = 2**63  # where a second word of 64 bits begins to count
EPOCH = dt.date(1970, 1, 1)


@pytest.fixture(scope="module")
def check():
    """A function that compares a column with what pyarrow makes of it, and returns it."""
    return _check


def _check(column, notes=None):
    field = pa.field("a", column.type)
    table = pa.table([column], schema=pa.schema([field], notes))
    expected = table.to_pandas(use_threads=False)["a"]
    got = to_array(column, field, table.schema.empty_table().to_pandas()["a"].dtype, notes)
    series = pd.Series(got)
    pd.testing.assert_series_equal(series, expected, check_names=False, check_exact=True)
    assert list(map(type, series)) == list(map(type, expected))
    assert list(map(str, series)) == list(map(str, expected))  # 1.0 and 1.00 are equal decimals
    if isinstance(got, np.ndarray):
        assert got.flags.writeable
        assert got.shape == (len(column),)
    return got


def decimal(number, scale):
    digits = tuple(map(int, str(abs(number))))
    return Decimal((number < 0, digits, -scale))


@st.composite
def chunked(draw, values, kind):
    """A column in chunks, some of them slices, some empty."""
    chunks = []
    for _ in range(draw(st.integers(0, 3))):
        cells = draw(st.lists(draw(st.sampled_from([values, values | st.none()])), max_size=8))
        start = draw(st.integers(0, len(cells)))
        stop = draw(st.integers(start, len(cells)))
        chunks.append(pa.array(cells, kind).slice(start, stop - start))
    return pa.chunked_array(chunks, kind)


@st.composite
def decimals(draw):
    precision = draw(st.sampled_from([1, 9, 18, 19, 20, 38]))
    scale = draw(st.integers(0, precision))
    top = 10**precision - 1
    middle = draw(st.integers(-top, top))
    span = draw(st.sampled_from([1, 10, SMALL_SPAN, SMALL_SPAN + 1, 10**6, top]))
    low, high = max(-top, middle - span), min(top, middle + span)
    edges = [edge for edge in (-WORD - 1, -WORD, WORD - 1, WORD) if low <= edge <= high]
    whole = st.one_of(st.integers(low, high), *map(st.just, edges))
    return draw(chunked(whole.map(lambda n: decimal(n, scale)), pa.decimal128(precision, scale)))


@bounded
@given(decimals())
def test_decimals_are_those_of_pyarrow(check, column):
    check(column)


@st.composite
def days(draw):
    low, high = draw(
        st.sampled_from(
            [
                (dt.date.min, dt.date.max),
                (EPOCH, EPOCH),
                (EPOCH - dt.timedelta(3), EPOCH + dt.timedelta(3)),
                (dt.date.max - dt.timedelta(9), dt.date.max),
                (dt.date.min, dt.date.min + dt.timedelta(9)),
                (EPOCH, EPOCH + dt.timedelta(2 * SMALL_SPAN)),
            ]
        )
    )
    return draw(chunked(st.dates(low, high), pa.date32()))


@bounded
@given(days())
def test_dates_are_those_of_pyarrow(check, column):
    check(column)


@pytest.mark.parametrize("rows", [1, 2, SMALL_SPAN // SPAN_PER_ROW + 1, 3 * SMALL_SPAN])
@pytest.mark.parametrize("span", [1, SMALL_SPAN, SMALL_SPAN + 1, 3 * SPAN_PER_ROW * SMALL_SPAN])
@pytest.mark.parametrize("nulls", [0, 7])
def test_spans_of_all_sizes_are_right(check, rows, span, nulls):
    random = np.random.default_rng(7)
    numbers = random.integers(0, span, rows) - span // 3
    numbers[:1] = span - 1 - span // 3
    numbers[1:2] = -(span // 3)
    cells = [
        None if nulls and at % nulls == 2 else int(number) for at, number in enumerate(numbers)
    ]
    halves = [cells[: rows // 2], cells[rows // 2 :]]
    check(pa.chunked_array([pa.array(half, pa.int32()).cast(pa.date32()) for half in halves]))
    kind = pa.decimal128(20, 3)
    moved = [[None if n is None else decimal(n + 10**17, 3) for n in half] for half in halves]
    check(pa.chunked_array([pa.array(half, kind) for half in moved]))


@pytest.mark.parametrize("edge", [-WORD - 1, -WORD, WORD - 1, WORD])
@pytest.mark.parametrize("rows", [1, 3])
def test_values_beside_the_edges_of_a_word_are_right(check, edge, rows):
    for first in (edge, edge - rows + 1):
        cells = [decimal(first + row, 2) for row in range(rows)]
        check(pa.chunked_array([pa.array(cells, pa.decimal128(22, 2))]))
        check(pa.chunked_array([pa.array([*cells, None, decimal(0, 2)], pa.decimal128(22, 2))]))


def test_an_object_is_made_once_for_all_rows_that_hold_its_value(check):
    column = pa.chunked_array([pa.array([Decimal("1.50"), Decimal("7.25")] * 50)] * 2)
    assert len({id(value) for value in check(column)}) == 2
    days = pa.chunked_array([pa.array([EPOCH, dt.date.max] * 50)])
    assert len({id(value) for value in check(days)}) == 2


def test_what_stands_under_nulls_does_not_matter(check):
    garbage = np.full(8, -1, np.int64)
    garbage[1::2] = 12345  # high words that are no signs
    garbage[2:4] = (7, 0)
    valid = pa.py_buffer(b"\x02")
    column = pa.Array.from_buffers(pa.decimal128(20, 0), 4, [valid, pa.py_buffer(garbage)])
    assert list(check(pa.chunked_array([column]))) == [None, Decimal(7), None, None]
    days = np.array([2**31 - 1, 3, -(2**31), 5], np.int32)
    column = pa.Array.from_buffers(pa.date32(), 4, [valid, pa.py_buffer(days)])
    assert list(check(pa.chunked_array([column]))) == [None, dt.date(1970, 1, 4), None, None]


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([], pa.decimal128(5, 2)),
        pa.chunked_array([pa.array([], pa.date32())]),
        pa.chunked_array([pa.nulls(3, pa.decimal128(38, 3)), pa.nulls(1, pa.decimal128(38, 3))]),
        pa.chunked_array([pa.nulls(3, pa.date32()), pa.array([EPOCH])]),
        pa.chunked_array(
            [pa.array([decimal(TOP, 0)]), pa.array([decimal(1, 0)]).cast(pa.decimal128(38, 0))]
        ),
        pa.chunked_array([pa.array([decimal(-TOP, 9), None, decimal(0, 9)], pa.decimal128(38, 9))]),
        pa.chunked_array([pa.array([decimal(10**49, 2)], pa.decimal256(60, 2))]),
        pa.chunked_array([pa.array([0, None], pa.date64())]),
    ],
    ids=str,
)
def test_odd_columns_are_those_of_pyarrow(check, column):
    check(column)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], pa.int8()),
        ([2**60 + 1, None], pa.int64()),
        ([True, None], pa.bool_()),
        (["x", None], pa.large_string()),
        (["x", None, "far more than twelve bytes"], pa.string_view()),
        ([b"x", None], pa.binary()),
        ([7, None], pa.duration("ms")),
        ([7, None], pa.time64("us")),
        ([7, None], pa.timestamp("us", "America/New_York")),
        ([None, None], pa.null()),
    ],
    ids=str,
)
def test_all_else_is_what_pyarrow_makes_of_it_and_writable(check, values, kind):
    column = pa.chunked_array([pa.array(values, kind), pa.array(values[:1], kind)])
    got = check(column)
    before = column.to_pylist()
    got[:1] = got[1:2]
    assert column.to_pylist() == before


def test_categories_keep_their_order_and_their_owner_may_change_them(check):
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], "int8"), ["z", "y"], ordered=True)
    got = check(pa.chunked_array([words]))
    assert got.ordered
    got[0] = "y"
    assert words.to_pylist() == ["z", "y", None]


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "Float64", "int64[pyarrow]"])
def test_dtypes_that_pandas_noted_are_kept(check, dtype):
    values = ["x", None] if dtype == "string" else [1, None]
    table = pa.Table.from_pandas(pd.DataFrame({"a": pd.array(values, dtype)}))
    got = check(table["a"], table.schema.metadata)
    assert got.dtype == dtype
    before = table["a"].to_pylist()
    got[1] = got[0]
    assert table["a"].to_pylist() == before


def test_values_beyond_a_word_are_made_by_pyarrow(monkeypatch):
    monkeypatch.setattr(objects, "_decimals", None)
    column = pa.chunked_array([pa.array([decimal(1, 0), decimal(WORD, 0)], pa.decimal128(30, 0))])
    assert list(_check(column)) == [Decimal(1), Decimal(WORD)]


def test_distinct_objects_are_told_apart_by_identity():
    one, other = Decimal("1.50"), Decimal("1.5")  # equal, and not the same
    rows = np.array([one, None, other, one] * 1000, dtype=object)
    codes, distinct = distinct_objects(rows)
    assert len(distinct) == 3
    assert all(found is row for found, row in zip(distinct[codes], rows, strict=True))


def test_strided_and_few_and_mostly_distinct_objects_come_out_right():
    rows = np.array([Decimal(row % 7) for row in range(8000)], dtype=object)
    strided = np.tile(rows[:7], 4000)[::2]
    codes, distinct = distinct_objects(strided)
    assert len(distinct) == 7
    assert all(found is row for found, row in zip(distinct[codes], strided, strict=True))
    codes, distinct = distinct_objects(rows)  # each row has an object of its own
    assert codes is None
    assert distinct is rows
    assert distinct_objects(rows[:10])[0] is None
