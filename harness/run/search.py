"""Find the best settings: a race of launches in rounds, in which slower settings drop out.

The first rounds (screening) cover all settings; then the contenders are launched until the best is
settled. Every trial runs alone in its own process, and all rounds count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from ...loaders.base.settings import LoaderSettings
from ...loaders.choosing.profile import Job
from ...loaders.choosing.registry import find_backend
from ..choose.race import LARGEST_SHARE, MAX_LAUNCHES, Race
from ..plan.spec import Trial, make_trial
from ..record.objectives import OBJECTIVES, THROUGHPUT
from ..record.statistics import MIN_LAUNCHES
from ..record.summary import LEANEST_FIRST, Summary, of_trials, simplest
from ..system.formats import format_seconds
from ..system.units import counted
from .budget import Budget
from .coverage import Coverage
from .launches import (
    MARGIN,
    MEMORY_LAUNCHES,
    MIN_LAUNCHES_IN_BUDGET,
    STILL_IN,
    Deadline,
    LaunchRace,
)
from .scheduler import Scheduler

SCREENING_SHARE = 0.6  # of a budget, for later screening rounds; their launches are evidence too
FIRST_ROUND_SHARE = 0.75  # of a budget: without a launch of each setting, evidence is weak
ENOUGH_SHARE = 0.65  # of a budget: then a tied race ends, to keep time for fewer files

EXPLAINED_LAUNCHES = 3  # of the choice, in which stages are measured alone; 1 within a budget


@dataclass
class Search:
    """Runs the trials that are needed to choose settings for each job.

    Attributes:
        scheduler: runs trials and keeps their samples.
    """

    scheduler: Scheduler
    began: float | None = None
    """When the budget began, by the scheduler's clock; by default, when the search begins."""
    tried: dict[Job, Coverage] = field(init=False, default_factory=dict)
    """By job, the part of the search that a budget left time for."""

    def run(self) -> None:
        """Search job by job, within the budget.

        Raises:
            BudgetError: the budget is below the minimum budget.
        """
        scheduler = self.scheduler
        seconds = scheduler.spec.budget_s
        began = scheduler.clock() if self.began is None else self.began
        if seconds is None:
            for job in self._jobs:
                trials = [trial for trial in scheduler.trials if trial.job == job]
                _JobSearch(scheduler, job, trials, began, None).run()
            return
        budget = Budget(scheduler, seconds, began)
        budget.check()
        try:
            for job in self._jobs:
                self._within(budget, job)
        finally:
            scheduler.stop_at = None

    @property
    def _jobs(self) -> list[Job]:
        return list(dict.fromkeys(trial.job for trial in self.scheduler.trials))

    def _within(self, budget: Budget, job: Job) -> None:
        """Search one job in its share of the budget."""
        scheduler, share = self.scheduler, budget.share(job)
        plan = budget.allot(job, share)
        if plan.cut:
            scheduler.progress.tell(f"budget {format_seconds(budget.seconds)}: {plan.cut}")
        others = [trial for trial in scheduler.trials if trial.job != job]
        scheduler.trials = [*others, *plan.trials]
        scheduler.verifier.limit_to_budget(share)
        search = _JobSearch(
            scheduler, job, plan.trials, scheduler.clock(), share, budget.stop_at(job)
        )
        search.run()
        self.tried[job] = Coverage.of(plan, scheduler.samples, explained=search.explained)


@dataclass
class _JobSearch:
    """The search for one job."""

    scheduler: Scheduler
    job: Job
    trials: Sequence[Trial]
    start: float
    seconds: float | None
    """Its share of the budget."""
    stop_at: float | None = None
    """Clock time at which active runs are stopped."""
    explained: bool = field(init=False, default=False)
    """Whether there was time to explain the choice, if there is one."""

    def run(self) -> None:
        """Screen and race on the most files, explain the choice, then do fewer files and memory."""
        counts = sorted({trial.files for trial in self.trials}, reverse=True)
        self._screen(counts[0], self._deadline(FIRST_ROUND_SHARE), self._deadline(SCREENING_SHARE))
        self.scheduler.stop_at = self.stop_at
        race = self._confirm(counts[0])
        if race is not None and race.choice() is not None:
            self._measure_memory(race, at_least=True)
        # Among tied settings, the least memory decides.
        chosen = None if race is None else race.choice()
        if chosen is not None:
            self._explain(chosen)
        for place, files in enumerate(counts[1:], start=1):
            # Equal time for each number of files, and for memory after them. A choice needs all
            # settings tried on that number of files.
            self._screen(files, self._equal_part(1 + len(counts) - place))
            self.scheduler.stop_at = self.stop_at
            untried = {t.id for t in self.scheduler.untried() if t.backend != "original"}
            if chosen is not None and untried.isdisjoint(t.id for t in self._trials_on(files)):
                self._confirm_fewer(files, chosen)
        if race is not None and chosen is not None:
            self._measure_memory(race)

    def _deadline(self, share: float) -> Deadline:
        """The end of a share of the budget."""
        end = None if self.seconds is None else self.start + share * self.seconds
        return Deadline(self.scheduler.clock, end)

    @property
    def _most_files(self) -> int:
        return max(trial.files for trial in self.trials)

    def _equal_part(self, parts: int) -> Deadline:
        """The end of the first of `parts` equal parts of the time left."""
        left = self._deadline(1.0).left
        end = None if left is None else self.scheduler.clock() + left / parts
        return Deadline(self.scheduler.clock, end)

    def _trials_on(self, files: int) -> list[Trial]:
        return [trial for trial in self.trials if trial.files == files]

    def _screen(self, files: int, deadline: Deadline, later: Deadline | None = None) -> None:
        """Run rounds of the trials still in the race; a backend's first may run past the deadline.

        Args:
            files: number of files of the trials.
            deadline: for the first round.
            later: for further rounds; by default the same.
        """
        scheduler, rounds = self.scheduler, self.scheduler.spec.repeats
        trials, is_most = self._trials_on(files), files == self._most_files
        name = f"screening {self.job}, {counted(files, 'file')}"
        scheduler.progress.phase(name, rounds * len(trials), deadline.left)
        backends: set[str] = set()
        for turn in range(rounds):
            end = deadline if not turn or later is None else later
            race = self._race(files, turn)
            slower = {one.trial for one in race.ranking if race.is_clearly_slower(one.trial)}
            order = scheduler.order(trials, turn)
            if not turn:  # so that a short budget has time for a fair comparison
                order.sort(key=_is_default, reverse=True)
            if not turn and self.seconds is not None:
                order.sort(key=self._soonest)
            if not is_most:  # the original is for comparison only
                order.sort(key=lambda trial: trial.backend == "original")
            for trial in order:
                another = trial.backend in backends or not is_most
                if trial.id in slower:
                    continue
                if self.seconds is not None:
                    reserved = self._reserved(trial)
                    if not self._has_time(trial, end, reserved, another=another):
                        continue
                    scheduler.stop_at = self.start + self.seconds - reserved
                backends.add(trial.backend)
                scheduler.measure_new(trial, "confirming", turn)

    def _soonest(self, trial: Trial) -> tuple[bool, bool, float]:
        """Sort key: the original, for comparison; then default settings; the fastest to start."""
        start = self.scheduler.costs.start(self.job, trial.backend)
        return trial.backend != "original", not _is_default(trial), start

    def _reserved(self, trial: Trial) -> float:
        """Seconds to reserve after screening a trial, for the fewest launches."""
        ranking = self._race(trial.files).ranking
        if all(one.backend == "original" for one in ranking) or trial.files < self._most_files:
            # One launch is better than nothing to compare the original with; on fewer files, each
            # setting gets one.
            repeats = 0
        else:
            repeats = MIN_LAUNCHES_IN_BUDGET - 1
        repeated = self._original_and_best(trial.files)
        launch = self.scheduler.costs.launch
        return MARGIN * repeats * sum(launch(one, again=True) for one in repeated)

    def _has_time(
        self, trial: Trial, deadline: Deadline, reserved: float, *, another: bool
    ) -> bool:
        """Whether there is time to screen a trial, with `reserved` seconds left after it.

        Only another trial of a backend must end before `deadline`; its first may end later.
        """
        scheduler = self.scheduler
        needed = MARGIN * (scheduler.costs.launch(trial) + scheduler.verifier.needed(trial))
        if another and deadline.passed(needed):
            return False
        return not self._deadline(1.0).passed(needed + reserved)

    def _original_and_best(self, files: int) -> list[Trial]:
        """The original, and the best of the others so far, or the first if none has run."""
        trials = self._trials_on(files)
        ranking = {one.trial: place for place, one in enumerate(self._race(files).ranking)}
        others = [trial for trial in trials if trial.backend != "original"]
        others.sort(key=lambda trial: ranking.get(trial.id, len(trials)))
        return [*(trial for trial in trials if trial.backend == "original"), *others[:1]]

    def _race(self, files: int, before: int | None = None) -> Race:
        """The race while screening; `before` leaves out the later rounds of a resumed sweep."""
        spec = self.scheduler.spec
        objective = OBJECTIVES[spec.objective]
        ids = (trial.id for trial in self._trials_on(files))
        summaries = of_trials(self.scheduler.samples, ids, before, spec.passes)
        return Race(summaries, objective if objective.timed else THROUGHPUT, spec.tie)

    def _confirm(self, files: int) -> LaunchRace | None:
        """Race in launches on the most files; None if no trial can run."""
        contenders = self._contenders(files)
        original = next((t for t in self._trials_on(files) if t.backend == "original"), None)
        if not contenders and original is not None and original.id in self._race(files):
            contenders, original = [original], None  # no other trial has run
        if not contenders:
            return None
        deadline = self._deadline(LARGEST_SHARE)
        room = self._room(contenders, original, deadline)
        name, first = f"confirming {self.job}", self.scheduler.spec.repeats
        race = LaunchRace(self.scheduler, contenders, original, first, room, name=name)
        has_fewer = any(trial.files < files for trial in self.trials)
        tied = self._deadline(ENOUGH_SHARE) if has_fewer and self.seconds is not None else None
        race.run(deadline, self._deadline(1.0), tied)
        return race

    def _contenders(self, files: int) -> list[Trial]:
        """The trials to launch except the original, the most important first.

        The best; of those that may be as good, the simplest and the best of each backend; the next
        best, for all places but one; the best without a cache, which needs the least memory; the
        others by rank.
        """
        by_id = {trial.id: trial for trial in self._trials_on(files)}
        race = self._race(files, self.scheduler.spec.repeats)
        ranking = [one for one in race.ranking if one.backend != "original"]
        if not OBJECTIVES[self.scheduler.spec.objective].timed:
            return [
                by_id[one.trial]
                for one in sorted(ranking, key=lambda one: _memory_order(one.settings))
            ]
        near = [one for one in ranking if not race.is_clearly_slower(one.trial)]
        tied = {one.trial for one in race.tied()}
        foremost = near[:1]
        foremost += [simplest(near)] if near else []
        near_tied = [one for one in near if one.trial in tied]
        foremost += [simplest(near_tied)] if near_tied else []
        foremost += {one.backend: one for one in reversed(near)}.values()
        leanest = [one for one in ranking if one.settings.cache == "none"][:1]
        ordered = [*foremost, *near[: STILL_IN[0][1] - 1], *leanest, *near, *ranking]
        contenders = [by_id[name] for name in dict.fromkeys(one.trial for one in ordered)]
        if self.scheduler.spec.max_memory is not None:
            # A trial that there was no time to screen may be the only one within the limit.
            untried = [trial for trial in self.scheduler.untried() if trial.id in by_id]
            contenders += sorted(untried, key=lambda trial: _memory_order(trial.settings))
        return contenders

    def _room(
        self,
        contenders: Sequence[Trial],
        original: Trial | None,
        deadline: Deadline,
    ) -> int:
        """How many contenders can get the fewest launches in the time left; at least two."""
        most = STILL_IN[0][1]
        if deadline.left is None:
            return most
        left = deadline.left
        for count, trial in enumerate([*([original] if original else []), *contenders[:most]]):
            done = self.scheduler.launches_of(trial, "confirming")
            launches = max(1, MIN_LAUNCHES_IN_BUDGET - done)
            left -= launches * MARGIN * self.scheduler.costs.launch(trial)
            if left < 0:
                return max(2, count - (original is not None))
        return most

    def _explain(self, chosen: Summary) -> None:
        """Launch the choice again, and measure its stages alone."""
        trial = next(one for one in self.trials if one.id == chosen.trial)
        needed = MARGIN * self.scheduler.costs.explaining(trial)
        if self._deadline(1.0).passed(needed):
            return
        self.explained = True
        for turn in range(EXPLAINED_LAUNCHES if self.seconds is None else 1):
            self.scheduler.measure_new(trial, "explaining", turn)

    def _confirm_fewer(self, files: int, chosen: Summary) -> None:
        """If fewer files seem to need other settings, compare both in launches."""
        race = self._race(files, self.scheduler.spec.repeats)
        same = make_trial(self.job, chosen.settings, files)
        near = [one for one in race.ranking if not race.is_clearly_slower(one.trial)]
        if not near or same.id in {one.trial for one in race.tied()}:
            return
        trials = self._trials_on(files)
        rival = next(trial for trial in trials if trial.id == race.choice.trial)
        deadline = self._deadline(1.0)
        pair = [same, rival]
        originals = [trial for trial in trials if trial.backend == "original"]
        if not self._has_time_for([*originals, *pair], deadline):
            originals = []
        if not deadline.passed():
            first = self.scheduler.spec.repeats
            name = f"confirming {self.job}, {counted(files, 'file')}"
            LaunchRace(
                self.scheduler,
                pair,
                next(iter(originals), None),
                first,
                room=2,
                most=first + 2 * MIN_LAUNCHES,
                name=name,
            ).run(deadline)

    def _measure_memory(self, race: LaunchRace, *, at_least: bool = False) -> None:
        """Measure the memory of contenders and the original, in rounds after the race's.

        Args:
            race: the race of the contenders.
            at_least: only contenders that may be the choice, once.
        """
        scheduler, deadline = self.scheduler, self._deadline(1.0)
        by_id = {trial.id: trial for trial in self._trials_on(race.contenders[0].files)}
        originals = [trial.id for trial in by_id.values() if trial.backend == "original"]
        contenders = [trial.id for trial in race.contenders[: race.room]]
        leanest = [name for name in contenders if by_id[name].settings.cache == "none"][:1]
        simple = [one.trial for one in race.simple()]
        names = simple if at_least else [*simple, *originals, *leanest, *contenders]
        trials = [by_id[name] for name in dict.fromkeys(names)]
        done = {trial.id: scheduler.launches_of(trial, "memory") for trial in trials}
        most = 1 if at_least else MEMORY_LAUNCHES
        runs = sum(max(0, most - count) for count in done.values())
        if runs:
            scheduler.progress.phase(f"memory {self.job}", runs, deadline.left)
        for turn in range(most):
            for trial in trials:
                needed = MARGIN * scheduler.costs.memory(trial)
                if done[trial.id] <= turn and not deadline.passed(needed):
                    scheduler.measure_new(trial, "memory", MAX_LAUNCHES + turn)

    def _has_time_for(self, trials: Sequence[Trial], deadline: Deadline) -> bool:
        """Whether there is time to launch the original with a pair, to know the speedup.

        Always if the objective is memory: then only settings no slower than the original may be
        chosen.
        """
        if not OBJECTIVES[self.scheduler.spec.objective].timed:
            return True
        round_s = MARGIN * sum(map(self.scheduler.costs.launch, trials))
        return not deadline.passed(MIN_LAUNCHES_IN_BUDGET * round_s)


def _is_default(trial: Trial) -> bool:
    """Whether a trial is the original, or a backend with default settings."""
    if trial.backend == "original":
        return True
    settings = trial.settings
    default = find_backend(settings.backend).normalized_for(
        trial.job, msgspec.structs.replace(LoaderSettings(), backend=settings.backend)
    )
    fields = ("num_workers", "prefetch", "requests", "cache")
    return all(getattr(settings, name) == getattr(default, name) for name in fields)


def _memory_order(settings: LoaderSettings) -> tuple[int, ...]:
    """Sort key: settings that are likely to need the least memory first."""
    cache = LEANEST_FIRST.index(settings.cache)
    return cache, settings.num_workers, settings.prefetch, settings.requests
