"""A backend: the module it needs, the settings it uses, and the builders of its jobs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import pandas as pd

from ..base.errors import ParquetFileError, not_installed
from ..base.machine import is_installed
from ..base.schedule import Scheduler, ThreadScheduler
from ..base.settings import DEFAULT_BATCH_SIZE, REQUESTS, LoaderSettings
from ..caching.base import FileCache
from ..frames.reader import FrameReader, OnError, SchemaRule
from ..parquet.filters import Filters
from ..training.matrix import Columns

Paths = Sequence[str | os.PathLike[str]]

# Settings that define the batches rather than how they are made: every training job uses them.
TRAINING = frozenset({"batch_size", "shuffle", "drop_last", "seed"})


class FrameLoader(Protocol):
    """Loads files as one frame."""

    @property
    def skipped(self) -> list[ParquetFileError]:
        """Files left out by the latest `load`."""
        ...

    def load(
        self, paths: Iterable[str | os.PathLike[str]], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The files' rows, in the order given."""
        ...


class BuildFrame(Protocol):
    """Builds a backend's frame job."""

    def __call__(
        self,
        settings: LoaderSettings,
        cache: FileCache | None,
        schema: SchemaRule,
        on_error: OnError,
    ) -> FrameLoader:
        """A loader that uses `settings`."""
        ...


class BuildBatches(Protocol):
    """Builds a backend's batches job."""

    def __call__(
        self, settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
    ) -> Iterable[Any]:
        """An iterable; each iteration is one epoch of `(X, y)` batches, or `X`."""
        ...


class BuildStream(Protocol):
    """Builds a backend's stream job."""

    def __call__(
        self,
        settings: LoaderSettings,
        paths: Paths,
        columns: Columns,
        filters: Filters | None = None,
    ) -> Iterable[Any]:
        """An iterable; each iteration is one epoch of `(X, y)` batches, or `X`."""
        ...


@dataclass(frozen=True)
class Backend:
    """An implementation of every job."""

    name: str
    frame: BuildFrame
    batches: BuildBatches
    stream: BuildStream
    uses: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Per job, the fields of `LoaderSettings` it uses; others are ignored."""
    prefetch_needs_workers: bool = False
    """Whether prefetching needs workers."""
    module: str | None = None
    """The module that must be installed."""
    extra: str | None = None
    """The extra of feedrate that installs it."""
    batches_of_files: BuildStream | None = None
    """Builds the batches job of files, for a backend that cannot make batches of a frame."""
    is_custom: bool = False
    """Whether it is a custom loader."""
    is_foreign: bool = False
    """Whether its rows come by code that is not feedrate's, which records no stages."""

    @property
    def installed(self) -> bool:
        """Whether the module it needs is installed; the module is not imported."""
        return self.module is None or is_installed(self.module)

    def require(self) -> None:
        """Raise `MissingBackendError` if the module it needs is not installed."""
        if not self.installed:
            raise not_installed(self.name, str(self.module), str(self.extra))

    def reading_by_threads(self) -> Backend:
        """The same backend, but threads read frames, which imports no framework.

        `original` stays unchanged, and so does a backend that already reads frames this way.
        """
        if self.name == "original":
            return self
        return dataclasses.replace(self, frame=threaded_frame)

    def normalized_for(self, job: str, settings: LoaderSettings) -> LoaderSettings:
        """`settings` for this backend; fields that it ignores in `job` get their idle values."""
        uses = self.uses.get(job, frozenset())
        idle = {name: value for name, value in IDLE.items() if name not in uses}
        if self.prefetch_needs_workers and settings.num_workers == 0:
            idle["prefetch"] = IDLE["prefetch"]
        return msgspec.structs.replace(settings, backend=self.name, **idle)


# The idle value ("not used") of each field that a backend may ignore.
IDLE: dict[str, Any] = {
    "num_workers": 0,
    "worker_kind": "thread",
    "prefetch": 0,
    "requests": REQUESTS,
    "cache": "none",
    "cache_bytes": None,
    "shuffle_window": 1,
    "pin_memory": False,
    "dtype_backend": "numpy",
    "decoder": "auto",
    "batch_size": DEFAULT_BATCH_SIZE,
    "shuffle": True,
    "drop_last": False,
    "seed": None,
}


def frame_reader(
    scheduler: Scheduler,
    settings: LoaderSettings,
    cache: FileCache | None,
    schema: SchemaRule,
    on_error: OnError,
) -> FrameLoader:
    """A reader of frames that decodes files by a scheduler."""
    return FrameReader(
        scheduler,
        cache=cache,
        schema=schema,
        on_error=on_error,
        dtype_backend=settings.dtype_backend,
        decoder=settings.decoder,
        requests=settings.requests,
    )


def threaded_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    """Read frames by threads, which needs no framework."""
    scheduler = ThreadScheduler(settings.num_workers, settings.prefetch)
    return frame_reader(scheduler, settings, cache, schema, on_error)
