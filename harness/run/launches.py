"""The race of contenders: they drop out until the best is settled or the time is up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..choose.race import FEWEST_ROUNDS, MAX_LAUNCHES, NEAR, Race, contest
from ..plan.spec import Trial
from ..record.objectives import OBJECTIVES
from ..record.statistics import MIN_LAUNCHES
from ..record.summary import Summary, fewest_workers, of_trials, simplest
from .scheduler import Scheduler

MIN_LAUNCHES_IN_BUDGET = 3  # for which a budget reserves time
MARGIN = 1.15  # on estimates of run times: the next run of the same trial may take longer
ORIGINAL_LAUNCHES = 6  # enough for the speedup: it is slow, and seldom among the best
MEMORY_LAUNCHES = 2  # of one trial: peak memory differs by 2% from launch to launch

# Launches, and how many contenders may be in after them: sequential halving, which finds the best
# of many with close to the fewest runs (Karnin, Koren and Somekh 2013).
STILL_IN = ((0, 8), (4, 6), (8, 4), (16, 3))


@dataclass(frozen=True)
class Deadline:
    """The clock time at which to stop; without an end, never."""

    clock: Callable[[], float]
    end: float | None

    def passed(self, needing: float = 0.0) -> bool:
        """Whether a run that takes `needing` seconds would end after the deadline."""
        return self.end is not None and self.clock() + needing > self.end

    @property
    def left(self) -> float | None:
        """Seconds left; None without an end."""
        return None if self.end is None else max(0.0, self.end - self.clock())


@dataclass
class LaunchRace:
    """Launches contenders of one job and number of files, round by round.

    Attributes:
        scheduler: runs trials and keeps their samples.
        contenders: the trials, the most important first. Those beyond `room` replace others
            that fail or need too much memory.
        original: the original, or None; it is launched only as often as comparisons need.
        first: the first round; earlier rounds were screening, whose launches count as well.
        room: how many contenders may be in at first.
        most: limit of launches of a trial, including screening.
        name: the name shown by progress.
    """

    scheduler: Scheduler
    contenders: Sequence[Trial]
    original: Trial | None
    first: int = 0
    room: int = STILL_IN[0][1]
    most: int = MAX_LAUNCHES
    name: str = "confirming"
    _in: list[Trial] = field(init=False)
    _waiting: list[Trial] = field(init=False)

    def __post_init__(self) -> None:
        self._in = list(self.contenders[: self.room])
        self._waiting = list(self.contenders[self.room :])

    def run(
        self, deadline: Deadline, last: Deadline | None = None, tied: Deadline | None = None
    ) -> None:
        """Launch until the choice is settled, or the deadline has passed.

        Args:
            deadline: for launches beyond the fewest.
            last: for the fewest launches; by default the same.
            tied: after which a tie also ends the race; by default never.
        """
        scheduler, latest, last = self.scheduler, 0.0, last or deadline
        turns = range(self.first, self.most)
        runs = sum(map(self._room, turns)) + ORIGINAL_LAUNCHES * len(self._originals)
        scheduler.progress.phase(self.name, runs, deadline.left)
        for turn in turns:
            race = self._race(turn)
            if turn > self.first:
                self._drop_out(race, turn)
            # New contenders get as many launches as a trial needs to be chosen.
            fewest = self._fewest(race, self._in, turn)
            is_fair = turn >= MIN_LAUNCHES_IN_BUDGET and fewest >= FEWEST_ROUNDS
            if is_fair and (deadline.passed(latest) or self._is_decided(race, fewest, tied)):
                return
            start = scheduler.clock()
            running = self._in_time(self._originals_at(race, deadline, latest), last)
            if not running:
                return
            # In another order each round, so that no trial always runs after the same one.
            random.Random(f"{scheduler.spec.seed} {self.name} {turn}").shuffle(running)  # noqa: S311 - no secret
            for trial in running:
                scheduler.measure_new(trial, "confirming", turn)
            for trial in running:
                if self._needs_memory(trial):
                    scheduler.measure_new(trial, "memory", turn)
            latest = scheduler.clock() - start

    def _is_decided(self, race: Race, fewest: int, tied: Deadline | None) -> bool:
        """Whether the choice is settled, or tied after the deadline `tied`."""
        if fewest >= MIN_LAUNCHES and not race.open_rivals(running=False):
            return True
        is_enough = tied is not None and tied.passed() and len(race) > 0
        return is_enough and race.worst_case_loss() <= NEAR

    def _needs_memory(self, trial: Trial) -> bool:
        """Whether a trial's memory matters in this race and is not known well enough."""
        spec = self.scheduler.spec
        if not OBJECTIVES[spec.objective].timed:
            return True
        if spec.max_memory_bytes is None:
            return False
        return self.scheduler.launches_of(trial, "memory") < MEMORY_LAUNCHES

    def _in_time(self, originals: Sequence[Trial], last: Deadline) -> list[Trial]:
        """Return the trials that a round has time for, by importance; drop the others."""
        running = [*self._in[:1], *originals]
        if last.passed(MARGIN * sum(map(self._cost, running))):
            return []
        for place, trial in enumerate(self._in[1:], start=1):
            if last.passed(MARGIN * sum(map(self._cost, [*running, trial]))):
                self._in = self._in[:place]
                break
            running.append(trial)
        return [*self._in, *originals]

    def _cost(self, trial: Trial) -> float:
        """Estimate the seconds of a trial in a round."""
        costs = self.scheduler.costs
        return costs.launch(trial) + (costs.memory(trial) if self._needs_memory(trial) else 0.0)

    def choice(self) -> Summary | None:
        """The choice; None if no launched trial may be chosen."""
        race = self._race()
        return race.choice if len(race) else None

    def simple(self) -> list[Summary]:
        """The settings tied with the best that have the fewest workers: one is the choice."""
        race = self._race()
        return fewest_workers(race.tied()) if len(race) else []

    def _race(self, before: int | None = None) -> Race:
        # Only earlier rounds, so that a resumed sweep decides as it did before.
        spec = self.scheduler.spec
        known = (trial.id for trial in (*self.contenders, *self._originals))
        found = of_trials(self.scheduler.samples, known, before, spec.passes)
        return contest(found, OBJECTIVES[spec.objective], spec.tie, spec.max_memory_bytes)

    @property
    def _originals(self) -> list[Trial]:
        return [] if self.original is None else [self.original]

    def _originals_at(self, race: Race, deadline: Deadline, latest: float) -> list[Trial]:
        """The original, as long as comparisons need it or it may be the best."""
        if self.original is None:
            return []
        done = self.scheduler.launches_of(self.original, "confirming")
        if done < MIN_LAUNCHES_IN_BUDGET:
            return self._originals
        if done < ORIGINAL_LAUNCHES and not deadline.passed((ORIGINAL_LAUNCHES - done) * latest):
            return self._originals
        # On data so small that little can be gained, it may be the best.
        near = [one for one in self._originals if one.id in race]
        return [one for one in near if not race.is_clearly_slower(one.id)]

    def _drop_out(self, race: Race, turn: int) -> None:
        """Drop trials that failed, are clearly slower, or have no room any more."""
        keeps = _kept(race) if len(race) else []
        runner_up = next((one.trial for one in race.ranking if one.trial not in keeps), None)
        if runner_up is not None and race.rounds(runner_up) < MIN_LAUNCHES:
            keeps.append(runner_up)  # to measure how far behind it is
        failed = [trial for trial in self._in if not self._is_usable(trial)]
        # A trial that ran but is not in the race usually exceeds the memory limit.
        greedy = [trial for trial in self._in if trial not in failed and trial.id not in race]
        # Dropped trials come back while they are open rivals.
        is_open = {one.trial for one in race.open_rivals(running=False)}
        still_in = [
            trial
            for trial in self.contenders
            if trial.id in race
            and self._is_usable(trial)
            and (
                trial.id in keeps
                or trial.id in is_open
                or (trial in self._in and race.rounds(trial.id) < FEWEST_ROUNDS)
            )
        ]
        # The choice always; then those that may be better than it by most, because they had few
        # launches or are close (Kalyanakrishnan et al. 2012: LUCB).
        best = race.choice.trial if len(race) else None
        still_in.sort(
            key=lambda trial: (
                trial.id != best,
                trial.id not in keeps,
                -race.at_most(trial.id),
            )
        )
        # The room is as if all contenders had as many launches as the choice.
        self._in = still_in[: self._room(race.rounds(race.choice.trial) if keeps else turn)]
        self._replace_lost(len(failed) + len(greedy), greedy)

    def _fewest(self, race: Race, trials: Sequence[Trial], turn: int) -> int:
        """The fewest launches that any of the trials had; `turn` if there are none."""
        return min((race.rounds(trial.id) for trial in trials), default=turn)

    def _room(self, launches: int) -> int:
        """How many contenders may be in after so many launches."""
        size = next(size for since, size in STILL_IN[::-1] if launches >= since)
        return min(self.room, size, len(self.contenders))

    def _is_usable(self, trial: Trial) -> bool:
        return self.scheduler.may_run(trial, "confirming")

    def _replace_lost(self, count: int, greedy: Sequence[Trial]) -> None:
        """Replace lost trials; by others that need no less memory only if no trial is left."""
        likely = [one for one in self._waiting if not any(_needs_no_less(one, g) for g in greedy)]
        new = likely[:count] or ([] if self._in else self._waiting[:count])
        self._in += [one for one in new if one not in self._in]
        self._waiting = [one for one in self._waiting if one not in new]


def _kept(race: Race) -> list[str]:
    """The choice, and the simplest rival that may become it: many beat that one by luck alone."""
    simpler = [
        one
        for one in race.open_rivals()
        if one.settings.num_workers < race.choice.settings.num_workers
    ]
    return [race.choice.trial, *([simplest(simpler).trial] if simpler else [])]


def _needs_no_less(trial: Trial, other: Trial) -> bool:
    """Whether a trial is expected to need at least as much memory as another."""
    mine, theirs = trial.settings, other.settings
    return (
        mine.backend == theirs.backend
        and mine.cache in (theirs.cache, "memory")
        and mine.num_workers >= theirs.num_workers
        and mine.prefetch >= theirs.prefetch
    )
