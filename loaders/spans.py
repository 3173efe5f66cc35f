"""Parquet files as spans: runs of row groups that are decoded at once, into float32."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ColumnError, InputError, ParquetFileError
from .matrix import Columns
from .reader import open_parquet, reading, require_columns

# 16 MiB of float32 at 32 columns: large enough to decode at full speed and to shuffle well,
# small enough that a handful in flight stays far below the data. Writers' row groups are of
# this order, so that most spans are whole row groups.
CHUNK_ROWS = 131_072

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Arrays = tuple[np.ndarray, ...]
"""X of shape (rows, features), and y where there is a target; as `Columns.matrix` makes them."""


@dataclass(frozen=True)
class Span:
    """Consecutive row groups of one file."""

    path: str
    groups: tuple[int, ...]
    rows: int

    def slices(self, chunk_rows: int) -> list[int]:
        """The rows of each slice in which the span is decoded: none above `chunk_rows`.

        >>> Span("a.parquet", (0,), 10).slices(4)
        [4, 4, 2]
        """
        count = -(-self.rows // chunk_rows)
        size = -(-self.rows // count)
        return [min(size, self.rows - low) for low in range(0, self.rows, size)]


def find_spans(paths: Sequence[str], columns: Columns, chunk_rows: int) -> list[Span]:
    """Split files into spans of about `chunk_rows` rows, from their footers.

    A file of up to `chunk_rows` rows is one span; so is a row group of more.

    Raises:
        ColumnError: a column that no file has, or that is not numeric in one of them.
        ParquetFileError: a file that cannot be read.
    """
    footers = [_read_footer(path) for path in paths]
    require_columns(columns.names, [schema for schema, _ in footers])
    checked: set[pa.Schema] = set()
    for path, (schema, _) in zip(paths, footers, strict=True):
        wanted = pa.schema([schema.field(name) for name in columns.names if name in schema.names])
        if wanted not in checked:
            checked.add(wanted)
            _check_numeric(path, wanted, columns)
    return [
        span
        for path, (_, group_rows) in zip(paths, footers, strict=True)
        for span in _spans_of(path, group_rows, chunk_rows)
    ]


def read_span(span: Span, columns: Columns) -> pa.Table:
    """Decode a span's columns, those that its file has, in the calling thread.

    Raises:
        ParquetFileError: the file cannot be read, or is no longer what its footer said before.
    """
    with reading(span.path), open_parquet(span.path) as file:
        table = file.read_row_groups(
            list(span.groups), columns=_present(file, columns), use_threads=False
        )
    if len(table) != span.rows:
        raise _changed(span.path)
    return table


def to_arrays(tables: Sequence[pa.Table], columns: Columns) -> Arrays:
    """Convert tables and put them together; a column that one lacks counts as null there.

    Tables that agree are converted as one: for files of 1000 rows that takes a fifth of the time.
    """
    complete = [_complete(table, columns) for table in tables]
    if all(table.schema.equals(complete[0].schema) for table in complete):
        complete = [pa.concat_tables(complete)]
    parts = [[part for part in columns.matrix(table) if part is not None] for table in complete]
    if len(parts) == 1:
        return tuple(parts[0])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def as_paths(paths: Paths) -> list[str]:
    """Paths as users give them: one, or several.

    Raises:
        InputError: there are none.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = [os.fspath(path) for path in paths]
    if not found:
        raise InputError("file_paths is empty; name at least one Parquet file")
    return found


class SpanReader:
    """Decodes the slices of a span, from any threads and in any order, each once.

    A span of one slice is decoded at once. A row group of several can only be decoded from its
    start: whoever needs a slice decodes up to it, and leaves the others for those who want them.

    Args:
        span: what to decode.
        columns: features, target and what nulls become.
        chunk_rows: rows of a slice, at most.
    """

    def __init__(self, span: Span, columns: Columns, chunk_rows: int) -> None:
        self.span = span
        self.columns = columns
        self.sizes = span.slices(chunk_rows)
        self._wanted: set[int] = set()
        self._lock = threading.Lock()
        self._tables: Iterator[tuple[int, pa.Table]] | None = None
        self._ready: dict[int, pa.Table] = {}
        self._error: ParquetFileError | None = None

    def want(self, number: int) -> None:
        """Announce that a slice will be read; slices that nobody wants are not kept."""
        self._wanted.add(number)

    def read(self, number: int) -> pa.Table:
        """Decode slice `number`.

        Raises:
            ParquetFileError: as `read_span`.
        """
        if len(self.sizes) == 1:
            return read_span(self.span, self.columns)
        with self._lock:
            if self._tables is None:
                self._tables = enumerate(_slice_tables(self.span, self.columns, self.sizes))
            if number not in self._ready:
                self._decode_up_to(number, self._tables)
            return self._ready.pop(number)

    def _decode_up_to(self, number: int, tables: Iterator[tuple[int, pa.Table]]) -> None:
        if self._error is not None:
            raise self._error
        try:
            for position, table in tables:
                if position in self._wanted:
                    self._ready[position] = table
                if position == number:
                    break
        except ParquetFileError as error:
            self._error = error  # whoever wants one of the slices that now cannot come
            raise
        if number == len(self.sizes) - 1:
            self._tables = None  # closes the file


def _slice_tables(span: Span, columns: Columns, sizes: Sequence[int]) -> Iterator[pa.Table]:
    """Tables of exactly `sizes` rows, decoded as they are asked for."""
    with (
        reading(span.path),
        # A buffer, so that a column of a large row group is not read into memory as a whole.
        pq.ParquetFile(span.path, pre_buffer=False, buffer_size=1 << 20) as file,
    ):
        batches = file.iter_batches(
            batch_size=sizes[0],
            row_groups=list(span.groups),
            columns=_present(file, columns),
            use_threads=False,
        )
        held: pa.Table | None = None
        for size in sizes:
            while held is None or len(held) < size:
                batch = next(batches, None)
                if batch is None:
                    raise _changed(span.path)
                table = pa.Table.from_batches([batch])
                held = table if held is None else pa.concat_tables([held, table])
            yield held.slice(0, size)
            held = held.slice(size)


def _read_footer(path: str) -> tuple[pa.Schema, list[int]]:
    """The schema of a file, and the rows of each of its row groups."""
    with reading(path), open_parquet(path) as file:
        notes = file.metadata
        rows = [notes.row_group(number).num_rows for number in range(notes.num_row_groups)]
        return file.schema_arrow, rows


def _spans_of(path: str, group_rows: Sequence[int], chunk_rows: int) -> Iterator[Span]:
    groups: list[int] = []
    rows = 0
    for number, count in enumerate(group_rows):
        if rows and rows + count > chunk_rows:
            yield Span(path, tuple(groups), rows)
            groups, rows = [], 0
        if count:
            groups.append(number)
            rows += count
    if rows:
        yield Span(path, tuple(groups), rows)


def _check_numeric(path: str, schema: pa.Schema, columns: Columns) -> None:
    try:
        to_arrays([schema.empty_table()], columns)
    except ColumnError as error:
        raise ColumnError(f"{path}: {error}") from None


def _complete(table: pa.Table, columns: Columns) -> pa.Table:
    for name in columns.names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    return table


def _present(file: pq.ParquetFile, columns: Columns) -> list[str]:
    known = set(file.schema_arrow.names)
    return [name for name in columns.names if name in known]


def _changed(path: str) -> ParquetFileError:
    return ParquetFileError(path, "its number of rows has changed since it was opened first")
