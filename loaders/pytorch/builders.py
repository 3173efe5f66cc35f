"""The PyTorch backend's training batches, of a frame and of files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pandas as pd

from ..base.settings import LoaderSettings
from ..parquet.filters import Filters
from ..training.matrix import Columns
from .datasets import ParquetDataset, StreamingParquetDataset
from .feed import FeedDataLoader


def batches(settings: LoaderSettings, frame: pd.DataFrame, columns: Columns) -> FeedDataLoader:
    """Batches of a frame's rows."""
    dataset = ParquetDataset.from_dataframe(
        frame, list(columns.features), columns.target, null_value=columns.null_value
    )
    return FeedDataLoader(dataset, settings, persistent_workers=True)


def stream(
    settings: LoaderSettings,
    paths: Sequence[str | os.PathLike[str]],
    columns: Columns,
    filters: Filters | None = None,
) -> FeedDataLoader:
    """Batches of files' rows."""
    dataset = StreamingParquetDataset(
        paths,
        list(columns.features),
        columns.target,
        null_value=columns.null_value,
        filters=filters,
        requests=settings.requests,
    )
    return FeedDataLoader(dataset, settings, persistent_workers=True)
