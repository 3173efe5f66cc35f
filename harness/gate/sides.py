"""The two sides of a gate, base and head: measured now, or stored in earlier results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from ..plan.spec import Trial
from ..record.metrics import METRICS, Passes
from ..record.results import Phase, Sample
from ..record.statistics import median
from ..record.summary import last_pass
from ..run.scheduler import SampleSink, Scheduler

Arm = Literal["base", "head"]
ARMS: tuple[Arm, Arm] = ("base", "head")
WARM_UP_ROUND = 0  # discarded: neither revision causes its cold start


@dataclass(frozen=True)
class ArmJournal:
    """A journal that marks its samples with their side."""

    journal: SampleSink
    arm: Arm

    def append(self, sample: Sample) -> None:
        """Keep a sample of this side."""
        self.journal.append(msgspec.structs.replace(sample, arm=self.arm))


class Side(Protocol):
    """Base or head."""

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """The known samples of a trial."""
        ...

    def values(self, trial: Trial, phase: Phase, metric: str, /) -> Mapping[int, float]:
        """A metric by round, without the warm-up round."""
        ...


@dataclass(frozen=True)
class Measured:
    """A side that is measured now.

    Attributes:
        scheduler: runs the revision.
        untouched: by trial id, schedulers for trials that the change cannot affect; they run base's
            code on both sides.
    """

    scheduler: Scheduler
    untouched: Mapping[str, Scheduler] = field(default_factory=dict)

    def _scheduler(self, trial: Trial) -> Scheduler:
        return self.untouched.get(trial.id, self.scheduler)

    def measure(self, trial: Trial, phase: Phase, turn: int) -> None:
        """Launch a trial once."""
        self._scheduler(trial).measure_new(trial, phase, turn)

    def set_passes(self, trial: Trial, passes: int) -> None:
        """Set the number of passes per launch of a trial from now on."""
        self._scheduler(trial).passes_by_trial[trial.id] = passes

    def rest(self) -> None:
        """End the processes that launches are forked from; the next launch starts new ones."""
        for scheduler in (self.scheduler, *self.untouched.values()):
            scheduler.executor.close()

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """The measured samples of a trial."""
        return self._scheduler(trial).samples_of(trial)

    @property
    def notes(self) -> list[str]:
        """Distinct warnings from the trials."""
        schedulers = [self.scheduler, *self.untouched.values()]
        return list(dict.fromkeys(note for one in schedulers for note in one.notes))

    def values(self, trial: Trial, phase: Phase, metric: str) -> Mapping[int, float]:
        """A metric by round of a phase, without the warm-up round."""
        samples = _without_warm_up(self.samples(trial))
        return by_round((sample for sample in samples if sample.phase == phase), metric)


@dataclass(frozen=True)
class Stored:
    """A side that was measured earlier."""

    known: Sequence[Sample]

    def samples(self, trial: Trial) -> Sequence[Sample]:
        """The samples of a gate's head, or of a tune's launches, which have no sides."""
        samples = [one for one in self.known if one.trial == trial.id and one.arm != "base"]
        phases = ("confirming", "memory")
        return [one for one in samples if one.arm is not None or one.phase in phases]

    def passes(self, trial: Trial) -> int | None:
        """The passes per timed launch; None if there was no timed launch."""
        samples = _without_warm_up(self.samples(trial))
        timed = [sample for sample in samples if sample.phase != "memory"]
        return 1 + last_pass(timed) if timed else None

    def values(self, trial: Trial, _: Phase, metric: str) -> Mapping[int, float]:
        """A metric of all launches of any phase, each numbered as a round."""
        samples = _without_warm_up(self.samples(trial))
        values: list[float] = []
        for phase in ("screening", "confirming", "memory"):
            values += by_round((one for one in samples if one.phase == phase), metric).values()
        return dict(enumerate(values))


def _without_warm_up(samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.round != WARM_UP_ROUND]


def by_round(samples: Iterable[Sample], metric: str) -> dict[int, float]:
    """A metric of each round, combined over its passes by `Metric.passes`.

    Rounds in which it is unknown or negative are left out.
    """
    rounds: dict[int, list[float | None]] = defaultdict(list)
    for sample in samples:
        rounds[sample.round].append(sample.metrics.get(metric))
    combine_by: dict[Passes, Callable[[list[float]], float]] = {
        "sum": sum,
        "highest": max,
        "middle": median,
    }
    combine = combine_by[METRICS[metric].passes]
    combined = {
        turn: combine([value for value in values if value is not None])
        for turn, values in rounds.items()
        if None not in values
    }
    return {turn: value for turn, value in combined.items() if value >= 0}
