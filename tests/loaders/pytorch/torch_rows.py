"""The rows that tests of the torch side load, in each kind of dataset."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from feedrate.loaders import ParquetDataset, StreamingParquetDataset
from feedrate.loaders.pytorch.batches import batches_of

ROWS = 250
FEATURES = ["row", "half", "flag"]
# Files of very different sizes: one empty, one of a single row, several row groups in others.
FILE_ROWS = (70, 1, 0, 130, 49)
KINDS = ["frame", "frame, kept", "files in memory", "files", "stream"]


def frame_of(low: int, high: int) -> pd.DataFrame:
    row = np.arange(low, high)
    return pd.DataFrame(
        {
            "row": row,
            "half": row / 2,
            "flag": row % 2 == 0,
            "label": (row * 10).astype("float32"),
            "text": [f"r{number}" for number in row],
        }
    )


def write_files(folder: Path) -> list[Path]:
    """The rows as files."""
    paths = []
    low = 0
    for number, rows in enumerate(FILE_ROWS):
        path = folder / f"{number}.parquet"
        frame_of(low, low + rows).to_parquet(path, row_group_size=40)
        paths.append(path)
        low += rows
    return paths


def dataset_of(kind, files=(), **kwargs):
    """The same rows in each kind of dataset."""
    if kind == "frame":
        return ParquetDataset.from_dataframe(frame_of(0, ROWS), FEATURES, "label", **kwargs)
    if kind == "frame, kept":
        frame = frame_of(0, ROWS)
        return ParquetDataset.from_dataframe(
            frame, FEATURES, "label", cache_in_memory=False, **kwargs
        )
    if kind == "files in memory":
        return ParquetDataset(files, FEATURES, "label", cache_in_memory=True, **kwargs)
    if kind == "files":
        return ParquetDataset(files, FEATURES, "label", **kwargs)
    return StreamingParquetDataset(files, FEATURES, "label", chunk_size=32, **kwargs)


def epoch_of(dataset, order, batch_size, **options) -> Iterable:
    """A dataset's own batches."""
    for run in dataset.runs(order, batch_size, **options):
        yield from batches_of(run)


def rows_of(batches: Iterable) -> list[int]:
    """The row numbers delivered, in order; checks that each row's values belong together."""
    delivered = []
    for x, y in batches:
        assert x.dtype == y.dtype == torch.float32
        assert x.shape == (len(y), 3)
        row = x[:, 0]
        assert torch.equal(x[:, 1], row / 2)
        assert torch.equal(x[:, 2], (row % 2 == 0).float())
        assert torch.equal(y, row * 10)
        delivered += row.int().tolist()
    return delivered


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - what was pickled a moment ago


def feeding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feedrate_")]
