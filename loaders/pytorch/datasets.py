"""The two torch datasets: rows by number, and rows streamed from files."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch  # noqa: TID253 - it subclasses torch's classes; imported when needed
from torch.utils.data import Dataset, IterableDataset, get_worker_info  # noqa: TID253 - the same

from ..base.settings import REQUESTS, check_count
from ..parquet.filters import Filters, RowFilter
from ..training.epochs import Leg, Order, Positions, Shard, block_share, strided_share
from ..training.matrix import Columns
from ..training.parquet_rows import ParquetRows
from ..training.spans import CHUNK_ROWS, Paths, one_or_more_paths
from .batches import Batch, ChunkTransfer, Run, Tensors, as_batch, as_tensors, runs
from .memory_rows import FrameRows, MatrixRows, gather
from .orders import Orders

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

Target = str | Sequence[str] | None
"""One name gives y of shape (batch,), several (batch, targets)."""
Transform = Callable[[torch.Tensor], Any]
"""Takes one row's features, of shape (features,), and returns their replacement."""


class ParquetDataset(Dataset[Any]):
    """Rows by number: `(x, y)`, or `x` without a target.

    `x` has the shape (features,); `y` is a scalar, or has the shape (targets,) if there are
    several. A column that a file lacks is null in its rows.

    Args:
        file_paths: Parquet files; rows are numbered through them in this order.
        feature_columns: columns of numbers, booleans, dates or times.
        target_column: the target, or several; None yields features only.
        transform: applied to the features of each row; batches are then made row by row.
        cache_in_memory: True reads all rows now, into one matrix. False decodes files when rows
            are requested and keeps only the last few: request rows in the order of
            `PyTorchDataLoader.create_dataloader`.
        null_value: replaces NaN and null.
        dtype: float16, float32 or float64.

    Raises:
        ColumnError: a column that no file has, that holds text, or that holds dates in one file
            and timestamps in another.
        InputError: there are no files, or an unsupported dtype.
        ParquetFileError: a file that cannot be read.
    """

    def __init__(
        self,
        file_paths: Paths,
        feature_columns: Sequence[str],
        target_column: Target = None,
        transform: Transform | None = None,
        cache_in_memory: bool = False,
        *,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.columns = Columns.of(feature_columns, target_column, null_value, dtype)
        files = ParquetRows(one_or_more_paths(file_paths), self.columns, CHUNK_ROWS)
        self.transform = transform
        self.rows: MatrixRows | FrameRows | ParquetRows = (
            MatrixRows(files.read_all()) if cache_in_memory else files
        )
        self._orders = Orders(len(self.rows))

    @classmethod
    def from_dataframe(
        cls,
        data: pd.DataFrame,
        feature_columns: Sequence[str],
        target_column: Target = None,
        transform: Transform | None = None,
        cache_in_memory: bool = True,
        *,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> ParquetDataset:
        """A dataset of a frame's rows.

        Args:
            data: the rows; later changes to the frame do not reach the dataset.
            feature_columns: columns of numbers, booleans, dates or times.
            target_column: the target, or several.
            transform: applied to each row's features.
            cache_in_memory: True converts all rows to a matrix now. False keeps the frame and
                converts the rows of each batch, which is many times slower.
            null_value: replaces NaN and null.
            dtype: float16, float32 or float64.

        Raises:
            ColumnError: a column that is missing or holds text.
            InputError: an unsupported dtype.
        """
        self = cls.__new__(cls)
        self.columns = Columns.of(feature_columns, target_column, null_value, dtype)
        self.transform = transform
        if cache_in_memory:
            arrays = self.columns.matrix(data)
            self.rows = MatrixRows([array for array in arrays if array is not None])
        else:
            self.rows = FrameRows(data, self.columns)
        self._orders = Orders(len(self.rows))
        return self

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([operator.index(index)])[0]

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> list[Any]:
        """The rows of a batch as a list of samples; torch's DataLoader calls it once per batch."""
        return list(samples(self._take(indices), self.transform))

    def take(self, indices: np.ndarray | torch.Tensor | Sequence[int]) -> Batch:
        """Gather rows as one batch; `transform` is not applied.

        Args:
            indices: row numbers, integers of shape (batch,); negative ones count from the end.

        Returns:
            Copies: X of shape (batch, features), or (X, y) with y of shape (batch,), or
            (batch, targets) for several targets.

        Raises:
            IndexError: a row number out of range.
        """
        return as_batch(self._take(indices))

    def share(self, shard: Shard, legs: Sequence[Leg] = ()) -> Positions:
        """The positions in an epoch's order that one rank visits, after what has been read."""
        share = block_share if isinstance(self.rows, ParquetRows) else strided_share
        return share(len(self), shard, legs)

    def indices(self, order: Order, positions: Positions | None = None) -> np.ndarray:
        """The row numbers at positions of an epoch's order; all by default."""
        positions = (range(len(self)),) if positions is None else positions
        if isinstance(self.rows, ParquetRows):
            rows = self.rows.indices(order)
            parts = [rows[part.start : part.stop : part.step] for part in positions]
        else:
            visits = self._orders.visits(order)
            parts = [visits.at(part) for part in positions]
        return np.concatenate(parts) if parts else np.arange(0)

    def runs(
        self,
        order: Order,
        batch_size: int,
        drop_last: bool = False,
        *,
        positions: Positions | None = None,
        num_workers: int = 0,
        prefetch: int = 0,
        pin: bool = False,
        transfer: ChunkTransfer | None = None,
    ) -> Iterator[Run]:
        """An epoch's batches, several per run; `transform` is not applied.

        Args:
            order: the epoch's order.
            batch_size: rows of a batch; only the last may have fewer.
            drop_last: leave out a last batch that is not full.
            positions: positions in the order, of steps of 1 for rows in files; all by default.
            num_workers: threads that gather or read; 0 uses the caller's thread.
            prefetch: chunks to prepare ahead, in addition to those in progress.
            pin: put batches into page-locked memory.
            transfer: moves chunks before they are cut into batches, such as to a device.
        """
        chunks: Iterator[Tensors]
        if isinstance(self.rows, ParquetRows):
            chunks = map(as_tensors, self.rows.chunks(order, positions, num_workers, prefetch))
        else:
            rows, orders = self.rows, self._orders
            part = range(len(self)) if positions is None else next(iter(positions), range(0))
            chunks = gather(rows, orders, order, part, batch_size, num_workers, prefetch, transfer)
        return runs(chunks, batch_size, drop_last, pin, transfer)

    def _take(self, indices: np.ndarray | torch.Tensor | Sequence[int]) -> Tensors:
        numbers = np.array(
            indices.numpy() if isinstance(indices, torch.Tensor) else indices, dtype=np.int64
        )
        rows = len(self)
        if numbers.size and not -rows <= numbers.min() <= numbers.max() < rows:
            raise IndexError(f"row {numbers.min()} or {numbers.max()} exceeds the {rows} rows")
        return as_tensors(self.rows.take(np.where(numbers < 0, numbers + rows, numbers)))


class StreamingParquetDataset(IterableDataset[Any]):
    """Rows streamed from files in bounded memory: `(x, y)`, or `x` without a target.

    Iterating it yields single rows, unshuffled; torch's worker processes divide the rows.
    `PyTorchDataLoader.create_dataloader` yields shuffled batches, many times faster.

    Args:
        file_paths: Parquet files.
        feature_columns: columns of numbers, booleans, dates or times.
        target_column: the target, or several; None yields features only.
        chunk_size: rows to decode at once. Larger files are read in parts of about this many
            rows, by row groups where these are smaller.
        transform: applied to the features of each row; batches are then made row by row.
        null_value: replaces NaN and null.
        dtype: float16, float32 or float64.
        filters: rows to keep, as in `pandas.read_parquet`. They are counted now, which decodes
            the filter columns once.
        requests: requests in flight for objects; each worker process has its own.

    Raises:
        ColumnError: a column that no file has, that holds text, or that holds dates in one file
            and timestamps in another; a filter column that a file lacks.
        InputError: there are no files, an unsupported dtype, a chunk size below 1, or filters
            that do not fit the columns.
        ParquetFileError: a file that cannot be read.
    """

    def __init__(
        self,
        file_paths: Paths,
        feature_columns: Sequence[str],
        target_column: Target = None,
        chunk_size: int = CHUNK_ROWS,
        transform: Transform | None = None,
        *,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
        filters: Filters | None = None,
        requests: int = REQUESTS,
    ) -> None:
        check_count("chunk_size", chunk_size, 1)
        self.columns = Columns.of(feature_columns, target_column, null_value, dtype)
        self.transform = transform
        paths = one_or_more_paths(file_paths)
        row_filter = RowFilter.of(filters)
        self.rows = ParquetRows(paths, self.columns, chunk_size, row_filter, requests)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.rows.chunks(self._next_order(), _worker_positions(len(self))):
            yield from samples(as_tensors(chunk), self.transform)

    def _next_order(self) -> Order:
        return Order()

    def share(self, shard: Shard, legs: Sequence[Leg] = ()) -> Positions:
        """The positions in an epoch's order that one rank visits, after what has been read."""
        return block_share(len(self), shard, legs)

    def runs(
        self,
        order: Order,
        batch_size: int,
        drop_last: bool = False,
        *,
        positions: Positions | None = None,
        num_workers: int = 0,
        prefetch: int = 0,
        pin: bool = False,
        transfer: ChunkTransfer | None = None,
    ) -> Iterator[Run]:
        """An epoch's batches, several per run; `transform` is not applied.

        Args:
            order: the epoch's order.
            batch_size: rows of a batch; batches cross files, so that only the last is partial.
            drop_last: leave out a last batch that is not full.
            positions: positions in the order, of steps of 1; all by default.
            num_workers: threads that read; 0 uses the caller's thread.
            prefetch: chunks to read ahead, in addition to those in progress.
            pin: put batches into page-locked memory.
            transfer: moves chunks before they are cut into batches, such as to a device.
        """
        chunks = map(as_tensors, self.rows.chunks(order, positions, num_workers, prefetch))
        return runs(chunks, batch_size, drop_last, pin, transfer)


def samples(tensors: Tensors, transform: Transform | None) -> Iterator[Any]:
    """The rows of a batch one at a time, as a dataset yields them."""
    features = tensors[0].unbind(0)
    inputs = features if transform is None else map(transform, features)
    return iter(inputs) if len(tensors) == 1 else zip(inputs, tensors[1].unbind(0), strict=True)


def _worker_positions(rows: int) -> Positions:
    """The positions of this torch worker process; all positions outside a worker."""
    info = get_worker_info()
    return (range(rows) if info is None else Shard(info.id, info.num_workers).nearly(rows),)
