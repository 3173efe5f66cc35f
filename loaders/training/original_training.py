"""The baseline (1.0x) of the training jobs: code without feedrate, in one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..base.machine import is_installed
from ..base.settings import LoaderSettings
from ..base.stages import stage
from ..parquet.filters import RowFilter
from ..parquet.original import read_file
from ..parquet.reader import read_schema, require_columns
from .matrix import Columns


def plain_batches(frame: pd.DataFrame, columns: Columns, settings: LoaderSettings) -> Iterable[Any]:
    """Epochs of batches of a frame, by the plain idiom of the installed framework.

    Args:
        frame: rows in memory.
        columns: features, target and the value for nulls.
        settings: only batch_size, shuffle, drop_last and seed are used.

    Returns:
        `DataLoader(TensorDataset(X, y), batch_size, shuffle)`, or `from_tensor_slices((X, y))`
        shuffled and batched, or, without either framework, numpy batches.
    """
    x, y = columns.matrix(frame)
    makers = {"torch": _torch_batches, "tensorflow": _tensorflow_batches, None: NumpyBatches}
    return makers[batches_framework()](x, y, settings)


def batches_framework() -> str | None:
    """The module of the framework that `plain_batches` uses; None if neither is installed."""
    return next(filter(is_installed, ("torch", "tensorflow")), None)


def _torch_batches(x: np.ndarray, y: np.ndarray | None, settings: LoaderSettings) -> Iterable[Any]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    generator = None if settings.seed is None else torch.Generator().manual_seed(settings.seed)
    tensors = [torch.from_numpy(part) for part in (x, y) if part is not None]
    return DataLoader(
        TensorDataset(*tensors),
        batch_size=settings.batch_size,
        shuffle=settings.shuffle,
        drop_last=settings.drop_last,
        generator=generator,
    )


def _tensorflow_batches(
    x: np.ndarray, y: np.ndarray | None, settings: LoaderSettings
) -> Iterable[Any]:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(x if y is None else (x, y))
    if settings.shuffle:
        dataset = dataset.shuffle(max(1, len(x)), seed=settings.seed)
    batches: Iterable[Any] = dataset.batch(settings.batch_size, drop_remainder=settings.drop_last)
    return batches


class NumpyBatches:
    """Epochs of numpy batches, for use without a framework.

    Args:
        x: float32, shape (rows, features).
        y: float32, shape (rows,), or None.
        settings: only batch_size, shuffle, drop_last and seed are used.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray | None, settings: LoaderSettings) -> None:
        self.x, self.y, self.settings = x, y, settings
        self._random = np.random.default_rng(settings.seed)

    def __len__(self) -> int:
        full, rest = divmod(len(self.x), self.settings.batch_size)
        return full + (rest > 0 and not self.settings.drop_last)

    def __iter__(self) -> Iterator[Any]:
        order = np.arange(len(self.x))
        if self.settings.shuffle:
            self._random.shuffle(order)
        for batch in range(len(self)):
            rows = order[batch * self.settings.batch_size : (batch + 1) * self.settings.batch_size]
            yield self.x[rows] if self.y is None else (self.x[rows], self.y[rows])


class PlainStream:
    """Files larger than memory, the plain way: pandas per file, rows shuffled within the file.

    Each batch holds rows of one file, as numpy arrays; with drop_last, the last rows of every file
    are left out if they do not fill a batch. A column that a file lacks is null there.

    Raises:
        ColumnError: a column that no file has, or (on iteration) that is not numeric.
        ParquetFileError: a file that cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        columns: Columns,
        settings: LoaderSettings,
        row_filter: RowFilter | None = None,
    ) -> None:
        self.paths, self.columns, self.settings = list(paths), columns, settings
        self.row_filter = row_filter
        with stage("plan"):
            schemas = [read_schema(path) for path in self.paths]
        require_columns(columns.names, schemas)
        if row_filter is not None:
            row_filter.check([os.fspath(path) for path in self.paths], schemas)
        self._missing = [
            [name for name in columns.names if name not in schema.names] for schema in schemas
        ]
        self._random = np.random.default_rng(settings.seed)

    def __iter__(self) -> Iterator[Any]:
        size = self.settings.batch_size
        for path, missing in zip(self.paths, self._missing, strict=True):
            frame = read_file(path, self.columns.names, row_filter=self.row_filter, plain=True)
            for name in missing:
                frame[name] = np.nan
            x, y = self.columns.matrix(frame)
            if self.settings.shuffle:
                with stage("gather"):
                    order = self._random.permutation(len(x))
                    x, y = x[order], None if y is None else y[order]
            rows = len(x) - len(x) % size if self.settings.drop_last else len(x)
            for low in range(0, rows, size):
                high = low + size
                yield x[low:high] if y is None else (x[low:high], y[low:high])
