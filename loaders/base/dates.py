"""Dates in arguments, in names of files and folders, and in columns."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa

from .errors import ColumnError, InputError

EIGHT_DIGITS = re.compile(r"(?<!\d)\d{8}(?!\d)")
SEASON_MONTH = 10  # a season starts on 1 October
_WRITTEN = re.compile(r"\d{8}|\d{4}-\d{2}-\d{2}")
_DATE_PATH = re.compile(r"(?:year=|(?<!\d))(\d{4})/(?:month=)?(\d{1,2})/(?:day=)?(\d{1,2})(?=/|$)")
_DAY = re.compile(r"(?:day=)?\d{1,2}")
_HYPHENS = re.compile(r"(?<!\d)(?<!\d-)\d{4}-\d{2}-\d{2}(?!\d)(?!-\d)")
# A folder's name, or the value in `date=...`; pandas, Arrow and Spark may add a time of day.
_FOLDER_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?|(\d{4})(\d{2})(\d{2})")
FIRST_DAY, LAST_DAY = pd.Timestamp("1678-01-01"), pd.Timestamp("2261-12-31")  # ns timestamp range
_EPOCH = dt.date(1970, 1, 1).toordinal()
_MAX_CHARS = 16  # longer texts are not parsed as eight digits


def as_date(value: object, what: str = "date") -> str:
    """Format a date as `YYYYMMDD`.

    Args:
        value: text `YYYYMMDD` or `YYYY-MM-DD`, a date or a datetime.
        what: the argument's name, for the error message.

    Raises:
        InputError: the value is not a date.
    """
    if isinstance(value, dt.date) and not pd.isna(value):  # datetimes are dates too
        return value.strftime("%Y%m%d")
    is_written = isinstance(value, str | int) and _WRITTEN.fullmatch(str(value))
    if is_written and (date := _valid_date(str(value).replace("-", ""))):
        return date
    raise InputError(f"{what} {value!r} is no date; write it as YYYYMMDD, like 20250131")


def as_closed_range(start: object, end: object) -> tuple[str, str]:
    """Both ends of a range as `YYYYMMDD`; both are required.

    Raises:
        InputError: as for `as_range`, or an end is missing.
    """
    first, last = as_date(start, "start_date"), as_date(end, "end_date")
    as_range(first, last)
    return first, last


def as_range(start: object, end: object) -> tuple[str | None, str | None]:
    """Both ends of a range as `YYYYMMDD`, None for an open end.

    Raises:
        InputError: an end is not a date, or the range starts after it ends.
    """
    first = None if start is None else as_date(start, "start_date")
    last = None if end is None else as_date(end, "end_date")
    if first is not None and last is not None and first > last:
        raise InputError(f"start_date {first} is after end_date {last}; swap them")
    return first, last


@lru_cache(1 << 16)  # a walk-forward test lists the same files again and again
def date_of(relative: str) -> str | None:
    """The date of a file, given its path below the data type's folder, or None.

    The innermost date in folder names takes precedence. Otherwise it is the last valid date of
    exactly eight digits in the file name, or else the last one written like `2025-01-05`.

    >>> date_of("box_scores_20250101.parquet"), date_of("2025-01-05.parquet")
    ('20250101', '20250105')
    >>> date_of("2025/01/03.parquet"), date_of("2025/01/02/22400101.parquet")
    ('20250103', '20250102')
    >>> date_of("date=2025-01-04 00%3A00%3A00/94500102cd3c-0.parquet")
    '20250104'
    >>> date_of("box_scores_20250105.parquet/part-0.parquet")
    '20250105'
    >>> date_of("part-0.parquet") is None
    True
    """
    folder, slash, name = relative.rpartition("/")
    stem = _stem(name)
    date = _date_of_folders(folder, stem if _DAY.fullmatch(stem) else "") if slash else None
    return date or _date_in_name(stem)


@lru_cache(1 << 12)  # files of a folder share its date
def _date_of_folders(folder: str, day: str) -> str | None:
    """The innermost date in folder names; the file name may be the day alone, else `day` is ""."""
    folders = folder.split("/")
    path = f"{folder}/{day}"
    dates = {match.end(): _date_of_match(match) for match in _DATE_PATH.finditer(path)}
    end = -1
    for name in folders:
        end += 1 + len(name)
        if name.lower().endswith(".parquet"):  # Spark's folder, named like a file
            dates[end] = _date_in_name(_stem(name))
        elif match := _FOLDER_DATE.fullmatch(unquote(name.rpartition("=")[2])):
            dates[end] = _date_of_match(match)
    return next((dates[end] for end in sorted(dates, reverse=True) if dates[end]), None)


def _date_in_name(name: str) -> str | None:
    """The last valid date in a name; eight digits take precedence over hyphens."""
    for pattern in (EIGHT_DIGITS, _HYPHENS):
        for digits in reversed(pattern.findall(name)):
            if date := _valid_date(digits.replace("-", "")):
                return date
    return None


def _date_of_match(match: re.Match[str]) -> str | None:
    """The date of a matched year, month and day; None if it is not valid."""
    year, month, day = (group for group in match.groups() if group is not None)
    return _valid_date(f"{year}{month:0>2}{day:0>2}")


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def season_start(end: str, num_seasons: int) -> str:
    """1 October of the first of `num_seasons` seasons; the last one contains `end`."""
    year, month = int(end[:4]), int(end[4:6])
    first = year if month >= SEASON_MONTH else year - 1
    return f"{first - (num_seasons - 1):04}{SEASON_MONTH:02}01"


def to_datetimes(column: pd.Series, name: str) -> pd.Series:
    """Convert a column of dates, in any form, to datetimes without a time zone.

    Args:
        column: text or integer `YYYYMMDD`, ISO text, dates, or datetimes (with a zone: the
            wall time in that zone).
        name: the column's name, for the error message.

    Raises:
        ColumnError: a value is not a date.
    """
    if isinstance(column.dtype, pd.ArrowDtype):
        column = pa.array(column).to_pandas().set_axis(column.index)
    if isinstance(column.dtype, pd.CategoricalDtype):
        days = to_datetimes(column.cat.categories.to_series(), name).array
        return pd.Series(days.take(column.cat.codes, allow_fill=True), column.index)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        naive: pd.Series = column.dt.tz_localize(None)
        return naive
    if column.dtype.kind == "M":
        return column
    try:
        if pd.api.types.is_numeric_dtype(column.dtype):
            column = column.astype("Int64")
        return _parse_distinct(column)
    except (ValueError, TypeError) as error:
        raise ColumnError(
            f"column {name!r} has a value that is no date ({str(error).splitlines()[0]}); dates "
            "are text or integers YYYYMMDD, dates, or datetimes"
        ) from error


def _parse_distinct(column: pd.Series) -> pd.Series:
    """Like `_text_to_datetimes`, but parse each distinct value once."""
    if column.dtype.kind == "O" and pd.api.types.infer_dtype(column, skipna=True) != "string":
        return _text_to_datetimes(column)  # equal objects may differ as text
    codes, distinct = pd.factorize(column)
    if not len(distinct):
        return _text_to_datetimes(column)
    numbers = _day_numbers(distinct)
    if numbers is None:
        days = _text_to_datetimes(pd.Series(distinct)).array
    else:
        days = pd.array(np.array(numbers, "datetime64[D]").astype(_parsed_dtype()))
    return pd.Series(days.take(codes, allow_fill=True), column.index, name=column.name)


def _day_numbers(values: Iterable[object]) -> list[int] | None:
    """Texts of eight digits as days since 1970-01-01; None if a value is no such text.

    pandas takes 0.8 ms to parse 31 such texts.
    """
    numbers = []
    for value in values:
        is_short = isinstance(value, str) and len(value) <= _MAX_CHARS
        number = _day_number(value) if is_short else None
        if number is None:
            return None
        numbers.append(number)
    return numbers


@lru_cache(1 << 16)
def _day_number(text: str) -> int | None:
    digits = _valid_date(text.strip())
    if digits is None or not FIRST_DAY.year <= int(digits[:4]) <= LAST_DAY.year:
        return None
    return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() - _EPOCH


@cache
def _parsed_dtype() -> np.dtype[Any]:
    """The dtype that pandas parses such texts to; its unit depends on the pandas version."""
    return np.dtype(_text_to_datetimes(pd.Series(["19700101"])).to_numpy().dtype)


def _text_to_datetimes(column: pd.Series) -> pd.Series:
    text = column.astype("string").str.strip()
    if column.dtype.kind == "O":  # files that differ may mix numbers and text
        text = text.str.removesuffix(".0")
    if text.str.fullmatch(r"\d{8}").fillna(value=True).all():
        return pd.to_datetime(text, format="%Y%m%d")
    text = text.str.replace(r"^(\d{4})(\d{2})(\d{2})($|[T ])", r"\1-\2-\3\4", regex=True)
    is_date = text.str.fullmatch(r"\d{4}-\d{2}-\d{2}(?:[T ].*)?").fillna(value=True)
    if not is_date.all():
        raise ValueError(repr(text[~is_date].iloc[0]))  # a year or month alone would parse as a day
    text = text.str.replace(r"([T ]\d{2}[\d:.]*)(?:Z|[+-]\d{2}(?::?\d{2})?)$", r"\1", regex=True)
    return pd.to_datetime(text, format="ISO8601")


def _valid_date(digits: str) -> str | None:
    if len(digits) != len("YYYYMMDD") or not digits.isascii() or not digits.isdigit():
        return None
    try:
        dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
    return digits


def date_order(date: str | None, path: str) -> tuple[bool, str, str]:
    """The sort key of a file: the date, then the path; files without a date come last."""
    return date is None, date or "", path


def in_range(date: str | None, start: str | None, end: str | None) -> bool:
    """Whether a file of that date belongs to the range; without a range every file does."""
    if start is None and end is None:
        return True
    return date is not None and (start is None or date >= start) and (end is None or date <= end)


def distinct_days(days: pd.Series) -> Sequence[str]:
    """The sorted distinct days of a datetime column, as `YYYYMMDD`."""
    return sorted(days.dropna().dt.strftime("%Y%m%d").unique())
