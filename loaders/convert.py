"""Decoded files to one pandas frame that equals the original's in every dtype and value."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from .original import choose, concat_frames, read_file
from .reader import decode, open_parquet, read_schema, reading
from .schema import converts_plainly, converts_together
from .settings import DtypeBackend


class Decoded(NamedTuple):
    """One file's rows: as Arrow has them where they convert plainly, else as pandas read them."""

    schema: pa.Schema
    rows: pa.Table | pd.DataFrame


def read_decoded(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
) -> Decoded:
    """Decode one file once, in the calling thread, by whom its footer says.

    Args:
        path: a Parquet file.
        columns: the columns wanted, in this order; those that the file lacks are left out.
        dtype_backend: what pandas makes of a file that it reads.

    Raises:
        ParquetFileError: the file cannot be read.
    """
    with reading(path), open_parquet(path) as file:
        schema = _only(file.schema_arrow, columns)
        if converts_plainly(schema):
            table = decode(file, columns)
            return Decoded(table.schema, table)
    return Decoded(schema, read_file(path, columns, dtype_backend))


def read_by_pandas(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Decoded:
    """As `read_decoded`, by pandas whatever the file holds."""
    return Decoded(_only(read_schema(path), columns), read_file(path, columns))


def _only(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    fields = [field for field in schema if field.name in columns]
    return pa.schema(fields, schema.metadata)


def to_frame(
    files: Sequence[pa.Table | pd.DataFrame],
    columns: Sequence[str] | None,
    dtype_backend: DtypeBackend = "numpy",
) -> pd.DataFrame:
    """Put decoded files together.

    All rows are converted at once where the schemas prove that this equals the original; else
    file by file.

    Args:
        files: their rows, as `read_decoded` gives them, in order.
        columns: the columns wanted, in this order; None means all.
        dtype_backend: `numpy`, or `pyarrow` for Arrow-backed columns.

    Returns:
        A frame that shares no memory with tables that its owner could write to.
    """
    tables = [file for file in files if isinstance(file, pa.Table)]
    if tables and len(tables) == len(files) and converts_together([t.schema for t in tables]):
        frame = writable(_convert(pa.concat_tables(tables), dtype_backend))
        if not frame.index.identical(pd.RangeIndex(len(frame))):
            frame = frame.reset_index(drop=True)
        return choose(frame, columns)
    frames = [
        _convert(file, dtype_backend) if isinstance(file, pa.Table) else file for file in files
    ]
    return writable(concat_frames(frames, columns))


def _convert(table: pa.Table, dtype_backend: DtypeBackend) -> pd.DataFrame:
    mapper: Callable[[pa.DataType], object] | None = (
        pd.ArrowDtype if dtype_backend == "pyarrow" else None
    )
    frame: pd.DataFrame = table.to_pandas(use_threads=False, types_mapper=mapper)
    return frame


def writable(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace columns that Arrow handed over without a copy, and that are therefore read-only."""
    for position, dtype in enumerate(frame.dtypes):
        if isinstance(dtype, np.dtype):
            values = frame.iloc[:, position].array
            if not np.asarray(values).flags.writeable and _is_readonly(frame, position):
                frame.isetitem(position, frame.iloc[:, position].to_numpy().copy())
    return frame


def _is_readonly(frame: pd.DataFrame, position: int) -> bool:
    """Whether the memory itself is read-only, and not just pandas' copy-on-write view of it."""
    base = frame.iloc[:, position].to_numpy()
    while isinstance(base.base, np.ndarray):
        base = base.base
    return not base.flags.writeable
