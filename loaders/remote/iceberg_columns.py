"""Whether the columns of an Iceberg table's files have the table's names.

Iceberg finds columns by their ids, feedrate by their names. If no schema of the table gave an id
another name, its files agree. Otherwise each file's footer is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.errors import InputError, ParquetFileError
from ..base.warn import warn
from .ahead import map_paths
from .source import open_source
from .table_urls import DataFile, TableUrl, refused
from .urls import is_url

if TYPE_CHECKING:
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names that all writers store as they are; some store `a-b` as `a_x2Db`."""
_MAPPING = "schema.name-mapping.default"
_ID = b"PARQUET:field_id"
_REWRITE = (
    "Rewrite the files: CALL system.rewrite_data_files(table => …, options => "
    "map('rewrite-all', 'true'))."
)


class _Column(NamedTuple):
    """A column of a file, or a field within one."""

    path: tuple[str, ...]
    """Its name, after those of the columns that contain it."""
    id: int | None
    is_named: bool
    """Whether its name matters: those of the elements of lists and maps do not."""


class _Names(NamedTuple):
    """The columns of a table."""

    by_id: Mapping[int, str]
    """The names of columns, and of fields within them."""
    ids: Mapping[str, int]
    """By dotted paths."""


def check_columns(
    table: TableUrl, opened: Table, schema: Schema, files: Sequence[DataFile]
) -> list[str]:
    """Refuse a table that has a file whose columns have other names than the table's.

    Columns that were dropped from the table and are left in files are named in a warning.

    Returns:
        Partition columns that a file lacks.

    Raises:
        InputError: a renamed column, or one with a default value that a file lacks.
        ParquetFileError: a footer cannot be read.
    """
    if _names_never_changed(opened, schema):
        return []
    names = _names(schema)
    partitions = _partition_ids(opened)
    dropped: dict[str, None] = {}
    lacking: dict[int, None] = {}
    paths = [file.path for file in files]
    for path, in_file in zip(paths, map_paths(_read_schema, paths, 0), strict=True):
        ids = set()
        for column in _columns(in_file):
            number = column.id if column.id is not None else _mapped(table, opened, path, column)
            expected = names.by_id.get(number) if number is not None else None
            dotted = ".".join(column.path)
            if expected is None and dotted not in names.ids:
                dropped[dotted] = None
            elif column.is_named and expected != column.path[-1]:
                raise _renamed(table, path, dotted, expected)
            elif number is not None:
                ids.add(number)
        _check_defaults(table, schema, path, ids)
        lacking |= dict.fromkeys(sorted(partitions - ids))
    if dropped:
        warn(
            f"columns that were dropped from {table} are still in its files, and so in frames: "
            f"{', '.join(dropped)}; name the columns to load, or rewrite the files"
        )
    return [names.by_id[number] for number in lacking if number in names.by_id]


def _names(schema: Schema) -> _Names:
    from pyiceberg.schema import index_by_id, index_name_by_id

    by_id = {number: field.name for number, field in index_by_id(schema).items()}
    return _Names(by_id, {path: number for number, path in index_name_by_id(schema).items()})


def _names_never_changed(opened: Table, schema: Schema) -> bool:
    """Whether all files are known to have the names of a schema.

    Schemas are numbered from 0; where a number is missing, one was removed from the metadata.
    """
    schemas = opened.schemas()
    pairs = {pair for one in schemas.values() for pair in _names(one).ids.items()}
    now = set(_names(schema).ids.items())
    return (
        set(schemas) == set(range(len(schemas)))
        and pairs == now
        and _MAPPING not in opened.properties
        and all(map(_PLAIN.fullmatch, _names(schema).by_id.values()))
        and not any(_default(field) is not None for field in schema.fields)
    )


def _partition_ids(opened: Table) -> set[int]:
    """Columns whose values the folders may hold instead of the files."""
    return {
        field.source_id
        for spec in opened.specs().values()
        for field in spec.fields
        if str(field.transform) == "identity"
    }


def _default(field: Any) -> object:
    return getattr(field, "initial_default", None)


def _check_defaults(table: TableUrl, schema: Schema, path: str, ids: set[int]) -> None:
    for field in schema.fields:
        if _default(field) is not None and field.field_id not in ids:
            raise refused(
                table,
                f"has a default value for column {field.name!r}, which {path} lacks",
                _REWRITE,
            )


def _mapped(table: TableUrl, opened: Table, path: str, column: _Column) -> int | None:
    """The id of a column without one, such as of a file that was added to the table."""
    mapping = opened.name_mapping()
    if mapping is None:
        raise InputError(
            f"{table} has a file without the ids of columns, {path}, and no {_MAPPING} for it; set "
            "this property, or rewrite the file"
        )
    fields: Sequence[Any] = list(mapping)
    number: int | None = None
    for name in column.path:
        field = next((one for one in fields if name in one.names), None)
        if field is None:
            return None
        number, fields = field.field_id, field.fields
    return number


def _renamed(table: TableUrl, path: str, dotted: str, now: str | None) -> InputError:
    if now is None:
        what = f"was dropped before another of the same name was added, and {path} has the first"
    else:
        what = f"is named so in {path}, and {now!r} in the table"
    return refused(table, f"has files with other names of columns: {dotted!r} {what}", _REWRITE)


def _read_schema(path: str) -> pa.Schema:
    try:
        return pq.read_schema(open_source(path).file() if is_url(path) else path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, ParquetFileError):
            raise
        raise ParquetFileError(path, str(error)) from error


def _columns(schema: pa.Schema) -> Iterator[_Column]:
    for field in schema:
        yield from _fields(field, (), field.name, is_named=True)


def _fields(
    field: pa.Field, above: tuple[str, ...], name: str, *, is_named: bool
) -> Iterator[_Column]:
    path = (*above, name)
    number = (field.metadata or {}).get(_ID)
    yield _Column(path, None if number is None else int(number), is_named)
    kind = field.type
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _fields(child, path, child.name, is_named=True)
    elif pa.types.is_map(kind):
        yield from _fields(kind.key_field, path, "key", is_named=False)
        yield from _fields(kind.item_field, path, "value", is_named=False)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _fields(kind.value_field, path, "element", is_named=False)
