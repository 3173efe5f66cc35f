"""Drop-in replacement for the original loader: same methods and results, tuned settings."""

from __future__ import annotations

import copy
import datetime as dt
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from .base.errors import ColumnError, FeedrateError, InputError
from .base.settings import Decoder, LoaderSettings, with_changes
from .base.stages import stage
from .caching.base import Closing
from .choosing.jobs import Jobs
from .choosing.profile import Job, Profile
from .choosing.registry import get_backend
from .choosing.resolution import (
    Described,
    Overrides,
    ProfileChoice,
    as_cache,
    as_prefetch,
    trusted_profile,
)
from .frames.reader import FrameReader, OnError, SchemaRule, check_rules
from .historical_loader import DATE_COLUMN, HistoricalDataLoader, Paths
from .parquet.dataset import describe
from .parquet.filters import Filters, RowFilter, takes_no_filters
from .parquet.footers import Footer
from .parquet.pruning import Pruner
from .parquet.reader import path_names
from .remote.requests import counts
from .storage import ParquetStorage
from .training.matrix import Columns
from .training.spans import CHUNK_ROWS, find_spans, one_or_more_paths


class OptimizedHistoricalDataLoader(HistoricalDataLoader, Closing):
    """Load the same frames as `HistoricalDataLoader`, dtypes included, with the fastest settings.

    Each setting comes from the keyword if given, else from `settings`, else from the trusted
    profile, else from the defaults.

    Args:
        storage: where the files are; a folder means `ParquetStorage(folder)`.
        loader_type: `auto`, `tensorflow`, `pytorch`, `original` or a registered backend.
        num_workers: workers that read and decode; 0 uses the caller's thread.
        enable_prefetch: True for 2, False for 0, or a number.
        enable_cache: True for `memory`, False for `none`, or a tier's name.
        decoder: `auto` lets polars decode where it is faster; `arrow` rejects every damaged page
            that pandas rejects.
        settings: all settings at once.
        profile: a profile or its path; `auto` looks in FEEDRATE_PROFILE, next to the data and in
            the user's store; None uses no profile.
        on_error: `raise` on an unreadable file, or `skip` it; `stats()` and the log list skipped
            files.
        schema: `concat` combines differing columns as pandas does and warns once per column;
            `strict` raises an error if columns differ.

    Raises:
        MissingBackendError: a backend requested by name is not installed.
        InputError: an unknown backend or a value that is not allowed.
        DocumentError: a named profile cannot be used.
    """

    def __init__(
        self,
        storage: ParquetStorage | str | os.PathLike[str],
        loader_type: str = "auto",
        num_workers: int | None = None,
        enable_prefetch: bool | int | None = None,
        enable_cache: bool | str | None = None,
        *,
        decoder: Decoder | None = None,
        settings: LoaderSettings | None = None,
        profile: ProfileChoice = "auto",
        on_error: OnError = "raise",
        schema: SchemaRule = "concat",
    ) -> None:
        super().__init__(storage)
        overrides = Overrides(
            backend=loader_type,
            settings=settings,
            num_workers=num_workers,
            prefetch=as_prefetch(enable_prefetch),
            cache=as_cache(enable_cache),
            decoder=decoder,
        )
        check_rules(schema, on_error)
        if ":" in loader_type:  # imported now, so that a profile may name it, too
            get_backend(loader_type)
        retune = f"feedrate tune {self.storage.base_dir}"
        trusted = trusted_profile(
            profile, self.storage.base_dir, lambda found: _describe(self.storage, found), retune
        )
        self._jobs = Jobs(self.storage.base_dir, overrides, trusted, schema, on_error)
        self._frame_job = self._jobs.resolve("frame")
        self._stats: dict[str, Any] = {"loads": 0, "files": 0, "rows": 0, "seconds": 0.0}
        self._skipped: dict[str, str] = {}
        self._counted = counts()
        self._pruner = Pruner(DATE_COLUMN, self.settings.dtype_backend, self.settings.requests)

    @property
    def active_backend(self) -> str:
        """The backend that loads frames."""
        return self._frame_job.backend.name

    @property
    def settings(self) -> LoaderSettings:
        """The settings for frames, when all files of a data type are loaded."""
        return self._frame_job.settings

    def settings_for(
        self, job: Job, data_type: str | None = None, files: int | None = None
    ) -> LoaderSettings:
        """The settings used for a job.

        Args:
            job: `frame`, `batches` or `stream`.
            data_type: the data type; None means the tuned one with the most bytes.
            files: number of files; None means the largest number that was measured.
        """
        return self._jobs.resolve(job, data_type, files).settings

    def explain(self, job: Job = "frame") -> str:
        """Explain a job's backend and settings, where they come from, and anything ignored.

        For the frame job, also say if the profile has no entry for `batches`, which would then
        use defaults.

        Args:
            job: `frame`, `batches` or `stream`.
        """
        return "\n".join(self._jobs.explain(job))

    def stats(self) -> dict[str, Any]:
        """Figures since the loader was made.

        Returns:
            loads, files, rows, seconds, rows_per_s, cache_hits, cache_misses; skipped: the files
            that were left out, with the reason for each; and promises: for each job that uses
            the profile, the measured rate, the median rate of the latest five loads or epochs,
            the share of time spent waiting, and whether the measured rate was kept.
            TensorFlow makes its batches itself, so they are not measured. requests: those of
            this process to object stores, as `loaders.remote.requests.Counts`.
        """
        caches = self._jobs.caches()
        seconds = self._stats["seconds"]
        return {
            **self._stats,
            "rows_per_s": self._stats["rows"] / seconds if seconds else None,
            "cache_hits": sum(cache.hits for cache in caches),
            "cache_misses": sum(cache.misses for cache in caches),
            "skipped": dict(self._skipped),
            "promises": self._jobs.promises(),
            "requests": counts().since(self._counted)._asdict(),
        }

    def load_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        columns: Sequence[str] | None = None,
        filters: Filters | None = None,
    ) -> pd.DataFrame:
        """The rows of files, in the order given.

        Args:
            paths: Parquet files.
            columns: columns to load, in this order; all by default.
            filters: rows to keep, in the form that `pandas.read_parquet` takes. Files whose
                statistics rule out such rows are not read; no cache is used.

        Returns:
            A frame equal to the original's; the caller may change it.

        Raises:
            ColumnError: a column that no file has, or a filter column that some file lacks.
            InputError: a single path instead of several, or invalid filters.
            ParquetFileError: a file that cannot be read, unless `on_error='skip'`.
            SchemaError: files whose columns differ, with `schema='strict'`.
        """
        return self._load(path_names(paths, "the files"), columns, row_filter=RowFilter.of(filters))

    def _logs_within(self, files: Paths, start: str, end: str) -> tuple[pd.DataFrame, int]:
        reader = self._jobs.reader(self._jobs.resolve_for("frame", files))
        if not isinstance(reader, FrameReader) or not reader.prunes:
            return super()._logs_within(files, start, end)
        days = (dt.datetime.strptime(day, "%Y%m%d").date() for day in (start, end))  # noqa: DTZ007 - days have no zone
        planning_start = time.perf_counter()
        with stage("plan"):
            has_cache = reader.cache is not None
            kept = self._pruner.within(
                [os.fspath(path) for path in files], *days, whole_pays=has_cache
            )
        planning_s = time.perf_counter() - planning_start
        logs = self._load(kept.paths, None, kept.footers, planning_s)
        skipped = {error.path for error in reader.skipped} & kept.footers.keys()
        rows = kept.rows - sum(kept.footers[path].rows for path in skipped)
        return logs, max(0, rows - len(logs))

    def _load(
        self,
        files: Sequence[str | os.PathLike[str]],
        columns: Sequence[str] | None,
        footers: Mapping[str, Footer] | None = None,
        planning_s: float = 0.0,
        row_filter: RowFilter | None = None,
    ) -> pd.DataFrame:
        """Like `load_files`, given footers already read and the seconds that this took."""
        job = self._jobs.resolve_for("frame", files)
        reader = self._jobs.reader(job)
        cache = self._jobs.cache(job.settings)
        misses = cache.misses if cache is not None else 0
        start = time.perf_counter()
        if isinstance(reader, FrameReader):
            frame = reader.load(files, columns, footers, row_filter)
        elif row_filter is None:
            frame = reader.load(files, columns)
        else:
            raise takes_no_filters(job.backend.name)
        seconds = planning_s + time.perf_counter() - start
        promise = self._jobs.promise(job, files, columns)
        if promise is not None and row_filter is None:
            is_first = cache is None or cache.misses > misses
            promise.note(len(frame), seconds, first=is_first)
        self._stats["seconds"] += seconds
        self._stats["loads"] += 1
        self._stats["files"] += len(files)
        self._stats["rows"] += len(frame)
        self._skipped.update((error.path, error.reason) for error in reader.skipped)
        return frame

    def batches(
        self,
        data_or_paths: pd.DataFrame | str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        feature_columns: Sequence[str],
        target_column: str | None = None,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        seed: int | None = None,
        null_value: float = 0.0,
        filters: Filters | None = None,
    ) -> Iterable[Any]:
        """Training batches of a frame, or of files that fit in memory.

        Args:
            data_or_paths: a frame, one path or several.
            feature_columns: numeric or boolean columns.
            target_column: the target; None yields features only.
            batch_size: rows per batch; like the next three, by default from the settings.
            shuffle: a new order of all rows in each epoch.
            drop_last: leave out the last batch if it is not full.
            seed: makes the order repeatable.
            null_value: replaces NaN and null.
            filters: rows of files to keep, in the form that `pandas.read_parquet` takes; filter
                columns need not be features.

        Returns:
            A `torch.utils.data.DataLoader` or a `tf.data.Dataset`, as the backend's training
            takes; with the original backend, the plain idiom; with ray, an iterable. Each
            iteration is one epoch of `(X, y)` (or `X`), float32 of shape (batch, features) and
            (batch,).

        Raises:
            ColumnError: a column that is missing or not numeric.
            InputError: a batch size below 1, invalid filters, or filters given with a frame.
        """
        columns = Columns.of(feature_columns, target_column, null_value)
        if filters is not None and isinstance(data_or_paths, pd.DataFrame):
            raise InputError(
                f"filters {filters!r} are for files; select rows of a frame by frame[condition]"
            )
        frame, files = None, list[str]()
        if isinstance(data_or_paths, pd.DataFrame):
            frame = data_or_paths
            job = self._jobs.resolve("batches")
        else:
            files = one_or_more_paths(data_or_paths)
            job = self._jobs.resolve_for("batches", files)
        settings = with_changes(
            job.settings, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed
        )
        if frame is None and job.backend.batches_of_files is not None:
            return job.backend.batches_of_files(settings, files, columns, filters)
        if frame is None:
            frame = self.load_files(files, columns.names, filters)
        try:
            batches = job.backend.batches(settings, frame, columns)
        except ColumnError:
            _check_training(files, columns, self._skipped)
            raise
        self._jobs.watch(batches, job, settings, files, columns.features)
        return batches

    def stream(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        feature_columns: Sequence[str],
        target_column: str | None = None,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        seed: int | None = None,
        shuffle_window: int | None = None,
        null_value: float = 0.0,
        filters: Filters | None = None,
    ) -> Iterable[Any]:
        """Training batches of files larger than memory, which are read again in each epoch.

        Args:
            paths: Parquet files, one path or several.
            feature_columns: numeric or boolean columns.
            target_column: the target; None yields features only.
            batch_size: rows per batch; like the next four, by default from the settings.
            shuffle: a new order in each epoch, of files and of the rows within each window.
            drop_last: leave out the last batch if it is not full; with the original backend, the
                last batch of each file.
            seed: makes the order repeatable.
            shuffle_window: number of files, or parts of large ones, whose rows are shuffled
                together; the original backend shuffles each file separately.
            null_value: replaces NaN and null.
            filters: rows of files to keep, in the form that `pandas.read_parquet` takes; filter
                columns need not be features. pytorch and tensorflow count the rows beforehand.

        Returns:
            A `torch.utils.data.DataLoader` or a `tf.data.Dataset`, as the backend's training
            takes; with the original backend, numpy arrays; with ray, an iterable. Each
            iteration is one epoch of `(X, y)` (or `X`), float32 of shape (batch, features) and
            (batch,).

        Raises:
            ColumnError: a column that no file has, or that is not numeric.
            InputError: no files, a batch size or a window below 1, or invalid filters.
            ParquetFileError: a file that cannot be read; `on_error='skip'` is for frames only.
        """
        columns = Columns.of(feature_columns, target_column, null_value)
        files = one_or_more_paths(paths)
        job = self._jobs.resolve_for("stream", files)
        settings = with_changes(
            job.settings,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            shuffle_window=shuffle_window,
        )
        batches = job.backend.stream(settings, files, columns, filters)
        self._jobs.watch(batches, job, settings, files, columns.features)
        return batches

    def clear_cache(self) -> None:
        """Forget all files that this loader keeps in memory.

        Frames already returned do not change. Other processes use the disk cache: clear it with
        `feedrate cache clear`.
        """
        self._jobs.clear_caches()

    def close(self) -> None:
        """Release memory and threads; the loader can be used again, and then starts empty."""
        self._jobs.close()

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own readers, caches and pruner.
        pruner = Pruner(DATE_COLUMN, self.settings.dtype_backend, self.settings.requests)
        return {**self.__dict__, "_jobs": copy.copy(self._jobs), "_pruner": pruner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _counted=counts())  # another process counts its own


def _check_training(
    files: Sequence[str | os.PathLike[str]], columns: Columns, skipped: Collection[str]
) -> None:
    """Raise the `ColumnError` that names the files: in their frame, such columns hold objects."""
    paths = [os.fspath(path) for path in files if os.fspath(path) not in skipped]
    if paths:
        find_spans(paths, columns, CHUNK_ROWS)


def _describe(storage: ParquetStorage, profile: Profile) -> Described:
    """Fingerprint the profile's data types in a storage; all data types if it has none of them."""
    datasets, problems = [], []
    try:
        data_types = storage.data_types()
    except FeedrateError as error:
        return Described(problems=[str(error)])
    measured = {dataset.data_type for dataset in profile.datasets}
    for name in [name for name in data_types if name in measured] or data_types:
        try:
            if files := storage.files(name):
                datasets.append(describe(files, name, storage.base_dir / name))
        except FeedrateError as error:
            problems.append(str(error))
    return Described(datasets, problems)
