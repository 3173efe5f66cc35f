"""The fingerprint of the rows that the original delivers, without the code under test."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from ...loaders.base.errors import ColumnError
from ...loaders.choosing.profile import Job
from ...loaders.parquet.original import concat_frames, read_file, read_frame
from ...loaders.remote.ahead import map_paths
from ...loaders.remote.urls import is_url
from ..record.sampling import picked
from .fingerprint import BatchFingerprint, Fingerprint, frame_fingerprint
from .work import Data

AT_ONCE = 16  # objects that pandas reads at once
EPOCH = date(1970, 1, 1)
SECOND = pd.Timedelta(seconds=1)


def sample_of(data: Data, files: int, every: int) -> Data:
    """The data with only the first `files` files, or a sample of them as in `picked`."""
    return data.only(picked(files, every))


def reference(job: Job, files: int, data: Data, *, ordered: bool) -> Fingerprint:
    """The fingerprint of what the original delivers, by pandas alone; of objects several at once.

    Raises:
        ColumnError: a training column holds a value that is neither number nor time, or different
            quantities (days and seconds) in different rows.
    """
    paths = data.first(files)
    if job == "frame":
        return frame_fingerprint(_one_frame(paths, data.columns))
    names = data.training.names
    result = BatchFingerprint(ordered=ordered)
    frames = [_one_frame(paths, names)] if job == "batches" else _frames(paths, names)
    quantities: dict[str, str] = {}
    for frame in frames:
        result.update(_plain_matrix(frame, data, quantities))
    return result.result()


def matrices(data: Data) -> Iterator[np.ndarray]:
    """The training columns of each file, float32 of shape (rows, features and target).

    Raises:
        ColumnError: as `reference`.
    """
    quantities: dict[str, str] = {}
    for frame in _frames(data.first(len(data.paths)), data.training.names):
        yield _plain_matrix(frame, data, quantities)


def _one_frame(paths: Sequence[str], columns: Sequence[str] | None) -> pd.DataFrame:
    """What the original delivers, which takes 0.1 s per object if it reads one after the other."""
    if not any(map(is_url, paths)):
        return read_frame(paths, columns)
    return concat_frames(list(_frames(paths, columns)), columns)


def _frames(paths: Sequence[str], columns: Sequence[str] | None) -> Iterator[pd.DataFrame]:
    """Each file as plain pandas reads it."""

    def read(path: str) -> pd.DataFrame:
        return read_file(path, columns, plain=True)

    return map_paths(read, paths, 0, AT_ONCE, lambda path: getattr(path, "size", None) or 0)


def _plain_matrix(frame: pd.DataFrame, data: Data, quantities: dict[str, str]) -> np.ndarray:
    """Features and target as float32; `quantities` records the quantity in each column."""
    names = data.matrix_columns
    frame = frame.reindex(columns=names)
    matrix = np.empty((len(frame), len(names)), dtype=np.float32)
    for position, name in enumerate(names):
        held, values = _plain_numbers(frame[name], name)
        for quantity in sorted(held):
            if quantities.setdefault(name, quantity) != quantity:
                raise ColumnError(
                    f"column {name!r} holds {quantities[name]} and {quantity}, which become "
                    "numbers in different ways; leave it out with --columns, or convert one of them"
                )
        with np.errstate(over="ignore"):  # values beyond float32 become infinite
            matrix[:, position] = values
        matrix[np.isnan(matrix[:, position]), position] = data.null_value
    return matrix


def _plain_numbers(column: pd.Series, name: str) -> tuple[set[str], np.ndarray]:
    """The quantities and the values of a column: NaN if null, times in seconds, dates in days."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        quantities, values = _plain_numbers(dtype.categories.to_series(), name)
        codes = column.cat.codes.to_numpy()
        with_null = np.append(values.astype(np.float64), np.nan)  # null has code -1: the last
        return quantities, with_null[codes]
    if dtype.kind in "iufb":
        if isinstance(dtype, np.dtype) or not column.isna().any():
            return {"numbers"}, column.to_numpy()
        return {"numbers"}, column.to_numpy(np.float64, na_value=np.nan)
    if isinstance(dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind == "M":
        return {"timestamps"}, ((column - pd.Timestamp(EPOCH)) / SECOND).to_numpy()
    if isinstance(dtype, np.dtype) and dtype.kind == "m":
        return {"durations"}, column.to_numpy() / np.timedelta64(1, "s")
    return _of_objects(column.astype(object), name)


def _of_objects(column: pd.Series, name: str) -> tuple[set[str], np.ndarray]:
    """As `_plain_numbers`, for Python objects, one by one."""
    quantities: set[str] = set()
    values = np.full(len(column), np.nan)
    for row, value in enumerate(column.array):
        if value is None or value is pd.NA or value is pd.NaT:
            continue
        converter = next((entry for entry in _CONVERTERS if isinstance(value, entry[0])), None)
        if converter is None:
            raise ColumnError(
                f"column {name!r} holds {value!r}, which is no number, date or time; leave it out "
                "with --columns, or convert it in the files"
            )
        _, quantity, convert = converter
        values[row] = convert(value)
        if not math.isnan(values[row]):
            quantities.add(quantity)
    return quantities, values


def _nearest(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _seconds_of_day(value: time) -> float:
    return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6


def _since_epoch(value: datetime) -> float:
    moment = pd.Timestamp(value)
    if moment.tzinfo is not None:
        moment = moment.tz_convert("UTC").tz_localize(None)
    return float((moment - pd.Timestamp(EPOCH)) / SECOND)


_CONVERTERS: tuple[tuple[type | tuple[type, ...], str, Callable[[Any], float]], ...] = (
    ((bool, np.bool_, Decimal, numbers.Real), "numbers", _nearest),
    (datetime, "timestamps", _since_epoch),  # before dates: a datetime is a date
    (date, "dates", lambda value: float((value - EPOCH).days)),
    (time, "times", _seconds_of_day),
    (timedelta, "durations", lambda value: float(pd.Timedelta(value) / SECOND)),
)
"""By type: the quantity, and the function that converts an object to a number."""
