"""Running trials: the interface, and the real thing, by leading child processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self

from ..loaders.backends import find_backend, is_own
from ..loaders.errors import FeedrateError
from ..loaders.profile import Job
from .child_process import ChildFailure, ChildProcess
from .fingerprint import Fingerprint
from .memory import INTERVAL_S, MemorySampler
from .pagecache import AS_IS, Established, PageCache, establish
from .procfs import MemoryNow
from .protocol import Done, Go, OpenData, PassDone, Ready, Reference, RunTrial
from .results import Phase, Verdict
from .spec import Trial
from .starting import HERE, START_TIMEOUT_S, Python, Starter, Starters
from .work import Data

SHARED_CHILD = "screening children keep allocator memory and caches from trial to trial"
FORKED = "forked launches share memory with the process they came from"
IMPORT_S = 30.0  # for a process to start, and to import what a user's loader needs
WATCH_INTERVAL_S = 0.05  # between looks at memory where it is only limited


@dataclass(frozen=True)
class PassSample:
    """One timed pass as it came from a trial."""

    rows: int
    metrics: dict[str, float | None]
    reasons: dict[str, str]
    page_cache: Established = AS_IS


@dataclass(frozen=True)
class TrialRun:
    """One run of a trial: its passes, and how it ended."""

    passes: list[PassSample]
    fingerprint: Fingerprint | None = None
    verdict: Verdict | None = None
    """None when nothing went wrong; the rows are still to be compared."""
    message: str = ""
    launch: int = 0
    notes: list[str] = field(default_factory=list)
    """The first few distinct warnings."""
    traceback: str = ""
    """Of what the loader raised, if it did."""
    threads: dict[str, int] = field(default_factory=dict)
    """Threads of the process and sizes of its pools at the end."""
    out_of_time: bool = False
    """Whether it was ended for want of time, which says nothing about the trial."""


class Executor(Protocol):
    """Runs trials somewhere."""

    def run(
        self,
        trial: Trial,
        phase: Phase,
        *,
        passes: int,
        verify: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Run a trial once; what goes wrong with it is in the answer, not raised.

        Args:
            trial: what to run.
            phase: in a shared process while screening, else in a fresh one.
            passes: how many timed visits.
            verify: whether to finish with an untimed visit for the fingerprint.
            every: the sample of files that this visit is over, as `picked` takes it; 1 is all.
            within_s: seconds after which it is ended, as `out_of_time`.
        """
        ...

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """The fingerprint of the original's rows, in an otherwise empty run.

        Args:
            job: what is loaded.
            files: of how many files.
            ordered: whether the order of the rows counts.
            every: the sample of files, as `picked` takes it; 1 is all.
            within_s: seconds after which it is ended, as `out_of_time`.
        """
        ...

    def close(self) -> None:
        """End all processes."""
        ...


@dataclass
class ChildExecutor:
    """Runs trials in child processes: one per backend while screening, a fresh one to confirm.

    Attributes:
        data: the files and columns.
        timeout_s: limit of one pass.
        first_launch: launches that an earlier run of the same sweep has made; ours count on.
        page_cache: where the files are to be before each pass; rows that are in memory before
            the job starts come from no file.
        consumer: what stands for a training step in jobs with batches.
        max_memory: PSS of a trial's processes, in bytes, beyond which they are ended.
        python: what the trials run in.
        forks: whether launches are forked, where that is safe, once a trial has run in a process
            of its own: memory is measured there, since a fork shares pages with its parent.
    """

    data: Data
    timeout_s: float
    first_launch: int = 0
    page_cache: PageCache = "as-is"
    consumer: str | None = None
    max_memory: int | None = None
    python: Python = HERE
    forks: bool = False
    _shared: dict[str, ChildProcess] = field(init=False, default_factory=dict)
    _launches: int = field(init=False)
    _end: float | None = field(init=False, default=None)
    """Of the run, by the monotonic clock, where it is limited."""

    def __post_init__(self) -> None:
        self._launches = self.first_launch
        self._starters = Starters(self.python)
        self._own_process: set[str] = set()

    def run(
        self,
        trial: Trial,
        phase: Phase,
        *,
        passes: int,
        verify: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Run a trial once, in a shared or in a fresh process."""
        alone = phase != "screening"
        request = request_for(
            trial, phase, passes, self.page_cache, self.consumer, verify=verify, every=every
        )
        self._end = None if within_s is None else time.monotonic() + within_s

        forked = self.forks and phase == "confirming" and trial.id in self._own_process

        def lead(child: ChildProcess, done: list[PassSample], why_not: str | None = None) -> Done:
            return self._passes(child, request, done, why_not)

        if not alone:
            return self._converse(trial.backend, partial(lead, why_not=SHARED_CHILD))
        if forked:
            imports = imports_of(trial)
            starter = self._starters.forked(imports, trial.id)
            found = self._converse(None, partial(lead, why_not=FORKED), starter)
            if found.verdict not in ("hang", "crash") or found.passes or found.out_of_time:
                return found
            self._starters.give_up(imports)  # it may be for the fork
        found = self._converse(None, lead)
        if found.verdict is None:
            self._own_process.add(trial.id)
        return found

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """The original's fingerprint, from the child that screens the original."""
        request = Reference(job=job, files=files, ordered=ordered, every=every)
        self._end = None if within_s is None else time.monotonic() + within_s

        def ask(child: ChildProcess, _: list[PassSample]) -> Done:
            child.say(request)
            return child.hear(Done, self._left(START_TIMEOUT_S + 3 * self.timeout_s))

        return self._converse("original", ask)

    def close(self) -> None:
        """End all shared children."""
        while self._shared:
            self._shared.popitem()[1].close()
        self._starters.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _converse(
        self,
        backend: str | None,
        talk: Callable[[ChildProcess, list[PassSample]], Done],
        starter: Starter | None = None,
    ) -> TrialRun:
        """Talk with the child that screens a backend, or with another one that ends with it.

        `talk` adds each pass to the list as it comes: those that came count, whatever happens.
        """
        done: list[PassSample] = []
        known = self._shared.get(backend) if backend is not None else None
        child = known or self._launch(backend, starter)
        keep = False  # a conversation that was cut short cannot be taken up again
        try:
            if known is None:
                child.say(OpenData(self.data))
            end = talk(child, done)
            keep = backend is not None
            return TrialRun(
                with_all(done, end),
                end.fingerprint,
                launch=child.launch,
                notes=end.notes,
                threads=end.threads,
            )
        except ChildFailure as failure:
            keep = backend is not None and failure.alive
            return TrialRun(
                done,
                verdict=failure.verdict,
                message=str(failure),
                launch=child.launch,
                traceback=failure.traceback,
                out_of_time=failure.verdict == "hang" and self._is_over,
            )
        finally:
            if not keep:
                self._forget(child)

    def _passes(
        self,
        child: ChildProcess,
        request: RunTrial,
        done: list[PassSample],
        why_not: str | None,
    ) -> Done:
        """Lead the child through the passes of a trial.

        Args:
            child: it.
            request: what it is asked.
            done: gets each pass as it comes.
            why_not: why its memory is not measured, if it is not.
        """
        sample_memory = why_not is None
        child.say(request)
        # A user's loader is tried once before it is ready, which may take as long as a pass.
        own = is_own(request.settings.backend)
        start_s = IMPORT_S + self.timeout_s if own else START_TIMEOUT_S
        child.hear(Ready, self._left(start_s))
        with contextlib.ExitStack() as stack:
            watch = None if self.max_memory is None else child.limit(self.max_memory)
            sampled = sample_memory or watch is not None
            interval = INTERVAL_S if sample_memory else WATCH_INTERVAL_S
            sampler = (
                stack.enter_context(MemorySampler(child.pid, interval, watch)) if sampled else None
            )
            baseline = sampler.reset_peak() if sampler is not None else None
            for _ in range(request.passes):
                try:
                    state = established_for(request, self.data)
                except OSError as error:
                    raise ChildFailure("error", f"{error.filename}: {error.strerror}") from error
                if sampler is not None:
                    sampler.reset_peak()
                child.say(Go())
                answer = child.hear(PassDone, self._left(self.timeout_s))
                memory, why = (
                    no_memory(why_not) if why_not is not None else _memory(sampler, baseline)
                )
                metrics, reasons = answer.metrics | memory, answer.reasons | why
                done.append(PassSample(answer.rows, metrics, reasons, state))
            child.say(Go())
            return child.hear(Done, self._left(START_TIMEOUT_S + 2 * self.timeout_s))

    def _left(self, timeout_s: float) -> float:
        """A time limit, or what is left of the run where that is less."""
        left = timeout_s if self._end is None else self._end - time.monotonic()
        return max(0.0, min(timeout_s, left))

    @property
    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _launch(self, backend: str | None, starter: Starter | None) -> ChildProcess:
        self._launches += 1
        child = ChildProcess(self._launches, starter or self._starters.fresh)
        if backend is not None:
            self._shared[backend] = child
        return child

    def _forget(self, child: ChildProcess) -> None:
        self._shared = {name: other for name, other in self._shared.items() if other is not child}
        child.close()


_MEMORY = (
    "baseline_pss_bytes",
    "peak_pss_bytes",
    "peak_rss_bytes",
    "peak_uss_bytes",
    "shm_bytes",
    "cgroup_peak_bytes",
)


def imports_of(trial: Trial) -> tuple[str, ...]:
    """What a process imports before it can run a trial, beside what all do."""
    try:
        backend = find_backend(trial.backend, typed=True)
    except FeedrateError:  # the process that runs it says so
        return ()
    if backend.own:
        return (trial.backend,)
    frame_by_threads = trial.job == "frame" and trial.backend != "tensorflow"
    return () if backend.module is None or frame_by_threads else (backend.module,)


def request_for(
    trial: Trial,
    phase: Phase,
    passes: int,
    page_cache: PageCache,
    consumer: str | None,
    *,
    verify: bool,
    every: int = 1,
) -> RunTrial:
    """What a session is asked for a run of a trial."""
    return RunTrial(
        job=trial.job,
        settings=trial.settings,
        files=trial.files,
        passes=passes,
        verify=verify,
        every=every,
        transfer=phase != "screening",
        explain=phase == "explaining",
        page_cache=page_cache,
        consumer=consumer,
    )


def established_for(request: RunTrial, data: Data) -> Established:
    """Bring the files of a trial to where they shall be before a pass.

    Raises:
        OSError: a file cannot be opened.
    """
    if request.job == "batches":
        return AS_IS
    return establish(request.page_cache, data.paths[: request.files])


def no_memory(why: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass whose memory is not measured."""
    return dict.fromkeys(_MEMORY), dict.fromkeys(_MEMORY, why)


def _memory(
    sampler: MemorySampler | None, baseline: MemoryNow | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass, or why there are none."""
    assert sampler is not None  # noqa: S101 - there is one where memory is measured
    peak = sampler.peak()
    group, why = sampler.group.peak()
    reasons = {"cgroup_peak_bytes": why} if why else {}
    if peak is None or baseline is None:
        unread = dict.fromkeys(_MEMORY, "smaps_rollup cannot be read here")
        return dict.fromkeys(_MEMORY) | {"cgroup_peak_bytes": group}, unread | reasons
    return {
        "baseline_pss_bytes": float(baseline.pss),
        "peak_pss_bytes": float(peak.pss),
        "peak_rss_bytes": float(peak.rss),
        "peak_uss_bytes": float(peak.uss),
        "shm_bytes": float(peak.shm),
        "cgroup_peak_bytes": group,
    }, reasons


def with_all(passes: list[PassSample], end: Done) -> list[PassSample]:
    """The passes, with what was measured once for the trial."""
    return [
        replace(done, metrics=done.metrics | end.metrics, reasons=done.reasons | end.reasons)
        for done in passes
    ]
