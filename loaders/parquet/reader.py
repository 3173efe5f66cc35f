"""Read Parquet files to Arrow tables, one file at a time, in the calling thread.

Workers run several calls at once, so Arrow's own thread pool is not used: a pool inside each
worker would only oversubscribe the CPUs.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.errors import ColumnError, FeedrateError, InputError, ParquetFileError
from ..remote.source import RemoteSource, open_source
from ..remote.urls import RemotePath, checked_url, is_url, local_path, without_secrets
from .diagnosis import damaged_notes

MAGIC_BYTES = 12  # head magic, footer length, tail magic: the smallest possible file


def read_table(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Decode one file.

    Args:
        path: a Parquet file.
        columns: the columns to decode, in this order; those that the file lacks are left out, for
            the code that combines files to handle. None decodes all.

    Raises:
        ParquetFileError: the file is missing, empty, truncated, or not Parquet.
    """
    with reading(path), open_parquet(path) as file:
        return decode(file, columns)


def decode(
    file: pq.ParquetFile, columns: Sequence[str] | None, groups: Sequence[int] | None = None
) -> pa.Table:
    """Decode columns of an open file like `read_table`, in all or some row groups."""
    present = set(file.schema_arrow.names)
    wanted = None if columns is None else [name for name in columns if name in present]
    if groups is None:
        table = file.read(columns=wanted, use_threads=False)
    else:
        table = file.read_row_groups(groups, columns=wanted, use_threads=False)
    return table if wanted is None else only_columns(table, wanted)


def only_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Select a table's columns, in this order; leave out others that Arrow also read.

    Arrow takes the name `a.b` both for the column of that name and for the field of a struct.
    """
    names = table.column_names
    return table if names == list(columns) else table.select(list(columns))


def path_names(paths: object, what: str) -> list[str]:
    """Paths as text.

    Args:
        paths: a list of paths, in order.
        what: its name in an error message.

    Raises:
        InputError: a single path instead of several, a value that is not a path, or a URL with
            credentials in it.
    """
    if isinstance(paths, str | os.PathLike):
        shown = without_secrets(str(paths))
        raise InputError(f"{what} are {shown!r}; give a list of paths, or a list of one")
    if not isinstance(paths, Iterable):
        raise InputError(f"{what} are {paths!r}; give a list of paths")
    names = []
    for path in paths:
        name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
        if not isinstance(name, str):
            raise InputError(f"{what} hold {path!r}, which is no path; give text or a pathlib.Path")
        names.append(name if "://" not in name else _checked_path(name))
    return names


def _checked_path(path: str) -> str:
    """A URL as a user gave it: checked, or the local path of one of this machine."""
    if isinstance(path, RemotePath):
        return path
    return checked_url(path) if is_url(path) else local_path(path)


def check_text(columns: Sequence[object] | None, paths: Sequence[str]) -> None:
    """Raise `ColumnError` if a wanted column's name is not text: no file has such a column."""
    if columns is not None and not all(isinstance(name, str) for name in columns):
        require_columns(columns, [read_schema(path) for path in paths])


def check_distinct(
    path: str | os.PathLike[str], names: Sequence[str], columns: Sequence[str]
) -> None:
    """Raise `ColumnError` if a file has several columns of a wanted name."""
    for name in columns:
        if names.count(name) > 1:
            raise ColumnError(f"{os.fspath(path)}: {several_columns(name)}")


def several_columns(name: str) -> ColumnError:
    """The error for a name that more than one column has."""
    return ColumnError(f"there are several columns {name!r}; give each a name of its own")


def read_schema(
    path: str | os.PathLike[str], held: bytes | RemoteSource | None = None
) -> pa.Schema:
    """The Arrow schema in a file's footer, in its bytes or the open object if there are any.

    Raises:
        ParquetFileError: as for `read_table`.
    """
    with reading(path), open_parquet(path, held) as file:
        return file.schema_arrow


def open_parquet(
    path: str | os.PathLike[str], held: bytes | RemoteSource | None = None, buffer_size: int = 0
) -> pq.ParquetFile:
    """Open a file, an object, or the bytes of one, so that reading starts no Arrow thread.

    Args:
        path: the file.
        held: its bytes, or the open object.
        buffer_size: bytes of a column to read at a time; 0: all of a row group.
    """
    if isinstance(held, bytes):
        return pq.ParquetFile(pa.BufferReader(held), pre_buffer=False)
    return pq.ParquetFile(
        held.file() if held is not None else arrow_file(path),
        pre_buffer=False,
        buffer_size=buffer_size,
    )


def arrow_file(path: str | os.PathLike[str], held: bytes | RemoteSource | None = None) -> Any:
    """A file as Arrow and pandas open it: its path, or its bytes as a binary file."""
    if held is not None:
        return io.BytesIO(held) if isinstance(held, bytes) else held.file()
    name = os.fspath(path)
    return open_source(name).file() if is_url(name) else Path(path)


DAMAGE = (pa.ArrowException, OSError, ValueError)
"""Errors that Arrow raises for damaged files."""
PANDAS_DAMAGE = (
    *DAMAGE, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""Errors that pandas raises for damaged files: it does not check its metadata in them."""


@contextmanager
def reading(
    path: str | os.PathLike[str], damage: tuple[type[Exception], ...] = DAMAGE
) -> Iterator[None]:
    """Turn errors with a file into a `ParquetFileError` with a plain message.

    A folder gives an `InputError`.
    """
    try:
        yield
    except FeedrateError:
        raise
    except damage as error:
        if (misuse := _misuse(os.fspath(path), error)) is not None:
            raise misuse from error
        raise ParquetFileError(os.fspath(path), _reason(path, error)) from error


def _misuse(path: str, error: BaseException) -> InputError | None:
    """The error for a folder; None for any other path."""
    if isinstance(error, OSError) and not is_url(path) and Path(path).is_dir():
        return InputError(
            f"{path} is a folder; name the files in it: sorted(Path({path!r}).rglob('*.parquet'))"
        )
    return None


def _reason(path: str | os.PathLike[str], error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist (deleted meanwhile?)"
    size = _size(os.fspath(path))
    if size == 0:
        return "it is empty (0 bytes)"
    if 0 < size < MAGIC_BYTES or "magic bytes" in str(error):
        return "it is not a Parquet file, or its end is missing (truncated?)"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8, as Arrow requires; rename it"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    is_plain = isinstance(error, pa.ArrowException | OSError)
    reason = reason.removesuffix(".") if is_plain else f"{type(error).__name__}: {reason}"
    if (notes := damaged_notes(path)) is not None:
        reason = f"{notes} is damaged ({reason})"
    elif not is_plain:
        reason = f"it cannot be read ({reason})"
    return reason


def _size(path: str) -> int:
    """The size of a file or of an opened object; -1 if unknown."""
    try:
        return open_source(path).size if is_url(path) else Path(path).stat().st_size
    except OSError:
        return -1


def require_columns(columns: Sequence[object] | None, schemas: Sequence[pa.Schema]) -> None:
    """Raise `ColumnError` for a column that no file has, or for text instead of a list."""
    if columns is None or not schemas:
        return
    if isinstance(columns, str):
        raise ColumnError(f"columns is {columns!r}; give a list, [{columns!r}]")
    known = dict.fromkeys(name for schema in schemas for name in schema.names)
    for name in columns:
        if name not in known:
            raise ColumnError(f"no file has a column {name!r}; the columns are: {', '.join(known)}")
