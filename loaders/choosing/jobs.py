"""The jobs of one loader: settings, and the readers, caches and promises made for those."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base.settings import LoaderSettings
from ..caching.base import FileCache
from ..caching.tiers import make_cache
from ..frames.reader import FrameReader, OnError, SchemaRule
from ..remote.urls import RemotePath, is_url
from .backend import FrameLoader, Paths
from .profile import Job
from .promise import EpochWatch, Promise, Promises
from .resolution import Overrides, Resolution, TrustedProfile, resolve

RESOLVED = 1000  # resolved settings that a loader remembers


class Jobs:
    """Resolves the settings of each job, and makes each reader and cache once.

    Args:
        base_dir: the storage folder, which has a subfolder per data type.
        overrides: the settings that the user chose.
        trusted: the profile.
        schema: how readers treat files whose columns differ.
        on_error: how readers treat files that cannot be read.
    """

    def __init__(
        self,
        base_dir: Path | RemotePath,
        overrides: Overrides,
        trusted: TrustedProfile,
        schema: SchemaRule,
        on_error: OnError,
    ) -> None:
        self._base_dir = base_dir
        self._overrides = overrides
        self._trusted = trusted
        self._schema: SchemaRule = schema
        self._on_error: OnError = on_error
        self._promises = Promises(trusted.retune)
        self._resolved: dict[tuple[Job, str | None, int | None], Resolution] = {}
        self._readers: dict[LoaderSettings, FrameLoader] = {}
        self._caches: dict[tuple[str, int | None], FileCache | None] = {}

    def resolve(
        self, job: Job, data_type: str | None = None, files: int | None = None
    ) -> Resolution:
        """The settings of a job.

        Args:
            job: `frame`, `batches` or `stream`.
            data_type: the data type; None means the tuned one with the most bytes.
            files: number of files; None means the largest number that was measured.
        """
        load = job, data_type, files
        if load not in self._resolved:  # resolving checks CPUs and packages, which takes 0.7 ms
            if len(self._resolved) >= RESOLVED:
                self._resolved.clear()
            self._resolved[load] = resolve(self._overrides, self._trusted, *load)
        return self._resolved[load]

    def resolve_for(self, job: Job, files: Paths) -> Resolution:
        """The settings of a job for these files."""
        return self.resolve(job, self._data_type(files), len(files))

    def _data_type(self, files: Paths) -> str | None:
        """The data type of files, from the first one's path."""
        if not files:
            return None
        first = os.fspath(files[0])
        if is_url(first):
            inside = first.startswith(f"{self._base_dir}/")
            return first[len(str(self._base_dir)) + 1 :].partition("/")[0] if inside else None
        try:
            path = Path(first).absolute().relative_to(Path(self._base_dir).absolute())
        except ValueError:
            return None
        return path.parts[0] if path.parts else None

    def explain(self, job: Job) -> list[str]:
        """Sentences on a job's backend and settings, where they come from, and anything ignored."""
        notes = list(self.resolve(job).notes)
        if job == "frame" and self._overrides.settings is None:
            notes += filter(None, [self._trusted.untuned("batches")])
        if job == "frame":
            notes += self._read_by_pandas()
        return notes

    def _read_by_pandas(self) -> Iterator[str]:
        """Sentences on the files that pandas read since the loader was made, one per reason."""
        counts: Counter[str] = Counter()
        for reader in self._readers.values():
            if isinstance(reader, FrameReader):
                counts += reader.by_pandas
        for reason, count in counts.most_common():
            files = "1 file" if count == 1 else f"{count:,} files"
            yield f"Read by pandas, one by one, and not cached: {files}, since {reason}."

    def reader(self, job: Resolution) -> FrameLoader:
        """The reader for a job's settings."""
        if job.settings not in self._readers:
            self._readers[job.settings] = job.backend.frame(
                job.settings, self.cache(job.settings), self._schema, self._on_error
            )
        return self._readers[job.settings]

    def cache(self, settings: LoaderSettings) -> FileCache | None:
        """The cache for settings, which readers share; None if they use none."""
        key = settings.cache, settings.cache_bytes
        if key not in self._caches:
            self._caches[key] = make_cache(settings.cache, max_bytes=settings.cache_bytes)
        return self._caches[key]

    def caches(self) -> list[FileCache]:
        """All caches in use."""
        return [cache for cache in self._caches.values() if cache is not None]

    def promise(
        self, job: Resolution, files: Paths, columns: Sequence[str] | None
    ) -> Promise | None:
        """The measured rate to compare a load with; None if the profile has none for it."""
        return self._promises.of(job.entry, self._data_type(files), columns)

    def watch(
        self,
        batches: Any,
        job: Resolution,
        settings: LoaderSettings,
        files: Paths,
        columns: Sequence[str],
    ) -> None:
        """Compare epochs with the measured rate, if they use the job's settings unchanged."""
        if hasattr(batches, "watch") and settings == job.settings:
            promise = self.promise(job, files, columns)
            batches.watch = None if promise is None else EpochWatch(promise)

    def promises(self) -> dict[str, list[dict[str, Any]]]:
        """Measured and actual rates by job, for each data type and band of file counts."""
        return self._promises.figures()

    def clear_caches(self) -> None:
        """Forget all files in memory; the disk cache stays, since other processes use it."""
        for (kind, _), cache in self._caches.items():
            if cache is not None and kind != "disk":
                cache.clear()

    def close(self) -> None:
        """Release memory and threads; readers and caches are made again when needed."""
        self.clear_caches()
        self._readers.clear()
        self._caches.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Readers hold caches and pools of this process; a copy in another one makes its own.
        return {**self.__dict__, "_readers": {}, "_caches": {}}
