"""Files' rows to one pandas frame that equals the original's in every dtype and value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from .layout import alike, wanted
from .original import choose, concat_frames, read_file
from .reader import read_schema
from .segments import Place, merged
from .settings import DtypeBackend


class Loose(NamedTuple):
    """One file's rows as pandas read them."""

    schema: pa.Schema
    frame: pd.DataFrame


def read_loose(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    dtype_backend: DtypeBackend = "numpy",
) -> Loose:
    """Read a file by pandas, whatever it holds.

    Raises:
        ParquetFileError: the file cannot be read.
    """
    schema = wanted(read_schema(path), columns)
    return Loose(schema, read_file(path, columns, dtype_backend))


def to_frame(files: Sequence[Place | Loose], columns: Sequence[str] | None) -> pd.DataFrame:
    """Put files together.

    Neighbours in a segment are converted at once where the schemas prove that this equals the
    original; else each file by itself.

    Args:
        files: their rows, in order.
        columns: the columns wanted, in this order; None means all.

    Returns:
        A frame whose memory is its owner's alone.
    """
    places = [file for file in files if isinstance(file, Place)]
    if places and len(places) == len(files):
        layouts = dict.fromkeys(place.segment.layout for place in places)
        if alike(layouts):
            filled = [place for place in merged(places) if place.stop > place.start]
            runs = filled or places[:1]
            if len(runs) == 1:
                return choose(runs[0].segment.frame(runs[0].start, runs[0].stop), columns)
            files = runs
    frames = [
        file.segment.frame(file.start, file.stop) if isinstance(file, Place) else file.frame
        for file in files
    ]
    return concat_frames(frames, columns)
