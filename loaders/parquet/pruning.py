"""Leave out files and row groups whose statistics say that they have no rows of some days.

A file or row group is left out only if the frame of the others is provably the same except for its
rows:

- An earlier file of the same schema that has dates stays. So the columns, their order and dtypes
  and the unit of the dates stay too, and warnings about columns that differ name the same files.
- Statistics say that its columns of integers and booleans have no nulls, since nulls would make
  them floats or objects in all files. Other columns have the dtype of their schema.
- It has no categories, whose dtype depends on their values, and it can be read without pandas.
  No row group of a file with lists or structs is left out: nulls in them change other rows.
- Statistics say that its column of dates has no nulls, and give its first and last day.

Statistics are assumed to be right, and a column of text or integers is assumed to hold dates if
both extremes are dates of one form. Damage to the pages of a left-out file is not noticed.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa
import pyarrow.types as pt

from ..base.errors import ParquetFileError
from ..base.settings import REQUESTS, DtypeBackend
from ..remote.ahead import map_paths
from ..remote.urls import RemotePath, is_url
from .chunk_statistics import PATH_HEADER, Extremes, Leaves, extremes, without_nulls
from .footers import FileSchema, Footer, Footers, Identity, Opened
from .layout import Layouts
from .schema import first_leaves, is_text

KNOWN = 1 << 17  # files remembered before starting over
_EPOCH = dt.date(1970, 1, 1)
_DAY = dt.timedelta(days=1)
_DIGITS = re.compile(r"\d{8}", re.ASCII)
_HYPHENS = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ].*)?", re.ASCII | re.DOTALL)
_UNIT = re.compile(r"timeUnit=(\w+)")
_TICKS = {"milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}  # per second


class Days(NamedTuple):
    """The first and the last day that a file may have rows of."""

    first: dt.date
    last: dt.date


class Group(NamedTuple):
    """A row group."""

    rows: int
    days: Days


class _Known(NamedTuple):
    """A file as it was when its footer was read."""

    identity: Identity
    footer: Footer
    days: Days | None
    """None if unknown."""
    groups: Sequence[Group]
    """Its row groups, if there are several and the days of each are known."""
    keeps_dtypes: bool | None
    """Whether it has no nulls that change dtypes; None if not checked yet."""
    rows_read: int = 0
    """Rows read by calls that read only some of its row groups."""


@dataclass(frozen=True)
class Kept:
    """The files of a load that may have wanted rows, or that determine dtypes."""

    paths: Sequence[str]
    footers: Mapping[str, Footer]
    """The footers that could be read, with the wanted row groups."""
    rows: int
    """Rows of all files, including those left out."""


@dataclass(frozen=True)
class _Column:
    """How files of one schema store the column of dates, and which columns must have no nulls."""

    kind: pa.DataType
    is_text: bool
    logical: str
    null_sensitive: Leaves
    """The columns whose dtype nulls change."""
    has_nested: bool
    """Whether there are lists or structs, whose nulls change the types of other rows."""


@dataclass
class Pruner:
    """Leaves out files by days and remembers the contents of footers; threads may share it.

    Args:
        column: the column of dates.
        dtype_backend: the backend of the frame's dtypes.
        requests: requests in flight for objects.
    """

    column: str
    dtype_backend: DtypeBackend = "numpy"
    requests: int = REQUESTS
    _footers: Footers = field(default_factory=Footers)
    _known: dict[str, _Known] = field(default_factory=dict)
    _columns: dict[int, tuple[FileSchema, _Column | None]] = field(default_factory=dict)
    """By the id of the schema, which is kept so that no other object gets its id."""

    def __post_init__(self) -> None:
        self._layouts = Layouts(self.dtype_backend)

    def within(
        self, paths: Iterable[str], start: dt.date, end: dt.date, *, whole_pays: bool = False
    ) -> Kept:
        """The files to load for rows from `start` on and before `end`.

        Files that cannot be read stay, so that loading them raises the error.

        Args:
            paths: files, in order.
            start: the first day.
            end: the day after the last.
            whole_pays: a cache keeps whole files. So a file is read whole once its parts would add
                up to more rows than it has; less than twice the needed rows are read: the
                ski-rental rule (Karlin, Manasse, Rudolph & Sleator 1988).
        """
        kept, footers, rows = list[str](), dict[str, Footer](), 0
        schemas = set[int]()  # ids of schemas of kept files that have dates
        paths = list(paths)
        looked_up = map_paths(self._try_to_look_up, paths, 0, self.requests)
        for path, found in zip(paths, looked_up, strict=True):
            if found is None:
                kept.append(path)
                continue
            known, opened = found
            footer, days = known.footer, known.days
            try:
                outside = days is not None and _are_outside(days, start, end)
                if known.groups or (outside and id(footer.schema) in schemas):
                    known = self._with_nulls_checked(path, known, opened)
            except (ParquetFileError, OSError):
                kept.append(path)
                continue
            rows += footer.rows
            if outside and id(footer.schema) in schemas and known.keeps_dtypes:
                continue
            if days is not None:
                schemas.add(id(footer.schema))
            kept.append(path)
            if known.groups and known.keeps_dtypes:
                footer = self._some_groups(path, known, start, end, whole_pays=whole_pays)
            footers[path] = footer
        return Kept(kept, footers, rows)

    def _some_groups(
        self, path: str, known: _Known, start: dt.date, end: dt.date, *, whole_pays: bool
    ) -> Footer:
        """A file's footer with the row groups that may have wanted rows, or else the first."""
        groups = tuple(
            at for at, group in enumerate(known.groups) if not _are_outside(group.days, start, end)
        ) or (0,)
        rows = sum(known.groups[at].rows for at in groups)
        if whole_pays and known.rows_read + rows > known.footer.rows:
            return known.footer
        if len(groups) == len(known.groups):
            return known.footer
        self._known[path] = known._replace(rows_read=known.rows_read + rows)
        return known.footer._replace(rows=rows, groups=groups)

    def _try_to_look_up(self, path: str) -> tuple[_Known, Opened | None] | None:
        """As `_look_up`; None if the file cannot be read."""
        try:
            return self._look_up(path)
        except (ParquetFileError, OSError):
            return None

    def _look_up(self, path: str) -> tuple[_Known, Opened | None]:
        """The known facts about a file as it is now, and its footer if it had to be read."""
        known = self._known.get(path)
        if known is not None and _identity(path) == known.identity:
            return known, None
        opened = self._footers.open(path)
        known = _Known(opened.identity, opened.footer, *self._days(opened), None)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[path] = known
        return known, opened

    def _with_nulls_checked(self, path: str, known: _Known, opened: Opened | None) -> _Known:
        """The known facts about a file, including whether it has nulls that change dtypes."""
        if known.keeps_dtypes is None:
            opened = opened or self._footers.open(path)
            column = self._column(known.footer.schema)
            keeps = column is not None and without_nulls(opened, column.null_sensitive)
            known = known._replace(keeps_dtypes=keeps and opened.identity == known.identity)
            self._known[path] = known
        return known

    def _days(self, opened: Opened) -> tuple[Days | None, Sequence[Group]]:
        """The days of a file, and those of its row groups if there are several."""
        footer = opened.footer
        column = self._column(footer.schema) if footer.sound and footer.rows else None
        found = extremes(opened, self.column) if column is not None else None
        if column is None or not found:
            return None, ()
        days = [known for group in found if (known := _days_between(group, column)) is not None]
        if len(days) < len(found):
            return None, ()
        of_file = Days(min(group.first for group in days), max(group.last for group in days))
        if len(days) == 1 or column.has_nested:
            return of_file, ()
        return of_file, [Group(*group) for group in zip(opened.group_rows(), days, strict=True)]

    def _column(self, schema: FileSchema) -> _Column | None:
        if id(schema) not in self._columns:
            if len(self._columns) >= KNOWN:
                self._columns.clear()
            self._columns[id(schema)] = schema, self._find_column(schema)
        return self._columns[id(schema)][1]

    def _find_column(self, schema: FileSchema) -> _Column | None:
        """The column of dates; None if files of this schema cannot be left out."""
        layout = self._layouts.of(schema, None)
        if layout is None or layout.has_categories or self.column not in schema.arrow.names:
            return None
        if any(PATH_HEADER in name for name in schema.arrow.names):
            return None
        position = schema.arrow.get_field_index(self.column)
        leaf = first_leaves(schema.arrow)[position]
        kind, logical = schema.arrow.types[position], schema.logical[leaf]
        if not _has_days(kind, schema.physical[leaf], logical):
            return None
        null_sensitive = (at for at, dtype in layout.dtypes.items() if dtype.kind in "iub")
        leaves = Leaves.of(schema, null_sensitive)
        return _Column(kind, is_text(kind), logical, leaves, bool(layout.nested))


def _identity(path: str) -> Identity | None:
    """The identity of a file, or of an object as it was listed; None if unknown."""
    if isinstance(path, RemotePath) and path.version is not None:
        return Identity(path.size or 0, path.modified_ns, 0, 0, path.version)
    return None if is_url(path) else Identity.of(os.stat(path))  # noqa: PTH116 - a Path for each file costs more


def _are_outside(days: Days, start: dt.date, end: dt.date) -> bool:
    return days.last < start or days.first >= end


def _has_days(kind: pa.DataType, physical: str, logical: str) -> bool:
    """Whether a column's statistics order its values like days."""
    if pt.is_timestamp(kind):
        return physical == "INT64" and _UNIT.search(logical) is not None
    if pt.is_date(kind):
        return physical == "INT32"
    if pt.is_integer(kind):
        return physical in {"INT32", "INT64"}
    return is_text(kind) and physical == "BYTE_ARRAY"


def _days_between(found: Extremes, column: _Column) -> Days | None:
    """The days of the extremes; None if they are not dates."""
    kind = column.kind
    try:
        if column.is_text:
            return days_of_text(found.low.decode("ascii"), found.high.decode("ascii"))
        low, high = (int.from_bytes(value, "little", signed=True) for value in found)
        if pt.is_integer(kind):
            return days_of_text(str(low), str(high))
        if pt.is_date(kind):
            return Days(_EPOCH + low * _DAY, _EPOCH + high * _DAY)
        ticks = 24 * 60 * 60 * _TICKS[_UNIT.findall(column.logical)[0]]
        first, last = _EPOCH + low // ticks * _DAY, _EPOCH + high // ticks * _DAY
        # Instants are stored in UTC; a wall clock is up to a day earlier or later.
        return Days(first, last) if kind.tz is None else Days(first - _DAY, last + _DAY)
    except (UnicodeDecodeError, OverflowError):
        return None


@lru_cache(1 << 16)
def days_of_text(low: str, high: str) -> Days | None:
    """The days between two dates of one form, `YYYYMMDD` or ISO; None if they are not dates.

    If the years differ, texts in between may have the other form, since a hyphen sorts before
    digits. So the whole last year counts for digits, the whole first year for hyphens.

    >>> days_of_text("20250105", "20250109")
    Days(first=datetime.date(2025, 1, 5), last=datetime.date(2025, 1, 9))
    >>> days_of_text("20241231", "20250109")
    Days(first=datetime.date(2024, 12, 31), last=datetime.date(2025, 12, 31))
    >>> days_of_text("2024-12-31", "2025-01-09").first
    datetime.date(2024, 1, 1)
    """
    try:
        if _DIGITS.fullmatch(low) and _DIGITS.fullmatch(high):
            first = dt.date(int(low[:4]), int(low[4:6]), int(low[6:]))
            if low == high:
                return Days(first, first)
            last = dt.date(int(high[:4]), int(high[4:6]), int(high[6:]))
            return Days(first, last if first.year == last.year else dt.date(last.year, 12, 31))
        if _HYPHENS.fullmatch(low) and _HYPHENS.fullmatch(high):
            first, last = (dt.date.fromisoformat(text[:10]) for text in (low, high))
            return Days(first if first.year == last.year else dt.date(first.year, 1, 1), last)
    except ValueError:
        pass
    return None
