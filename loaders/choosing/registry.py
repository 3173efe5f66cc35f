"""The backends by name, and how each builds its jobs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd

from ..base.errors import InputError, unknown
from ..base.settings import LoaderSettings
from ..caching.base import FileCache
from ..frames.original_frames import OriginalReader
from ..frames.reader import OnError, SchemaRule
from ..parquet.filters import Filters, RowFilter, takes_no_filters
from ..training.matrix import Columns
from ..training.original_training import PlainStream, plain_batches
from .backend import TRAINING, Backend, FrameLoader, Paths, frame_reader, threaded_frame
from .custom import discover, entry_point_names


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


def _pytorch_batches(
    settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    _BACKENDS["pytorch"].require()
    from ..pytorch.builders import batches

    return batches(settings, frame, columns)


def _pytorch_stream(
    settings: LoaderSettings, paths: Paths, columns: Columns, filters: Filters | None = None
) -> Iterable[Any]:
    _BACKENDS["pytorch"].require()
    from ..pytorch.builders import stream

    return stream(settings, paths, columns, filters)


def _tensorflow_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    from ..tensorflow.schedule import TfDataScheduler

    scheduler = TfDataScheduler(settings.num_workers, settings.prefetch)
    return frame_reader(scheduler, settings, cache, schema, on_error)


def _tensorflow_batches(
    settings: LoaderSettings, frame: pd.DataFrame, columns: Columns
) -> Iterable[Any]:
    _BACKENDS["tensorflow"].require()
    from ..tensorflow.builders import batches

    epochs: Iterable[Any] = batches(settings, frame, columns)
    return epochs


def _tensorflow_stream(
    settings: LoaderSettings, paths: Paths, columns: Columns, filters: Filters | None = None
) -> Iterable[Any]:
    _BACKENDS["tensorflow"].require()
    from ..tensorflow.builders import stream

    epochs: Iterable[Any] = stream(settings, paths, columns, filters)
    return epochs


def _ray_frame(
    settings: LoaderSettings, cache: FileCache | None, schema: SchemaRule, on_error: OnError
) -> FrameLoader:
    del cache  # it has none
    if (schema, on_error) != ("concat", "raise"):
        raise InputError(
            f"the ray backend supports neither schema={schema!r} nor on_error={on_error!r}"
        )
    _BACKENDS["ray"].require()
    from ..ray_data.builders import RayFrames

    return RayFrames(settings)


def _ray_of_frame(settings: LoaderSettings, frame: pd.DataFrame, columns: Columns) -> Iterable[Any]:
    del settings, frame, columns
    raise InputError("the ray backend makes batches of files, not of a frame: pass their paths")


def _ray_of_files(
    settings: LoaderSettings,
    paths: Paths,
    columns: Columns,
    filters: Filters | None = None,
    *,
    in_memory: bool,
) -> Iterable[Any]:
    if filters is not None:
        raise takes_no_filters("ray")
    _BACKENDS["ray"].require()
    from ..ray_data.builders import batches

    epochs: Iterable[Any] = batches(settings, paths, columns, in_memory=in_memory)
    return epochs


_FRAME = frozenset(
    {"num_workers", "prefetch", "requests", "cache", "cache_bytes", "dtype_backend", "decoder"}
)
_STREAM = TRAINING | {"num_workers", "prefetch", "requests", "shuffle_window"}

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
                "stream": _STREAM,
            },
            module="tensorflow",
            extra="tensorflow",
        ),
        Backend(
            name="pytorch",
            frame=threaded_frame,
            batches=_pytorch_batches,
            stream=_pytorch_stream,
            uses={
                "frame": _FRAME,
                "batches": TRAINING | {"num_workers", "worker_kind", "prefetch", "pin_memory"},
                "stream": _STREAM | {"pin_memory"},
            },
            prefetch_needs_workers=True,
            module="torch",
            extra="torch",
        ),
        Backend(
            name="ray",
            frame=_ray_frame,
            batches=_ray_of_frame,
            stream=partial(_ray_of_files, in_memory=False),
            batches_of_files=partial(_ray_of_files, in_memory=True),
            uses={
                "frame": frozenset({"num_workers"}),
                "batches": TRAINING | {"num_workers", "prefetch"},
                "stream": TRAINING | {"num_workers", "prefetch", "shuffle_window"},
            },
            module="ray",
            extra="ray",
            is_foreign=True,
        ),
    )
}

# Custom loaders: found by name, and not listed by `backend_names`.
_CUSTOM: dict[str, Backend] = {}

AUTO_ORDER = ("tensorflow", "pytorch", "original")


def register(backend: Backend) -> None:
    """Register a backend by its name for the loaders of this process.

    Trials run in separate processes: they can only sweep backends that are built in, entry
    points, or custom loaders given by name (`loaders.choosing.custom`).

    Raises:
        InputError: the name is taken.
    """
    if backend.name in _BACKENDS or backend.name == "auto":
        raise InputError(f"there is a backend {backend.name!r} already; choose another name")
    _BACKENDS[backend.name] = backend


def is_custom(name: str) -> bool:
    """Whether `find_backend` found a custom loader of this name before."""
    return name in _CUSTOM


def is_foreign(name: str) -> bool:
    """Whether a backend's rows come by code that is not feedrate's, which records no stages."""
    return name in _CUSTOM or (name in _BACKENDS and _BACKENDS[name].is_foreign)


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
        return next(_BACKENDS[known] for known in AUTO_ORDER if _BACKENDS[known].installed)
    backend = find_backend(name, named_by_caller=True)
    backend.require()
    return backend


def find_backend(name: str, *, named_by_caller: bool = False) -> Backend:
    """The backend of that name, installed or not.

    An unknown name is searched for among the entry points of the group `feedrate.backends`.

    Args:
        name: of a backend.
        named_by_caller: whether the caller chose the name, and not a document; only then may
            `package.module:function` be imported.

    Raises:
        InputError: no such backend, or one that cannot be imported.
    """
    backend = _BACKENDS.get(name) or _CUSTOM.get(name)
    if backend is not None:
        return backend
    backend = discover(name, named_by_caller=named_by_caller)
    if backend is None:
        message = unknown("backend", name, ["auto", *_BACKENDS, *entry_point_names()])
        if ":" in name:
            message += "; a function is imported only if code or --loader names it"
        elif named_by_caller:
            message += ", or a custom loader, as package.module:function"
        raise InputError(message)
    _CUSTOM[name] = backend
    return backend
