"""The process that a trial runs in: reads requests, runs one loader between probes, answers."""

from __future__ import annotations

import errno
import faulthandler
import gc
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO
from warnings import WarningMessage

import msgspec
import pyarrow as pa

from ..loaders.errors import FeedrateError, FeedrateWarning
from ..loaders.profile import Job
from ..loaders.settings import LoaderSettings
from .fingerprint import Fingerprint, UnverifiableError
from .gpu import gpu_memory_and_utilisation
from .known import KNOWN, register_known
from .metrics import ALONE_METRICS, STAGE_METRICS, WHAT_IFS
from .pagecache import PageCache
from .probes import ArrowProbe, CpuProbe, HostProbe, IoProbe
from .procfs import set_parent_death_signal
from .protocol import (
    STACKS_SIGNAL,
    Done,
    Failed,
    FromChild,
    Go,
    OpenData,
    PassDone,
    Ready,
    Reference,
    RunTrial,
    ToChild,
)
from .reference import reference
from .threads import observed, requested
from .work import Data, Work
from .workload import pipeline, prepare, warm_up

FOR_DEVELOPERS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
)
"""What Python, too, hides from users."""
MAX_NOTES = 5  # distinct warnings sent of a trial; more would say no more
MAX_NOTE_CHARS = 500
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps it; it is only looked for in messages


def main() -> None:
    """Serve requests until the harness closes the pipe or dies."""
    set_parent_death_signal(parent=int(sys.argv[1]))
    faulthandler.register(STACKS_SIGNAL, all_threads=True)  # the harness asks where a hang is
    # Whatever a library prints must not get between our lines.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("default")  # whatever PYTHONWARNINGS says: none becomes an error
    for category in FOR_DEVELOPERS:
        warnings.simplefilter("ignore", category)
    register_known()
    Child(sys.stdin.buffer, answers).serve()


class _GoneError(Exception):
    """Nobody leads the child any more."""


class Child:
    """The conversation with the harness.

    Args:
        requests: lines of `ToChild`.
        answers: gets lines of `FromChild`.
    """

    def __init__(self, requests: BinaryIO, answers: Any) -> None:
        self._requests = requests
        self._answers = answers
        self._decoder = msgspec.json.Decoder(ToChild)
        self._data: Data | None = None
        self._pid = os.getpid()
        self._warm: set[tuple[Job, LoaderSettings]] = set()

    def serve(self) -> None:
        """Answer until the end of the requests."""
        for request in self._lines():
            try:
                self._answer(request)
            except MemoryError as error:
                self._say(_failed("out-of-memory", error))
            except OSError as error:
                full = error.errno == errno.ENOSPC and SHARED_MEMORY in str(error)
                self._say(_failed("shm-full" if full else "error", error))
            except SystemExit as stop:  # as a script does that is used as a loader
                if os.getpid() != self._pid:  # a fork of the loader's own, which ends as it likes
                    raise
                self._say(_failed("error", stop))
            except _GoneError:
                return
            except Exception as error:  # noqa: BLE001 - told to the harness, which makes it a row
                self._say(_failed("error", error))
            _settle()

    def _answer(self, request: ToChild) -> None:
        if isinstance(request, OpenData):
            self._data = request.data
        elif self._data is None:
            raise RuntimeError("the first request must be the data")
        elif isinstance(request, Reference):
            with warnings.catch_warnings(record=True) as caught:
                found = reference(request.job, request.files, self._data, ordered=request.ordered)
            self._say(Done(fingerprint=found, notes=notes(caught)))
        elif isinstance(request, RunTrial):
            self._warm_up(request)
            with warnings.catch_warnings(record=True) as caught:
                self._run(request, self._data, caught)

    def _warm_up(self, request: RunTrial) -> None:
        """Once for each job and pipeline: a framework traces those of other settings anew."""
        kind = (request.job, pipeline(request.settings))
        if kind not in self._warm and request.settings.backend not in KNOWN:
            # What is said of the tiny file says nothing of the user's.
            with warnings.catch_warnings(record=True):
                warm_up(request.job, request.settings, self._data)
            self._warm.add(kind)

    def _run(self, request: RunTrial, data: Data, caught: list[WarningMessage]) -> None:
        work = prepare(request.job, request.settings, request.files, data, request.consumer)
        try:
            _settle()
            self._say(Ready())
            for _ in range(request.passes):
                self._wait_for_go()
                self._say(_probed(work))
            self._wait_for_go()
            self._say(_finish(request, work, caught))
        finally:
            work.close()

    def _wait_for_go(self) -> None:
        request = next(self._lines(), None)
        if not isinstance(request, Go):
            raise _GoneError

    def _lines(self) -> Iterator[ToChild]:
        while line := self._requests.readline():
            yield self._decoder.decode(line)

    def _say(self, answer: FromChild) -> None:
        self._answers.write(msgspec.json.encode(answer) + b"\n")


def _probed(work: Work) -> PassDone:
    began_us = time.time_ns() // 1000
    with HostProbe() as host, CpuProbe() as cpu, IoProbe() as io, ArrowProbe() as arrow:
        done = work.visit()
    gpu_metrics, reasons = gpu_memory_and_utilisation(began_us)
    metrics = done.metrics | gpu_metrics
    for probe in (host, cpu, io, arrow):
        metrics |= probe.metrics
        reasons |= probe.reasons
    return PassDone(rows=done.rows, metrics=metrics, reasons=reasons)


def _finish(request: RunTrial, work: Work, caught: list[WarningMessage]) -> Done:
    found, reasons = _verified(work) if request.verify else (None, {})
    metrics = work.overhead()
    if request.transfer:
        copied, unknown = work.transfer()
        metrics |= copied
        reasons |= unknown
    if request.explain:
        explained, unknown = _explained(work, request.page_cache)
        metrics |= explained
        reasons |= unknown
    return Done(
        fingerprint=found,
        metrics=metrics,
        reasons=reasons,
        notes=notes(caught),
        threads=requested(os.environ) | observed(),
    )


def _verified(work: Work) -> tuple[Fingerprint | None, dict[str, str]]:
    """The rows' fingerprint, or why they have none."""
    try:
        return work.fingerprint(), {}
    except UnverifiableError as error:
        return None, {"fingerprint": str(error)}


def _explained(work: Work, page_cache: PageCache) -> tuple[dict[str, float | None], dict[str, str]]:
    """What stages take alone and what would save time; the trial stands without it."""
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    questions = (
        (work.what_if, WHAT_IFS),
        (partial(work.alone, page_cache), (*STAGE_METRICS, *ALONE_METRICS)),
    )
    for ask, names in questions:
        try:
            with warnings.catch_warnings(record=True):  # of files that the user does not know
                found, unknown = ask()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told with what it leaves null
            why = f"explaining the trial failed: {type(error).__name__}: {error}"
            found, unknown = {}, dict.fromkeys(names, why)
        metrics |= found
        reasons |= unknown
    return metrics, reasons


def _settle() -> None:
    """Give back what the last trial left, as far as a process can."""
    gc.collect()
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


def _failed(verdict: Any, error: BaseException) -> Failed:
    if isinstance(error, SystemExit):
        called = f"sys.exit({'' if error.code is None else repr(error.code)})"
        what = f"it called {called}; a loader returns its data, or raises an error"
        return Failed(verdict=verdict, message=what, traceback=_traceback(error))
    # TensorFlow's first line is "Graph execution error:"; what happened comes further down.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.endswith(":")] or lines or [type(error).__name__]
    what = told[0]
    if not isinstance(error, FeedrateError | OSError):  # theirs say what and where
        what = f"{type(error).__name__}: {what}" if lines else what
    return Failed(
        verdict=verdict,
        message=what,
        traceback=_traceback(error),
    )


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


if __name__ == "__main__":
    main()
