"""Drop-in replacement for the original loader: same methods and results, tuned backend."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .base.errors import ColumnError, FeedrateError, InputError
from .base.settings import Decoder, LoaderSettings, with_changes
from .base.stages import stage
from .caching.base import Closing, FileCache
from .caching.tiers import make_cache
from .choosing.backend import FrameLoader
from .choosing.profile import Job, Profile
from .choosing.promise import EpochWatch, Promises
from .choosing.registry import get_backend
from .choosing.resolution import (
    Described,
    Overrides,
    ProfileChoice,
    Resolution,
    as_cache,
    as_prefetch,
    resolve,
    trusted_profile,
)
from .frames.reader import FrameReader, OnError, SchemaRule, check_rules
from .historical_loader import DATE_COLUMN, HistoricalDataLoader
from .parquet.dataset import describe
from .parquet.filters import Filters, RowFilter, takes_no_filters
from .parquet.footers import Footer
from .parquet.pruning import Pruner
from .parquet.reader import path_names
from .storage import ParquetStorage
from .training.matrix import Columns
from .training.spans import CHUNK_ROWS, find_spans, one_or_more_paths

RESOLVED = 1000  # resolved settings that a loader remembers


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
        self._wishes = Overrides(
            backend=loader_type,
            settings=settings,
            num_workers=num_workers,
            prefetch=as_prefetch(enable_prefetch),
            cache=as_cache(enable_cache),
            decoder=decoder,
        )
        check_rules(schema, on_error)
        self._on_error: OnError = on_error
        self._schema: SchemaRule = schema
        if ":" in loader_type:  # the caller named it, so a profile may name it, too
            get_backend(loader_type)
        retune = f"feedrate tune {self.storage.base_dir}"
        self._trusted = trusted_profile(
            profile, self.storage.base_dir, lambda found: _described(self.storage, found), retune
        )
        self._resolved: dict[tuple[Job, str | None, int | None], Resolution] = {}
        self._frame_job = self._resolve("frame")
        self._loaders: dict[LoaderSettings, FrameLoader] = {}
        self._caches: dict[tuple[str, int | None], FileCache | None] = {}
        self._stats: dict[str, Any] = {"loads": 0, "files": 0, "rows": 0, "seconds": 0.0}
        self._skipped: dict[str, str] = {}
        self._promises = Promises(retune)
        self._pruner = Pruner(DATE_COLUMN, self.settings.dtype_backend)

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
        return self._resolve(job, data_type, files).settings

    def explain(self, job: Job = "frame") -> str:
        """Explain a job's backend and settings, where they come from, and anything ignored.

        For the frame job, also say if the profile has no entry for `batches`, which would then
        use defaults.

        Args:
            job: `frame`, `batches` or `stream`.
        """
        told = list(self._resolve(job).told)
        if job == "frame" and self._wishes.settings is None:
            told += filter(None, [self._trusted.untuned("batches")])
        if job == "frame":
            told += self._read_by_pandas()
        return "\n".join(told)

    def _read_by_pandas(self) -> Iterator[str]:
        """Sentences on the files that pandas read since the loader was made, one per reason."""
        found: Counter[str] = Counter()
        for loader in self._loaders.values():
            if isinstance(loader, FrameReader):
                found += loader.by_pandas
        for why, count in found.most_common():
            files = "1 file" if count == 1 else f"{count:,} files"
            yield f"Read by pandas, one by one, and not cached: {files}, since {why}."

    def stats(self) -> dict[str, Any]:
        """Live figures since the loader was made.

        Returns:
            loads, files, rows, seconds, rows_per_s, cache_hits, cache_misses; skipped: the files
            that were left out, with the reason for each; and promises: for each job that uses
            the profile, the measured rate, the median rate of the latest five loads or epochs,
            the share of time spent waiting, and whether the measured rate was kept.
            TensorFlow's batches are made within TensorFlow, so they are not measured.
        """
        caches = [cache for cache in self._caches.values() if cache is not None]
        seconds = self._stats["seconds"]
        return {
            **self._stats,
            "rows_per_s": self._stats["rows"] / seconds if seconds else None,
            "cache_hits": sum(cache.hits for cache in caches),
            "cache_misses": sum(cache.misses for cache in caches),
            "skipped": dict(self._skipped),
            "promises": self._promises.figures(),
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

    def _logs_within(self, files: Sequence[Path], start: str, end: str) -> tuple[pd.DataFrame, int]:
        job = self._resolve("frame", self._type_of(files), len(files))
        loader = self._frame_loader(job)
        if not isinstance(loader, FrameReader) or not loader.prunes:
            return super()._logs_within(files, start, end)
        days = (dt.datetime.strptime(day, "%Y%m%d").date() for day in (start, end))  # noqa: DTZ007 - days have no zone
        began = time.perf_counter()
        with stage("plan"):
            keeps = loader.cache is not None
            kept = self._pruner.within(map(os.fspath, files), *days, whole_pays=keeps)
        planned = time.perf_counter() - began
        logs = self._load(kept.paths, None, kept.footers, planned)
        skipped = {error.path for error in loader.skipped} & kept.footers.keys()
        read = kept.rows - sum(kept.footers[path].rows for path in skipped)
        return logs, max(0, read - len(logs))

    def _load(
        self,
        files: Sequence[str | os.PathLike[str]],
        columns: Sequence[str] | None,
        footers: Mapping[str, Footer] | None = None,
        planned: float = 0.0,
        row_filter: RowFilter | None = None,
    ) -> pd.DataFrame:
        """Like `load_files`, given footers already read and the seconds that this took."""
        job = self._resolve("frame", self._type_of(files), len(files))
        loader = self._frame_loader(job)
        cache = self._cache_of(job.settings)
        missed = cache.misses if cache is not None else 0
        start = time.perf_counter()
        if isinstance(loader, FrameReader):
            frame = loader.load(files, columns, footers, row_filter)
        elif row_filter is None:
            frame = loader.load(files, columns)
        else:
            raise takes_no_filters(job.backend.name)
        seconds = planned + time.perf_counter() - start
        promise = self._promises.of(job.entry, self._type_of(files), columns)
        if promise is not None and row_filter is None:
            first = cache is None or cache.misses > missed
            promise.note(len(frame), seconds, first=first)
        self._stats["seconds"] += seconds
        self._stats["loads"] += 1
        self._stats["files"] += len(files)
        self._stats["rows"] += len(frame)
        self._skipped.update((error.path, error.reason) for error in loader.skipped)
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
            takes; with the original backend, the plain idiom. Each iteration is one epoch of
            `(X, y)` (or `X`), float32 of shape (batch, features) and (batch,).

        Raises:
            ColumnError: a column that is missing or not numeric.
            InputError: a batch size below 1, invalid filters, or filters given with a frame.
        """
        columns = Columns.of(feature_columns, target_column, null_value)
        if filters is not None and isinstance(data_or_paths, pd.DataFrame):
            raise InputError(
                f"filters {filters!r} are for files; of a frame take rows by frame[condition]"
            )
        frame, files = None, list[str | os.PathLike[str]]()
        if isinstance(data_or_paths, pd.DataFrame):
            frame = data_or_paths
        else:
            files = list(one_or_more_paths(data_or_paths))
        count = len(files) if frame is None else None
        job = self._resolve("batches", self._type_of(files), count)
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
        self._watch(batches, job, settings, files, columns)
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
            takes; with the original backend, numpy arrays. Each iteration is one epoch of
            `(X, y)` (or `X`), float32 of shape (batch, features) and (batch,).

        Raises:
            ColumnError: a column that no file has, or that is not numeric.
            InputError: no files, a batch size or a window below 1, or invalid filters.
            ParquetFileError: a file that cannot be read; `on_error='skip'` is for frames only.
        """
        columns = Columns.of(feature_columns, target_column, null_value)
        files = one_or_more_paths(paths)
        job = self._resolve("stream", self._type_of(files), len(files))
        settings = with_changes(
            job.settings,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            shuffle_window=shuffle_window,
        )
        batches = job.backend.stream(settings, files, columns, filters)
        self._watch(batches, job, settings, files, columns)
        return batches

    def _watch(
        self,
        batches: Any,
        job: Resolution,
        settings: LoaderSettings,
        files: Sequence[str | os.PathLike[str]],
        columns: Columns,
    ) -> None:
        """Compare epochs with the profile's measured rates, if they use the resolved settings."""
        if hasattr(batches, "watch") and settings == job.settings:
            promise = self._promises.of(job.entry, self._type_of(files), columns.features)
            batches.watch = None if promise is None else EpochWatch(promise)

    def _resolve(
        self, job: Job, data_type: str | None = None, files: int | None = None
    ) -> Resolution:
        asked = job, data_type, files
        if asked not in self._resolved:  # resolving checks CPUs and packages, which takes 0.7 ms
            if len(self._resolved) >= RESOLVED:
                self._resolved.clear()
            self._resolved[asked] = resolve(self._wishes, self._trusted, *asked)
        return self._resolved[asked]

    def _frame_loader(self, job: Resolution) -> FrameLoader:
        """The loader for a job's settings, made once; loaders share caches."""
        if job.settings not in self._loaders:
            self._loaders[job.settings] = job.backend.frame(
                job.settings, self._cache_of(job.settings), self._schema, self._on_error
            )
        return self._loaders[job.settings]

    def _cache_of(self, settings: LoaderSettings) -> FileCache | None:
        known = settings.cache, settings.cache_bytes
        if known not in self._caches:
            self._caches[known] = make_cache(settings.cache, max_bytes=settings.cache_bytes)
        return self._caches[known]

    def clear_cache(self) -> None:
        """Forget all files that this loader keeps in memory.

        Frames already returned do not change. Other processes use the disk cache: clear it with
        `feedrate cache clear`.
        """
        for (kind, _), cache in self._caches.items():
            if cache is not None and kind != "disk":
                cache.clear()

    def close(self) -> None:
        """Release memory and threads; the loader can be used again, and then starts empty."""
        self.clear_cache()
        self._loaders.clear()
        self._caches.clear()

    def _type_of(self, files: Sequence[str | os.PathLike[str]]) -> str | None:
        """The data type of files, from the first one's path."""
        if not files:
            return None
        try:
            below = Path(files[0]).absolute().relative_to(self.storage.base_dir.absolute())
        except ValueError:
            return None
        return below.parts[0] if below.parts else None

    def __getstate__(self) -> dict[str, Any]:
        # Loaders hold caches and pools of this process; a copy in another one builds its own.
        pruner = Pruner(DATE_COLUMN, self.settings.dtype_backend)
        return {**self.__dict__, "_loaders": {}, "_caches": {}, "_pruner": pruner}


def _check_training(
    files: Sequence[str | os.PathLike[str]], columns: Columns, skipped: Collection[str]
) -> None:
    """Raise the `ColumnError` that names the files whose columns cannot be used for training.

    In the combined frame such a column has become one of objects.
    """
    known = [os.fspath(path) for path in files if os.fspath(path) not in skipped]
    if known:
        find_spans(known, columns, CHUNK_ROWS)


def _described(storage: ParquetStorage, profile: Profile) -> Described:
    """Fingerprints to check a profile with: of its data types, or of all if it has none here."""
    found, problems = [], []
    try:
        here = storage.data_types()
    except FeedrateError as error:
        return Described(problems=[str(error)])
    known = {dataset.data_type for dataset in profile.datasets}
    for name in [name for name in here if name in known] or here:
        try:
            if files := storage.files(name):
                found.append(describe(files, name, storage.base_dir / name))
        except FeedrateError as error:
            problems.append(str(error))
    return Described(found, problems)
