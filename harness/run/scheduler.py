"""Run trials and write their samples; a sweep runs all of them, round by round.

In rounds, a slow minute of the machine affects all trials and not just one. Time comes from a clock
that tests replace.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Protocol

import msgspec

from ...loaders.base.machine import Machine, fingerprint
from ...loaders.parquet.dataset import Dataset
from ..plan.host import are_alike
from ..plan.spec import Spec, Trial
from ..record.metrics import METRICS
from ..record.results import REMEDIES, Phase, Results, Sample
from ..record.sampling import described
from ..record.summary import MEMORY_PASSES, has_alike_passes, usable
from ..show.progress import Progress, Silent
from ..system.units import counted, without_amounts
from .costs import Costs
from .executor import Executor, TrialRun
from .null_reasons import complete
from .row_verifier import OutOfTimeError, RowVerifier, VerificationResult

log = logging.getLogger("feedrate.harness")

MAX_STACKS_CHARS = 8000  # of a hung trial, kept in its row


class SampleSink(Protocol):
    """Stores samples as they arrive, as a journal does."""

    def append(self, sample: Sample) -> None:
        """Store a sample."""
        ...


class NullSink:
    """Stores nothing."""

    def append(self, sample: Sample) -> None:
        """Do nothing."""


@dataclass
class Scheduler:
    """Runs trials and writes their samples one by one.

    Attributes:
        spec: how often and how long to measure.
        trials: all planned trials.
        executor: runs one trial once.
        journal: receives each sample at once.
        known: samples of an earlier run of the same sweep; they are not measured again.
        progress: is notified of phases and runs.
        clock: seconds, monotonic.
        exceeds: returns why a trial would exceed the memory, so that it is not started, or None.
        rows: returns the number of rows in the first n files, from their footers, or None.
        verify_launches: whether to verify the rows of each launch, or of a trial only once.
        sample_rows: whether rows of very many files may be verified on a sample of them.
    """

    spec: Spec
    trials: Sequence[Trial]
    executor: Executor
    journal: SampleSink
    known: Sequence[Sample] = ()
    progress: Progress = field(default_factory=Silent)
    clock: Callable[[], float] = time.monotonic
    exceeds: Callable[[Trial], str | None] = lambda _: None
    rows: Callable[[int], int | None] = lambda _: None
    verify_launches: bool = True
    sample_rows: bool = True
    samples: list[Sample] = field(init=False)
    _notes: dict[str, str] = field(init=False, default_factory=dict)
    verifier: RowVerifier = field(init=False)
    """Compares rows with the original's."""
    costs: Costs = field(init=False)
    """Estimates of how long runs take."""
    stop_at: float | None = None
    """Clock time at which runs are stopped and no new run starts."""
    passes_by_trial: dict[str, int] = field(default_factory=dict)
    """Passes of a timed launch by trial id, where the caller decides them."""
    stopped: set[str] = field(init=False, default_factory=set)
    """Trials stopped because time ran out; they are not run again."""
    _by_trial: dict[str, list[Sample]] = field(init=False, default_factory=dict)
    _verified: dict[str, VerificationResult] = field(init=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    """Held except while a trial runs: threads wait for each other to load the original's rows."""

    def __post_init__(self) -> None:
        self.verifier = RowVerifier(self.executor, self.spec, self.clock, self.rows)
        if not self.sample_rows:
            self.verifier.seconds = inf
        self.costs = Costs(self.spec.passes)
        self.samples = list(self.known)
        for sample in self.samples:
            self._by_trial.setdefault(sample.trial, []).append(sample)

    def screen(self) -> None:
        """Run every trial once per round, in a new order each round, without a time limit."""
        for turn, trials in enumerate(self.rounds()):
            for trial in trials:
                self.measure_new(trial, "confirming", turn)

    def rounds(self) -> list[list[Trial]]:
        """Begin the phase of a sweep; return the trials of each round in their order."""
        rounds = self.spec.repeats
        self.progress.phase("sweep", rounds * len(self.trials))
        return [self.order(self.trials, turn) for turn in range(rounds)]

    def order(self, trials: Sequence[Trial], turn: int) -> list[Trial]:
        """Most files first; trials on equally many files in a random order per round."""
        order = list(trials)
        random.Random(f"{self.spec.seed} {turn}").shuffle(order)  # noqa: S311 - no secret
        order.sort(key=lambda trial: -trial.files)
        return order

    @property
    def notes(self) -> list[str]:
        """Distinct warnings from the trials; if they differ only in amounts, the first."""
        return list(self._notes.values())

    def samples_of(self, trial: Trial) -> Sequence[Sample]:
        """The samples of a trial."""
        return self._by_trial.get(trial.id, ())

    def launches_of(self, trial: Trial, phase: Phase) -> int:
        """How many complete launches of a phase a trial has had."""
        rounds = Counter(one.round for one in self.samples_of(trial) if one.phase == phase)
        return sum(count >= self.passes(trial, phase) for count in rounds.values())

    def may_run(self, trial: Trial, phase: Phase) -> bool:
        """Whether a trial may run in a phase: no sample of it or of timed launches has failed.

        Failures while explaining or measuring memory do not count for other phases.
        """
        return trial.id not in self.stopped and usable(
            one for one in self.samples_of(trial) if one.phase in (phase, "screening", "confirming")
        )

    def untried(self) -> list[Trial]:
        """The trials without samples, which there was no time for."""
        measured = {sample.trial for sample in self.samples}
        return [trial for trial in self.trials if trial.id not in measured]

    def measure_new(
        self, trial: Trial, phase: Phase, turn: int, executor: Executor | None = None
    ) -> None:
        """Run a trial unless it has all samples of this round, or has failed before.

        Several threads may measure at once, each with an executor of its own.

        Args:
            trial: what to run.
            phase: of the search.
            turn: the round.
            executor: runs it; by default the scheduler's.
        """
        with self._lock:
            self.verifier.executor = executor or self.executor
            self._measure_new(trial, phase, turn, executor or self.executor)

    def _measure_new(self, trial: Trial, phase: Phase, turn: int, executor: Executor) -> None:
        samples = self.samples_of(trial)
        passes = {s.pass_ for s in samples if s.phase == phase and s.round == turn}
        is_complete = len(passes) >= self.passes(trial, phase)  # a kill may have cut the round
        if is_complete or not self.may_run(trial, phase):
            return
        self.progress.running(trial)
        if (reason := self.exceeds(trial)) is not None:
            new = [failed_sample(trial, phase, turn, TrialRun([], None, "out-of-memory", reason))]
            self._add(new)
        else:
            self.verifier.stop_at = self.stop_at
            try:
                self.verifier.expected(trial)
            except OutOfTimeError:
                return
            start = self.clock()
            if self.stop_at is not None and start >= self.stop_at:
                return
            new, server_s, waited_s = self._measure(trial, phase, turn, executor)
            took = self.clock() - start - waited_s
            new = [msgspec.structs.replace(sample, run_s=took) for sample in new]
            self._add(new)
            self.costs.note(trial, phase, took, new, server_s, self.passes(trial, phase))
        self.progress.finished(trial, new)

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.journal.append(sample)
            self.samples.append(sample)
            self._by_trial.setdefault(sample.trial, []).append(sample)

    def passes(self, trial: Trial, phase: Phase) -> int:
        """The number of passes of a launch.

        Two at most if it measures memory: the second may hold two frames. The original has one from
        its second launch on, if its passes are long and alike.
        """
        if phase == "memory":
            return min(self.spec.passes, MEMORY_PASSES)
        if trial.id in self.passes_by_trial:
            return self.passes_by_trial[trial.id]
        planned = self.spec.passes
        if phase == "confirming" and has_alike_passes(self.samples_of(trial), planned):
            return 1
        return planned

    def _measure(
        self, trial: Trial, phase: Phase, turn: int, executor: Executor
    ) -> tuple[list[Sample], float, float]:
        """Launch a trial.

        Returns:
            Its samples; the seconds that starting a fork server took, and those that it waited
            for other threads afterwards.
        """
        # The original is not verified: all others are compared with its rows.
        is_original = trial.backend == "original"
        each_launch = phase == "confirming" and self.verify_launches
        verify = not is_original and (each_launch or trial.id not in self._verified)
        within_s = None if self.stop_at is None else self.stop_at - self.clock()
        planned = self.passes(trial, phase)
        every = self.verifier.every(trial) if verify else 1
        with self._unlocked():
            run = executor.run(
                trial, phase, passes=planned, verify=verify, every=every, within_s=within_s
            )
            ended = self.clock()
        waited_s = self.clock() - ended
        self.verifier.executor = executor
        if run.out_of_time:
            self.stopped.add(trial.id)
            return [], run.server_s, waited_s
        # Loaders read rows in varying portions, so amounts in a warning differ from run to run.
        for note in run.notes:
            self._notes.setdefault(without_amounts(note), note)
        if run.traceback:
            log.debug("%s ended with %s:\n%s", trial.id, run.verdict, run.traceback)
        if run.verdict is not None:
            if len(run.passes) == planned:
                run = replace(run, message=f"after its last pass: {run.message}")
            unverified = VerificationResult("unverified")
            samples = self._as_samples(trial, phase, turn, run, planned, unverified)
            return [*samples, failed_sample(trial, phase, turn, run)], run.server_s, waited_s
        if is_original:
            self._verified[trial.id] = self.verifier.of_original(trial)
        elif verify:
            self._verified[trial.id] = self.verifier.compare(trial, run)
        verified = self._verified[trial.id]
        samples = list(self._as_samples(trial, phase, turn, run, planned, verified))
        return samples, run.server_s, waited_s

    def _as_samples(
        self,
        trial: Trial,
        phase: Phase,
        turn: int,
        run: TrialRun,
        planned: int,
        verified: VerificationResult,
    ) -> Iterable[Sample]:
        fewer = planned if phase == "confirming" and planned < self.spec.passes else None
        for number, measured in enumerate(run.passes):
            metrics, reasons = complete(trial, phase, measured)
            state = measured.page_cache
            if state.reason:
                reasons["page_cache"] = state.reason
            verified = self.verifier.check_row_count(trial, verified, measured.rows)
            verdict = verified.verdict
            if verdict == "ok" and state.state == "unknown":
                verdict = "unverified"
                reasons["verdict"] = f"not {self.spec.page_cache}: {state.reason}"
            if (reason := reasons.pop("fingerprint", None)) is not None:
                reasons["verdict"] = reason
            if verdict == "wrong-rows":
                reasons["verdict"] = verified.why
            if verified.every > 1:
                files = described(trial.files, verified.every)
                reasons["verified"] = f"rows compared on {files}"
            if verdict == "ok" and (idle := metrics["idle_workers"]):
                verdict = "idle-workers"
                reasons["verdict"] = (
                    f"{idle:.0f} of {trial.settings.num_workers} workers had nothing to do"
                )
                reasons["remedy"] = REMEDIES[verdict]
            yield _sample(
                trial,
                phase,
                turn,
                run,
                pass_=number,
                rows=measured.rows,
                fingerprint=verified.digest,
                verdict=verdict,
                metrics=metrics,
                reasons=reasons,
                page_cache=state.state,
                verified_every=verified.every,
                passes=fewer,
            )


def failed_sample(trial: Trial, phase: Phase, turn: int, run: TrialRun) -> Sample:
    """The sample of a pass that failed."""
    verdict = run.verdict or "error"
    reason = f"the trial ended with {verdict} after {counted(len(run.passes), 'pass')}"
    reasons = {"verdict": run.message} | dict.fromkeys(METRICS, reason)
    if verdict in REMEDIES:
        reasons["remedy"] = REMEDIES[verdict]
    if verdict == "hang" and run.traceback:
        reasons["stacks"] = run.traceback[:MAX_STACKS_CHARS]
    return _sample(
        trial,
        phase,
        turn,
        run,
        pass_=len(run.passes),
        rows=None,
        fingerprint=None,
        verdict=verdict,
        metrics=dict.fromkeys(METRICS),
        reasons=reasons,
    )


def _sample(trial: Trial, phase: Phase, turn: int, run: TrialRun, **measured: Any) -> Sample:
    """A sample of a trial's run; `measured` are the fields that differ from pass to pass."""
    return Sample(
        trial=trial.id,
        job=trial.job,
        backend=trial.backend,
        settings=trial.settings,
        files=trial.files,
        phase=phase,
        round=turn,
        launch=run.launch,
        threads=run.threads,
        **measured,
    )


_FIXED = (
    "passes", "seed", "columns", "target", "page_cache", "consumer", "objective", "tie",
    "max_memory",
)  # fmt: skip
"""Fields of a spec that must not change on resume: they decide the samples and the choice."""


def check_resumable(
    results: Results, spec: Spec, dataset: Dataset, machine: Machine | None = None
) -> list[str]:
    """The differences between an earlier sweep and this one; empty if it may be resumed.

    Args:
        results: of the earlier sweep.
        spec: of this one.
        dataset: its data.
        machine: which it runs on; by default this one.
    """
    old, data = results.header.spec, results.header.dataset
    default = Spec()  # for journals that are older than a field
    pairs = [(name, old.get(name, getattr(default, name)), getattr(spec, name)) for name in _FIXED]
    pairs += [
        (f"the data's {name}", getattr(data, name), getattr(dataset, name))
        for name in ("folder", "files", "bytes", "schema", "snapshot")
    ]
    then, here = results.header.environment, machine or fingerprint()
    if not are_alike(then, here):
        pairs.append(("the machine", then, here))
    return [f"{name} was {was!r}, is {now!r}" for name, was, now in pairs if was != now]
