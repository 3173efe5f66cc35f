"""Parquet files to Arrow tables, one file at a time, in the calling thread.

Workers scale by running several calls at once, so Arrow's own thread pool stays out of it: a
pool inside each worker would only oversubscribe the CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import ColumnError, ParquetFileError

MAGIC_BYTES = 12  # head magic, footer length, tail magic: the smallest thing that can be Parquet


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Decode one file.

    Args:
        path: a Parquet file.
        columns: the columns to decode, in this order; those that the file lacks are left out
            (what that means is decided where files are put together). None decodes all.

    Raises:
        ParquetFileError: the file is missing, empty, truncated, or not Parquet.
    """
    try:
        with open_parquet(path) as file:
            if columns is None:
                return _decode(file, None)
            present = set(file.schema_arrow.names)
            wanted = [name for name in columns if name in present]
            table = _decode(file, wanted)
            return table if table.column_names == wanted else table.select(wanted)
    except (pa.ArrowException, OSError) as error:
        raise as_file_error(path, error) from error


def _decode(file: pq.ParquetFile, columns: Sequence[str] | None) -> pa.Table:
    try:
        return file.read(columns=columns, use_threads=False)
    except pa.ArrowNotImplementedError:
        # What Arrow cannot decode in one piece, as lists whose row groups have dictionaries of
        # their own, it can decode row group by row group.
        return pa.Table.from_batches(
            batch
            for group in range(file.num_row_groups)
            for batch in file.iter_batches(row_groups=[group], columns=columns, use_threads=False)
        )


def read_schema(path: str | os.PathLike[str]) -> pa.Schema:
    """The Arrow schema in a file's footer.

    Raises:
        ParquetFileError: as for `read_table`.
    """
    try:
        with open_parquet(path) as file:
            return file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise as_file_error(path, error) from error


def open_parquet(path: str | os.PathLike[str]) -> pq.ParquetFile:
    """Open a file so that reading starts no thread of Arrow's."""
    return pq.ParquetFile(Path(path), pre_buffer=False)


def as_file_error(path: str | os.PathLike[str], error: BaseException) -> ParquetFileError:
    """Say in plain words what is wrong with a file."""
    if isinstance(error, ParquetFileError):
        return error
    if isinstance(error, FileNotFoundError):
        return ParquetFileError(os.fspath(path), "the file does not exist (deleted meanwhile?)")
    try:
        size = Path(path).stat().st_size
    except OSError:
        size = -1
    if size == 0:
        reason = "it is empty (0 bytes)"
    elif 0 < size < MAGIC_BYTES or "magic bytes" in str(error):
        reason = "it is not a Parquet file, or its end is missing (truncated?)"
    elif isinstance(error, PermissionError):
        reason = "permission denied"
    else:
        reason = str(error).splitlines()[0]
    return ParquetFileError(os.fspath(path), reason)


def require_columns(columns: Sequence[str] | None, schemas: Sequence[pa.Schema]) -> None:
    """Raise `ColumnError` for a column that none of the files has, or a name that is no list."""
    if columns is None or not schemas:
        return
    if isinstance(columns, str):
        raise ColumnError(f"columns is {columns!r}; give a list, [{columns!r}]")
    known = dict.fromkeys(name for schema in schemas for name in schema.names)
    for name in columns:
        if name not in known:
            raise ColumnError(f"no file has a column {name!r}; the columns are: {', '.join(known)}")
