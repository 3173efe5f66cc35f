"""Row filters in the form that `pandas.read_parquet(path, filters=...)` takes."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from ..base.errors import ColumnError, FeedrateError, InputError, unknown
from ..remote.source import RemoteSource
from ..remote.urls import is_url
from .reader import arrow_file, open_parquet, require_columns

_PARQUET = ds.ParquetFileFormat()
OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")
_EXAMPLE = "[('points', '>=', 10)]"

Condition = tuple[str, str, Any]
"""A column, an operator, and a value or, for `in` and `not in`, several."""
Filters: TypeAlias = "Sequence[Condition] | Sequence[Sequence[Condition]] | pc.Expression"
"""A list of conditions that must all hold; several such lists, one of which must hold; or an
expression."""

_MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""Errors that Arrow raises for values that it cannot compare."""


@dataclass(frozen=True, eq=False)
class RowFilter:
    """Selects rows of files."""

    given: list[list[Condition]] | pc.Expression
    """Lists of conditions, of which all in one list must hold; or an expression."""

    @classmethod
    def of(cls, filters: Filters | None) -> RowFilter | None:
        """A filter from the user's argument; None for None.

        Raises:
            InputError: another form, an unknown operator, or a value that Arrow does not know.
        """
        if filters is None:
            return None
        if isinstance(filters, pc.Expression):
            return cls(filters)
        if not isinstance(filters, list | tuple) or not filters:
            raise InputError(f"filters is {filters!r}; give a list of conditions, {_EXAMPLE}")
        lists: list[list[Any]] = (
            [_conditions(item) for item in filters]
            if _holds_conditions(filters[0])
            else [list(filters)]
        )
        given = [[_condition(item) for item in conditions] for conditions in lists]
        if not all(given):
            raise InputError(f"filters is {filters!r}; a list in it has no conditions")
        return cls(given)

    @property
    def columns(self) -> list[str]:
        """The columns in conditions, each once; empty for an expression: they are unknown."""
        if isinstance(self.given, pc.Expression):
            return []
        columns = (column for conditions in self.given for column, _, _ in conditions)
        return list(dict.fromkeys(columns))

    @property
    def expression(self) -> pc.Expression:
        """The filter as an Arrow expression."""
        return pq.filters_to_expression(self.given)

    def may_have_rows(self, path: str) -> bool:
        """Whether a file may have wanted rows, by its statistics; Arrow reads its footer.

        Raises:
            InputError: a value does not fit its column.
            OSError, ArrowException: the file cannot be read.
        """
        file = open_fragment(path)
        with self.applied(path):
            return bool(file.subset(self.expression, schema=file.physical_schema).row_groups)

    def count(self, path: str) -> tuple[int, ...]:
        """The number of wanted rows in each row group.

        The filter's columns are decoded in row groups whose statistics allow some rows, not all.

        Raises:
            InputError: a value does not fit its column.
            OSError, ArrowException: the file cannot be read.
        """
        file, wanted = open_fragment(path), self.expression
        counts = [0] * file.num_row_groups
        with self.applied(path):
            for group in file.subset(wanted, schema=file.physical_schema).row_groups:
                rows = file.subset(row_group_ids=[group.id])
                counts[group.id] = rows.count_rows(filter=wanted, use_threads=False)
        return tuple(counts)

    @contextmanager
    def applied(
        self, path: str | os.PathLike[str], can_be_read: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Apply the filter in the block; errors become `InputError` if the file is readable.

        Args:
            path: the file.
            can_be_read: returns whether the file can be read without a filter; None: Arrow tries.

        Raises:
            InputError: a column of this file cannot be compared with a value.
        """
        try:
            yield
        except FeedrateError:
            raise
        except _MISFITS as error:
            if can_be_read() if can_be_read is not None else _can_be_read(path):
                raise InputError(
                    f"filters {self}: they do not fit {os.fspath(path)} ({error}); give values of "
                    "its columns' types"
                ) from error
            raise

    def __str__(self) -> str:
        return str(self.given)

    def digest(self) -> str:
        """Text that identifies the filter; an expression is hashed, since its text omits values."""
        if isinstance(self.given, pc.Expression):
            return hashlib.sha256(pickle.dumps(self.given)).hexdigest()
        return str(self.given)

    def check(self, paths: Sequence[str], schemas: Sequence[pa.Schema]) -> None:
        """Raise if files cannot be filtered.

        Args:
            paths: the files.
            schemas: their schemas.

        Raises:
            ColumnError: a file lacks a column of the filter, or has several of that name.
            InputError: a column cannot be compared with a value.
        """
        if isinstance(self.given, pc.Expression):
            for schema, path in _first_of_each(paths, schemas):
                _check_expression(self.given, path, schema)
            return
        require_columns(self.columns, schemas)
        for schema, path in _first_of_each(paths, schemas):
            for conditions in self.given:
                for condition in conditions:
                    _check_condition(condition, path, schema)


def _first_of_each(
    paths: Sequence[str], schemas: Sequence[pa.Schema]
) -> Iterator[tuple[pa.Schema, str]]:
    """Yield each schema once, with the first file that has it."""
    firsts = {schema: path for path, schema in zip(paths[::-1], schemas[::-1], strict=True)}
    yield from reversed(firsts.items())


def _can_be_read(path: str | os.PathLike[str]) -> bool:
    try:
        with open_parquet(path) as file:
            for _ in file.iter_batches(use_threads=False):
                pass
    except (*_MISFITS, OSError):
        return False
    return True


def takes_no_filters(backend: str) -> InputError:
    """The error for filters given to a user-defined loader."""
    return InputError(
        f"{backend} reads files its own way and takes no filters; let it leave out rows"
    )


def open_fragment(path: str, source: RemoteSource | None = None) -> ds.ParquetFileFragment:
    """A file, or an open object, as a fragment of an Arrow dataset that can be filtered."""
    if is_url(path):
        file = arrow_file(path) if source is None else source.file()
        return _PARQUET.make_fragment(pa.PythonFile(file, "r"))
    return _PARQUET.make_fragment(path, LocalFileSystem())


def _holds_conditions(item: object) -> bool:
    """Whether an item of filters is a list of conditions rather than a condition."""
    return isinstance(item, list | tuple) and (not item or isinstance(item[0], list | tuple))


def _conditions(item: object) -> list[Any]:
    if not isinstance(item, list | tuple):
        raise InputError(f"filters has {item!r}; a list of lists holds lists of conditions")
    return list(item)


def _condition(condition: object) -> Condition:
    if not isinstance(condition, tuple | list) or len(condition) != 3:  # noqa: PLR2004 - column, operator, value
        raise InputError(
            f"filters has {condition!r}; a condition is (column, operator, value), as in {_EXAMPLE}"
        )
    column, operator, value = condition
    if not isinstance(column, str):
        raise InputError(f"filter {condition!r}: column {column!r} is no text")
    if operator not in OPERATORS:
        raise InputError(f"filter {condition!r}: {unknown('operator', operator, OPERATORS)}")
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if several != (operator in {"in", "not in"}):
        expected = "a list of values" if operator in {"in", "not in"} else "one value"
        raise InputError(f"filter {condition!r}: {operator!r} takes {expected}, not {value!r}")
    try:
        # An iterator yields its values only once, and the repr of an array omits some.
        checked = (column, operator, list(value) if several else value)
        pq.filters_to_expression([checked])
    except _MISFITS as error:
        raise InputError(f"filter {condition!r}: Arrow has no such value ({error})") from error
    return checked


def _check_condition(condition: Condition, path: str, schema: pa.Schema) -> None:
    column, _, value = condition
    count = schema.names.count(column)
    if count != 1:
        problem = "has no such column" if not count else f"has {count} columns of that name"
        raise ColumnError(f"filter {condition!r}: {path} {problem}; filter files that have it once")
    try:
        _apply(pq.filters_to_expression([condition]), pa.schema([schema.field(column)]))
    except _MISFITS as error:
        raise InputError(
            f"filter {condition!r}: column {column!r} is {schema.field(column).type} in {path} and "
            f"cannot be compared with {value!r}; give a value of that type"
        ) from error


def _check_expression(expression: pc.Expression, path: str, schema: pa.Schema) -> None:
    try:
        _apply(expression, schema)
    except _MISFITS as error:
        reason = str(error).splitlines()[0]
        if "FieldRef" in reason:
            raise ColumnError(
                f"filters {expression}: {path} must have each of their columns once ({reason})"
            ) from error
        raise InputError(f"filters {expression}: it does not fit {path} ({reason})") from error


def _apply(expression: pc.Expression, schema: pa.Schema) -> None:
    """Filter one row of nulls: without a row, Arrow does not compare time zones."""
    names = schema.names
    unique = pa.schema([field for field in schema if names.count(field.name) == 1])
    row = pa.table([pa.nulls(1, kind) for kind in unique.types], schema=unique)
    ds.dataset(row).to_table(filter=expression)
