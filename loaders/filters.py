"""Filters of rows in pandas' form, as `pandas.read_parquet(path, filters=...)` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from .errors import ColumnError, InputError, unknown
from .reader import require_columns

_PARQUET = ds.ParquetFileFormat()
OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")
_EXAMPLE = "[('points', '>=', 10)]"

Condition = tuple[str, str, Any]
"""A column, an operator, and a value or, for `in` and `not in`, several."""
Filters = Sequence[Condition] | Sequence[Sequence[Condition]]
"""Conditions that all hold, or several such lists, one of which holds."""


@dataclass(frozen=True)
class RowFilter:
    """Which rows of files are wanted."""

    given: list[list[Condition]]
    """Lists of conditions; all those of one list hold."""

    @classmethod
    def of(cls, filters: Filters | None) -> RowFilter | None:
        """Filters as they are given; None for None.

        Raises:
            InputError: another form, an unknown operator, or a value that Arrow does not know.
        """
        if filters is None:
            return None
        if not isinstance(filters, list | tuple) or not filters:
            raise InputError(f"filters is {filters!r}; give a list of conditions, {_EXAMPLE}")
        flat = not isinstance(filters[0], list) and not _holds_conditions(filters[0])
        lists: list[list[Any]] = [list(filters)] if flat else [_conditions(one) for one in filters]
        for condition in (one for conditions in lists for one in conditions):
            _check_form(condition)
        if not all(lists):
            raise InputError(f"filters is {filters!r}; a list in it has no conditions")
        return cls(lists)

    @property
    def columns(self) -> list[str]:
        """The columns that decide, each once."""
        return list(dict.fromkeys(one[0] for conditions in self.given for one in conditions))

    @property
    def expression(self) -> pc.Expression:
        """The same as Arrow has it."""
        return pq.filters_to_expression(self.given)

    def may_have_rows(self, path: str) -> bool:
        """Whether statistics of a file allow rows that are wanted; Arrow reads its footer.

        Raises:
            OSError, ArrowException: it cannot be read.
        """
        file = open_fragment(path)
        return bool(file.subset(self.expression, schema=file.physical_schema).row_groups)

    def count(self, path: str) -> tuple[int, ...]:
        """How many rows of each row group are wanted.

        Columns of the filter are decoded, of row groups whose statistics allow some rows and not
        all.

        Raises:
            OSError, ArrowException: the file cannot be read.
        """
        file, wanted = open_fragment(path), self.expression
        counts = [0] * file.num_row_groups
        for group in file.subset(wanted, schema=file.physical_schema).row_groups:
            one = file.subset(row_group_ids=[group.id])
            counts[group.id] = one.count_rows(filter=wanted, use_threads=False)
        return tuple(counts)

    def check(self, paths: Sequence[str], schemas: Sequence[pa.Schema]) -> None:
        """Raise where files cannot be filtered.

        Args:
            paths: the files.
            schemas: their columns.

        Raises:
            ColumnError: a column that no file has, or one of these files has not.
            InputError: a value that a column cannot be compared with.
        """
        require_columns(self.columns, schemas)
        different = {schema: path for path, schema in zip(paths[::-1], schemas[::-1], strict=True)}
        for schema, path in reversed(different.items()):
            for condition in (one for conditions in self.given for one in conditions):
                _check_condition(condition, path, schema)


def takes_no_filters(backend: str) -> InputError:
    """The error for filters of a user's own loader."""
    return InputError(
        f"{backend} reads files its own way and takes no filters; let it leave out rows"
    )


def open_fragment(path: str) -> ds.ParquetFileFragment:
    """A file as Arrow's datasets have it, whose row groups can be filtered."""
    return _PARQUET.make_fragment(path, LocalFileSystem())


def _holds_conditions(one: object) -> bool:
    return isinstance(one, tuple) and bool(one) and isinstance(one[0], tuple)


def _conditions(one: object) -> list[Any]:
    if not isinstance(one, list | tuple):
        raise InputError(f"filters has {one!r}; a list of lists holds lists of conditions")
    return list(one)


def _check_form(condition: object) -> None:
    if not isinstance(condition, tuple) or len(condition) != 3:  # noqa: PLR2004 - column, operator, value
        raise InputError(
            f"filters has {condition!r}; a condition is (column, operator, value), as in {_EXAMPLE}"
        )
    column, operator, value = condition
    if not isinstance(column, str):
        raise InputError(f"filter {condition!r}: column {column!r} is no text")
    if operator not in OPERATORS:
        raise InputError(f"filter {condition!r}: {unknown('operator', operator, OPERATORS)}")
    several = isinstance(value, list | tuple | set | frozenset)
    if several != (operator in {"in", "not in"}):
        wanted = "a list of values" if operator in {"in", "not in"} else "one value"
        raise InputError(f"filter {condition!r}: {operator!r} takes {wanted}, not {value!r}")
    try:
        pq.filters_to_expression([condition])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"filter {condition!r}: Arrow has no such value ({error})") from error


def _check_condition(condition: Condition, path: str, schema: pa.Schema) -> None:
    column, _, value = condition
    count = schema.names.count(column)
    if count != 1:
        how = "has no such column" if not count else f"has {count} columns of that name"
        raise ColumnError(f"filter {condition!r}: {path} {how}; filter files that have it once")
    try:
        rows = ds.dataset(schema.empty_table().select([column]))
        rows.to_table(filter=pq.filters_to_expression([condition]))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"filter {condition!r}: column {column!r} is {schema.field(column).type} in {path} and "
            f"cannot be compared with {value!r}; give a value of that type"
        ) from error
