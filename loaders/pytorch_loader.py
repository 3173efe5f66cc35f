"""Load Parquet for PyTorch: frames, and batches to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pandas as pd

from .base.errors import InputError, not_installed
from .base.machine import is_installed
from .base.settings import LoaderSettings, WorkerKind, check_count, with_changes
from .caching.base import FileCache, HasCache
from .caching.tiers import make_cache
from .choosing.profile import Job
from .choosing.resolution import ProfileChoice, profiled_settings
from .training.epochs import AutoShard, Shard

if TYPE_CHECKING:
    import torch
    from numpy.typing import DTypeLike

    from .frames.reader import FrameReader
    from .pytorch.datasets import ParquetDataset, StreamingParquetDataset
    from .pytorch.device import DeviceLoader
    from .pytorch.feed import FeedDataLoader

__all__ = ["ParquetDataset", "PyTorchDataLoader", "StreamingParquetDataset"]


def __getattr__(name: str) -> Any:
    # The datasets subclass torch's, so torch is imported when they are first used.
    if name in ("ParquetDataset", "StreamingParquetDataset"):
        require_torch()
        return getattr(import_module(".pytorch.datasets", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def require_torch() -> None:
    """Raise `MissingBackendError` if torch is not installed, without importing it."""
    if not is_installed("torch"):
        raise not_installed("pytorch", "torch", "torch")


class PyTorchDataLoader(HasCache):
    """Load files as one frame, or as batches for training.

    Args:
        num_workers: threads (or processes) that read, decode and gather; 0 uses the caller's
            thread. Rows in memory are gathered by one thread fewer (at least one), and by the
            caller when it would otherwise wait.
        pin_memory: put batches into page-locked memory; skipped without CUDA.
        persistent_workers: keep worker processes from epoch to epoch.
        prefetch_factor: files or chunks of rows ready ahead, in addition to those in progress;
            with processes, batches (or chunks of a stream) in progress or ready, per process.
        worker_kind: `thread`; or `process`, for Python transforms that need it. Processes are
            never forked, so a script needs `if __name__ == "__main__":` around its code.

    Raises:
        InputError: a value that is not allowed.
        MissingBackendError: torch is not installed.
    """

    def __init__(
        self,
        num_workers: int = 4,
        pin_memory: bool = True,
        persistent_workers: bool = True,
        prefetch_factor: int = 2,
        worker_kind: WorkerKind = "thread",
    ) -> None:
        require_torch()
        check_count("prefetch_factor", prefetch_factor, 0)
        self.persistent_workers = bool(persistent_workers)
        self._settings = LoaderSettings(
            backend="pytorch",
            num_workers=num_workers,
            pin_memory=bool(pin_memory),
            prefetch=prefetch_factor,
            worker_kind=worker_kind,
            cache="none",
        )
        self._cache: FileCache | None = None
        self._readers: dict[int, FrameReader] = {}

    @classmethod
    def from_settings(cls, settings: LoaderSettings) -> PyTorchDataLoader:
        """Create a loader whose defaults, also in `create_dataloader`, come from the settings."""
        self = cls()
        self._settings = with_changes(settings, backend="pytorch")
        self._cache = make_cache(settings.cache, max_bytes=settings.cache_bytes)
        return self

    @classmethod
    def from_profile(
        cls,
        profile: ProfileChoice = "auto",
        files: Sequence[str | os.PathLike[str]] | None = None,
        job: Job = "batches",
    ) -> PyTorchDataLoader:
        """Create a loader with a profile's settings for a job.

        A profile that does not fit this machine or data is ignored: defaults are used, and a
        warning lists the differences.

        Args:
            profile: a profile or its path; `auto` looks in FEEDRATE_PROFILE, next to `files`, and
                in the user's store for their folder.
            files: files to load: their number selects an entry of the profile, and their columns
                are compared with those that were measured.
            job: `frame`, `batches` or `stream`.

        Raises:
            DocumentError: a named profile cannot be used.
            ParquetFileError: one of `files` cannot be read.
        """
        return cls.from_settings(profiled_settings("pytorch", profile, files, job))

    @property
    def settings(self) -> LoaderSettings:
        """The defaults for arguments that a method call leaves out."""
        return self._settings

    @property
    def num_workers(self) -> int:
        """Threads or processes that read and decode."""
        return self._settings.num_workers

    @property
    def prefetch_factor(self) -> int:
        """Files or chunks ready ahead, in addition to those in progress; per process, if any."""
        return self._settings.prefetch

    @property
    def worker_kind(self) -> WorkerKind:
        """`thread` or `process`."""
        return self._settings.worker_kind

    @property
    def pin_memory(self) -> bool:
        """Whether batches go into page-locked memory if CUDA is available."""
        return self._settings.pin_memory

    def load_parquet_files_parallel(
        self,
        file_paths: Iterable[str | os.PathLike[str]],
        max_workers: int | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The rows of files as one frame, in the order given, equal to the original's.

        Args:
            file_paths: Parquet files.
            max_workers: threads that decode; the loader's by default.
            columns: columns to load, in this order; all by default.

        Raises:
            ColumnError: a column that no file has.
            ParquetFileError: a file that cannot be read.
        """
        return self._frame_reader(max_workers).load(file_paths, columns)

    def create_dataset_from_dataframe(
        self,
        data: pd.DataFrame,
        feature_columns: Sequence[str],
        target_column: str | Sequence[str] | None = None,
        cache_in_memory: bool = True,
        *,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> ParquetDataset:
        """A dataset of a frame's rows.

        Args:
            data: the rows.
            feature_columns: columns of numbers, booleans, dates or times.
            target_column: the target, or several; None yields features only.
            cache_in_memory: convert all rows now; otherwise each batch is converted, which is
                slow.
            null_value: replaces NaN and null.
            dtype: float16, float32 or float64.

        Raises:
            ColumnError: a column that is missing or holds text.
            InputError: an unsupported dtype.
        """
        from .pytorch.datasets import ParquetDataset

        return ParquetDataset.from_dataframe(
            data,
            feature_columns,
            target_column,
            cache_in_memory=cache_in_memory,
            null_value=null_value,
            dtype=dtype,
        )

    def create_dataloader(
        self,
        dataset: ParquetDataset | StreamingParquetDataset,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shard: AutoShard | None = None,
    ) -> FeedDataLoader:
        """A `torch.utils.data.DataLoader` that yields `(X, y)`, or `X` without a target.

        X has the shape (batch, features), y the shape (batch,), or (batch, targets) if there are
        several. Batches stay valid for as long as they are held. A dataset in memory is shuffled
        over all rows; a streaming dataset visits files (and the parts of large ones) in random
        order and mixes the rows of `settings.shuffle_window` of them.

        Args:
            dataset: the rows to load.
            batch_size: rows per batch; 32, or the profile's.
            shuffle: a new order in each epoch; True, or the profile's.
            drop_last: leave out the last batch if it is not full; False, or the profile's.
            collate_fn: makes a batch from a list of samples; slow, since it takes rows one by one.
            seed: makes the order repeatable; None draws a seed for the loader, which
                `torch.manual_seed` makes repeatable, or means 0 with a rank.
            rank: load only this process's share, one of `world_size` equal shares; up to
                `world_size - 1` rows of each epoch are left out. Wrappers that shard by themselves
                (Accelerate, Lightning) get all rows or this share, never a share of this share;
                Lightning and Ray Train do not shard streams. Wrappers also get a stream's rows
                shuffled: the loader's `dataset` yields them in the loader's order.
            world_size: the number of ranks.
            shard: `auto` takes rank and world_size from torch.distributed, or loads all rows if
                no process group was initialised.

        Raises:
            InputError: a value that is not allowed, a dataset of another kind, more ranks than
                rows, or with drop_last a batch_size larger than the number of rows.
        """
        from .pytorch.datasets import ParquetDataset, StreamingParquetDataset
        from .pytorch.feed import FeedDataLoader
        from .pytorch.samplers import process_group_shard

        if not isinstance(dataset, ParquetDataset | StreamingParquetDataset):
            raise InputError(
                f"dataset is a {type(dataset).__name__}; make a ParquetDataset or a "
                "StreamingParquetDataset, or use torch's own DataLoader"
            )
        settings = with_changes(
            self._settings, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed
        )
        return FeedDataLoader(
            dataset,
            settings,
            collate_fn=collate_fn,
            shard=Shard.chosen(rank, world_size, shard, process_group_shard),
            persistent_workers=self.persistent_workers,
        )

    @staticmethod
    def to_device(dataloader: Iterable[Any], device: str | torch.device) -> DeviceLoader:
        """A loader's batches on a device; on CUDA they are copied ahead on a side stream.

        Copies go through page-locked buffers that are reused, so `pin_memory` is not needed. Rows
        of `create_dataloader` are copied one chunk at a time and cut into batches on the device;
        holding a batch keeps its chunk there. A chunk of rows in memory has up to 8 MiB, with one
        buffer per worker and per chunk of `prefetch`; a chunk of files is the rows decoded at once.
        A batch is ready for the stream that is current when it is yielded.

        Args:
            dataloader: yields tensors, or tuples or lists of tensors, such as `create_dataloader`
                returns; other batches are moved one by one, not ahead.
            device: the target device; `cpu` passes batches on unchanged.

        Raises:
            InputError: no such device, or CUDA that torch does not have.
        """
        from .pytorch.device import DeviceLoader

        return DeviceLoader(dataloader, device)

    def _frame_reader(self, max_workers: int | None) -> FrameReader:
        """The reader for this number of threads, reused since it remembers its warnings."""
        from .base.schedule import ThreadScheduler
        from .frames.reader import FrameReader

        if max_workers is not None:
            check_count("max_workers", max_workers, 0)
        workers = self._settings.num_workers if max_workers is None else max_workers
        if workers not in self._readers:
            self._readers[workers] = FrameReader(
                ThreadScheduler(workers, self._settings.prefetch),
                cache=self._cache,
                dtype_backend=self._settings.dtype_backend,
                decoder=self._settings.decoder,
                requests=self._settings.requests,
            )
        return self._readers[workers]
