"""Ray Data as a backend: `read_parquet`, as frames and by `iter_torch_batches`.

It reads in processes of a cluster: of the one that RAY_ADDRESS names, or else of one that starts
with the first load and ends with the process. `feedrate tune DATA --backends pytorch,ray` shows
from which size of data on a cluster pays.
"""

from __future__ import annotations

import contextlib
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
from ray.exceptions import RayError, RayTaskError

from ..base.errors import InputError, ParquetFileError, not_installed
from ..base.machine import effective_cpus, is_installed
from ..base.settings import LoaderSettings
from ..parquet.reader import open_parquet, read_schema, reading
from ..training.matrix import Columns
from ..training.numeric import missing_column
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
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it writes each execution's plan


def read(files: Sequence[str], columns: Sequence[str] | None, workers: int) -> ray.data.Dataset:
    """The rows of files, read when they are needed.

    Args:
        files: paths, or URLs of objects.
        columns: to read; None is all.
        workers: tasks that read at once; 0 leaves their number to Ray.
    """
    connect()
    limits: dict[str, Any] = {}
    if workers:
        limits = {
            "concurrency": workers,
            "override_num_blocks": max(workers, min(len(files), TASKS_PER_WORKER * workers)),
        }
    rows = ray.data.read_parquet(list(files), **limits)
    rows.context.enable_progress_bars = False  # the context of these rows alone
    rows.context.execution_options.preserve_order = True
    return rows if columns is None else rows.select_columns(list(columns))


def check_columns(files: Sequence[str], columns: Sequence[str] | None) -> None:
    """Raise `ColumnError` for a column that no file has: Ray Data would leave it out silently."""
    missing, known = set(columns or ()), list[str]()
    for path in files if missing else ():  # most often the first file has them all
        with reading(path):
            known += read_schema(path).names
        missing -= set(known)
        if not missing:
            return
    if missing:
        raise missing_column(next(one for one in columns or () if one in missing), known)


@contextlib.contextmanager
def reporting(files: Sequence[str]) -> Iterator[None]:
    """Turn what Ray Data raises into an error of ours, with one line.

    Raises:
        ParquetFileError: one of the files is missing or damaged.
        InputError: something else failed.
    """
    try:
        yield
    except (RayError, pa.ArrowException, OSError) as error:
        for path in files:
            with reading(path), open_parquet(path):
                pass
        cause = error.cause if isinstance(error, RayTaskError) else error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        raise InputError(
            f"Ray Data cannot load the files: {lines[-1] if lines else type(cause).__name__}"
        ) from error


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
        files = [os.fspath(path) for path in paths]
        check_columns(files, columns)
        with reporting(files):
            blocks = read(files, columns, self.settings.num_workers).to_arrow_refs()
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
    _rows: ray.data.Dataset | None = None

    def __iter__(self) -> Iterator[Any]:
        settings, options = self.settings, dict[str, Any]()
        seed = None if settings.seed is None else _seed_of(settings.seed, self._epoch)
        self._epoch += 1
        files = [os.fspath(path) for path in self.paths]
        if self._epoch == 1:  # once, not in each epoch
            check_columns(files, self.columns.names)
        with reporting(files):
            rows = self._in_memory(seed) if self.in_memory else self._in_files(seed, options)
            yield from rows.iter_torch_batches(
                batch_size=settings.batch_size,
                drop_last=settings.drop_last,
                prefetch_batches=settings.prefetch,
                collate_fn=_collate(self.columns),
                **options,
            )

    def _in_memory(self, seed: int | None) -> ray.data.Dataset:
        """All rows, which are in the cluster's memory from the first epoch on."""
        if self._rows is None:
            self._rows = self._read(self.paths).materialize()
        return self._rows.random_shuffle(seed=seed) if self.settings.shuffle else self._rows

    def _in_files(self, seed: int | None, options: dict[str, Any]) -> ray.data.Dataset:
        """The rows of the files in this epoch's order; adds how batches are shuffled."""
        settings, order = self.settings, np.arange(len(self.paths))
        if settings.shuffle:
            order = np.random.default_rng(seed).permutation(len(self.paths))
            options["local_shuffle_buffer_size"] = settings.shuffle_window * settings.batch_size
            options["local_shuffle_seed"] = seed
        return self._read([self.paths[int(at)] for at in order])

    def _read(self, paths: Sequence[str | os.PathLike[str]]) -> ray.data.Dataset:
        files = [os.fspath(path) for path in paths]
        return read(files, self.columns.names, self.settings.num_workers)


def batches(
    settings: LoaderSettings,
    paths: Sequence[str | os.PathLike[str]],
    columns: Columns,
    *,
    in_memory: bool,
) -> RayBatches:
    """Batches of files.

    Raises:
        MissingBackendError: torch is not installed.
    """
    if not is_installed("torch"):
        raise not_installed("ray", "torch", "torch")
    return RayBatches(paths, columns, settings, in_memory)


def _seed_of(seed: int, epoch: int) -> int:
    """A seed for an epoch, which no epoch of another seed has."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _collate(columns: Columns) -> Any:
    """A function from an Arrow table to tensors, by the same rules for types as all backends."""
    import torch
    from ray.data.collate_fn import ArrowBatchCollateFn

    class Collate(ArrowBatchCollateFn):
        def __call__(self, batch: pa.Table) -> Any:
            arrays = [torch.from_numpy(array) for array in to_arrays([batch], columns)]
            return tuple(arrays) if len(arrays) > 1 else arrays[0]

    return Collate()
