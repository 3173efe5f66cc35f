"""Ray Data as a backend: `read_parquet`, as frames and by `iter_torch_batches`.

It reads in processes of a cluster: of the one that RAY_ADDRESS names, or else of one that starts
with the first load and ends with the process. No profile is needed to try from which size on a
cluster pays: `feedrate tune DATA --backends pytorch,ray`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import ray.data

from ..base.errors import ParquetFileError, not_installed
from ..base.machine import effective_cpus, is_installed
from ..base.settings import LoaderSettings
from ..training.matrix import Columns
from ..training.spans import to_arrays

ADDRESS = "RAY_ADDRESS"
TASKS_PER_WORKER = 4  # so that none waits long for the last; Ray would read few files in one task


def connect() -> None:
    """Connect to the cluster of RAY_ADDRESS, or start one with the CPUs of this process."""
    if not ray.is_initialized():
        address = os.environ.get(ADDRESS) or "local"
        own: dict[str, Any] = {"num_cpus": effective_cpus(), "include_dashboard": False}
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == "local" else {}),
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # rows in the order of the files


def read(
    paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None, workers: int
) -> ray.data.Dataset:
    """The rows of files, read when they are needed.

    Args:
        paths: files, or URLs of objects.
        columns: to read; None is all.
        workers: tasks that read at once; 0 leaves their number to Ray.
    """
    connect()
    files = [os.fspath(path) for path in paths]
    limits: dict[str, Any] = {}
    if workers:
        limits = {
            "concurrency": workers,
            "override_num_blocks": max(workers, min(len(files), TASKS_PER_WORKER * workers)),
        }
    rows = ray.data.read_parquet(files, **limits)
    return rows if columns is None else rows.select_columns(list(columns))


@dataclass
class RayFrames:
    """The frame job: all rows in this process, in the order of the files."""

    settings: LoaderSettings
    skipped: list[ParquetFileError] = field(default_factory=list)
    """Always empty: Ray Data fails on the first file that it cannot read."""

    def load(
        self, paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The files' rows in one frame."""
        blocks = read(paths, columns, self.settings.num_workers).to_arrow_refs()
        tables: list[pa.Table] = ray.get(blocks)
        frame: pd.DataFrame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        return frame


@dataclass
class RayBatches:
    """Epochs of `(X, y)`, or `X` without a target, as float32 tensors of torch.

    Attributes:
        paths: files, or URLs of objects.
        columns: features and target.
        settings: `num_workers` and `prefetch` as in `read` and `iter_torch_batches`.
        in_memory: whether all rows are loaded into the cluster's memory first, and shuffled there
            each epoch; otherwise each epoch reads the files in a new order and shuffles
            `shuffle_window` batches at a time.
    """

    paths: Sequence[str | os.PathLike[str]]
    columns: Columns
    settings: LoaderSettings
    in_memory: bool
    _epoch: int = 0
    _rows: Any = None

    def __iter__(self) -> Iterator[Any]:
        settings, options = self.settings, dict[str, Any]()
        seed = None if settings.seed is None else settings.seed + self._epoch
        self._epoch += 1
        if self.in_memory:
            if self._rows is None:
                self._rows = self._read(self.paths).materialize()
            rows = self._rows.random_shuffle(seed=seed) if settings.shuffle else self._rows
        else:
            order: Iterable[int] = range(len(self.paths))
            if settings.shuffle:
                order = np.random.default_rng(seed).permutation(len(self.paths))
                options["local_shuffle_buffer_size"] = settings.shuffle_window * settings.batch_size
                options["local_shuffle_seed"] = seed
            rows = self._read([self.paths[at] for at in order])
        batches: Iterable[Any] = rows.iter_torch_batches(
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            prefetch_batches=settings.prefetch,
            collate_fn=_collate(self.columns),
            **options,
        )
        return iter(batches)

    def _read(self, paths: Sequence[str | os.PathLike[str]]) -> Any:
        return read(paths, self.columns.names, self.settings.num_workers)


def batches(settings: LoaderSettings, paths: Any, columns: Columns, *, in_memory: bool) -> Any:
    """Batches of files.

    Raises:
        MissingBackendError: torch is not installed.
    """
    if not is_installed("torch"):
        raise not_installed("ray", "torch", "torch")
    return RayBatches(paths, columns, settings, in_memory)


def _collate(columns: Columns) -> Any:
    """A function from an Arrow table to tensors, by the same rules for types as all backends."""
    import torch
    from ray.data.collate_fn import ArrowBatchCollateFn

    class Collate(ArrowBatchCollateFn):
        def __call__(self, batch: pa.Table) -> Any:
            arrays = [torch.from_numpy(array) for array in to_arrays([batch], columns)]
            return tuple(arrays) if len(arrays) > 1 else arrays[0]

    return Collate()
