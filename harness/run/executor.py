"""Running trials: the interface, and its implementation with child processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, Self

from ...loaders.base.errors import FeedrateError
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import find_backend, is_custom
from ...loaders.training.original_training import batches_framework
from ..plan.spec import Trial
from ..record.metrics import MEMORY_METRICS
from ..record.results import Phase, Verdict
from ..system.memory import MemoryGuard, MemorySampler
from ..system.pagecache import AS_IS, Established, PageCache, establish
from ..system.procfs import MemoryNow
from ..trial.fingerprint import Fingerprint
from ..trial.protocol import Done, Go, Imports, OpenData, PassDone, Ready, Reference, RunTrial
from ..trial.work import Data
from .child_process import ChildFailure, ChildProcess, LostError
from .forks import Launcher
from .starting import HERE, START_TIMEOUT_S, Python, Starter

TIMED = "measured in launches of its own, which are not timed"
IMPORT_S = 30.0  # for a process to start, and to import what a user's loader needs


@dataclass(frozen=True)
class PassSample:
    """One timed pass as reported by a trial."""

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
    """Of the loader's exception, if it raised one."""
    threads: dict[str, int] = field(default_factory=dict)
    """Threads of the process and sizes of its pools at the end."""
    out_of_time: bool = False
    """Whether it was stopped because time ran out, which says nothing about the trial."""
    server_s: float = 0.0
    """Seconds for starting a fork server, which serves other launches as well."""
    reference_s: float | None = None
    """Of a reference: seconds that its rows took, without the launch; None if unknown."""


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
        """Run a trial once; its failures are returned, not raised.

        Args:
            trial: what to run.
            phase: `memory` measures memory, all others time.
            passes: number of timed passes.
            verify: whether to finish with an untimed pass for the fingerprint.
            every: the sample of files of that untimed pass, as `picked` takes it; 1 is all.
            within_s: seconds after which it is stopped, with `out_of_time` set.
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
        """Return the fingerprint of the original's rows, in a run without passes.

        Args:
            job: what is loaded.
            files: number of files.
            ordered: whether the order of the rows counts.
            every: the sample of files, as `picked` takes it; 1 is all.
            within_s: seconds after which it is stopped, with `out_of_time` set.
        """
        ...

    def close(self) -> None:
        """End all processes."""
        ...


@dataclass
class ChildExecutor:
    """Runs each trial alone in its own process, which is forked where that is safe.

    Memory is measured in separate runs (the phase `memory`), in new processes: a fork shares
    pages with its server, and reading a process's memory delays its allocations.

    Attributes:
        data: the files and columns.
        timeout_s: limit of one pass.
        first_launch: launches of an earlier run of the same sweep; numbering continues from it.
        page_cache: state of the files in the page cache before each pass; rows that are in
            memory before the job starts come from no file.
        consumer: stand-in for a training step in jobs with batches.
        max_memory: PSS of a trial's processes, in bytes, beyond which they are killed.
        python: the interpreter and packages.
    """

    data: Data
    timeout_s: float
    first_launch: int = 0
    page_cache: PageCache = "as-is"
    consumer: str | None = None
    max_memory: int | None = None
    python: Python = HERE
    _launches: int = field(init=False)
    _end: float | None = field(init=False, default=None)
    """When the run is stopped, by the monotonic clock; None without a limit."""
    _unforked: set[str] = field(init=False, default_factory=set)
    """Trials that failed in forks but not in new processes."""

    def __post_init__(self) -> None:
        self._launches = self.first_launch
        self._launcher = Launcher(self.python)

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
        """Run a trial once."""
        request = request_for(
            trial, phase, passes, self.page_cache, self.consumer, verify=verify, every=every
        )
        self._end = None if within_s is None else time.monotonic() + within_s
        lead = partial(self._passes, request=request, with_memory=phase == "memory")
        imports, name = imports_of(trial), trial.id
        if phase == "memory":
            self._launcher.close()  # library pages shared with servers would count less
        if phase == "memory" or name in self._unforked:
            return self._converse(self._launcher.fresh, lead).run
        own_s = IMPORT_S + self.timeout_s if imports.loaders else START_TIMEOUT_S
        starter = self._launcher.of(imports, name, within_s=self._left(own_s))
        found = self._converse(starter, lead)
        if not found.is_forked:
            return self._with_note(found.run, imports)
        if not found.is_doubtful:
            return found.run
        again = self._converse(self._launcher.fresh, lead).run
        if again.verdict is None and not found.is_lost:  # the fork was at fault
            self._unforked.add(name)
            why = found.run.message
            self._launcher.failed(imports, why)
            note = f"{trial.backend} failed in forked processes ({why}): new ones are used"
            return replace(again, notes=[*again.notes, note])
        return again

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """The original's fingerprint."""
        request = Reference(job=job, files=files, ordered=ordered, every=every)
        self._end = None if within_s is None else time.monotonic() + within_s

        def ask(child: ChildProcess, _: list[PassSample]) -> Done:
            child.say(request)
            return child.hear(Done, self._left(START_TIMEOUT_S + 3 * self.timeout_s))

        starter = self._launcher.of(Imports(), "reference", within_s=self._left(START_TIMEOUT_S))
        found = self._converse(starter, ask)
        if found.is_forked and found.is_doubtful:
            found = self._converse(self._launcher.fresh, ask)
        return found.run

    def why_not_forked(self, trial: Trial) -> str | None:
        """Why a trial cannot run in forked processes here; None if it can."""
        return self._launcher.why_not_forked(imports_of(trial))

    def never_fork(self, trial: Trial, why: str) -> None:
        """Run a trial, and all others with the same imports, in new processes."""
        self._launcher.give_up(imports_of(trial), why)

    def close(self) -> None:
        """End all processes."""
        self._launcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_note(self, run: TrialRun, imports: Imports) -> TrialRun:
        """Add a note on why processes with these imports are not forked, if they are not."""
        why = self._launcher.why_not.get(imports)
        names = ", ".join([*imports.modules, *imports.loaders])
        if why is None or not names:
            return run
        note = f"processes with {names} are not forked, which would take less time: {why}"
        return replace(run, notes=[*run.notes, note])

    def _converse(
        self, starter: Starter, talk: Callable[[ChildProcess, list[PassSample]], Done]
    ) -> _Conversation:
        """Start a child, talk with it, and end it.

        `talk` adds each pass to the list when it ends: these passes are kept if a later one fails.
        """
        self._launches += 1
        done: list[PassSample] = []
        before = self._launcher.started_s
        child = ChildProcess(self._launches, starter)
        server_s = self._launcher.started_s - before
        try:
            child.say(OpenData(self.data))
            end = talk(child, done)
            run = TrialRun(
                with_trial_metrics(done, end),
                end.fingerprint,
                launch=child.launch,
                notes=end.notes,
                threads=end.threads,
                server_s=server_s,
                reference_s=end.reference_s,
            )
            return _Conversation(run, child.is_forked)
        except ChildFailure as failure:
            run = TrialRun(
                done,
                verdict=failure.verdict,
                message=str(failure),
                launch=child.launch,
                traceback=failure.traceback,
                out_of_time=failure.verdict == "hang" and self._is_over,
                server_s=server_s,
            )
            return _Conversation(run, child.is_forked, isinstance(failure, LostError))
        finally:
            child.close()

    def _passes(
        self, child: ChildProcess, done: list[PassSample], request: RunTrial, *, with_memory: bool
    ) -> Done:
        """Run the passes of a trial in the child.

        Args:
            child: the process.
            done: receives each pass when it ends.
            request: the trial.
            with_memory: whether the child's memory is measured.
        """
        child.say(request)
        # A user's loader runs once before it is ready, which may take as long as a pass.
        own = is_custom(request.settings.backend)
        start_s = IMPORT_S + self.timeout_s if own else START_TIMEOUT_S
        child.hear(Ready, self._left(start_s))
        limit = None if self.max_memory is None else child.limit(self.max_memory)
        with contextlib.ExitStack() as stack:
            sampler: MemorySampler | None = None
            if with_memory:
                sampler = stack.enter_context(MemorySampler(child.pid, watch=limit))
            elif limit is not None:
                stack.enter_context(MemoryGuard(child.pid, self.max_memory or 0, limit))
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
                memory, why = no_memory(TIMED) if sampler is None else _memory_of(sampler, baseline)
                metrics, reasons = answer.metrics | memory, answer.reasons | why
                done.append(PassSample(answer.rows, metrics, reasons, state))
            child.say(Go())
            return child.hear(Done, self._left(START_TIMEOUT_S + 2 * self.timeout_s))

    def _left(self, timeout_s: float) -> float:
        """The smaller of a time limit and the time left for the run."""
        left = timeout_s if self._end is None else self._end - time.monotonic()
        return max(0.0, min(timeout_s, left))

    @property
    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


@dataclass(frozen=True)
class _Conversation:
    """A run, and the kind of its process."""

    run: TrialRun
    is_forked: bool
    is_lost: bool = False
    """Whether it ended because the process that it was forked from ended."""

    @property
    def is_doubtful(self) -> bool:
        """Whether forking may be the cause: the run was lost, or failed before its first pass."""
        run = self.run
        early = run.verdict in ("error", "crash", "hang") and not run.passes
        return self.is_lost or (early and not run.out_of_time)


def imports_of(trial: Trial) -> Imports:
    """The imports that a trial needs in addition to those of all trials."""
    try:
        backend = find_backend(trial.backend, named_by_caller=True)
    except FeedrateError:  # the trial's process reports it
        return Imports()
    if backend.is_custom:
        return Imports(loaders=(trial.backend,))
    module = backend.module
    if trial.backend == "original":
        module = batches_framework() if trial.job == "batches" else None
    elif trial.job == "frame" and trial.backend != "tensorflow":
        module = None  # by threads
    return Imports(modules=() if module is None else (module,))


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
    """Build the request that asks a session to run a trial."""
    return RunTrial(
        job=trial.job,
        settings=trial.settings,
        files=trial.files,
        passes=passes,
        verify=verify,
        every=every,
        transfer=phase in ("confirming", "explaining"),
        explain=phase == "explaining",
        page_cache=page_cache,
        consumer=consumer,
    )


def established_for(request: RunTrial, data: Data) -> Established:
    """Bring the files of a trial into the requested page cache state before a pass.

    Raises:
        OSError: a file cannot be opened.
    """
    if request.job == "batches":
        return AS_IS
    return establish(request.page_cache, data.paths[: request.files])


def no_memory(why: str) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass whose memory is not measured."""
    return dict.fromkeys(MEMORY_METRICS), dict.fromkeys(MEMORY_METRICS, why)


def _memory_of(
    sampler: MemorySampler, baseline: MemoryNow | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass, or why there are none."""
    peak = sampler.peak()
    group, why = sampler.group.peak()
    reasons = {"cgroup_peak_bytes": why} if why else {}
    if peak is None or baseline is None:
        unread = dict.fromkeys(MEMORY_METRICS, "smaps_rollup cannot be read here")
        return dict.fromkeys(MEMORY_METRICS) | {"cgroup_peak_bytes": group}, unread | reasons
    return {
        "baseline_pss_bytes": float(baseline.pss),
        "peak_pss_bytes": float(peak.pss),
        "peak_rss_bytes": float(peak.rss),
        "peak_uss_bytes": float(peak.uss),
        "shm_bytes": float(peak.shm),
        "cgroup_peak_bytes": group,
    }, reasons


def with_trial_metrics(passes: list[PassSample], end: Done) -> list[PassSample]:
    """The passes, each with the metrics that were measured once for the trial."""
    return [
        replace(done, metrics=done.metrics | end.metrics, reasons=done.reasons | end.reasons)
        for done in passes
    ]
