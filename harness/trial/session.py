"""The trials of one process: each is warmed up, measured by probes, verified and explained."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal
from warnings import WarningMessage

import pyarrow as pa

from ...loaders.base.errors import FeedrateError, FeedrateWarning
from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import get_backend
from ..record.metrics import ALONE_METRICS, STAGE_METRICS, WHAT_IF_METRICS
from ..system.pagecache import PageCache
from ..system.threads import observed, requested
from .fingerprint import Fingerprint, UnverifiableError
from .gpu import gpu_memory_and_utilisation
from .known import KNOWN
from .probes import ArrowProbe, CpuProbe, HostProbe, IoProbe, RequestProbe
from .protocol import Done, Failed, PassDone, RankNews, Ready, Reference, RunRank, RunTrial
from .reference import reference, sample_of
from .work import Data, Work
from .workload import pipeline, prepare, warm_up

FOR_DEVELOPERS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
)
"""Warnings that Python hides from users by default."""
ALL = 2  # all generations of garbage
MAX_NOTES = 5  # distinct warnings kept of a trial; more would add nothing
MAX_NOTE_CHARS = 500
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - of Linux; only searched for in messages


class Session:
    """Runs trials in this process, on one set of files.

    Args:
        data: the files and columns of the sweep.
        generation: the oldest generation of garbage collected before a trial's passes, as in
            `gc.collect`. A forked process does not collect its server's imports.
    """

    def __init__(self, data: Data, generation: int = ALL) -> None:
        self._data = data
        self._generation = generation
        self._warm: set[tuple[Job, LoaderSettings]] = set()

    def answers(self, request: RunTrial | Reference) -> Iterator[Ready | PassDone | Done | Failed]:
        """Run a trial step by step, or fingerprint the original's rows; each answer is one step.

        Yields:
            `Ready` when a trial's loader is prepared, a `PassDone` for each pass, then `Done`. If
            the loader raises, `Failed` is the last.

        Raises:
            SystemExit: in a process that the loader itself has forked.
        """
        process = os.getpid()
        try:
            if isinstance(request, Reference):
                yield self._reference(request)
            else:
                yield from self._trial(request)
        except SystemExit as stop:  # raised by a script that is used as a loader
            if os.getpid() != process:
                raise
            yield as_failed(stop)
        except Exception as error:  # noqa: BLE001 - the answer reports it
            yield as_failed(error)

    def run_rank(self, request: RunRank, tell: Callable[[RankNews | Failed], None]) -> None:
        """Run a rank; `tell` gets its progress, and last how it ended."""
        from .rank import run_rank  # not for trials
        from .rank_rows import CannotVerifyError

        process = os.getpid()
        try:
            done = run_rank(self._data, request, tell)
            tell(RankNews(rows=0, done=done))
        except CannotVerifyError as error:
            tell(RankNews(rows=0, refused=str(error)))
        except SystemExit as stop:
            if os.getpid() != process:
                raise
            tell(as_failed(stop))
        except Exception as error:  # noqa: BLE001 - the answer reports it
            tell(as_failed(error))

    def _trial(self, request: RunTrial) -> Iterator[Ready | PassDone | Done]:
        self._warm_up(request)
        data = self._data
        with _recorded_warnings() as caught:
            work = prepare(request.job, request.settings, request.files, data, request.consumer)
            try:
                _release_memory(self._generation)
                yield Ready()
                why_not = why_uncounted(request, data)
                for _ in range(request.passes):
                    yield _probed(work, why_not)
                yield self._finish(request, work, caught)
            finally:
                work.close()

    def _reference(self, request: Reference) -> Done:
        with _recorded_warnings() as caught:
            data = sample_of(self._data, request.files, request.every)
            began = time.perf_counter()
            rows = reference(request.job, len(data.paths), data, ordered=request.ordered)
            seconds = time.perf_counter() - began
        return Done(fingerprint=rows, notes=notes(caught), reference_s=seconds)

    def _finish(self, request: RunTrial, work: Work, caught: list[WarningMessage]) -> Done:
        fingerprint, reasons = self._verified(request, work) if request.verify else (None, {})
        metrics = work.overhead()
        if request.transfer:
            transfer, transfer_reasons = work.transfer()
            metrics |= transfer
            reasons |= transfer_reasons
        if request.explain:
            explained, explained_reasons = _explained(work, request.page_cache)
            metrics |= explained
            reasons |= explained_reasons
        return Done(
            fingerprint=fingerprint,
            metrics=metrics,
            reasons=reasons,
            notes=notes(caught),
            threads=requested(os.environ) | observed(),
        )

    def _verified(self, request: RunTrial, work: Work) -> tuple[Fingerprint | None, dict[str, str]]:
        """The rows' fingerprint, or the reason why there is none.

        For a sample of the files, a second loader with the same settings loads only these files.
        """
        try:
            if request.every == 1:
                return work.fingerprint(), {}
            sample = sample_of(self._data, request.files, request.every)
            sampled_work = prepare(request.job, request.settings, len(sample.paths), sample)
            try:
                return sampled_work.fingerprint(), {}
            finally:
                sampled_work.close()
        except UnverifiableError as error:
            return None, {"fingerprint": str(error)}

    def _warm_up(self, request: RunTrial) -> None:
        """Warm up once per job and pipeline: a framework traces each pipeline anew."""
        kind = (request.job, pipeline(request.settings))
        if kind not in self._warm and request.settings.backend not in KNOWN:
            with _recorded_warnings():  # about the warm-up's files, not the user's
                warm_up(request.job, request.settings, self._data)
            self._warm.add(kind)


@contextlib.contextmanager
def _recorded_warnings() -> Iterator[list[WarningMessage]]:
    """Record each warning; none becomes an error, regardless of PYTHONWARNINGS."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for category in FOR_DEVELOPERS:
            warnings.simplefilter("ignore", category)
        yield caught


def why_uncounted(request: RunTrial, data: Data) -> str:
    """Why the requests of a trial to an object store are not counted; empty if they are."""
    settings = request.settings
    backend = get_backend(settings.backend)
    if not data.of_objects:
        return "the data are files, not objects"
    if backend.is_foreign:
        return "a loader that is not feedrate's makes its requests itself"
    if request.job == "batches":
        return "the rows are in memory before the job starts"
    if settings.backend == "original":
        return "plain pandas makes its requests itself"
    if request.job == "stream" and settings.worker_kind == "process" and settings.num_workers:
        return "worker processes make the requests"
    return ""


def _probed(work: Work, why_not: str) -> PassDone:
    began_us = time.time_ns() // 1000
    requests = RequestProbe(why_not)
    with HostProbe() as host, CpuProbe() as cpu, IoProbe() as io, ArrowProbe() as arrow, requests:
        done = work.visit()
    gpu_metrics, reasons = gpu_memory_and_utilisation(began_us)
    metrics, reasons = done.metrics | gpu_metrics, done.reasons | reasons
    for probe in (host, cpu, io, arrow, requests):
        metrics |= probe.metrics
        reasons |= probe.reasons
    return PassDone(rows=done.rows, metrics=metrics, reasons=reasons)


def _explained(work: Work, page_cache: PageCache) -> tuple[dict[str, float | None], dict[str, str]]:
    """Time the stages alone and possible savings; if that fails, the trial is still valid."""
    process = os.getpid()
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    measurements = (
        (work.what_if, WHAT_IF_METRICS),
        (partial(work.alone, page_cache), (*STAGE_METRICS, *ALONE_METRICS)),
    )
    for measure, names in measurements:
        try:
            with warnings.catch_warnings(record=True):  # about files unknown to the user
                values, missing = measure()
        except (Exception, SystemExit) as error:  # it becomes the reason for null metrics
            if os.getpid() != process:  # in a process that the loader forked
                raise
            reason = f"explaining the trial failed: {type(error).__name__}: {error}"
            values, missing = {}, dict.fromkeys(names, reason)
        metrics |= values
        reasons |= missing
    return metrics, reasons


def _release_memory(generation: int) -> None:
    """Release the memory that the warm-up left behind."""
    gc.collect(generation)
    pa.default_memory_pool().release_unused()


def notes(caught: Iterable[WarningMessage]) -> list[str]:
    """The first few distinct warnings, one line each: ours, then those of libraries."""
    ours: dict[str, None] = {}
    others: dict[str, None] = {}
    for warning in caught:
        text = " ".join(str(warning.message).split())
        if issubclass(warning.category, FeedrateWarning):
            ours[text[:MAX_NOTE_CHARS]] = None
        else:
            others[f"{warning.category.__name__}: {text}"[:MAX_NOTE_CHARS]] = None
    return [*ours, *others][:MAX_NOTES]


def as_failed(error: BaseException) -> Failed:
    """The answer for a trial whose loader raised, with the cause in one line."""
    verdict: Literal["error", "out-of-memory", "shm-full"] = "error"
    if isinstance(error, MemoryError):
        verdict = "out-of-memory"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC and SHARED_MEMORY in str(error):
        verdict = "shm-full"
    if isinstance(error, SystemExit):
        call = f"sys.exit({'' if error.code is None else repr(error.code)})"
        message = f"it called {call}; a loader returns its data, or raises an error"
        return Failed(verdict=verdict, message=message, traceback=_traceback(error))
    # TensorFlow's first line is "Graph execution error:"; the cause comes further down.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if not line.endswith(":")]
    message = (causes or lines or [type(error).__name__])[0]
    if lines and not isinstance(error, FeedrateError | OSError):  # their messages suffice
        message = f"{type(error).__name__}: {message}"
    return Failed(verdict=verdict, message=message, traceback=_traceback(error))


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
