"""The TensorFlow backend's training batches, of a frame and of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..base.settings import LoaderSettings
from ..parquet.filters import Filters, RowFilter
from ..training.epochs import Shard
from ..training.matrix import Columns
from ..training.parquet_rows import ParquetRows
from ..training.spans import CHUNK_ROWS, Paths, one_or_more_paths
from .epochs import EpochPlan
from .feed import memory_batches, stream_batches
from .flow import Flow

if TYPE_CHECKING:
    import tensorflow as tf


def batches(
    settings: LoaderSettings,
    frame: pd.DataFrame,
    columns: Columns,
    share: Shard | None = None,
    *,
    first_epoch: int = 0,
    shuffle_buffer_size: int | None = None,
) -> tf.data.Dataset:
    """Batches of a frame's rows, all by default; other arguments as in `create_cached_dataset`."""
    share = share or Shard()
    share.check(len(frame), settings.batch_size, settings.drop_last)
    arrays = tuple(part for part in columns.matrix(frame) if part is not None)
    # Always deterministic: with rows in memory, keeping the order costs little.
    flow = Flow(settings.num_workers, settings.prefetch)
    plan = EpochPlan.of(settings, share, first_epoch)
    return memory_batches(arrays, settings, plan, flow, shuffle_buffer_size)


def stream(
    settings: LoaderSettings,
    paths: Paths,
    columns: Columns,
    filters: Filters | None = None,
    share: Shard | None = None,
    *,
    first_epoch: int = 0,
    deterministic: bool = True,
) -> tf.data.Dataset:
    """Batches of files' rows, all by default; other arguments as in `create_streaming_dataset`."""
    share = share or Shard()
    names, row_filter = one_or_more_paths(paths), RowFilter.of(filters)
    rows = ParquetRows(names, columns, CHUNK_ROWS, row_filter, settings.requests)
    share.check(len(rows), settings.batch_size, settings.drop_last)
    flow = Flow(settings.num_workers, settings.prefetch, deterministic)
    plan = EpochPlan.of(settings, share, first_epoch)
    return stream_batches(rows, settings, plan, flow)
