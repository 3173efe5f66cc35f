"""Race contenders in rounds of launches: they drop out until the best is settled or time is up."""

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

# Launches, and how many contenders may still race after them: sequential halving, which finds the
# best of many with close to the fewest runs (Karnin, Koren and Somekh 2013).
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
        first: the first round; earlier rounds were screening, whose launches also count.
        room: how many contenders may race at first.
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
    _racing: list[Trial] = field(init=False)
    _waiting: list[Trial] = field(init=False)

    def __post_init__(self) -> None:
        self._racing = list(self.contenders[: self.room])
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
        scheduler, round_s, last = self.scheduler, 0.0, last or deadline
        turns = range(self.first, self.most)
        runs = sum(map(self._room, turns)) + ORIGINAL_LAUNCHES * len(self._originals)
        scheduler.progress.phase(self.name, runs, deadline.left)
        for turn in turns:
            race = self._race(turn)
            if turn > self.first:
                self._drop_out(race, turn)
            # New contenders get as many launches as a trial needs to be chosen.
            fewest = self._fewest(race, turn)
            may_end = turn >= MIN_LAUNCHES_IN_BUDGET and fewest >= FEWEST_ROUNDS
            if may_end and (deadline.passed(round_s) or self._is_decided(race, fewest, tied)):
                return
            start = scheduler.clock()
            running = self._in_time(self._originals_needed(race, deadline, round_s), last)
            if not running:
                return
            # A new order each round, so that no trial always runs after the same one.
            random.Random(f"{scheduler.spec.seed} {self.name} {turn}").shuffle(running)  # noqa: S311 - no secret
            for trial in running:
                scheduler.measure_new(trial, "confirming", turn)
            for trial in running:
                if self._needs_memory(trial):
                    scheduler.measure_new(trial, "memory", turn)
            round_s = scheduler.clock() - start

    def _is_decided(self, race: Race, fewest: int, tied: Deadline | None) -> bool:
        """Whether the choice is settled, or tied after the deadline `tied`."""
        if fewest >= MIN_LAUNCHES and not race.open_rivals(running=False):
            return True
        may_be_tied = tied is not None and tied.passed() and len(race) > 0
        return may_be_tied and race.worst_case_loss() <= NEAR

    def _needs_memory(self, trial: Trial) -> bool:
        """Whether a trial's memory matters in this race and is not known well enough."""
        spec = self.scheduler.spec
        if not OBJECTIVES[spec.objective].timed:
            return True
        if spec.max_memory_bytes is None:
            return False
        return self.scheduler.launches_of(trial, "memory") < MEMORY_LAUNCHES

    def _in_time(self, originals: Sequence[Trial], last: Deadline) -> list[Trial]:
        """Return the trials that a round has time for; drop the less important others."""
        running = [*self._racing[:1], *originals]
        if last.passed(MARGIN * sum(map(self._cost, running))):
            return []
        for place, trial in enumerate(self._racing[1:], start=1):
            if last.passed(MARGIN * sum(map(self._cost, [*running, trial]))):
                self._racing = self._racing[:place]
                break
            running.append(trial)
        return [*self._racing, *originals]

    def _cost(self, trial: Trial) -> float:
        """Estimate the seconds of a trial in a round."""
        costs = self.scheduler.costs
        return costs.launch(trial) + (costs.memory(trial) if self._needs_memory(trial) else 0.0)

    def choice(self) -> Summary | None:
        """Return the choice; None if no launched trial may be chosen."""
        race = self._race()
        return race.choice if len(race) else None

    def simple(self) -> list[Summary]:
        """Return the tied settings with the fewest workers: one is the choice."""
        race = self._race()
        return fewest_workers(race.tied()) if len(race) else []

    def _race(self, before: int | None = None) -> Race:
        """The race; `before` leaves out later rounds, so that a resumed sweep decides as before."""
        spec = self.scheduler.spec
        ids = (trial.id for trial in (*self.contenders, *self._originals))
        summaries = of_trials(self.scheduler.samples, ids, before, spec.passes)
        return contest(summaries, OBJECTIVES[spec.objective], spec.tie, spec.max_memory_bytes)

    @property
    def _originals(self) -> list[Trial]:
        return [] if self.original is None else [self.original]

    def _originals_needed(self, race: Race, deadline: Deadline, round_s: float) -> list[Trial]:
        """The original, as long as comparisons need it or it may be the best."""
        if self.original is None:
            return []
        done = self.scheduler.launches_of(self.original, "confirming")
        if done < MIN_LAUNCHES_IN_BUDGET:
            return self._originals
        if done < ORIGINAL_LAUNCHES and not deadline.passed((ORIGINAL_LAUNCHES - done) * round_s):
            return self._originals
        # On data so small that little can be gained, it may be the best.
        if self.original.id in race and not race.is_clearly_slower(self.original.id):
            return self._originals
        return []

    def _drop_out(self, race: Race, turn: int) -> None:
        """Drop trials that failed, are clearly slower, or have no room any more."""
        kept = _kept(race) if len(race) else []
        runner_up = next((one.trial for one in race.ranking if one.trial not in kept), None)
        if runner_up is not None and race.rounds(runner_up) < MIN_LAUNCHES:
            kept.append(runner_up)  # to measure how far behind it is
        failed = [trial for trial in self._racing if not self._is_usable(trial)]
        # A trial that ran but is not in the race usually exceeds the memory limit.
        excessive = [t for t in self._racing if t not in failed and t.id not in race]
        # Dropped trials come back while they are open rivals.
        open_ids = {one.trial for one in race.open_rivals(running=False)}
        racing = [
            trial
            for trial in self.contenders
            if trial.id in race
            and self._is_usable(trial)
            and (
                trial.id in kept
                or trial.id in open_ids
                or (trial in self._racing and race.rounds(trial.id) < FEWEST_ROUNDS)
            )
        ]
        # First the choice; then those that may be better than it by most, since they had few
        # launches or are close (Kalyanakrishnan et al. 2012: LUCB).
        choice = race.choice.trial if len(race) else None
        racing.sort(key=lambda t: (t.id != choice, t.id not in kept, -race.log_ratio_bound(t.id)))
        # The room is as if all contenders had as many launches as the choice.
        self._racing = racing[: self._room(race.rounds(race.choice.trial) if kept else turn)]
        self._replace_dropped(len(failed) + len(excessive), excessive)

    def _fewest(self, race: Race, turn: int) -> int:
        """The fewest launches of a racing trial; `turn` if none is racing."""
        return min((race.rounds(trial.id) for trial in self._racing), default=turn)

    def _room(self, launches: int) -> int:
        """How many contenders may race after `launches` launches."""
        size = next(size for since, size in STILL_IN[::-1] if launches >= since)
        return min(self.room, size, len(self.contenders))

    def _is_usable(self, trial: Trial) -> bool:
        return self.scheduler.may_run(trial, "confirming")

    def _replace_dropped(self, count: int, excessive: Sequence[Trial]) -> None:
        """Replace trials by waiting ones.

        Those expected to need as much memory as an excessive one come in only if no trial is left.
        """
        likely = [t for t in self._waiting if not any(_needs_no_less(t, e) for e in excessive)]
        new = likely[:count] or ([] if self._racing else self._waiting[:count])
        self._racing += [trial for trial in new if trial not in self._racing]
        self._waiting = [trial for trial in self._waiting if trial not in new]


def _kept(race: Race) -> list[str]:
    """The choice, and the simplest rival that may replace it: many beat that one by luck alone."""
    simpler = [
        one
        for one in race.open_rivals()
        if one.settings.num_workers < race.choice.settings.num_workers
    ]
    return [race.choice.trial, *([simplest(simpler).trial] if simpler else [])]


def _needs_no_less(trial: Trial, other: Trial) -> bool:
    """Whether a trial is expected to need at least as much memory as another."""
    first, second = trial.settings, other.settings
    return (
        first.backend == second.backend
        and first.cache in (second.cache, "memory")
        and first.num_workers >= second.num_workers
        and first.prefetch >= second.prefetch
        and first.requests >= second.requests
    )
