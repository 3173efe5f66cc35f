"""Plan within a budget: the number of files, the backends, and the minimum budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from ...loaders.base.errors import InputError
from ...loaders.choosing.profile import Job
from ..plan.spec import Trial, make_trial
from ..system.formats import format_seconds
from ..system.units import counted
from .launches import MARGIN, MIN_LAUNCHES_IN_BUDGET
from .row_verifier import PACE_FILES, OutOfTimeError, fitting
from .scheduler import Scheduler

FILLED = 0.85  # of a job's share is planned, by the estimates
MINIMUM_LAUNCHES = 2  # one shows no spread; three are made if there is time
FEWEST_FILES = 4  # enough for several workers to share
FEWEST_S = 0.05  # of a pass of the original: shorter passes are mostly noise
ENOUGH_FILES = PACE_FILES**2  # limit of the files that `FEWEST_S` asks for, however short they are
NEARLY_ALL = 0.75  # of the files: if so many fit, all are loaded and fewer settings are tried
# The minimum must not depend on the requested budget, so the probe does not either: it loads as
# many files as the original loads in about this time, from one to eight.
PROBE_S = 1.0
PROBE_LIMIT_S = 10.0  # that probing may take even if the budget is less
PROBE_SHARE = 0.5  # of a larger budget, as the limit of one small pass of the original
ENDED_AT = 1.1  # times the budget: then active runs are stopped
ENOUGH = 1.3  # times the minimum is advised: another probe may find a higher minimum
ROUNDED_S = 5  # the advised budget is rounded up to a multiple of this


class BudgetError(InputError):
    """The budget is below the minimum budget."""


@dataclass(frozen=True)
class Allotment:
    """The part of a job that is measured.

    Attributes:
        trials: the planned trials, on as many files as there is time for.
        files: the largest number of files that is loaded.
        of_files: the largest number of files requested.
        settings: number of settings requested for `of_files` files.
        left_out: backends that there is no time for, with the seconds of a launch.
    """

    job: Job
    trials: list[Trial]
    files: int
    of_files: int
    settings: int
    left_out: dict[str, float] = field(default_factory=dict)

    @property
    def cut(self) -> str:
        """The parts that are left out, in words; empty if there are none."""
        parts = []
        if self.files < self.of_files:
            parts.append(f"{self.job} on {self.files:,} of {counted(self.of_files, 'file')}")
        parts += [
            f"{self.job} without {backend} (about {format_seconds(launch_s)} a launch)"
            for backend, launch_s in self.left_out.items()
        ]
        return ", ".join(parts)


@dataclass
class Budget:
    """Divides a budget among the jobs, and a job's share among files and backends.

    Attributes:
        scheduler: measures the first few files, and estimates run times.
        seconds: the budget.
        began: when it began, by the scheduler's clock.
    """

    scheduler: Scheduler
    seconds: float
    began: float
    _jobs: list[Job] = field(init=False)
    _planned: dict[Job, list[Trial]] = field(init=False)
    _minimum: dict[Job, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        trials = self.scheduler.trials
        self._jobs = list(dict.fromkeys(trial.job for trial in trials))
        self._planned = {job: [t for t in trials if t.job == job] for job in self._jobs}

    def check(self) -> None:
        """Measure the original on a few files of each job, and estimate the minimum budget.

        Raises:
            BudgetError: the budget is below the minimum budget.
            InputError: the original cannot load the data.
        """
        scheduler = self.scheduler
        minimum, reasons = 0.0, ""
        for number, job in enumerate(self._jobs, start=1):
            self._probe(job)
            is_resumed = any(sample.job == job for sample in scheduler.known)
            cost = self._cost(job, self._fewest(job), 1, MINIMUM_LAUNCHES)
            self._minimum[job] = 0.0 if is_resumed else cost
            spent = scheduler.clock() - self.began
            minimum = spent + sum(self._minimum.values())
            reasons = "; ".join(self._reason(one) for one in self._minimum if self._minimum[one])
            if minimum > self.seconds and (spent >= self._limit or number == len(self._jobs)):
                # Assume that jobs for which no time is left cost the same.
                raise self._too_small(minimum * len(self._jobs) / number, reasons)
        if reasons:
            scheduler.progress.tell(
                f"budget {format_seconds(self.seconds)}: the minimum budget is about "
                f"{format_seconds(minimum)} here: {reasons}"
            )

    @property
    def _limit(self) -> float:
        """Seconds that all probing may take."""
        return max(self.seconds, PROBE_LIMIT_S)

    def share(self, job: Job) -> float:
        """Seconds for a job: its minimum, and an equal part of the time beyond all minimums."""
        jobs = self._jobs[self._jobs.index(job) :]
        left = self.began + self.seconds - self.scheduler.clock()
        spare = left - sum(self._minimum[one] for one in jobs)
        return max(0.0, self._minimum[job] + spare / len(jobs))

    def stop_at(self, job: Job) -> float:
        """Clock time at which a job's runs are stopped: later jobs keep their minimum."""
        later = self._jobs[self._jobs.index(job) + 1 :]
        end = self.began + ENDED_AT * self.seconds
        return end - sum(self._minimum[one] for one in later)

    def allot(self, job: Job, seconds: float) -> Allotment:
        """Plan the trials of a job that there is time for.

        Backends take precedence over files, the fastest to start first. The estimates assume one
        launch of each backend; of the original and the slowest backend, three to choose the
        backends and two to choose the number of files.
        """
        most = self._most(job)
        full = Allotment(job, self._planned[job], most, most, len(self._trials_on(job, most)))
        if known := {sample.files for sample in self.scheduler.known if sample.job == job}:
            return self._limited_to(full, max(known))
        fewest, backends, available = self._fewest(job), self._backends(job), FILLED * seconds
        count = next(
            (
                number
                for number in range(len(backends), 1, -1)
                if self._cost(job, fewest, number) <= available
            ),
            min(1, len(backends)),
        )
        left_out = {name: self._launch(job, name, fewest) for name in backends[count:]}
        kept = {"original", *backends[:count]}
        trials = [trial for trial in full.trials if trial.backend in kept]
        start = self._cost(job, 0, count, MINIMUM_LAUNCHES)
        per_file = (self._cost(job, most, count, MINIMUM_LAUNCHES) - start) / most
        left = available - start
        files = int(left / per_file) if per_file * most > left else most
        if files >= NEARLY_ALL * most:
            files = most
        chosen = replace(full, trials=trials, left_out=left_out)
        return self._limited_to(chosen, min(most, max(fewest, files)))

    def _limited_to(self, plan: Allotment, files: int) -> Allotment:
        """Return the plan on `files` files; unless those are all, without smaller file counts."""
        if files == plan.of_files:
            return plan
        largest = [trial for trial in plan.trials if trial.files == plan.of_files]
        trials = [make_trial(plan.job, trial.settings, files) for trial in largest]
        return replace(plan, trials=trials, files=files)

    def _probe(self, job: Job) -> None:
        """Time the load of one file, and one pass of the original over a few."""
        scheduler, costs, most = self.scheduler, self.scheduler.costs, self._most(job)
        scheduler.verifier.stop_at = self.began + self._limit
        try:
            pace = scheduler.verifier.pace(job, most, enough_s=PROBE_S)
        except OutOfTimeError as error:
            raise self._unknown(str(error)) from error
        costs.process_s = max(costs.process_s, pace.start_s)
        costs.check_s[job] = pace.file_s
        files = min(most, fitting(PROBE_S, pace.file_s))
        trial = self._any_trial(job, "original", files)
        start = scheduler.clock()
        left = self.began + self._limit - start
        within_s = max(0.0, min(left, max(PROBE_LIMIT_S, PROBE_SHARE * self.seconds)))
        run = scheduler.executor.run(trial, "confirming", passes=1, verify=False, within_s=within_s)
        took = scheduler.clock() - start
        if run.out_of_time:
            raise self._unknown(
                f"one pass of the original over {counted(files, 'file')} took longer than "
                f"{format_seconds(within_s)}"
            )
        walls = [wall for one in run.passes if (wall := one.metrics.get("wall_s"))]
        costs.pass_s[job] = sum(walls) / files or pace.file_s
        costs.note_start(job, "original", took - run.server_s - sum(walls), run.server_s)

    def _most(self, job: Job) -> int:
        """The most files of a trial."""
        return max(trial.files for trial in self._planned[job])

    def _trials_on(self, job: Job, files: int) -> list[Trial]:
        return [trial for trial in self._planned[job] if trial.files == files]

    def _fewest(self, job: Job) -> int:
        """The fewest files that give a useful measurement."""
        enough = ceil(FEWEST_S / max(self.scheduler.costs.pass_s[job], FEWEST_S / ENOUGH_FILES))
        return min(max(FEWEST_FILES, enough), self._most(job))

    def _backends(self, job: Job) -> list[str]:
        """All except the original: the custom loader first, then the fastest to start."""
        names = {trial.backend for trial in self._planned[job]} - {"original"}
        loader, costs = self.scheduler.spec.loader, self.scheduler.costs
        return sorted(names, key=lambda name: (name != loader, costs.start(job, name), name))

    def _any_trial(self, job: Job, backend: str, files: int) -> Trial:
        """Some trial of a backend, on `files` files."""
        trial = next(trial for trial in self._planned[job] if trial.backend == backend)
        return make_trial(job, trial.settings, files)

    def _launch(self, job: Job, backend: str, files: int, *, again: bool = False) -> float:
        """Estimate a launch of a backend on `files` files, in seconds."""
        return self.scheduler.costs.launch(self._any_trial(job, backend, files), again=again)

    def _cost(
        self, job: Job, files: int, count: int, launches: int = MIN_LAUNCHES_IN_BUDGET
    ) -> float:
        """Estimate one launch of the original and the first `count` backends, and the repeats.

        Of the backends only the slowest is repeated: it may be the best.
        """
        costs, backends = self.scheduler.costs, self._backends(job)[:count]
        first = sum(self._launch(job, name, files) for name in ("original", *backends))
        again = (self._launch(job, name, files, again=True) for name in backends)
        slowest = max(again, default=0.0)
        original = self._launch(job, "original", files, again=True)
        repeats = (launches - 1) * (original + slowest)
        return MARGIN * (costs.check_s[job] * files + first + repeats)

    def _reason(self, job: Job) -> str:
        """The parts of a job's minimum, in words."""
        fewest = self._fewest(job)
        launches = [
            f"{name}, about {format_seconds(self._launch(job, name, fewest))} each"
            for name in ("original", *self._backends(job)[:1])
        ]
        return (
            f"the {job} job with {counted(fewest, 'file')} launched "
            f"{MINIMUM_LAUNCHES} times ({'; '.join(launches)})"
        )

    def _too_small(self, minimum: float, reasons: str) -> BudgetError:
        enough = ROUNDED_S * ceil(ENOUGH * minimum / ROUNDED_S)
        return BudgetError(
            f"the budget is {format_seconds(self.seconds)}, and the minimum budget is about "
            f"{format_seconds(minimum)} here: {reasons}. Give --budget {enough}s or more, or "
            "fewer jobs, columns or passes"
        )

    def _unknown(self, reason: str) -> BudgetError:
        """The error if the original is too slow to find the minimum in time."""
        return BudgetError(
            f"the budget is {format_seconds(self.seconds)}, which is too little to find the "
            f"minimum budget: {reason}. Give --budget none or a budget many times as large, or "
            "fewer jobs, columns or passes"
        )
