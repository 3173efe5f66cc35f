"""The spec of a sweep, and the trials that it plans."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ...loaders.base.errors import InputError, unknown
from ...loaders.base.settings import CACHES, MAX_WORKERS, REQUESTS, LoaderSettings, check_count
from ...loaders.base.sizes import parse_size
from ...loaders.base.warn import warn
from ...loaders.choosing.backend import Backend
from ...loaders.choosing.custom import entry_point_names
from ...loaders.choosing.profile import JOBS, Job
from ...loaders.choosing.registry import backend_names, find_backend
from ..record.objectives import OBJECTIVES, TIE
from ..record.results import Planned
from ..system.formats import format_bytes
from ..system.pagecache import PAGE_CACHES
from ..system.units import as_seconds, counted
from ..trial.consumer import check_consumer
from .host import Host
from .spec_file import read_spec

DEFAULT_BUDGET = "10m"  # enough to settle most choices with a few contenders of a second each
TRAINING_BATCH_SIZE = 1024  # large enough to measure the loader, not the Python loop
LEAST_MEMORY = 32 << 20  # a process that has imported pandas and pyarrow needs more
MOST_TIE = 2.0  # above it, the objective would hardly matter
PREFETCH, FRAME_PREFETCH = (0, 2), (2,)
# Of objects. With 30 ms a request more than 64 gained little, and 16 took longer (`REQUESTS`).
OBJECT_REQUESTS = (16, REQUESTS, 2 * REQUESTS)
MOST_RANKS = 256  # of one machine
GRID_FIELDS = ("num_workers", "prefetch", "requests", "cache", "batch_size")
_SINGULAR = {"jobs": "job", "cache": "cache"}


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to measure. Lists are swept; None takes values that fit the machine and the data.

    In a TOML file the fields are top-level keys; durations and sizes are text (`"5m"`, `"4GiB"`)
    or numbers of seconds and bytes.
    """

    jobs: list[str] = msgspec.field(default_factory=lambda: ["frame"])
    data_type: str | None = None
    columns: list[str] | None = None
    target: str | None = None
    backends: list[str] | None = None
    """None means all that are installed, including those of entry points; `ray` only where
    RAY_ADDRESS names a cluster, since each launch would start one of its own."""
    loader: str | None = None
    """A custom loader in addition to the backends, `package.module:function`; see
    `loaders.choosing.custom`."""
    files: list[int] | None = None
    """File counts; None means about a twelfth, a quarter and all."""
    workers: list[int] | None = None
    """None means 0, 1, 2, … to twice the effective CPUs."""
    prefetch: list[int] | None = None
    """None means 0 and 2; for frames of built-in backends 2, since it hardly matters there."""
    requests: list[int] | None = None
    """Requests in flight to an object store; None means 16, 64 and 128, and none for files."""
    cache: list[str] = msgspec.field(default_factory=lambda: ["none", "memory"])
    batch_size: list[int] = msgspec.field(default_factory=lambda: [TRAINING_BATCH_SIZE])
    repeats: int = 3
    """Rounds of screening."""
    passes: int = 3
    """Passes over the data per run; a cache pays off from the second on."""
    page_cache: str = "as-is"
    """Whether the files are in the page cache when a pass begins: `cold`, `warm` or `as-is`."""
    consumer: str | None = None
    """The simulated training step: its time, such as `5ms`, or `torch-mlp`."""
    timeout: float | str = 60.0
    """Seconds for one pass."""
    budget: float | str | None = DEFAULT_BUDGET
    """Seconds that `tune` may take. If that is too short for everything, fewer files, backends and
    settings are measured. None, or `none`, sets no limit: `tune` then ends when the best is
    settled, after at most 80 launches of each contender."""
    max_memory: int | str | None = None
    """The most bytes of peak PSS that a recommendation may need."""
    objective: str = "throughput"
    """The objective for choosing settings: `throughput`, `latency`, `memory` or `epoch-time`."""
    tie: float = TIE
    """Settings whose estimated ratio to the best is at most this are tied with it."""
    max_workers: int | None = None
    """Worker counts above this are left out."""
    emulate_storage: str | None = None
    """Read local files as slowly as a store, such as `latency=30ms,bandwidth=200MB/s`, or a file of
    `doctor --write-storage`; see `plan.emulated_storage`."""
    local_ranks: int = 1
    """Loaders that run at once on this machine, each with its share of CPUs and memory, as the
    ranks of a distributed job do. Figures are those of the slowest one."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) == []:
                raise InputError(f"{name} is empty; name at least one value, or leave it out")
        self._check_names()
        self._check_numbers()
        if self.consumer is not None:
            check_consumer(self.consumer)
        _ = self.timeout_s, self.budget_s, self.max_memory_bytes  # raise if invalid

    def _check_names(self) -> None:
        for backend in (*(self.backends or ()), *([self.loader] if self.loader else ())):
            find_backend(backend, named_by_caller=True)
        for name, known in (("jobs", JOBS), ("cache", CACHES)):
            for value in getattr(self, name) or ():
                if value not in known:
                    raise InputError(unknown(_SINGULAR[name], value, known))
        if self.page_cache not in PAGE_CACHES:
            raise InputError(unknown("page cache", self.page_cache, PAGE_CACHES))
        if self.objective not in OBJECTIVES:
            raise InputError(unknown("objective", self.objective, OBJECTIVES))

    def _check_numbers(self) -> None:
        for name, low in (("files", 1), ("workers", 0), ("prefetch", 0), ("batch_size", 1)):
            for value in getattr(self, name) or ():
                check_count(name, value, low)
        check_count("local_ranks", self.local_ranks, 1, MOST_RANKS)
        for value in self.requests or ():
            check_count("requests", value, 1, MAX_WORKERS)
        for name, low in (("repeats", 1), ("passes", 1), ("max_workers", 0), ("seed", 0)):
            if (value := getattr(self, name)) is not None:
                check_count(name, value, low)
        if not 1 <= self.tie <= MOST_TIE:
            raise InputError(
                f"tie is {self.tie}; it is a ratio from 1 to {MOST_TIE}, such as {TIE}"
            )
        limit = self.max_memory_bytes
        if limit is not None and limit < LEAST_MEMORY:
            raise InputError(
                f"max_memory is {format_bytes(limit)}, less than any process needs; "
                "give a size such as 2GiB"
            )
        if self.max_workers is not None and min(self.workers or [0]) > self.max_workers:
            raise InputError(
                f"max_workers is {self.max_workers}, and no count of workers is within it: "
                f"{', '.join(map(str, self.workers or ()))}"
            )

    @property
    def timeout_s(self) -> float:
        """The limit of one pass in seconds."""
        return as_seconds(self.timeout, "timeout")

    @property
    def budget_s(self) -> float | None:
        """The budget in seconds."""
        return None if self.budget in (None, "none") else as_seconds(self.budget, "budget")

    @property
    def max_memory_bytes(self) -> int | None:
        """The memory limit in bytes."""
        if self.max_memory is None:
            return None
        return parse_size(str(self.max_memory), "max_memory")

    def check_requests(self, *, of_objects: bool) -> None:
        """Raise `InputError` if requests are named for data that are files."""
        if not of_objects and self.requests is not None:
            raise InputError(
                f"requests is {', '.join(map(str, self.requests))}, and it has no effect on files; "
                "leave it out"
            )

    def check_page_cache(self, *, of_objects: bool) -> None:
        """Raise `InputError` if a state of the page cache is named for data that are objects."""
        if of_objects and self.page_cache != "as-is":
            raise InputError(
                f"page_cache is {self.page_cache}, and objects are never in the page cache; leave "
                "it out"
            )


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One job on the first `files` files with one set of settings."""

    id: str
    job: Job
    backend: str
    settings: LoaderSettings
    files: int


def load_spec(path: str | os.PathLike[str] | None, flags: Mapping[str, Any]) -> Spec:
    """Read the spec of a TOML file; given flags override it.

    Raises:
        DocumentError: the file is missing, no TOML, or has an unknown key or a wrong type.
        InputError: a value that is not allowed.
    """
    return read_spec(path, Spec, flags)


def plan(spec: Spec, available_files: int, host: Host | None = None) -> list[Trial]:
    """All trials of a spec: valid combinations only, always including the original.

    Trials come by job, then from the most files to the fewest, so that the deciding ones are
    measured first if time is short.

    Args:
        spec: what to measure.
        available_files: how many files there are.
        host: the machine that the trials run on; by default this one.

    Raises:
        MissingBackendError: a backend named in the spec is not installed.
        InputError: more files are requested than there are.
    """
    host = host or Host.here()
    trials: dict[str, Trial] = {}
    for job in spec.jobs:
        for files in sorted(file_counts(spec.files, available_files), reverse=True):
            for backend in _backends(spec, host):
                for settings in grid(spec, backend, job, host.machine.effective_cpus):
                    trial = make_trial(job, settings, files)
                    trials[trial.id] = trial
    return list(trials.values())


def for_objects(spec: Spec) -> Spec:
    """The spec with the requests that are swept for objects, unless it names them."""
    if spec.requests is not None:
        return spec
    return msgspec.structs.replace(spec, requests=list(OBJECT_REQUESTS))


def planned_by_job(trials: Iterable[Trial]) -> dict[Job, Planned]:
    """The most files of each job, and the number of settings planned with that many."""
    files: dict[Job, list[int]] = {}
    for trial in trials:
        files.setdefault(trial.job, []).append(trial.files)
    return {job: Planned(max(counts), counts.count(max(counts))) for job, counts in files.items()}


def make_trial(job: str, settings: LoaderSettings, files: int) -> Trial:
    """Make a trial; its id depends only on job, settings and files."""
    text = msgspec.json.encode([job, settings, files], order="sorted")
    digest = hashlib.sha256(text).hexdigest()[:8]
    identifier = f"{job}-{settings.backend}-{files}-{digest}"
    return msgspec.convert(
        {
            "id": identifier,
            "job": job,
            "backend": settings.backend,
            "settings": settings,
            "files": files,
        },
        Trial,
    )


def grid(spec: Spec, backend: Backend, job: str, cpus: int) -> list[LoaderSettings]:
    """The combinations of settings that differ for this backend in this job, on so many CPUs."""
    values: dict[str, Sequence[Any]] = {
        "num_workers": _workers(spec, cpus),
        "prefetch": _prefetch(spec, backend, job),
        "requests": spec.requests or [REQUESTS],
        "cache": spec.cache,
        "batch_size": spec.batch_size,
    }
    distinct: dict[LoaderSettings, None] = {}
    for combination in itertools.product(*values.values()):
        settings = LoaderSettings(**dict(zip(values, combination, strict=True)), seed=spec.seed)
        distinct[backend.normalized_for(job, settings)] = None
    return list(distinct)


def _workers(spec: Spec, cpus: int) -> list[int]:
    counts = default_workers(cpus) if spec.workers is None else spec.workers
    return [count for count in counts if spec.max_workers is None or count <= spec.max_workers]


def _prefetch(spec: Spec, backend: Backend, job: str) -> Sequence[int]:
    if spec.prefetch is not None:
        return spec.prefetch
    # A frame is done when all its parts are, so that no part waits for a consumer: without
    # prefetch it took 0.94 to 1.08 times as long (365 files of flights and 18 of lineitem, no
    # cache, 0 to 4 workers, medians of 24 pairs with standard errors of 0.04 to 0.09).
    return FRAME_PREFETCH if job == "frame" and not backend.is_foreign else PREFETCH


def default_workers(cpus: int) -> list[int]:
    """0, 1, 2, 4, … to twice the CPUs.

    >>> default_workers(3)
    [0, 1, 2, 4, 6]
    """
    counts = [0, 1]
    while counts[-1] < 2 * cpus:
        counts.append(min(counts[-1] * 2, 2 * cpus))
    return counts


def file_counts(wanted: Sequence[int] | None, available: int) -> list[int]:
    """The file counts to measure: those in `wanted`, or about a twelfth, a quarter and all.

    >>> file_counts(None, 365)
    [30, 91, 365]

    Raises:
        InputError: a count is above `available`.
    """
    if wanted is None:
        return sorted({max(1, available // 12), max(1, available // 4), available})
    for count in wanted:
        if count > available:
            raise InputError(
                f"files is {count}, but the data have only {counted(available, 'file')}"
            )
    return sorted(set(wanted))


def _backends(spec: Spec, host: Host) -> list[Backend]:
    """The original and the named backends, or all installed ones, and the custom loader."""
    if spec.backends is None:
        names = [name for name in backend_names() if name in host.backends]
        if host.name or not os.environ.get("RAY_ADDRESS"):
            names = [name for name in names if name != "ray"]
        backends = [*map(find_backend, names), *_entry_point_backends()]
    else:
        backends = [find_backend("original"), *(host.backend(name) for name in spec.backends)]
    backends += [host.backend(spec.loader)] if spec.loader else []
    return list({backend.name: backend for backend in backends}.values())


def _entry_point_backends() -> list[Backend]:
    """The backends of entry points; a broken one is left out with a warning."""
    backends = []
    for name in entry_point_names():
        try:
            backends.append(find_backend(name))
        except InputError as error:
            warn(f"{error}; it is left out")
    return backends
