"""Columns of files as tensors: their types, one file as arrays, and a dataset of all files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from ..base.errors import ColumnError, ParquetFileError, SchemaError
from ..parquet.chunk_statistics import Leaves, without_nulls
from ..parquet.footers import FileSchema, Footers
from ..parquet.reader import check_distinct, decode, open_parquet, reading, require_columns
from ..parquet.schema import first_leaves
from ..remote.ahead import map_paths
from ..training.epochs import batch_count
from .exit import exit_gate
from .failures import Failures, naming
from .flow import Flow

if TYPE_CHECKING:
    import tensorflow as tf

NOT_A_TIME = np.iinfo(np.int64).min  # the value of numpy's NaT

TEXT, NUMBER = "text", "number"


def column_elements(
    paths: Sequence[str],
    columns: Sequence[str] | None,
    *,
    batch_size: int | None,
    transform: Callable[[dict[str, Any]], Any] | None,
    cache: bool,
    flow: Flow,
) -> tf.data.Dataset:
    """A dataset of dicts of columns by name, each a tensor of shape (rows,).

    Args:
        paths: files; their footers are read now.
        columns: columns to load, in this order; None loads all.
        batch_size: rows of an element, across files; None makes one element per file.
        transform: applied to each dict, after the cache.
        cache: keep the files' tensors in memory from the first complete epoch on.
        flow: how the pipeline runs.

    Raises:
        ColumnError, ParquetFileError, SchemaError: as `read_footers` and `plan_columns`.
    """
    import tensorflow as tf

    footers = list(read_footers(paths, flow.num_workers))
    plan = plan_columns(footers, columns)
    failures = Failures()

    def read(number: Any) -> list[np.ndarray]:
        return read_columns(footers[int(number)], plan)

    def element(number: Any) -> dict[str, Any]:
        tensors = tf.numpy_function(
            exit_gate().through(failures.noted(read)),
            [number],
            [_tensor_dtype(column) for column in plan],
        )
        return {
            column.name: tf.ensure_shape(tensor, [None])
            for column, tensor in zip(plan, tensors, strict=True)
        }

    elements = len(paths)
    dataset = flow.map(tf.data.Dataset.range(elements), element)
    if cache:
        dataset = dataset.cache()
    if batch_size is not None:
        dataset = dataset.rebatch(batch_size)
        elements = batch_count(sum(footer.rows for footer in footers), batch_size, drop_last=False)
    if transform is not None:
        dataset = dataset.map(transform, num_parallel_calls=flow.num_workers or None)
    return naming(flow.finish(dataset, elements), failures)


@dataclass(frozen=True)
class TensorColumn:
    """A column that every file has, and the type of its tensor.

    Numbers and booleans keep their type, except that integers and booleans become float64 with
    NaN if a file has nulls (or its footer does not say). If files differ in type, numpy's
    promotion applies. Decimals become float64. Text and binary become bytes, null `b''`.
    Dates become int64 days since 1970; timestamps, times and durations int64 in the column's own
    unit; null is the smallest int64 in each.
    """

    name: str
    kind: str
    """`text`, `number`, or the Arrow type of a date, timestamp, time or duration."""
    dtype: np.dtype
    """`object` for text."""


@dataclass(frozen=True)
class FileColumns:
    """A file's columns, from its footer."""

    path: str
    schema: pa.Schema
    rows: int
    with_nulls: frozenset[str]
    """Integer and boolean columns that have nulls, or of which the footer does not say."""


def read_footers(paths: Sequence[str], num_workers: int) -> Iterator[FileColumns]:
    """The columns of files from their footers, in order.

    Raises:
        ParquetFileError: a file that cannot be read.
    """
    footers = Footers()
    leaves: dict[int, tuple[FileSchema, Leaves]] = {}  # by the identity of the schema

    def read(path: str) -> FileColumns:
        opened = footers.open(path)
        schema = opened.footer.schema
        if id(schema) not in leaves:
            leaves[id(schema)] = schema, Leaves.of(schema, _floats_if_null(schema.arrow))
        no_nulls = without_nulls(opened, leaves[id(schema)][1])
        with_nulls = frozenset() if no_nulls else _with_nulls(opened.metadata(), schema.arrow)
        return FileColumns(path, schema.arrow, opened.footer.rows, with_nulls)

    return map_paths(read, paths, num_workers)


def plan_columns(
    footers: Sequence[FileColumns], columns: Sequence[str] | None = None
) -> list[TensorColumn]:
    """Plan the tensors of columns.

    Args:
        footers: of all files; the first one gives the columns and their order.
        columns: columns to load, in this order; None loads all.

    Raises:
        ColumnError: a column that is missing in a file, occurs twice, or is nested.
        SchemaError: a column whose kind differs between files, or that only some have.
    """
    distinct: dict[tuple[int, frozenset[str]], FileColumns] = {}
    for footer in footers:
        distinct.setdefault((id(footer.schema), footer.with_nulls), footer)
    footers = list(distinct.values())
    require_columns(columns, [footer.schema for footer in footers])
    names = footers[0].schema.names if columns is None else list(columns)
    if columns is None:
        for footer in footers:
            for name in footer.schema.names:
                if name not in names:
                    raise SchemaError(
                        f"{footer.path} has a column {name!r} that {footers[0].path} lacks; "
                        "name the columns that all files have with columns=[…]"
                    )
    return [_merged_column(name, footers) for name in names]


def read_columns(footer: FileColumns, columns: Sequence[TensorColumn]) -> list[np.ndarray]:
    """A file's columns as arrays of shape (rows,), in the calling thread.

    Raises:
        ParquetFileError: the file cannot be read, or has changed since its footer was read.
    """
    names = [column.name for column in columns]
    with reading(footer.path), open_parquet(footer.path) as file:
        rows, schema = file.metadata.num_rows, file.schema_arrow
        if rows != footer.rows or not _has_columns(schema, footer, names):
            raise _changed_error(footer)
        table = decode(file, names)
    if len(table) != footer.rows:
        raise _changed_error(footer)
    return [
        _to_array(footer, table.column(position), column) for position, column in enumerate(columns)
    ]


def _has_columns(schema: pa.Schema, footer: FileColumns, names: Sequence[str]) -> bool:
    """Whether a file still has these columns, each once and of its type."""
    return all(
        schema.names.count(name) == 1 and schema.field(name).type == footer.schema.field(name).type
        for name in names
    )


def _changed_error(footer: FileColumns) -> ParquetFileError:
    return ParquetFileError(footer.path, "it has changed since it was first opened")


def _tensor_dtype(column: TensorColumn) -> tf.DType:
    import tensorflow as tf

    return tf.string if column.kind == TEXT else tf.as_dtype(column.dtype)


def _merged_column(name: str, footers: Sequence[FileColumns]) -> TensorColumn:
    """The tensor type of one column over all files."""
    first: tuple[str, str, pa.DataType] | None = None
    dtypes: set[np.dtype] = set()
    for footer in footers:
        check_distinct(footer.path, footer.schema.names, [name])
        if name not in footer.schema.names:
            raise ColumnError(
                f"{footer.path} has no column {name!r}, which other files have; tensors need "
                "the same columns in every file (name them with columns=[…])"
            )
        arrow_type = footer.schema.field(name).type
        kind, dtype = _tensor_type(name, arrow_type, with_nulls=name in footer.with_nulls)
        dtypes.add(dtype)
        if pt.is_null(arrow_type):
            continue  # agrees with any kind
        if first is None:
            first = (kind, footer.path, arrow_type)
        elif kind != first[0]:
            raise SchemaError(
                f"column {name!r} is {first[2]} in {first[1]} but {arrow_type} in {footer.path}; "
                "make the files agree, or name the other columns with columns=[…]"
            )
    kind = NUMBER if first is None else first[0]
    if kind == NUMBER:
        return TensorColumn(name, NUMBER, np.result_type(*dtypes))
    return TensorColumn(name, kind, np.dtype(object if kind == TEXT else np.int64))


def _tensor_type(name: str, arrow_type: pa.DataType, *, with_nulls: bool) -> tuple[str, np.dtype]:
    """The kind and the dtype of a tensor of one file's column."""
    stored = arrow_type.value_type if pt.is_dictionary(arrow_type) else arrow_type
    if pt.is_boolean(stored) or pt.is_integer(stored) or pt.is_floating(stored):
        return NUMBER, np.dtype(np.float64 if with_nulls else stored.to_pandas_dtype())
    if pt.is_decimal(stored) or pt.is_null(stored):
        return NUMBER, np.dtype(np.float64)
    if pt.is_date(stored):
        return str(pa.date32()), np.dtype(np.int64)
    if pt.is_timestamp(stored):
        return str(pa.timestamp(stored.unit)), np.dtype(np.int64)  # stored values are UTC
    if pt.is_time(stored) or pt.is_duration(stored):
        return str(stored), np.dtype(np.int64)
    if _is_text(stored):
        return TEXT, np.dtype(object)
    raise ColumnError(
        f"column {name!r} is {stored}, which is not supported; "
        "name the other columns with columns=[…]"
    )


def _is_text(arrow_type: pa.DataType) -> bool:
    """Text or binary."""
    tests = (
        pt.is_string, pt.is_large_string, pt.is_string_view,
        pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(arrow_type) for test in tests)


def _with_nulls(metadata: pq.FileMetaData, schema: pa.Schema) -> frozenset[str]:
    """The integer and boolean columns that may hold nulls."""
    leaves = first_leaves(schema)
    return frozenset(
        schema.names[at]
        for at in _floats_if_null(schema)
        if not all(
            _has_no_nulls(metadata.row_group(group).column(leaves[at]))
            for group in range(metadata.num_row_groups)
        )
    )


def _floats_if_null(schema: pa.Schema) -> list[int]:
    """The positions of nullable columns whose tensors become floats if they have nulls."""
    return [
        at for at, field in enumerate(schema) if field.nullable and _nulls_make_floats(field.type)
    ]


def _nulls_make_floats(arrow_type: pa.DataType) -> bool:
    stored = arrow_type.value_type if pt.is_dictionary(arrow_type) else arrow_type
    return bool(pt.is_integer(stored) or pt.is_boolean(stored))


def _has_no_nulls(chunk: pq.ColumnChunkMetaData) -> bool:
    statistics = chunk.statistics
    return chunk.num_values == 0 or bool(
        statistics is not None and statistics.has_null_count and statistics.null_count == 0
    )


def _to_array(footer: FileColumns, values: pa.ChunkedArray, column: TensorColumn) -> np.ndarray:
    """A column's values as its tensor holds them, nulls replaced as `TensorColumn` says."""
    if pt.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if column.kind == TEXT:
        return _text_array(values)
    if column.kind != NUMBER:
        return _time_array(values)
    if values.null_count and column.dtype.kind in "iub":
        raise ParquetFileError(
            footer.path, f"column {column.name!r} has nulls, and its footer says that it has none"
        )
    if pt.is_decimal(values.type) or (column.dtype.kind == "f" and pt.is_boolean(values.type)):
        values = values.cast(pa.float64())
    if pt.is_null(values.type):
        return np.full(len(values), np.nan, dtype=column.dtype)
    return np.ascontiguousarray(values.to_numpy(), dtype=column.dtype)


def _text_array(values: pa.ChunkedArray) -> np.ndarray:
    texts: np.ndarray = values.cast(pa.large_binary()).fill_null(b"").to_numpy()
    return texts


def _time_array(values: pa.ChunkedArray) -> np.ndarray:
    if pt.is_date64(values.type):
        values = values.cast(pa.date32())
    if pt.is_date32(values.type) or pt.is_time32(values.type):
        values = values.cast(pa.int32())
    counts: np.ndarray = pc.fill_null(values.cast(pa.int64()), NOT_A_TIME).to_numpy()
    return counts
