"""Run each trial in its own child process, which is forked where that is safe."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import Self

from ...loaders.base.errors import FeedrateError
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import find_backend, is_foreign
from ...loaders.training.original_training import batches_framework
from ..choose.race import PER_SERVER
from ..plan.spec import Trial
from ..record.metrics import MEMORY_METRICS
from ..record.results import Phase
from ..system.memory import MemoryGuard, MemorySampler
from ..system.pagecache import PageCache
from ..system.procfs import MemoryNow
from ..trial.protocol import Done, Go, Imports, OpenData, PassDone, Ready, Reference, RunTrial
from ..trial.work import Data
from .child_process import ChildFailure, ChildProcess, LostError
from .executor import (
    PassSample,
    TrialRun,
    established_for,
    no_memory,
    request_for,
    with_trial_metrics,
)
from .forks import Launcher
from .process_start import HERE, START_TIMEOUT_S, Python, Starter

DRAGGED = "another rank failed"
TIMED = "measured in separate launches, which are not timed"
IMPORT_S = 30.0  # for a process to start, and to import what a custom loader needs


@dataclass
class ChildExecutor:
    """Runs each trial alone in its own process.

    Memory is measured in separate runs (the phase `memory`), in new processes: a fork shares
    pages with its server, and reading a process's memory delays its allocations.

    Attributes:
        data: the files and columns.
        timeout_s: limit of one pass.
        first_launch: launches of an earlier run of the same sweep; numbering continues from it.
        page_cache: state of the files in the page cache before each pass; ignored by the
            batches job, whose rows are in memory.
        consumer: stand-in for a training step in jobs with batches.
        max_memory: PSS in bytes beyond which a trial's processes are killed.
        python: the interpreter and packages.
        ranks: how many processes run each trial at once, as ranks that share the machine; the
            slowest of them counts.
    """

    data: Data
    timeout_s: float
    first_launch: int = 0
    page_cache: PageCache = "as-is"
    consumer: str | None = None
    max_memory: int | None = None
    python: Python = HERE
    ranks: int = 1
    _launches: int = field(init=False)
    _together: Barrier = field(init=False, default_factory=lambda: Barrier(1))
    """Where ranks wait for each other before each pass."""
    _stop_at: float | None = field(init=False, default=None)
    """When the run is stopped, by the monotonic clock; None without a limit."""
    _unforked: set[str] = field(init=False, default_factory=set)
    """Trials that failed in forks but not in new processes."""

    def __post_init__(self) -> None:
        self._launches = self.first_launch
        self._launcher = Launcher(self.python, PER_SERVER * self.ranks)

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
        """Run a trial; if a fork failed, again in a new process."""
        request = request_for(
            trial, phase, passes, self.page_cache, self.consumer, verify=verify, every=every
        )
        self._stop_at = None if within_s is None else time.monotonic() + within_s
        talk = partial(self._passes, request=request, with_memory=phase == "memory")
        imports = imports_of(trial)
        if phase == "memory":
            self._launcher.close()  # PSS would count library pages shared with servers less
        if phase == "memory" or trial.id in self._unforked:
            return self._converse(self._launcher.fresh, talk).run
        start_s = IMPORT_S + self.timeout_s if imports.loaders else START_TIMEOUT_S
        starter = self._launcher.of(imports, trial.id, within_s=self._capped(start_s))
        conversation = self._converse(starter, talk)
        if not conversation.is_forked:
            return self._with_note(conversation.run, imports)
        if not conversation.is_doubtful:
            return conversation.run
        rerun = self._converse(self._launcher.fresh, talk).run
        if rerun.verdict is None and not conversation.is_lost:  # the fork was at fault
            self._unforked.add(trial.id)
            reason = conversation.run.message
            self._launcher.failed(imports, reason)
            note = f"{trial.backend} failed in forked processes ({reason}): new ones are used"
            return replace(rerun, notes=[*rerun.notes, note])
        return rerun

    def reference(
        self,
        job: Job,
        files: int,
        *,
        ordered: bool,
        every: int = 1,
        within_s: float | None = None,
    ) -> TrialRun:
        """Return the fingerprint of the original's rows."""
        request = Reference(job=job, files=files, ordered=ordered, every=every)
        self._stop_at = None if within_s is None else time.monotonic() + within_s

        def talk(child: ChildProcess, _: list[PassSample]) -> Done:
            child.say(request)
            return child.hear(Done, self._capped(START_TIMEOUT_S + 3 * self.timeout_s))

        starter = self._launcher.of(Imports(), "reference", within_s=self._capped(START_TIMEOUT_S))
        conversation = self._converse(starter, talk, ranks=1)
        if conversation.is_forked and conversation.is_doubtful:
            conversation = self._converse(self._launcher.fresh, talk, ranks=1)
        return conversation.run

    def why_not_forked(self, trial: Trial) -> str | None:
        """Return why a trial cannot run in forked processes here; None if it can."""
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
        """If processes with these imports are not forked, add a note on the reason."""
        reason = self._launcher.why_not.get(imports)
        names = ", ".join([*imports.modules, *imports.loaders])
        if reason is None or not names:
            return run
        note = f"processes with {names} are not forked, which would take less time: {reason}"
        return replace(run, notes=[*run.notes, note])

    def _converse(
        self,
        starter: Starter,
        talk: Callable[[ChildProcess, list[PassSample]], Done],
        ranks: int | None = None,
    ) -> Conversation:
        """Start a child per rank, talk with all at once, and end them; the slowest counts.

        `talk` adds each pass to the list when it ends: these passes are kept if a later one fails.
        """
        self._launches += 1
        count = ranks or self.ranks
        self._together = Barrier(count)
        started_s = self._launcher.started_s
        with contextlib.ExitStack() as stack:
            children = []
            for rank in range(count):
                environment = {"LOCAL_RANK": str(rank)} if count > 1 else {}
                children.append(ChildProcess(self._launches, starter, environment))
                stack.callback(children[-1].close)
            server_s = self._launcher.started_s - started_s
            if count == 1:
                return self._conversation(children[0], talk, server_s)
            return slowest(
                _at_once(partial(self._conversation, talk=talk, server_s=server_s), children)
            )

    def _conversation(
        self,
        child: ChildProcess,
        talk: Callable[[ChildProcess, list[PassSample]], Done],
        server_s: float,
    ) -> Conversation:
        passes: list[PassSample] = []
        try:
            child.say(OpenData(self.data))
            done = talk(child, passes)
            run = TrialRun(
                with_trial_metrics(passes, done),
                done.fingerprint,
                launch=child.launch,
                notes=done.notes,
                threads=done.threads,
                server_s=server_s,
                reference_s=done.reference_s,
            )
            return Conversation(run, child.is_forked)
        except (ChildFailure, BrokenBarrierError) as error:
            self._together.abort()
            failure = error if isinstance(error, ChildFailure) else ChildFailure("error", DRAGGED)
            run = TrialRun(
                passes,
                verdict=failure.verdict,
                message=str(failure),
                launch=child.launch,
                traceback=failure.traceback,
                out_of_time=failure.verdict == "hang" and self._is_out_of_time,
                server_s=server_s,
            )
            return Conversation(run, child.is_forked, isinstance(failure, LostError))

    def _passes(
        self, child: ChildProcess, passes: list[PassSample], request: RunTrial, *, with_memory: bool
    ) -> Done:
        """Run the passes of a trial in the child, and add each to `passes` when it ends."""
        child.say(request)
        # Another's loader runs once before it is ready, which may take as long as a pass.
        others = is_foreign(request.settings.backend)
        start_s = IMPORT_S + self.timeout_s if others else START_TIMEOUT_S
        child.hear(Ready, self._capped(start_s))
        watch = None if self.max_memory is None else child.limit(self.max_memory)
        with contextlib.ExitStack() as stack:
            sampler: MemorySampler | None = None
            if with_memory:
                sampler = stack.enter_context(MemorySampler(child.pid, watch=watch))
            elif watch is not None:
                stack.enter_context(MemoryGuard(child.pid, self.max_memory or 0, watch))
            baseline = sampler.reset_peak() if sampler is not None else None
            for _ in range(request.passes):
                try:
                    state = established_for(request, self.data)
                except OSError as error:
                    raise ChildFailure("error", f"{error.filename}: {error.strerror}") from error
                if sampler is not None:
                    sampler.reset_peak()
                self._together.wait(self._capped(START_TIMEOUT_S + self.timeout_s))
                child.say(Go())
                answer = child.hear(PassDone, self._capped(self.timeout_s))
                memory, reasons = (
                    no_memory(TIMED) if sampler is None else _memory_of(sampler, baseline)
                )
                metrics, reasons = answer.metrics | memory, answer.reasons | reasons
                passes.append(PassSample(answer.rows, metrics, reasons, state))
            child.say(Go())
            return child.hear(Done, self._capped(START_TIMEOUT_S + 2 * self.timeout_s))

    def _capped(self, timeout_s: float) -> float:
        """The smaller of a time limit and the time left for the run."""
        left = timeout_s if self._stop_at is None else self._stop_at - time.monotonic()
        return max(0.0, min(timeout_s, left))

    @property
    def _is_out_of_time(self) -> bool:
        return self._stop_at is not None and time.monotonic() >= self._stop_at


@dataclass(frozen=True)
class Conversation:
    """A run, and how its process started and ended."""

    run: TrialRun
    is_forked: bool
    is_lost: bool = False
    """Whether it ended because the process that it was forked from had ended."""

    @property
    def is_doubtful(self) -> bool:
        """Whether forking may be the cause: the run was lost, or failed before its first pass."""
        run = self.run
        failed_early = run.verdict in ("error", "crash", "hang") and not run.passes
        return self.is_lost or (failed_early and not run.out_of_time)


def slowest(ranks: Sequence[Conversation]) -> Conversation:
    """The run of a trial on several ranks: of each pass the slowest rank, or the rank that failed.

    In the phase `memory`, whose times count for nothing, it is the rank with the highest peak.
    """
    runs = [one.run for one in ranks]
    failed = [one for one in ranks if one.run.verdict is not None]
    if failed:
        return next((one for one in failed if one.run.message != DRAGGED), failed[0])
    passes = [max(same, key=_weight) for same in zip(*(run.passes for run in runs), strict=True)]
    return replace(ranks[0], run=replace(runs[0], passes=passes))


def _weight(sample: PassSample) -> tuple[float, float]:
    metrics = sample.metrics
    return metrics.get("peak_pss_bytes") or 0.0, metrics.get("wall_s") or 0.0


def _at_once(
    talk: Callable[[ChildProcess], Conversation], children: Sequence[ChildProcess]
) -> list[Conversation]:
    """Talk with all children at the same time."""
    with ThreadPoolExecutor(len(children)) as pool:
        futures = [pool.submit(talk, child) for child in children]
        try:
            wait(futures)
        except BaseException:
            for child in children:
                child.kill()  # so that the threads end
            raise
    return [future.result() for future in futures]


def imports_of(trial: Trial) -> Imports:
    """The imports that a trial needs beyond those of every trial."""
    try:
        backend = find_backend(trial.backend, named_by_caller=True)
    except FeedrateError:  # the trial's process reports it
        return Imports()
    if backend.is_custom:
        return Imports(loaders=(trial.backend,))
    module = backend.module
    if trial.backend == "original":
        module = batches_framework() if trial.job == "batches" else None
    elif trial.job == "frame" and trial.backend != "tensorflow" and not backend.is_foreign:
        module = None  # threads load the frame
    return Imports(modules=() if module is None else (module,))


def _memory_of(
    sampler: MemorySampler, baseline: MemoryNow | None
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The memory metrics of a pass, or why there are none."""
    peak = sampler.peak()
    group, reason = sampler.group.peak()
    reasons = {"cgroup_peak_bytes": reason} if reason else {}
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
