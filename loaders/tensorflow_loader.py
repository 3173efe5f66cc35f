"""Load Parquet for TensorFlow: frames, columns as tensors, and batches to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from .base.errors import not_installed
from .base.machine import is_installed
from .base.settings import Cache, LoaderSettings, check_count, default_workers, with_changes
from .caching.base import HasCache
from .caching.tiers import make_cache
from .choosing.profile import Job
from .choosing.resolution import ProfileChoice, profiled_settings
from .frames.reader import FrameReader, OnError, SchemaRule
from .parquet.filters import Filters
from .tensorflow.ranks import chosen_shard
from .tensorflow.schedule import AUTOTUNE, TfDataScheduler
from .training.epochs import ServiceShard
from .training.matrix import Columns
from .training.spans import Paths, one_or_more_paths

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import DTypeLike

    from .tensorflow.flow import Flow

STREAM_BATCH_SIZE = 1024
AUTOTUNE_PREFETCH = 2


class TensorFlowDataLoader(HasCache):
    """Load files as one frame, or as `tf.data` datasets to inspect or to train on.

    `AUTOTUNE` (-1) means the default number of workers of `LoaderSettings`, and two chunks
    ahead. tf.data's own tuning is off in the datasets: it takes seconds to settle, may hold as
    many files in memory as there are CPUs, and slows small batches down. In a `map` that you add
    to a dataset, `AUTOTUNE` means as many parallel calls as there are workers.

    Args:
        prefetch_buffer_size: files or chunks of rows that are ready ahead.
        num_parallel_reads: files read, or chunks of rows gathered, at a time, in a private thread
            pool of that size; 0 handles one at a time, in a pool of one thread.
        cache: keep decoded rows: True (or `memory`), False (or `none`), or `disk`, which applies
            to frames; datasets of columns are cached in memory only.
        deterministic: False yields files in the order in which they become ready; frames and
            rows in memory always keep their order.
        schema: for frames, `concat` combines differing columns as pandas does; `strict` raises
            an error if columns differ.
        on_error: for frames, `raise`, or `skip` to leave unreadable files out.
        defaults: settings whose batch_size, shuffle, shuffle_window, drop_last, seed and
            dtype_backend are the methods' defaults.

    Raises:
        InputError: a value that is not allowed.
        MissingBackendError: TensorFlow is not installed.
    """

    def __init__(
        self,
        prefetch_buffer_size: int = AUTOTUNE,
        num_parallel_reads: int = AUTOTUNE,
        cache: bool | Cache = True,
        deterministic: bool = True,
        *,
        schema: SchemaRule = "concat",
        on_error: OnError = "raise",
        defaults: LoaderSettings | None = None,
    ) -> None:
        require_tensorflow()
        check_count("prefetch_buffer_size", prefetch_buffer_size, AUTOTUNE)
        check_count("num_parallel_reads", num_parallel_reads, AUTOTUNE)
        self.prefetch_buffer_size = prefetch_buffer_size
        self.num_parallel_reads = num_parallel_reads
        self.deterministic = bool(deterministic)
        self.stream_batch_size = STREAM_BATCH_SIZE if defaults is None else defaults.batch_size
        cache_kinds: dict[bool | Cache, Cache] = {True: "memory", False: "none"}
        self._settings = with_changes(
            LoaderSettings() if defaults is None else defaults,
            backend="tensorflow",
            num_workers=_or_default(num_parallel_reads, default_workers()),
            prefetch=_or_default(prefetch_buffer_size, AUTOTUNE_PREFETCH),
            cache=cache_kinds.get(cache, cache),
        )
        self._cache = make_cache(self._settings.cache, max_bytes=self._settings.cache_bytes)
        self._frame_reader = FrameReader(
            TfDataScheduler(self._settings.num_workers, self._settings.prefetch),
            cache=self._cache,
            schema=schema,
            on_error=on_error,
            dtype_backend=self._settings.dtype_backend,
            decoder=self._settings.decoder,
            requests=self._settings.requests,
        )

    @classmethod
    def from_settings(cls, settings: LoaderSettings) -> TensorFlowDataLoader:
        """Create a loader whose defaults, also in its methods, come from the settings."""
        return cls(settings.prefetch, settings.num_workers, settings.cache, defaults=settings)

    @classmethod
    def from_profile(
        cls,
        profile: ProfileChoice = "auto",
        files: Sequence[str | os.PathLike[str]] | None = None,
        job: Job = "batches",
    ) -> TensorFlowDataLoader:
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
        return cls.from_settings(profiled_settings("tensorflow", profile, files, job))

    @property
    def settings(self) -> LoaderSettings:
        """How files are read, and the defaults for arguments that a method call leaves out."""
        return self._settings

    def load_parquet_to_dataframe_parallel(
        self,
        file_paths: Iterable[str | os.PathLike[str]],
        *,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The rows of files as one frame, in the order given, equal to the original's.

        No GPU is touched; see `TfDataScheduler`.

        Args:
            file_paths: Parquet files.
            columns: columns to load, in this order; all by default.

        Raises:
            ColumnError: a column that no file has.
            ParquetFileError: a file that cannot be read.
            SchemaError: columns that differ between files, with `schema='strict'`.
        """
        return self._frame_reader.load(file_paths, columns)

    def load_parquet_files_parallel(
        self,
        file_paths: Paths,
        batch_size: int | None = None,
        transform_fn: Callable[[dict[str, Any]], Any] | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> tf.data.Dataset:
        """The columns of files as tensors of shape (rows,), in a dict by name.

        Numbers and booleans keep their type; with nulls, integers and booleans become float64
        with NaN. Text becomes `tf.string`, null `b''`. Dates become int64 days since 1970,
        timestamps int64 in the column's own unit; see `tensorflow.columns.TensorColumn`.

        Args:
            file_paths: Parquet files; their footers are read now. Files whose columns or types
                differ from the first file's are rejected.
            batch_size: rows per element, across files; by default an element is a file.
            transform_fn: applied to each dict by `Dataset.map`, after the cache.
            columns: columns to load, in this order; all by default.

        Raises:
            ColumnError: a column that is missing in a file, or is nested.
            InputError: there are no files, or a batch size below 1.
            ParquetFileError: a file whose footer cannot be read. Iterating the dataset in Python
                also raises it if a file breaks or changes later; `model.fit` and TensorFlow
                functions then raise a `tf.errors.OpError` with the same message.
            SchemaError: a column whose type differs between files, or that only some have.
        """
        from .tensorflow.columns import column_elements

        if batch_size is not None:
            check_count("batch_size", batch_size, 1)
        return column_elements(
            one_or_more_paths(file_paths),
            columns,
            batch_size=batch_size,
            transform=transform_fn,
            cache=self._settings.cache == "memory",
            flow=self._flow,
        )

    def create_cached_dataset(
        self,
        data: pd.DataFrame,
        feature_columns: Sequence[str],
        target_column: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        shuffle_buffer_size: int | None = None,
        *,
        drop_last: bool | None = None,
        seed: int | None = None,
        first_epoch: int = 0,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
        rank: int | None = None,
        world_size: int | None = None,
        shard: ServiceShard | None = None,
    ) -> tf.data.Dataset:
        """Batches of a frame's rows for `model.fit`: `(X, y)`, or `X` without a target.

        X is of shape (batch, features); y of shape (batch,), or (batch, targets) for a sequence
        of targets. Each iteration is an epoch: every row once, shuffled anew.

        A distribution strategy shards the dataset by data, never by file, unless the dataset is
        already one rank's share: every `world_size`-th row of an epoch's order. All ranks have
        the same number of batches; rows beyond an equal share, fewer than there are ranks, are
        left out, different ones in each epoch. Without a seed, ranks use seed 0, since they must
        agree. As always with a strategy, `batch_size` counts the rows of all replicas; in a
        function of an InputContext it counts those of one.

        Args:
            data: the rows; they are converted to one matrix now.
            feature_columns: numeric or boolean columns, or times.
            target_column: the target, or several.
            batch_size: rows per batch; 32, or the settings'.
            shuffle: a new order in each epoch; True, or the settings'.
            shuffle_buffer_size: shuffling moves each row by fewer places than this; by default
                all rows are shuffled uniformly.
            drop_last: leave out the last batch if it is not full; False, or the settings'.
            seed: the same seed gives the same epochs in the same order; by default TensorFlow
                draws it, so that `tf.random.set_seed` repeats it.
            first_epoch: the epoch number of the first iteration; each further iteration is the
                next epoch, even after one that stopped early. To resume a run after k epochs,
                give its seed and k.
            null_value: replaces NaN and null.
            dtype: float16, float32 or float64.
            rank: yield only the share of this rank, a number from 0.
            world_size: the number of ranks.
            shard: `auto` takes both from `tf.distribute`: from the current strategy's cluster, or
                from TF_CONFIG, one rank for each worker process. `service` makes the dataset for
                `tf.data.experimental.service.distribute` with `ShardingPolicy.HINT`: its workers
                (at most 16, in this process) divide the rows. Each iteration is then the epoch
                `first_epoch`, and each worker's last batch may be partial.

        Raises:
            ColumnError: a column that is missing or not numeric.
            InputError: a value that is not allowed, more ranks than rows, or with drop_last a
                batch_size larger than the number of rows.
        """
        from .tensorflow.builders import batches

        settings = self._training_settings(batch_size, shuffle, drop_last, seed)
        check_count("first_epoch", first_epoch, 0)
        if shuffle_buffer_size is not None:
            check_count("shuffle_buffer_size", shuffle_buffer_size, 1)
        columns = Columns.of(feature_columns, target_column, null_value, dtype)
        return batches(
            settings,
            data,
            columns,
            chosen_shard(rank, world_size, shard),
            first_epoch=first_epoch,
            shuffle_buffer_size=shuffle_buffer_size,
        )

    def create_streaming_dataset(
        self,
        file_paths: Paths,
        feature_columns: Sequence[str],
        target_column: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        *,
        window: int | None = None,
        drop_last: bool | None = None,
        seed: int | None = None,
        first_epoch: int = 0,
        null_value: float = 0.0,
        dtype: DTypeLike = "float32",
        rank: int | None = None,
        world_size: int | None = None,
        shard: ServiceShard | None = None,
        filters: Filters | None = None,
    ) -> tf.data.Dataset:
        """Batches of files' rows in bounded memory, in the form of `create_cached_dataset`.

        Files are read in parallel, large ones by runs of row groups. With shuffling, each epoch
        has a new order of files, and of the rows within `window` of them. The same seed gives
        the same epochs for any number of workers, if the loader is deterministic. Batches span
        files, so only the last may be partial. A rank gets consecutive rows of an epoch's order,
        so most files are read by one rank alone.

        Args:
            file_paths: Parquet files; their footers are read now.
            feature_columns: numeric or boolean columns, or times; a column that a file lacks is
                null for its rows.
            target_column: the target, or several.
            batch_size: rows per batch; 1024, or the settings'.
            shuffle: a new order in each epoch; True, or the settings'.
            window: number of files, or parts of large files, whose rows are mixed; 1, or the
                settings'.
            drop_last: as in `create_cached_dataset`, like the next seven arguments.
            seed: makes the epochs repeatable.
            first_epoch: the epoch number of the first iteration.
            null_value: replaces NaN and null.
            dtype: float16, float32 or float64.
            rank: yield only the share of this rank.
            world_size: the number of ranks.
            shard: `auto` takes both from `tf.distribute`; `service` as in `create_cached_dataset`.
            filters: rows to keep, in the form that `pandas.read_parquet` takes. Rows are counted
                now, which decodes the filter columns once.

        Raises:
            ColumnError: a column that no file has, or that is not numeric.
            InputError: there are no files, a value that is not allowed, more ranks than rows, or
                with drop_last a batch_size larger than the number of rows.
            ParquetFileError: a file whose footer cannot be read. Iterating the dataset in Python
                also raises it if a file breaks or changes later; `model.fit` and TensorFlow
                functions then raise a `tf.errors.OpError` with the same message.
        """
        from .tensorflow.builders import stream

        settings = self._training_settings(
            self.stream_batch_size if batch_size is None else batch_size,
            shuffle,
            drop_last,
            seed,
            window,
        )
        check_count("first_epoch", first_epoch, 0)
        columns = Columns.of(feature_columns, target_column, null_value, dtype)
        return stream(
            settings,
            file_paths,
            columns,
            filters,
            chosen_shard(rank, world_size, shard),
            first_epoch=first_epoch,
            deterministic=self.deterministic,
        )

    @property
    def _flow(self) -> Flow:
        """How the pipeline of files runs."""
        from .tensorflow.flow import Flow

        return Flow(self._settings.num_workers, self._settings.prefetch, self.deterministic)

    def _training_settings(
        self,
        batch_size: int | None,
        shuffle: bool | None,
        drop_last: bool | None,
        seed: int | None,
        window: int | None = None,
    ) -> LoaderSettings:
        """The settings, with the arguments that a method was given."""
        return with_changes(
            self._settings,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            shuffle_window=window,
        )


def require_tensorflow() -> None:
    """Raise `MissingBackendError` if TensorFlow is not installed, without importing it."""
    if not is_installed("tensorflow"):
        raise not_installed("tensorflow", "tensorflow", "tensorflow")


def _or_default(number: int, default: int) -> int:
    return default if number == AUTOTUNE else number
