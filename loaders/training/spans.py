"""Parquet files as spans: runs of row groups that are decoded at once, into floats."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..base.errors import ColumnError, InputError, ParquetFileError
from ..base.settings import REQUESTS, default_workers
from ..base.stages import stage
from ..parquet.filters import RowFilter, open_fragment
from ..parquet.footers import ROWS_PER_BYTE, FileSchema, Footers, Identity, rows_of_groups
from ..parquet.reader import (
    check_text,
    only_columns,
    open_parquet,
    path_names,
    read_schema,
    reading,
    require_columns,
)
from ..remote.ahead import map_paths
from ..remote.source import RemoteSource
from .matrix import Columns
from .numeric import quantity

# 16 MiB of float32 at 32 columns: large enough to decode at full speed and to shuffle well, and
# small enough that the few in memory at once are far smaller than the data. Row groups usually
# have about this size, so most spans are whole row groups.
CHUNK_ROWS = 131_072
# Small files are decoded together, up to this many rows: with 365 files of 920 rows this halved
# the time, and two threads no longer waited for each other.
SMALL_ROWS = 16_384

FILES_NAMED = 16  # files whose columns an error lists

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Arrays = tuple[np.ndarray, ...]
"""X of shape (rows, features) and, with a target, y, as `Columns.matrix` makes them."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive row groups of one file."""

    path: str
    groups: tuple[int, ...]
    rows: int
    file_rows: int
    """Rows of the whole file."""
    schema: pa.Schema
    """The requested columns of the file, in its order; files share equal schemas."""
    row_filter: RowFilter | None = None
    """Which rows to keep; all by default."""
    file_bytes: int = 0
    """The size of the whole file."""
    version: str | None = None
    """Of an object: its ETag."""

    @property
    def names(self) -> list[str]:
        """The columns to read: those requested, and those of the filter."""
        filtered = () if self.row_filter is None else self.row_filter.columns
        return list(dict.fromkeys([*self.schema.names, *filtered]))


def slice_rows(rows: int, chunk_rows: int) -> list[int]:
    """The number of rows of each slice of a span: at most `chunk_rows`.

    >>> slice_rows(10, 4)
    [4, 4, 2]
    """
    count = -(-rows // chunk_rows)
    size = -(-rows // count)
    return [min(size, rows - low) for low in range(0, rows, size)]


def find_spans(
    paths: Sequence[str],
    columns: Columns,
    chunk_rows: int,
    row_filter: RowFilter | None = None,
    requests: int = REQUESTS,
) -> list[Span]:
    """Split files into spans of about `chunk_rows` rows, from their footers.

    A file of up to `chunk_rows` rows is one span; so is a larger row group. With a filter, matching
    rows are counted now, so that the number of rows is known.

    Raises:
        ColumnError: a column that no file has, that is not numeric in one of them, or a date in
            one and a timestamp in another; a column of the filter that a file lacks.
        InputError: a filter that does not fit the columns.
        ParquetFileError: a file that cannot be read.
    """
    check_text(columns.names, paths[:FILES_NAMED])
    if row_filter is not None:
        schemas = map_paths(read_schema, paths, default_workers(), requests)
        row_filter.check(paths, list(schemas))
    first: dict[int, tuple[str, pa.Schema]] = {}  # first file of each schema, by its id
    distinct: dict[tuple[int, ...], tuple[int, ...]] = {}
    spans: list[Span] = []
    footers = _read_footers(paths, columns, requests)
    for path, (schema, group_rows, identity) in zip(paths, footers, strict=True):
        if id(schema) not in first:
            first[id(schema)] = path, schema
            _check_numeric(path, schema, columns)
        file_rows = sum(group_rows)
        counts = group_rows if row_filter is None else _count(row_filter, path)
        for groups, rows in _grouped(counts, chunk_rows):
            shared = distinct.setdefault(groups, groups)
            spans.append(
                Span(
                    path, shared, rows, file_rows, schema, row_filter, identity.size,
                    identity.version,
                )
            )  # fmt: skip
    names = {name for _, schema in first.values() for name in schema.names}
    if not names.issuperset(columns.names):
        require_columns(columns.names, [read_schema(path) for path in paths[:FILES_NAMED]])
    _check_quantities(first.values())
    return spans


def read_span(span: Span, source: RemoteSource | None = None) -> pa.Table:
    """Decode a span in the calling thread, from the open object if there is one.

    Raises:
        ParquetFileError: the file cannot be read, or has changed since its footer was read.
    """
    names = span.schema.names
    if span.row_filter is not None:
        with reading(span.path):
            batches = _matching(span, span.row_filter, span.rows, source)
            table = pa.Table.from_batches(batches, span.schema)
    else:
        with reading(span.path), open_parquet(span.path, source) as file:
            check_groups(span, file.metadata)
            table = file.read_row_groups(list(span.groups), columns=names, use_threads=False)
    table = _requested(span, table)
    if len(table) != span.rows:
        raise _changed(span.path)
    return table


def to_arrays(tables: Sequence[pa.Table], columns: Columns) -> Arrays:
    """Convert and concatenate tables; a column that a table lacks is null there.

    Small tables of equal schemas are converted as one: for files of 1000 rows this takes a fifth
    of the time. Large tables are not, since joining them would copy them.
    """
    complete = [_complete(table, columns) for table in tables]
    rows = sum(len(table) for table in complete)
    are_alike = all(table.schema.equals(complete[0].schema) for table in complete)
    if are_alike and rows < len(complete) * SMALL_ROWS:
        complete = [pa.concat_tables(complete)]
    arrays = columns.empty(rows, pooled)
    low = 0
    for table in complete:
        high = low + len(table)
        columns.fill(table, [array[low:high] for array in arrays])
        low = high
    return arrays


def pooled(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that is not filled yet, in memory of Arrow's pool.

    The pool reuses freed memory for the next chunk of the same size. The C library takes fresh
    memory from the kernel for each chunk: 740 page faults for 100,000 rows, which take 0.8 ms.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer(pa.allocate_buffer(size), dtype).reshape(shape)


def one_or_more_paths(paths: Paths) -> list[str]:
    """A user's path or paths as a list.

    Raises:
        InputError: there are none.
    """
    names = path_names([paths] if isinstance(paths, str | os.PathLike) else paths, "the files")
    if not names:
        raise InputError("file_paths is empty; name at least one Parquet file")
    return names


class SpanReader:
    """Decodes the slices of a span, from any threads and in any order, each once.

    A span of one slice is decoded at once. A span of several can only be decoded from its start:
    the thread that needs a slice decodes up to it, and keeps other announced slices.

    Args:
        span: the span to decode.
        columns: features, target and the value for nulls.
        chunk_rows: maximum rows of a slice.
    """

    def __init__(self, span: Span, columns: Columns, chunk_rows: int) -> None:
        self.span = span
        self.columns = columns
        self.sizes = slice_rows(span.rows, chunk_rows)
        self._announced: set[int] = set()
        self._lock = threading.Lock()
        self._tables: Iterator[tuple[int, pa.Table]] | None = None
        self._ready: dict[int, pa.Table] = {}
        self._error: ParquetFileError | None = None

    def want(self, number: int) -> None:
        """Announce that a slice will be read; slices that are not announced are not kept."""
        self._announced.add(number)

    def read(self, number: int, source: RemoteSource | None = None) -> pa.Table:
        """Decode slice `number`, from the open object if there is one.

        Raises:
            ParquetFileError: as `read_span`.
        """
        if len(self.sizes) == 1:
            with stage("load"):
                return read_span(self.span, source)
        with self._lock, stage("load"):
            if self._tables is None:
                self._tables = enumerate(_slice_tables(self.span, self.sizes, source))
            if number not in self._ready:
                self._decode_up_to(number, self._tables)
            return self._ready.pop(number)

    def _decode_up_to(self, number: int, tables: Iterator[tuple[int, pa.Table]]) -> None:
        if self._error is not None:
            raise self._error
        try:
            for position, table in tables:
                if position in self._announced:
                    self._ready[position] = table
                if position == number:
                    break
        except ParquetFileError as error:
            self._error = error  # later slices cannot be decoded either
            raise
        if number == len(self.sizes) - 1:
            self._tables = None  # closes the file


def _slice_tables(
    span: Span, sizes: Sequence[int], source: RemoteSource | None = None
) -> Iterator[pa.Table]:
    """Tables of `sizes` rows, each decoded on demand."""
    with (
        reading(span.path),
        # With a buffer, a column of a large row group is read piece by piece.
        open_parquet(span.path, source, buffer_size=1 << 20) as file,
    ):
        check_groups(span, file.metadata)
        if span.row_filter is not None:
            batches = _matching(span, span.row_filter, sizes[0], source)
        else:
            batches = file.iter_batches(
                batch_size=sizes[0],
                row_groups=list(span.groups),
                columns=span.schema.names,
                use_threads=False,
            )
        held: pa.Table | None = None
        for size in sizes:
            while held is None or len(held) < size:
                batch = next(batches, None)
                if batch is None:
                    raise _changed(span.path)
                table = _requested(span, pa.Table.from_batches([batch]))
                held = table if held is None else pa.concat_tables([held, table])
            yield held.slice(0, size)
            held = held.slice(size)


def _read_footers(
    paths: Sequence[str], columns: Columns, requests: int
) -> Iterator[tuple[pa.Schema, tuple[int, ...], Identity]]:
    """For each file, the schema of requested columns, the rows of each row group, the identity.

    Schemas that are equal are the same object.
    """
    footers = Footers()
    schemas: dict[int, tuple[FileSchema, pa.Schema]] = {}  # by the identity of the file's schema
    distinct: dict[pa.Schema, pa.Schema] = {}

    def read(path: str) -> tuple[pa.Schema, tuple[int, ...], Identity]:
        file = footers.open(path)
        rows, size = file.group_rows(), file.footer.size
        if min(rows, default=0) < 0:
            raise ParquetFileError(path, f"its footer gives a row group {min(rows)} rows")
        if sum(rows) > size * ROWS_PER_BYTE:
            raise ParquetFileError(
                path, f"its footer says {sum(rows)} rows, too many for {size} bytes"
            )
        stored = file.footer.schema
        if id(stored) not in schemas:
            fields = (field for field in stored.arrow if field.name in columns.names)
            schema = pa.schema([field.remove_metadata() for field in fields])
            schemas[id(stored)] = stored, distinct.setdefault(schema, schema)
        return schemas[id(stored)][1], rows, file.identity

    return map_paths(read, paths, default_workers(), requests)


def _grouped(group_rows: Sequence[int], chunk_rows: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Consecutive row groups of about `chunk_rows` rows together, and their number of rows."""
    groups: list[int] = []
    rows = 0
    for number, count in enumerate(group_rows):
        if rows and rows + count > chunk_rows:
            yield tuple(groups), rows
            groups, rows = [], 0
        if count:
            groups.append(number)
            rows += count
    if rows:
        yield tuple(groups), rows


def _check_numeric(path: str, schema: pa.Schema, columns: Columns) -> None:
    try:
        to_arrays([schema.empty_table()], columns)
    except ColumnError as error:
        raise ColumnError(f"{path}: {error}") from None


def _check_quantities(files: Iterable[tuple[str, pa.Schema]]) -> None:
    """Raise `ColumnError` if a column counts days in one file and, say, seconds in another."""
    first: dict[str, tuple[str, pa.DataType]] = {}
    for path, schema in files:
        for field in schema:
            if (measured := quantity(field.type)) is None:
                continue
            first_path, kind = first.setdefault(field.name, (path, field.type))
            if measured != quantity(kind):
                raise ColumnError(
                    f"column {field.name!r} is {kind} in {first_path} and {field.type} in {path}, "
                    "which become numbers in different ways; convert one of them"
                )


def _complete(table: pa.Table, columns: Columns) -> pa.Table:
    for name in set(columns.names).difference(table.column_names):
        table = table.append_column(name, pa.nulls(len(table)))
    return table


def _count(row_filter: RowFilter, path: str) -> tuple[int, ...]:
    with reading(path):
        return row_filter.count(path)


def _matching(
    span: Span, row_filter: RowFilter, batch_rows: int, source: RemoteSource | None
) -> Iterator[pa.RecordBatch]:
    """The rows of a span that match, a batch at a time, in the calling thread."""
    file = open_fragment(span.path, source)
    check_groups(span, file.metadata)
    batches = file.subset(row_group_ids=list(span.groups)).to_batches(
        columns=span.schema.names,
        filter=row_filter.expression,
        batch_size=batch_rows,
        batch_readahead=1,
        fragment_readahead=1,
        use_threads=False,
    )
    with row_filter.applied(span.path):
        yield from batches


def check_groups(span: Span, metadata: pq.FileMetaData) -> None:
    """Raise `ParquetFileError` if a file no longer has the row groups of a span."""
    rows = rows_of_groups(metadata)
    if sum(rows) != span.file_rows or len(rows) <= span.groups[-1]:
        raise _changed(span.path)


def _requested(span: Span, table: pa.Table) -> pa.Table:
    """The span's columns in a table that was read from it."""
    names = span.schema.names
    if all(table.column_names.count(name) == 1 for name in names):
        table = only_columns(table, names)
    if not table.schema.equals(span.schema):
        raise _changed(span.path, "its columns have")
    return table


def _changed(path: str, what: str = "its number of rows has") -> ParquetFileError:
    return ParquetFileError(path, f"{what} changed since it was first opened")
