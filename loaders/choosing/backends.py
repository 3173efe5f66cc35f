"""The backends: by name, what each needs, which settings it obeys, and how to build its jobs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import pandas as pd

from ..base.errors import InputError, ParquetFileError, not_installed, unknown
from ..base.machine import is_installed
from ..base.schedule import Scheduler, ThreadScheduler
from ..base.settings import DEFAULT_BATCH_SIZE, LoaderSettings
from ..caching.base import FileCache
from ..frames.original_frames import OriginalReader
from ..frames.reader import FrameReader, OnError, SchemaRule
from ..parquet.filters import Filters, RowFilter
from ..training.matrix import Columns
from ..training.original_training import PlainStream, plain_batches

Paths = Sequence[str | os.PathLike[str]]

# What belongs to the work rather than to how it is done: every training job obeys these.
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
        """A loader that works as `settings` say."""
        ...


class BuildBatches(Protocol):
    """Builds a backend's batches job."""

    def __call__(
        self, settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
    ) -> Iterable[Any]:
        """Something that yields `(X, y)` batches, or `X`, each time it is iterated."""
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
        """Something that yields `(X, y)` batches, or `X`, each time it is iterated."""
        ...


@dataclass(frozen=True)
class Backend:
    """One way to do every job."""

    name: str
    frame: BuildFrame
    batches: BuildBatches
    stream: BuildStream
    uses: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Per job, the fields of `LoaderSettings` it obeys; others are dropped."""
    prefetch_needs_workers: bool = False
    """Whether without workers nothing can be ready ahead."""
    module: str | None = None
    """The module that must be installed."""
    extra: str | None = None
    """The extra of feedrate that brings it."""
    batches_of_files: BuildStream | None = None
    """Builds the batches job of files, for a backend that makes no batches of a frame."""
    own: bool = False
    """Whether it is a user's function, which nothing is known of beforehand."""

    @property
    def installed(self) -> bool:
        """Whether what it needs is there, without importing it."""
        return self.module is None or is_installed(self.module)

    def require(self) -> None:
        """Raise `MissingBackendError` where what it needs is not installed."""
        if not self.installed:
            raise not_installed(self.name, str(self.module), str(self.extra))

    def reading_by_threads(self) -> Backend:
        """The same, but frames are read by threads, and no framework is imported for them.

        `original` stays as it is, and so does a backend that reads frames so already.
        """
        if self.name == "original":
            return self
        return dataclasses.replace(self, frame=_threaded_frame)

    def obeyed(self, job: str, settings: LoaderSettings) -> LoaderSettings:
        """`settings` for this backend, with the fields that it ignores in `job` at their idle."""
        uses = self.uses.get(job, frozenset())
        idle = {name: value for name, value in IDLE.items() if name not in uses}
        if self.prefetch_needs_workers and settings.num_workers == 0:
            idle["prefetch"] = IDLE["prefetch"]
        return msgspec.structs.replace(settings, backend=self.name, **idle)


# The value that says "not used" for each field a backend may ignore.
IDLE: dict[str, Any] = {
    "num_workers": 0,
    "worker_kind": "thread",
    "prefetch": 0,
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


def _original_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    del settings, cache  # the reference has no settings
    return OriginalReader(schema=schema, on_error=on_error)


def _original_batches(
    settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    return plain_batches(frame, columns, settings)


def _original_stream(
    settings: LoaderSettings, paths: Paths, columns: Columns, filters: Filters | None = None
) -> Iterable[Any]:
    return PlainStream(paths, columns, settings, RowFilter.of(filters))


def _reader(
    scheduler: Scheduler,
    settings: LoaderSettings,
    cache: FileCache | None,
    schema: SchemaRule,
    on_error: OnError,
) -> FrameLoader:
    return FrameReader(
        scheduler,
        cache=cache,
        schema=schema,
        on_error=on_error,
        dtype_backend=settings.dtype_backend,
        decoder=settings.decoder,
    )


def _threaded_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    scheduler = ThreadScheduler(settings.num_workers, settings.prefetch)
    return _reader(scheduler, settings, cache, schema, on_error)


def _pytorch_batches(
    settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    from ..pytorch_loader import PyTorchDataLoader

    loader = PyTorchDataLoader.from_settings(settings)
    dataset = loader.create_dataset_from_dataframe(
        frame, list(columns.features), columns.target, null_value=columns.null_value
    )
    return loader.create_dataloader(dataset)


def _pytorch_stream(
    settings: LoaderSettings, paths: Paths, columns: Columns, filters: Filters | None = None
) -> Iterable[Any]:
    from ..pytorch.datasets import StreamingParquetDataset
    from ..pytorch_loader import PyTorchDataLoader

    dataset = StreamingParquetDataset(
        paths,
        list(columns.features),
        columns.target,
        null_value=columns.null_value,
        filters=filters,
    )
    return PyTorchDataLoader.from_settings(settings).create_dataloader(dataset)


def _tensorflow_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    from ..tensorflow.schedule import TfDataScheduler

    scheduler = TfDataScheduler(settings.num_workers, settings.prefetch)
    return _reader(scheduler, settings, cache, schema, on_error)


def _tensorflow_batches(
    settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    from ..tensorflow_loader import TensorFlowDataLoader

    dataset: Iterable[Any] = TensorFlowDataLoader.from_settings(settings).create_cached_dataset(
        frame, list(columns.features), columns.target, null_value=columns.null_value
    )
    return dataset


def _tensorflow_stream(
    settings: LoaderSettings, paths: Paths, columns: Columns, filters: Filters | None = None
) -> Iterable[Any]:
    from ..tensorflow_loader import TensorFlowDataLoader

    dataset: Iterable[Any] = TensorFlowDataLoader.from_settings(settings).create_streaming_dataset(
        paths,
        list(columns.features),
        columns.target,
        null_value=columns.null_value,
        filters=filters,
    )
    return dataset


_FRAME = frozenset({"num_workers", "prefetch", "cache", "cache_bytes", "dtype_backend", "decoder"})

_BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="original",
            frame=_original_frame,
            batches=_original_batches,
            stream=_original_stream,
            uses={"batches": TRAINING, "stream": TRAINING},
        ),
        Backend(
            name="tensorflow",
            frame=_tensorflow_frame,
            batches=_tensorflow_batches,
            stream=_tensorflow_stream,
            uses={
                "frame": _FRAME,
                "batches": TRAINING | {"num_workers", "prefetch"},
                "stream": TRAINING | {"num_workers", "prefetch", "shuffle_window"},
            },
            module="tensorflow",
            extra="tensorflow",
        ),
        Backend(
            name="pytorch",
            frame=_threaded_frame,
            batches=_pytorch_batches,
            stream=_pytorch_stream,
            uses={
                "frame": _FRAME,
                "batches": TRAINING | {"num_workers", "worker_kind", "prefetch", "pin_memory"},
                "stream": TRAINING | {"num_workers", "prefetch", "shuffle_window", "pin_memory"},
            },
            prefetch_needs_workers=True,
            module="torch",
            extra="torch",
        ),
    )
}

# Of users: found by their names, and not among the names that there are.
_FOUND: dict[str, Backend] = {}

AUTO_ORDER = ("tensorflow", "pytorch", "original")


def register(backend: Backend) -> None:
    """Make a backend known by its name to the loaders of this process.

    Trials run in processes of their own: what is swept is built in, an entry point, or a function
    that is named (`loaders.own`).

    Raises:
        InputError: the name is taken.
    """
    if backend.name in _BACKENDS or backend.name == "auto":
        raise InputError(f"there is a backend {backend.name!r} already; choose another name")
    _BACKENDS[backend.name] = backend


def unregister(name: str) -> None:
    """Forget a registered backend, or one that was found."""
    _BACKENDS.pop(name, None)
    _FOUND.pop(name, None)


def is_own(name: str) -> bool:
    """Whether a backend that has been looked for before is a user's function."""
    return name in _FOUND


def backend_names() -> list[str]:
    """The names of all backends, installed or not."""
    return list(_BACKENDS)


def get_backend(name: str) -> Backend:
    """The backend of that name; `auto` is the first installed of TensorFlow, PyTorch, original.

    Raises:
        InputError: no such backend.
        MissingBackendError: its packages are not installed; the message names the extra.
    """
    if name == "auto":
        return next(found for known in AUTO_ORDER if (found := _BACKENDS[known]).installed)
    found = find_backend(name, typed=True)
    found.require()
    return found


def find_backend(name: str, *, typed: bool = False) -> Backend:
    """The backend of that name, installed or not.

    One that is not known is looked for among the entry points of the group `feedrate.backends`.

    Args:
        name: of a backend.
        typed: whether the caller chose the name, and no document did: then one like
            `package.module:function` is imported.

    Raises:
        InputError: no such backend, or one that cannot be imported.
    """
    known = _BACKENDS.get(name) or _FOUND.get(name)
    if known is not None:
        return known
    from .custom import discover, entry_point_names

    found = discover(name, typed=typed)
    if found is None:
        why = unknown("backend", name, ["auto", *_BACKENDS, *entry_point_names()])
        if ":" in name:
            why += "; a function is imported only where it is named in code or by --loader"
        elif typed:
            why += ", or a function of yours, as package.module:function"
        raise InputError(why)
    _FOUND[name] = found
    return found
