"""The settings of a loader."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from .errors import InputError, shown, unknown
from .machine import effective_cpus

WorkerKind = Literal["thread", "process"]
Cache = Literal["none", "memory", "disk"]
DtypeBackend = Literal["numpy", "pyarrow"]
Decoder = Literal["auto", "arrow"]

WORKER_KINDS: tuple[WorkerKind, ...] = ("thread", "process")
CACHES: tuple[Cache, ...] = ("none", "memory", "disk")
DTYPE_BACKENDS: tuple[DtypeBackend, ...] = ("numpy", "pyarrow")
DECODERS: tuple[Decoder, ...] = ("auto", "arrow")

DEFAULT_WORKERS = 4  # two to four threads saturate Parquet decoding on 2 cores; more only add cost
MAX_WORKERS = 1024  # more would only exhaust the process; a larger number is a typo
# 365 objects of 47 kB, 30 ms a request, took 0.6, 0.46 and 0.45 s with 32, 64 and 128 requests.
REQUESTS = 64
DEFAULT_BATCH_SIZE = 32  # common with torch and keras; `tune` looks for a better one


def default_workers() -> int:
    """`DEFAULT_WORKERS`, or fewer if this process may use fewer CPUs."""
    return min(DEFAULT_WORKERS, effective_cpus())


class _Preset:
    """Named settings, built on access, since a default depends on the machine."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __get__(self, instance: object, owner: type[LoaderSettings]) -> LoaderSettings:
        return msgspec.convert(self._fields, owner)


class LoaderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to load. `LoaderSettings()` equals `LoaderSettings.DEFAULT`.

    Raises:
        InputError: a value is not allowed; the message names the field and the allowed values.
    """

    backend: str = "auto"
    """`auto`, `original`, `tensorflow`, `pytorch` or a registered backend."""
    num_workers: int = msgspec.field(default_factory=default_workers)
    """Workers that read and decode ahead; 0: work in the caller's thread."""
    worker_kind: WorkerKind = "thread"
    prefetch: int = 2
    """Files, or chunks of rows, to keep ready for the consumer."""
    requests: int = REQUESTS
    """Requests in flight to an object store, apart from the workers that decode."""
    cache: Cache = "memory"
    cache_bytes: int | None = None
    """Cache limit; None: FEEDRATE_CACHE_BYTES, else a quarter of the memory, or 20 GiB on disk."""
    batch_size: int = DEFAULT_BATCH_SIZE
    shuffle: bool = True
    shuffle_window: int = 1
    """Files whose rows are mixed when a stream is shuffled."""
    drop_last: bool = False
    seed: int | None = None
    pin_memory: bool = True
    dtype_backend: DtypeBackend = "numpy"
    decoder: Decoder = "auto"
    """`auto` lets polars decode if it is faster; `arrow` rejects every page that pandas rejects."""

    DEFAULT: ClassVar[_Preset] = _Preset()
    HIGH_PERFORMANCE: ClassVar[_Preset] = _Preset(
        backend="tensorflow", num_workers=16, prefetch=2, cache="memory"
    )
    LOW_MEMORY: ClassVar[_Preset] = _Preset(
        backend="pytorch", num_workers=2, prefetch=0, cache="none"
    )

    def __post_init__(self) -> None:
        for name, low, *most in (
            ("num_workers", 0, MAX_WORKERS),
            ("prefetch", 0),
            ("requests", 1, MAX_WORKERS),
            ("batch_size", 1),
            ("shuffle_window", 1),
        ):
            check_count(name, getattr(self, name), low, *most)
        for name, choices in (
            ("worker_kind", WORKER_KINDS),
            ("cache", CACHES),
            ("dtype_backend", DTYPE_BACKENDS),
            ("decoder", DECODERS),
        ):
            if getattr(self, name) not in choices:
                raise InputError(unknown(name, getattr(self, name), choices))
        for name in ("shuffle", "drop_last", "pin_memory"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        for name in ("seed", "cache_bytes"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 0)
        if not self.backend:
            raise InputError("backend is ''; give the name of a backend, or 'auto'")


def check_count(name: str, value: object, low: int, most: int | None = None) -> None:
    """Raise `InputError` unless `value` is an integer of at least `low`, and at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(f"{name} is {shown(value)}; it must be an integer of at least {low}")
    if most is not None and value > most:
        raise InputError(f"{name} is {shown(value)}; it must be at most {most}")


def with_changes(settings: LoaderSettings, **changes: object) -> LoaderSettings:
    """`settings` with the given fields replaced and checked; None leaves a field unchanged."""
    given = {name: value for name, value in changes.items() if value is not None}
    return msgspec.structs.replace(settings, **given)
