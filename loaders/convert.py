"""Arrow tables to one pandas frame that equals the original's in every dtype and value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from .original import choose, concat_frames, read_file
from .schema import converts_plainly, converts_together
from .settings import DtypeBackend


def to_frame(
    paths: Sequence[str],
    tables: Sequence[pa.Table],
    columns: Sequence[str] | None,
    dtype_backend: DtypeBackend = "numpy",
) -> pd.DataFrame:
    """Put decoded files together.

    All rows are converted at once where the schemas prove that this equals the original; else
    file by file; and a file that pandas treats specially is read by pandas.

    Args:
        paths: the files, in row order.
        tables: their decoded tables.
        columns: the columns wanted, in this order; None means all.
        dtype_backend: `numpy`, or `pyarrow` for Arrow-backed columns.

    Returns:
        A frame that shares no memory with `tables` that its owner could write to.
    """
    if not tables:
        return pd.DataFrame()
    if converts_together([table.schema for table in tables]):
        whole = pa.concat_tables(tables)
        frame = writable(_convert(whole, dtype_backend))
        if not frame.index.identical(pd.RangeIndex(len(frame))):
            frame = frame.reset_index(drop=True)
        return choose(frame, columns)
    frames = [
        _convert(table, dtype_backend)
        if converts_plainly(table.schema)
        else read_file(path, columns, dtype_backend)
        for path, table in zip(paths, tables, strict=True)
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
