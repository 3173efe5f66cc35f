"""Load files the original way: by pandas, one by one. Every loader must give the same result."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pandas as pd
import pyarrow as pa

from ..base.arrow_exit import free_before_exit
from ..base.errors import ColumnError, FeedrateError
from ..base.settings import DtypeBackend
from ..base.stages import stage
from ..remote.plain import plain_file
from ..remote.source import RemoteSource
from ..remote.urls import is_url
from .filters import Filters, RowFilter
from .reader import (
    PANDAS_DAMAGE,
    arrow_file,
    check_distinct,
    path_names,
    read_schema,
    reading,
    require_columns,
)


def read_file(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
    row_filter: RowFilter | None = None,
    *,
    plain: bool = False,
    held: bytes | RemoteSource | None = None,
    schema: pa.Schema | None = None,
) -> pd.DataFrame:
    """One file as pandas reads it, without columns made from folder names.

    Args:
        path: the file or object.
        columns: the wanted columns, in this order; all by default.
        dtype_backend: `numpy` or `pyarrow`.
        row_filter: the wanted rows; all by default.
        plain: pandas itself opens an object, by `pyarrow.fs`, as it does without feedrate.
        held: the file's bytes, or the open object.
        schema: the file's schema, if it is known.

    Raises:
        ColumnError: several columns have one name.
        InputError: the filter does not fit the file.
        ParquetFileError: the file cannot be read.
    """
    if columns is not None:
        present = set((schema or read_schema(path, held)).names)
        columns = [name for name in columns if name in present]
    options: dict[str, Any] = {"partitioning": None}
    if dtype_backend != "numpy":
        options["dtype_backend"] = dtype_backend
    if row_filter is not None:
        options["filters"] = row_filter.given
    with stage("pandas"), reading(path, PANDAS_DAMAGE):
        if plain and is_url(os.fspath(path)):
            options["filesystem"], source = plain_file(os.fspath(path))
        else:
            source = arrow_file(path, held)
            if isinstance(source, io.IOBase):
                free_before_exit(source)
        try:
            with _applied(row_filter, path, columns, dtype_backend):
                frame: pd.DataFrame = pd.read_parquet(
                    source, engine="pyarrow", columns=columns, **options
                )
        except pa.ArrowInvalid:
            names = read_schema(path, held).names
            check_distinct(path, names, names if columns is None else columns)
            raise
    return frame


@contextmanager
def _applied(
    row_filter: RowFilter | None,
    path: str | os.PathLike[str],
    columns: Sequence[str] | None,
    dtype_backend: DtypeBackend,
) -> Iterator[None]:
    """Apply a filter, if any; an error is the filter's if pandas can read the file without it."""

    def can_be_read() -> bool:
        try:
            read_file(path, columns, dtype_backend)
        except FeedrateError:
            return False
        return True

    with row_filter.applied(path, can_be_read) if row_filter is not None else nullcontext():
        yield


def read_frame(
    paths: Iterable[str | os.PathLike[str]],
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
) -> pd.DataFrame:
    """Files as one frame: `pandas.read_parquet` of each, then `pandas.concat(ignore_index=True)`.

    Its dtypes are right by definition: every loader's result equals it.

    Args:
        paths: the files, in the order of their rows in the result.
        columns: the wanted columns, in this order; a file that lacks one contributes NaN.
        filters: the wanted rows, in pandas' form; a filter's columns need not be in `columns`.

    Raises:
        ColumnError: a column that no file has, or a filter's column that some file lacks.
        InputError: a single path instead of a list, or filters that do not fit.
        ParquetFileError: a file cannot be read.
    """
    paths = path_names(paths, "the files")
    row_filter = RowFilter.of(filters)
    if columns is not None or row_filter is not None:
        schemas = [read_schema(path) for path in paths]
        require_columns(columns, schemas)
        if row_filter is not None:
            row_filter.check(paths, schemas)
    frames = [read_file(path, columns, row_filter=row_filter, plain=True) for path in paths]
    return concat_frames(frames, columns)


def concat_frames(
    frames: Sequence[pd.DataFrame], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Concatenate frames the original way; the wanted columns in the wanted order."""
    if not frames:
        return pd.DataFrame()
    with stage("convert"):
        return choose(pd.concat(frames, ignore_index=True), columns)


def choose(frame: pd.DataFrame, columns: Sequence[str] | None) -> pd.DataFrame:
    """The wanted columns in the wanted order.

    Raises:
        ColumnError: pandas makes a column of the files an index, or renames it.
    """
    if columns is None or list(frame.columns) == list(columns):
        return frame
    known = set(frame.columns)
    for name in columns:
        if name not in known:
            raise ColumnError(
                f"column {name!r} is in the files, but pandas makes it an index or gives it a "
                "name that is no text; load all columns, with columns=None"
            )
    return frame[list(columns)]
