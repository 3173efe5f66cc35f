"""Columns become the matrix of floats that the plain idiom makes, nulls filled in."""

import datetime as dt
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.base.errors import ColumnError, FeedrateWarning, InputError
from feedrate.loaders.training.matrix import Columns

FRAME = pd.DataFrame(
    {
        "small": np.array([1, -2, 127], dtype="int8"),
        "big": np.array([0, 2**63, 2**64 - 1], dtype="uint64"),
        "half": np.array([0.5, np.nan, np.inf], dtype="float16"),
        "single": np.array([0.1, np.nan, -np.inf], dtype="float32"),
        "double": [1e300, None, 1e-300],
        "yes": [True, False, True],
        "maybe": [True, None, False],
        "integer": pd.array([1, None, 3], dtype="Int64"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "arrow": pd.array([1.5, None, 3], dtype="double[pyarrow]"),
        "category": pd.Categorical([7, None, 9]),
        "decimal": [Decimal("1.25"), None, Decimal("-3.5")],
        "object": pd.Series([1, None, 2.5], dtype="object"),
        "nothing": pd.Series([None, None, None], dtype="object"),
        "when": pd.to_datetime(["1970-01-02 00:00:01.5", None, "1969-12-31 23:59:59.0"]),
        "zoned": pd.to_datetime(["1970-01-01 02:00", None, "1970-01-01 01:00"]).tz_localize(
            "Europe/Berlin"
        ),
        "moment": pd.array([dt.datetime(1970, 1, 1, 1), None, None], "timestamp[ms][pyarrow]"),  # noqa: DTZ001 - without a zone is what is tested
        "day": [dt.date(1970, 1, 11), None, dt.date(1969, 12, 31)],
        "clock": [dt.time(1, 0, 0, 250_000), None, dt.time(0)],
        "span": [pd.Timedelta(days=1), None, pd.Timedelta(milliseconds=-500)],
        "days": pd.Categorical([dt.date(1970, 1, 11), None, dt.date(1969, 12, 31)]),
        "text": ["1", "2", "3"],
        "words": pd.Categorical(["a", "b", "a"]),
        "arrow_text": pd.array(["1", "2", "3"], "string[pyarrow]"),
        "list": [[1], [2], [3]],
        "bytes": [b"1", b"2", b"3"],
        "mixed": [1, "x", None],
        "complex": [1j, 2j, 3j],
        "period": pd.period_range("2025", periods=3),
    }
)
NUMERIC = list(FRAME.columns[: list(FRAME.columns).index("text")])
OTHER = list(FRAME.columns[len(NUMERIC) :])
EXPECTED = {
    "small": [1, -2, 127],
    "big": [0, 2.0**63, 2.0**64],
    "half": [0.5, 0, np.inf],
    "single": [0.1, 0, -np.inf],
    "double": [np.inf, 0, 0],
    "yes": [1, 0, 1],
    "maybe": [1, 0, 0],
    "integer": [1, 0, 3],
    "boolean": [1, 0, 0],
    "arrow": [1.5, 0, 3],
    "category": [7, 0, 9],
    "decimal": [1.25, 0, -3.5],
    "object": [1, 0, 2.5],
    "nothing": [0, 0, 0],
    "when": [86_401.5, 0, -1],
    "zoned": [3600, 0, 0],
    "moment": [3600, 0, 0],
    "day": [10, 0, -1],
    "clock": [3600.25, 0, 0],
    "span": [86_400, 0, -0.5],
    "days": [10, 0, -1],
}
# Types that no pandas column has, or that change on the way from a frame.
ARROW = {
    "date64": (pa.array([86_400_000, None], pa.date64()), [1, 0]),
    "time32": (pa.array([1500, None], pa.time32("ms")), [1.5, 0]),
    "time64": (pa.array([1_500_000_000, None], pa.time64("ns")), [1.5, 0]),
    "timestamp": (pa.array([1500, None], pa.timestamp("ms", tz="UTC")), [1.5, 0]),
    "duration": (pa.array([-1_500_000, None], pa.duration("us")), [-1.5, 0]),
    "decimal32": (pa.array([Decimal("1.5"), None], pa.decimal32(4, 2)), [1.5, 0]),
    "decimal256": (pa.array([Decimal("1.5"), None], pa.decimal256(40, 2)), [1.5, 0]),
    "dictionary": (pa.array([5, None], pa.int16()).dictionary_encode(), [5, 0]),
    "dates": (pa.array([1, None], pa.date32()).dictionary_encode(), [1, 0]),
    "halffloat": (pa.array([1.5, None], pa.float16()), [1.5, 0]),
    "uint64": (pa.array([3, None], pa.uint64()), [3, 0]),
}


def tables():
    """The frame, the Arrow table it is stored as, and that table in several chunks."""
    table = pa.Table.from_pandas(FRAME[NUMERIC], preserve_index=False)
    return {
        "frame": FRAME,
        "table": table,
        "chunks": pa.concat_tables([table[:1], table[1:1], table[1:]]),
    }


@pytest.mark.parametrize("kind", tables())
@pytest.mark.parametrize("name", NUMERIC)
def test_every_kind_of_number_becomes_float32(kind, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if name == "big":
            warnings.filterwarnings("ignore", r"column 'big' holds \d+, but float32")
        x, y = Columns.of([name]).matrix(tables()[kind])
    assert y is None
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], np.array(EXPECTED[name], dtype=np.float32))


@pytest.mark.parametrize("name", ARROW)
def test_every_kind_of_number_that_arrow_has_becomes_float32(name):
    values, expected = ARROW[name]
    x, _ = Columns.of(["a"]).matrix(pa.table({"a": values}))
    assert x[:, 0].tolist() == expected
    x, _ = Columns.of(["a"]).matrix(pd.DataFrame({"a": pd.arrays.ArrowExtensionArray(values)}))
    assert x[:, 0].tolist() == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_resolution_of_a_timestamp_does_not_change_its_number(unit):
    when = pd.Series(pd.to_datetime(["2025-01-01", "2025-01-02"]).as_unit(unit))
    x, _ = Columns.of(["a"], dtype="float64").matrix(pd.DataFrame({"a": when}))
    assert x[:, 0].tolist() == [1_735_689_600, 1_735_776_000]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", np.float64, np.dtype("f2")])
def test_the_dtype_can_be_chosen(dtype):
    data = pd.DataFrame({"a": [0.1, None], "b": [1, 2]})
    columns = Columns.of(["a"], "b", dtype=dtype)
    x, y = columns.matrix(data)
    assert x.dtype == y.dtype == columns.dtype == np.dtype(dtype)
    assert x.tolist() == [[np.dtype(dtype).type(0.1)], [0]]
    assert y.tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["int8", np.int64, None, "x", object()])
def test_a_dtype_that_is_not_floating_is_an_error_that_names_those_that_are(dtype):
    with pytest.raises(InputError, match="it must be one of float16, float32, float64"):
        Columns.of(["a"], dtype=dtype)


@pytest.mark.parametrize("kind", ["frame", "table"])
def test_several_targets_are_a_matrix_and_one_in_a_list_is_a_column(kind):
    with pytest.warns(FeedrateWarning, match="target 'maybe' has 1 nulls among 3 rows"):
        _, y = Columns.of(["yes"], ["small", "maybe"]).matrix(tables()[kind])
    assert y.tolist() == [[1, 1], [-2, 0], [127, 0]]
    assert y.flags.c_contiguous
    columns = Columns.of(["yes"], ["small"])
    assert columns.matrix(tables()[kind])[1].tolist() == [[1], [-2], [127]]
    assert columns.target == columns.targets == ("small",)
    assert [array.shape for array in columns.empty(5)] == [(5, 1), (5, 1)]


LARGE = {
    "integer": pa.array([1, -(2**24) - 1]),
    "unsigned": pa.array([1, 2**24 + 1], pa.uint32()),
    "nullable": pa.array([None, 2**24 + 1]),
    "decimal": pa.array([None, Decimal(2**24 + 1)]),
    "category": pa.array([1, 2**24 + 1]).dictionary_encode(),
    "time": pa.array([None, 2**24 + 1], pa.timestamp("s")),
    "span": pa.array([1, 2**24 + 1], pa.duration("s")),
}


@pytest.mark.parametrize("name", LARGE)
def test_whole_numbers_that_the_dtype_rounds_are_warned_about_once(name):
    table = pa.table({name: LARGE[name]})
    for data in (table, table.to_pandas(types_mapper=pd.ArrowDtype)):
        columns = Columns.of([name])
        with pytest.warns(FeedrateWarning, match=rf"column '{name}' holds -?16777217, but") as told:
            columns.matrix(data)
        assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns.matrix(table)
        Columns.of([name], dtype="float64").matrix(table)


@pytest.mark.parametrize(
    "values", [[2**24, -(2**24)], [2**24 + 0.5, 1e30], [float("inf"), 2.0**24 + 2]]
)
def test_numbers_that_the_dtype_holds_and_fractions_are_not_warned_about(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Columns.of(["a"]).matrix(pd.DataFrame({"a": values}))


def test_float16_rounds_sooner():
    with pytest.warns(FeedrateWarning, match="float16 holds whole numbers exactly only up to 2048"):
        Columns.of(["a"], dtype="float16").matrix(pa.table({"a": pa.array([2049], pa.int16())}))


def test_threads_that_convert_at_once_warn_once_together():
    table = pa.table({"a": [2**40, None]})
    columns = Columns.of(["a"], "a")
    with pytest.warns(FeedrateWarning) as told, ThreadPoolExecutor(8) as pool:
        list(pool.map(columns.matrix, [table] * 64))
    assert len(told) == 2


def test_columns_travel_to_other_processes():
    columns = Columns.of(["a"], ["b", "c"], -1, "float64")
    again = pickle.loads(pickle.dumps(columns))  # noqa: S301 - its own
    assert again == columns
    assert again.dtype == np.float64


@pytest.mark.parametrize("kind", tables())
def test_features_are_columns_in_order_and_the_target_is_a_vector(kind):
    with pytest.warns(FeedrateWarning, match="target 'maybe' has 1 nulls among 3 rows"):
        x, y = Columns.of(["yes", "small"], "maybe").matrix(tables()[kind])
    assert x.tolist() == [[1, 1], [0, -2], [1, 127]]
    assert y.tolist() == [1, 0, 0]
    assert (x.shape, y.shape) == ((3, 2), (3,))
    assert x.dtype == y.dtype == np.float32
    assert x.flags.c_contiguous
    assert x.flags.owndata
    assert y.flags.owndata
    assert x.flags.writeable


def test_filling_nulls_leaves_the_frame_as_it_was():
    frame = pd.DataFrame({"a": np.array([1.0, np.nan], dtype="float32")})
    x, _ = Columns.of(["a"], null_value=-1).matrix(frame)
    assert x.tolist() == [[1], [-1]]
    assert frame["a"].isna().tolist() == [False, True]


def test_nulls_become_what_was_asked_for():
    frame = pd.DataFrame({"a": [1.0, None], "b": [None, 2.0]})
    with pytest.warns(FeedrateWarning, match=r"nulls become -1 \(null_value\)"):
        x, y = Columns.of(["a"], "b", -1).matrix(frame)
    assert x.tolist() == [[1], [-1]]
    assert y.tolist() == [-1, 2]
    x, _ = Columns.of(["a"], null_value=float("nan")).matrix(frame)
    assert np.isnan(x[1, 0])


def test_nulls_in_a_target_are_warned_about_once():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [None, 2.0]})
    columns = Columns.of(["a"], "b")
    with pytest.warns(FeedrateWarning, match="target 'b' has 1 nulls among 2 rows"):
        columns.matrix(frame)
    columns.matrix(frame)


def test_of_rows_that_come_in_parts_the_warning_counts_those_it_has_seen():
    columns = Columns.of(["a"], "b")
    parts = [pd.DataFrame({"a": [1.0], "b": values}, dtype=float) for values in ([2], [None])]
    columns.matrix(parts[0])
    with pytest.warns(FeedrateWarning, match=r"1 nulls among 1 rows \(later rows are not"):
        columns.matrix(parts[1])


def test_nulls_in_features_are_not_warned_about():
    Columns.of(["a"], "b").matrix(pd.DataFrame({"a": [None, 2.0], "b": [1.0, 2.0]}))


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_number_is_an_error_that_names_the_column_and_its_type(name):
    with pytest.raises(ColumnError, match=rf"column '{name}' is .*, not numeric; leave it out"):
        Columns.of([name]).matrix(FRAME)


@pytest.mark.parametrize("name", ["text", "words", "list", "bytes"])
def test_what_is_no_number_in_a_table_is_the_same_error(name):
    table = pa.Table.from_pandas(FRAME[[name]])
    with pytest.raises(ColumnError, match=rf"column '{name}' is .*, not numeric; leave it out"):
        Columns.of([name]).matrix(table)


@pytest.mark.parametrize("name", ["text", "words", "arrow_text"])
def test_for_text_the_error_says_to_map_it(name):
    with pytest.raises(ColumnError, match="map its text to numbers first"):
        Columns.of([name]).matrix(FRAME)


@pytest.mark.parametrize("data", [FRAME[["small", "yes"]], pa.table({"small": [1], "yes": [True]})])
@pytest.mark.parametrize(("features", "target"), [(["small", "x"], None), (["small"], "x")])
def test_a_column_that_is_missing_is_an_error_that_names_those_there_are(data, features, target):
    with pytest.raises(ColumnError, match="no column 'x'; the columns are: small, yes"):
        Columns.of(features, target).matrix(data)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    ],
)
def test_a_name_that_two_columns_share_is_an_error(data):
    with pytest.raises(ColumnError, match="there are several columns 'a'"):
        Columns.of(["a"]).matrix(data)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "feature_columns is empty; name at least one numeric column"),
        (["a", "b", "a"], "column 'a' is in feature_columns twice; name it once"),
        ("points", r"feature_columns is 'points'; give a list, \['points'\]"),
    ],
)
def test_features_that_cannot_be_meant_are_refused(features, message):
    with pytest.raises(ColumnError, match=message):
        Columns.of(features)


def test_targets_that_cannot_be_meant_are_refused():
    with pytest.raises(ColumnError, match="target_column is empty"):
        Columns.of(["a"], [])
    with pytest.raises(ColumnError, match="column 'b' is in target_column twice"):
        Columns.of(["a"], ["b", "c", "b"])


def test_the_columns_to_read_are_the_features_and_the_target_once():
    assert Columns.of(["b", "a"], "y").names == ["b", "a", "y"]
    assert Columns.of(["b", "a"], "a").names == ["b", "a"]
    assert Columns.of(["b", "a"], ["y", "a", "z"]).names == ["b", "a", "y", "z"]
    assert Columns.of(["b", "a"]).names == ["b", "a"]


def test_without_rows_the_matrix_has_its_columns():
    for data in (FRAME[:0], pa.table({"small": pa.array([], "int8"), "yes": pa.array([], "bool")})):
        x, y = Columns.of(["small", "yes"], "small").matrix(data)
        assert x.shape == (0, 2)
        assert y.shape == (0,)


@pytest.mark.parametrize("shared", [True, False])
def test_objects_that_repeat_convert_as_those_that_do_not(shared):
    values = [Decimal("1.25"), None, Decimal(-3), Decimal("1e10")]
    rows = values * 1000
    frame = pd.DataFrame({"x": pd.Series(rows, dtype=object)})
    if not shared:
        frame["x"] = pd.Series(
            [None if row is None else Decimal(str(row)) for row in rows], dtype=object
        )
    x, _ = Columns.of(["x"], dtype="float64").matrix(frame)
    assert x[:, 0].tolist() == [1.25, 0.0, -3.0, 1e10] * 1000


def test_repeated_text_is_still_no_number():
    frame = pd.DataFrame({"x": pd.Series(["a", "b"] * 2000, dtype=object)})
    with pytest.raises(ColumnError, match="'x' is string"):
        Columns.of(["x"]).matrix(frame)


def test_repeated_objects_of_several_kinds_are_an_error_that_names_the_column():
    frame = pd.DataFrame({"x": pd.Series(["a", 1] * 2000, dtype=object)})
    with pytest.raises(ColumnError, match="'x'"):
        Columns.of(["x"]).matrix(frame)
