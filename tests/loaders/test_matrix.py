"""Columns become the float32 matrix that the plain idiom makes, nulls filled in."""

import datetime as dt
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feedrate.loaders.errors import ColumnError, FeedrateWarning
from feedrate.loaders.matrix import Columns

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
        "text": ["1", "2", "3"],
        "words": pd.Categorical(["a", "b", "a"]),
        "when": pd.Timestamp("2025-01-01"),
        "zoned": pd.Timestamp("2025-01-01", tz="UTC"),
        "day": dt.date(2025, 1, 1),
        "span": pd.Timedelta(days=1),
        "list": [[1], [2], [3]],
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
        x, y = Columns.of([name]).matrix(tables()[kind])
    assert y is None
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x[:, 0], np.array(EXPECTED[name], dtype=np.float32))


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
    with pytest.warns(FeedrateWarning, match="1 nulls among 1 rows, the first read that hold any"):
        columns.matrix(parts[1])


def test_nulls_in_features_are_not_warned_about():
    Columns.of(["a"], "b").matrix(pd.DataFrame({"a": [None, 2.0], "b": [1.0, 2.0]}))


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_number_is_an_error_that_names_the_column_and_its_type(name):
    with pytest.raises(ColumnError, match=rf"column '{name}' is .*, not numeric; leave it out"):
        Columns.of([name]).matrix(FRAME)


@pytest.mark.parametrize("name", ["text", "words", "when", "day", "list"])
def test_what_is_no_number_in_a_table_is_the_same_error(name):
    table = pa.Table.from_pandas(FRAME[[name]])
    with pytest.raises(ColumnError, match=rf"column '{name}' is .*, not numeric; leave it out"):
        Columns.of([name]).matrix(table)


@pytest.mark.parametrize("data", [FRAME[["small", "yes"]], pa.table({"small": [1], "yes": [True]})])
@pytest.mark.parametrize(("features", "target"), [(["small", "x"], None), (["small"], "x")])
def test_a_column_that_is_missing_is_an_error_that_names_those_there_are(data, features, target):
    with pytest.raises(ColumnError, match="no column 'x'; the columns are: small, yes"):
        Columns.of(features, target).matrix(data)


def test_a_name_that_two_columns_share_is_an_error():
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(ColumnError, match="'a'"):
        Columns.of(["a"]).matrix(frame)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "feature_columns is empty; name at least one numeric column"),
        (["a", "b", "a"], "column 'a' stands twice in feature_columns; name it once"),
        ("points", r"feature_columns is 'points'; give a list, \['points'\]"),
    ],
)
def test_features_that_cannot_be_meant_are_refused(features, message):
    with pytest.raises(ColumnError, match=message):
        Columns.of(features)


def test_the_columns_to_read_are_the_features_and_the_target_once():
    assert Columns.of(["b", "a"], "y").names == ["b", "a", "y"]
    assert Columns.of(["b", "a"], "a").names == ["b", "a"]
    assert Columns.of(["b", "a"]).names == ["b", "a"]


def test_without_rows_the_matrix_has_its_columns():
    for data in (FRAME[:0], pa.table({"small": pa.array([], "int8"), "yes": pa.array([], "bool")})):
        x, y = Columns.of(["small", "yes"], "small").matrix(data)
        assert x.shape == (0, 2)
        assert y.shape == (0,)
