"""Convert rows of files to one pandas frame, with the original's dtypes and values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import pandas as pd

from ..base.settings import DtypeBackend
from ..caching.segments import PandasRows, Place, merged
from ..parquet.layout import alike, wanted
from ..parquet.original import choose, concat_frames, read_file
from ..parquet.reader import read_schema
from ..remote.source import RemoteSource


def read_loose(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
    held: bytes | RemoteSource | None = None,
) -> PandasRows:
    """Read any file by pandas, from its bytes or the open object if there are any.

    Raises:
        ParquetFileError: the file cannot be read.
    """
    schema = read_schema(path, held)
    frame = read_file(path, columns, dtype_backend, held=held, schema=schema)
    return PandasRows(wanted(schema, columns), frame)


def in_runs(files: Sequence[Place | PandasRows]) -> Sequence[Place | PandasRows]:
    """Merge rows of files that are adjacent in a segment, so that they are converted at once.

    They are merged only if the schemas prove that the result equals the original's.
    """
    if set(map(type, files)) != {Place}:
        return files
    places = cast("Sequence[Place]", files)
    runs = merged(places)
    if not alike(run.segment.layout for run in runs):
        return files
    return [run for run in runs if run.stop > run.start] or runs[:1]


def to_frame(files: Sequence[Place | PandasRows], columns: Sequence[str] | None) -> pd.DataFrame:
    """Convert the rows of each item separately, and concatenate them.

    Args:
        files: rows of files, in order.
        columns: the wanted columns, in this order; None means all.

    Returns:
        A frame; changes to it affect nothing else.
    """
    if len(files) == 1 and isinstance(place := files[0], Place):
        return choose(place.segment.frame(place.start, place.stop), columns)
    frames = [
        file.segment.frame(file.start, file.stop) if isinstance(file, Place) else file.frame
        for file in files
    ]
    return concat_frames(frames, columns)
