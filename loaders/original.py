"""The original way to load files: pandas, one after the other. Every loader must equal it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from .reader import as_file_error, read_schema, require_columns
from .settings import DtypeBackend


def read_file(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
) -> pd.DataFrame:
    """One file as pandas reads it, without columns made from the folders' names.

    Raises:
        ParquetFileError: the file cannot be read.
    """
    try:
        if columns is not None:
            present = set(read_schema(path).names)
            columns = [name for name in columns if name in present]
        options: dict[str, Any] = {"partitioning": None}
        if dtype_backend != "numpy":
            options["dtype_backend"] = dtype_backend
        frame: pd.DataFrame = pd.read_parquet(
            Path(path), engine="pyarrow", columns=columns, **options
        )
    except (pa.ArrowException, OSError) as error:
        raise as_file_error(path, error) from error
    return frame


def read_frame(
    paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Files as one frame: `pandas.read_parquet` of each, then `pandas.concat(ignore_index=True)`.

    Whatever dtypes this gives are the right ones; every loader's result equals it.

    Args:
        paths: the files, in the order their rows shall have.
        columns: the columns wanted, in this order; a file that lacks one contributes NaN.

    Raises:
        ColumnError: a column that no file has.
        ParquetFileError: a file that cannot be read.
    """
    paths = list(paths)
    if columns is not None:
        require_columns(columns, [read_schema(path) for path in paths])
    return concat_frames([read_file(path, columns) for path in paths], columns)


def concat_frames(
    frames: Sequence[pd.DataFrame], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Put frames together as the original does; the wanted columns in the wanted order."""
    if not frames:
        return pd.DataFrame()
    result = pd.concat(frames, ignore_index=True)
    if columns is not None and list(result.columns) != list(columns):
        result = result[list(columns)]
    return result
