"""Convert Arrow columns to pandas' arrays, fast even if every value becomes a Python object.

Arrow makes a Decimal in about 250 ns and a date in 100 ns. Columns of prices, rates and days repeat
a few values many times, so each distinct value is made once, and all its rows refer to it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .schema import is_text, nulls_change_types

FEW_OBJECTS = 1 << 10  # fewer are converted without a search for repeated ones
SMALL_SPAN = 1 << 12  # up to this span, an object is made for every value, used or not
SPAN_PER_ROW = 4  # a table with more entries per row takes more memory than the rows
_FEW_DICTIONARIES = 8  # most dictionaries that each further one is compared with
_WORDS = 2  # 64-bit words of a decimal128, the low one first


def to_array(column: pa.ChunkedArray, field: pa.Field, dtype: Any, notes: Any) -> Any:
    """Convert a column as `Table.to_pandas` would, into memory that belongs to the caller.

    Args:
        column: the values.
        field: their field in the file's schema.
        dtype: the dtype that the column has in a frame without rows.
        notes: the schema's key-value metadata, in which pandas states its own dtypes.

    Returns:
        A numpy array of shape (rows,), or an extension array of pandas.
    """
    if isinstance(dtype, pd.StringDtype | pd.ArrowDtype):
        return dtype.__from_arrow__(column)  # type: ignore[union-attr]  # the stubs lack it
    if pt.is_dictionary(field.type):
        return _categories(column, field, notes)
    if pt.is_list(field.type) or pt.is_large_list(field.type):
        return _lists(column, field, notes)
    if pt.is_decimal128(field.type):
        return _repeated(column, _decimal_words, lambda words: _decimals(words, field.type))
    if pt.is_date32(field.type):
        return _repeated(column, _days, _dates)
    return _as_arrow_converts(column, field, notes)


def _lists(column: pa.ChunkedArray, field: pa.Field, notes: Any) -> np.ndarray:
    """Lists as arrays; a chunk whose nulls would change other types is converted alone."""
    parts: list[list[pa.Array]] = [[]]
    for chunk in column.chunks:
        if nulls_change_types(chunk):
            parts += [[chunk], []]
        else:
            parts[-1].append(chunk)
    arrays = [
        _as_arrow_converts(pa.chunked_array(part, column.type), field, notes)
        for part in parts
        if part
    ]
    if not arrays:
        return np.empty(0, object)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _categories(column: pa.ChunkedArray, field: pa.Field, notes: Any) -> Any:
    """The result of `pandas.concat`, with each chunk as a categorical.

    Chunks with equal categories, in any order, give categories in the order of the first chunk;
    others give values. Chunks of one file have the same dictionary.
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)] or column.chunks
    first = chunks[0].dictionary if chunks else None
    dictionaries: list[pa.Array] = []  # distinct ones
    for chunk in chunks:
        if not any(chunk.dictionary.equals(known) for known in dictionaries[:_FEW_DICTIONARIES]):
            dictionaries.append(chunk.dictionary)
    head = _as_arrow_converts(chunks[0].slice(0, 1) if chunks else column, field, notes)
    dtype = head.dtype
    is_unusual = any(not len(known) or known.null_count for known in dictionaries)
    if first is None or is_unusual or not isinstance(dtype, pd.CategoricalDtype):
        parts = [pd.Series(_as_arrow_converts(chunk, field, notes)) for chunk in chunks]
        return _values_of(pd.concat(parts, ignore_index=True)) if parts else head
    if len(dictionaries) == 1:
        return _coded([chunk.indices for chunk in chunks], dtype)
    if not dtype.ordered and all(_same_values(first, known) for known in dictionaries):
        return _coded([_recoded(chunk, first) for chunk in chunks], dtype)
    value_dtype = dtype.categories.dtype
    values = _decoded(chunks)
    if isinstance(value_dtype, pd.StringDtype):
        return value_dtype.__from_arrow__(values.cast(pa.large_string()))  # type: ignore[attr-defined]
    return values.to_numpy(zero_copy_only=False)


def _decoded(chunks: Sequence[pa.DictionaryArray]) -> pa.ChunkedArray:
    """The values of chunks with dictionaries.

    Raises:
        pa.ArrowIndexError: a code without a value.
    """
    if not any(chunk.null_count for chunk in chunks):
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
        sizes = [len(chunk.dictionary) for chunk in chunks]
        limits = np.repeat(sizes, [len(chunk) for chunk in chunks])
        if ((codes >= 0) & (codes < limits)).all():  # unifying does not check it
            # Decoding 400 chunks of 200 rows, each with its dictionary, takes four times as long.
            unified = pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
            values = unified.dictionary
            if is_text(values.type):  # all rows together may exceed 2 GiB
                values = values.cast(pa.large_string())
            return pa.chunked_array([values.take(unified.indices)])
    return pa.chunked_array([chunk.dictionary_decode() for chunk in chunks])


def _coded(codes: Sequence[pa.Array], dtype: pd.CategoricalDtype) -> pd.Categorical:
    parts = [(part.fill_null(-1) if part.null_count else part).to_numpy() for part in codes]
    return pd.Categorical.from_codes(np.concatenate(parts), dtype=dtype)


def _recoded(chunk: pa.DictionaryArray, first: pa.Array) -> pa.Array:
    """The codes of a chunk if its categories were in the order of `first`."""
    return pc.index_in(chunk.dictionary, value_set=first).take(chunk.indices)


def _same_values(one: pa.Array, other: pa.Array) -> bool:
    """Whether two arrays of distinct values are equal in any order."""
    return len(one) == len(other) and not pc.index_in(other, value_set=one).null_count


def _as_arrow_converts(column: Any, field: pa.Field, notes: Any) -> Any:
    """Convert a column as Arrow converts a file's."""
    table = pa.table([column], schema=pa.schema([field.with_type(column.type)], notes))
    return _values_of(table.to_pandas(use_threads=False).iloc[:, 0])


def _values_of(series: pd.Series) -> Any:
    return series.to_numpy(copy=True) if isinstance(series.dtype, np.dtype) else series.array


def distinct_objects(objects: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The distinct objects of an array, and the position of each row's object among them.

    Objects are distinguished by identity, not compared or hashed.

    Args:
        objects: of dtype object, shape (rows,).

    Returns:
        Positions in the second array, shape (rows,); and the objects. For few rows, or if over
        half of the rows have distinct objects, None and the rows as they are.
    """
    if len(objects) < FEW_OBJECTS:
        return None, objects
    held = np.ascontiguousarray(objects)  # keeps the references, and so their addresses, valid
    memory = (ctypes.c_ubyte * held.nbytes).from_address(held.ctypes.data)
    codes, distinct = pd.factorize(np.frombuffer(memoryview(memory), np.uintp))
    if len(distinct) > len(held) // 2:
        return None, held
    first = np.empty(len(distinct), np.intp)
    first[codes[::-1]] = np.arange(len(held) - 1, -1, -1)
    return codes, held[first]


def _repeated(
    column: pa.ChunkedArray,
    numbers: Callable[[pa.Array], np.ndarray | None],
    objects: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Objects for a column's values: one for each distinct number that encodes a value."""
    parts = [part for chunk in column.chunks if (part := numbers(chunk)) is not None]
    if len(parts) < column.num_chunks:
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values
    values = _looked_up(np.concatenate(parts) if parts else np.empty(0, np.int64), objects)
    if column.null_count:
        values[column.is_null().to_numpy()] = None
    return values


def _looked_up(numbers: np.ndarray, objects: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """An object for each number; equal numbers share one.

    Numbers in a narrow range index a table, so that they need not be hashed.
    """
    if not len(numbers):
        return np.empty(0, object)
    low, high = int(numbers.min()), int(numbers.max())
    span = high - low + 1
    if span > max(SMALL_SPAN, SPAN_PER_ROW * len(numbers)):
        codes, distinct = pd.factorize(numbers)
        return objects(distinct).take(codes)
    places = numbers - low
    if span <= SMALL_SPAN:
        return objects(np.arange(span) + low).take(places)
    seen = np.zeros(span, bool)
    seen[places] = True
    distinct = np.flatnonzero(seen)
    ranks = np.empty(span, np.int32)
    ranks[distinct] = np.arange(len(distinct), dtype=np.int32)
    values: np.ndarray = objects(distinct + low).take(ranks[places])
    return values


def _decimal_words(chunk: pa.Array) -> np.ndarray | None:
    """The low words of decimals, or None if a value does not fit into one."""
    words = _buffer(chunk, np.dtype(np.int64), _WORDS).reshape(-1, _WORDS)
    low, high = words[:, 0], words[:, 1]
    if chunk.null_count:  # values under nulls are arbitrary
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        low, high = low * valid, high * valid
    return low if np.array_equal(low >> 63, high) else None


def _decimals(words: np.ndarray, kind: pa.DataType) -> np.ndarray:
    pairs = np.stack([words, words >> 63], axis=1)
    values: np.ndarray = pa.Array.from_buffers(
        kind, len(words), [None, pa.py_buffer(pairs)]
    ).to_numpy(zero_copy_only=False)
    return values


def _days(chunk: pa.Array) -> np.ndarray:
    days = _buffer(chunk, np.dtype(np.int32), 1)
    if chunk.null_count:
        days = days * chunk.is_valid().to_numpy(zero_copy_only=False)
    return days


def _dates(days: np.ndarray) -> np.ndarray:
    values: np.ndarray = (
        pa.array(days.astype(np.int32, copy=False))
        .cast(pa.date32())
        .to_pandas()
        .to_numpy(copy=True)
    )
    return values


def _buffer(chunk: pa.Array, dtype: np.dtype[Any], words: int) -> np.ndarray:
    """An array's values as they lie in memory, `words` numbers each."""
    if not len(chunk):
        return np.empty(0, dtype)
    values = np.frombuffer(chunk.buffers()[1], dtype)
    return values[chunk.offset * words : (chunk.offset + len(chunk)) * words]
