"""Columns of a frame or a table as numbers, with the rule for each type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import ColumnError
from ..parquet.objects import distinct_objects
from ..parquet.reader import several_columns

TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
MILLISECONDS_PER_DAY = 86_400_000
_NUMBERS = (bool, int, float, Decimal, np.bool_, np.integer, np.floating)
_INEXACT = (bool, float, np.bool_, np.floating)
_MISSING = {type(None), type(pd.NA), type(pd.NaT)}
COLUMNS_SHOWN = 20  # names listed in an error: a screenful


def numbers(data: pd.DataFrame | pa.Table, name: str) -> tuple[np.ndarray, bool]:
    """A column's values as a numpy array, NaN where null; without a copy where possible.

    The second result is whether the type holds exact numbers (not floating, not boolean), which
    matters if they are converted to a type that rounds.

    | type | becomes |
    | --- | --- |
    | integer, floating | itself |
    | boolean | 0 and 1 |
    | decimal | the nearest float64 |
    | date | days since 1970-01-01 |
    | timestamp, with a zone or without | seconds since 1970-01-01 (in UTC if it has a zone) |
    | time of day | seconds since midnight |
    | duration | seconds |
    | dictionary (pandas' category) | as its values |
    | null | null |

    Objects of several of these kinds, as from files that differ, and integers beyond 64 bits become
    the nearest float64.

    Integers without nulls stay integers; with nulls they are float64. The unit of dates and times
    does not depend on the type's resolution, so files may differ in resolution.

    Raises:
        ColumnError: the column is missing, two have the name, or its type is not in the table.
    """
    if isinstance(data, pa.Table):
        names = data.column_names
        if name not in names:
            raise missing_column(name, names)
        if names.count(name) > 1:
            raise several_columns(name)
        column = data.column(name)
    else:
        if name not in data.columns:
            raise missing_column(name, list(data.columns))
        series = data[name]
        if isinstance(series, pd.DataFrame):
            raise several_columns(name)
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iufb":
            return series.to_numpy(), series.dtype.kind in "iu"
        if series.dtype == object:
            return _by_distinct_objects(series.to_numpy(), name)
        column = _from_pandas(series, name)
    return _numbers_of(column, name)


def _by_distinct_objects(objects: np.ndarray, name: str) -> tuple[np.ndarray, bool]:
    """Convert each distinct object once.

    Loaded frames hold few distinct decimals and dates. For 24 million references to decimals Arrow
    took 40 s; this takes 2 s.
    """
    codes, distinct = distinct_objects(objects)
    try:
        column = pa.array(distinct, from_pandas=True)
        if pa.types.is_date(column.type) and any(_has_time(value) for value in distinct):
            raise _not_numeric(name, objects.dtype)  # Arrow would cut off the times of day
        values, exact = _numbers_of(column, name)
    except (pa.ArrowException, OverflowError) as error:
        # Values of several kinds, or of a kind unknown to Arrow.
        kinds = {type(value) for value in distinct} - _MISSING
        if not all(issubclass(kind, _NUMBERS) for kind in kinds):
            raise _not_numeric(name, objects.dtype) from error
        values = np.array([_nearest(value) for value in distinct], np.float64)
        exact = not all(issubclass(kind, _INEXACT) for kind in kinds)
    return (values if codes is None else values.take(codes)), exact


def _has_time(value: Any) -> bool:
    return isinstance(value, datetime) and value is not pd.NaT


def _nearest(value: Any) -> float:
    """The float64 nearest to a number; infinite beyond its range, NaN for missing values."""
    if type(value) in _MISSING or (isinstance(value, Decimal) and value.is_nan()):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _from_pandas(values: Any, name: str) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values, from_pandas=True)
    except pa.ArrowException as error:  # as above
        raise _not_numeric(name, values.dtype) from error


def _numbers_of(column: pa.Array | pa.ChunkedArray, name: str) -> tuple[np.ndarray, bool]:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if not is_numeric(column.type):
        raise _not_numeric(name, column.type)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    exact = not (pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))
    return _values(column), exact


def quantity(kind: pa.DataType) -> str | None:
    """The quantity of a type; files may have different types of the same quantity.

    Returns:
        `number`, `date`, `timestamp`, `time` or `duration`; None for null, which fits any.
    """
    if pa.types.is_dictionary(kind):
        return quantity(kind.value_type)
    if pa.types.is_null(kind):
        return None
    for name, matches in (
        ("date", pa.types.is_date),
        ("timestamp", pa.types.is_timestamp),
        ("time", pa.types.is_time),
        ("duration", pa.types.is_duration),
    ):
        if matches(kind):
            return name
    return "number"


def _values(column: pa.Array) -> np.ndarray:
    """The numbers of an array whose type is numeric."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode())
    if pa.types.is_temporal(kind):
        return _time_values(column)
    if pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
        column = pc.cast(column, pa.float32())
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values


def _time_values(column: pa.Array) -> np.ndarray:
    kind = column.type
    count = pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()
    values: np.ndarray = column.cast(count).to_numpy(zero_copy_only=False)
    if pa.types.is_date32(kind):
        return values
    if pa.types.is_date64(kind):
        return values / MILLISECONDS_PER_DAY
    return values / TICKS_PER_SECOND[kind.unit]


def is_numeric(kind: pa.DataType) -> bool:
    """Whether `numbers` accepts columns of a type."""
    if pa.types.is_dictionary(kind):
        return is_numeric(kind.value_type)
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    )


def _not_numeric(name: str, kind: object) -> ColumnError:
    values = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    is_text = isinstance(values, pa.DataType) and (
        pa.types.is_string(values)
        or pa.types.is_large_string(values)
        or pa.types.is_string_view(values)
    )
    remedy = "convert it to numbers first"
    if is_text:
        remedy = (
            "map its text to numbers first, in the same way for every file (codes of a dictionary "
            "or a category may differ between files)"
        )
    return ColumnError(
        f"column {name!r} is {kind}, not numeric; leave it out of the features, or {remedy}"
    )


def missing_column(name: str, known: Sequence[str]) -> ColumnError:
    """The error for a missing column, listing the existing ones."""
    more = ", …" if len(known) > COLUMNS_SHOWN else ""
    shown = ", ".join(map(str, list(known)[:COLUMNS_SHOWN])) + more
    return ColumnError(f"there is no column {name!r}; the columns are: {shown}")
