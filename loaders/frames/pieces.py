"""Decoded columns of several files, in the form that a segment keeps: numbers or Arrow arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

from ..caching.segments import Piece
from ..parquet.dictionaries import in_codes
from ..parquet.layout import Layout
from ..parquet.schema import nulls_change_types

if TYPE_CHECKING:
    import polars as pl

LONG_CHUNK = 16 << 10  # rows; shorter chunks are joined, since each takes several calls


class CannotDecodeError(Exception):
    """polars cannot decode these files, or decodes them differently from Arrow: use Arrow."""


def of_arrow(column: pa.ChunkedArray, layout: Layout, position: int) -> Piece:
    """A column that Arrow decoded."""
    dtype = layout.dtypes.get(position)
    if dtype is not None:
        values: np.ndarray = column.to_numpy()
        if values.dtype == dtype:
            return [values]
    return _in_segment_type(column, layout, position)


def of_polars(series: pl.Series, layout: Layout, position: int) -> Piece:
    """A column that polars decoded.

    Raises:
        CannotDecodeError: the values depend on which rows belong to the same file.
    """
    dtype = layout.dtypes.get(position)
    # Joining long chunks would copy them.
    are_short = len(series) < series.n_chunks() * LONG_CHUNK
    parts = [series] if are_short else series.get_chunks()
    if dtype is not None and not (series.null_count() and dtype.kind in "iub"):
        return [_numbers(part) for part in parts]
    kind = layout.arrow_types[position]
    chunks = [_to_arrow(part, kind) for part in parts]
    if position in layout.nested and any(map(nulls_change_types, chunks)):
        raise CannotDecodeError
    return _in_segment_type(pa.chunked_array(chunks), layout, position)


def _numbers(series: pl.Series) -> np.ndarray:
    # polars converts nulls to NaN value by value; Arrow takes a third of the time.
    values: np.ndarray = (
        series.to_arrow().to_numpy(zero_copy_only=False)
        if series.null_count()
        else series.to_numpy()
    )
    return values


def of_codes(
    series: pl.Series,
    dictionaries: Sequence[pa.Array],
    rows: Sequence[int],
    kind: pa.DictionaryType,
) -> Piece:
    """A column of categories that polars decoded, with each file's dictionary."""
    import polars as pl

    text = _to_arrow(series.cast(pl.String), pa.large_string())
    return pa.chunked_array(in_codes(text, dictionaries, rows, kind), kind)


def _to_arrow(series: pl.Series, kind: pa.DataType) -> pa.Array:
    import polars as pl

    newest = pt.is_string_view(kind)
    level = pl.CompatLevel.newest() if newest else pl.CompatLevel.oldest()
    return series.to_arrow(compat_level=level)


def _in_segment_type(column: Any, layout: Layout, position: int) -> Any:
    """An Arrow column, cast to the type that a segment holds it in."""
    kind = layout.arrow_types[position]
    return column if column.type.equals(kind) else column.cast(kind)
