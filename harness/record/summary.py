"""From samples to one line a trial: which may be ranked, how long it took, how it compares."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...loaders.base.settings import Cache, LoaderSettings
from ...loaders.choosing.profile import Job
from ..system.pagecache import PageCacheState
from .results import Phase, Sample, Verdict
from .statistics import Ratio, median, paired_ratio

MEMORY_PASSES = 2  # of a launch that measures memory: the second may hold two frames

# Seconds from which on one pass a launch is enough, if the others take at most so many times as
# long: then nothing is cached.
LONG_S, ALIKE = 0.5, 1.5

RIGHT: tuple[Verdict, ...] = ("ok", "idle-workers")
"""Verdicts of trials that may be ranked: idle workers do no harm to the rows."""


@dataclass(frozen=True)
class Summary:
    """All that one trial gave in one phase.

    Times are in seconds; a run is one round of all declared passes.
    """

    trial: str
    job: Job
    backend: str
    settings: LoaderSettings
    files: int
    phase: Phase
    samples: tuple[Sample, ...]
    planned_passes: int = 1
    """Of a run; a kill may have cut the only run of this one."""
    explained: tuple[Sample, ...] = ()
    """Of the same trial, where it was confirmed: the launches that measured its stages alone."""
    unexplained: tuple[Sample, ...] = ()
    """What went wrong in such launches."""
    memory: tuple[Sample, ...] = ()
    """Of the same trial: the launches that measured its memory to their end."""
    unmeasured: tuple[Sample, ...] = ()
    """What went wrong in such launches."""

    @cached_property
    def verdict(self) -> Verdict:
        """`ok`, or the worst that happened."""
        found = [sample.verdict for sample in self.samples]
        hard = [verdict for verdict in found if verdict not in (*RIGHT, "unverified")]
        mild: list[Verdict] = ["unverified", "idle-workers"]
        return next(iter([*hard, *(verdict for verdict in mild if verdict in found)]), "ok")

    @cached_property
    def message(self) -> str:
        """What went wrong, if anything did."""
        told = [sample.reasons["verdict"] for sample in self.samples if "verdict" in sample.reasons]
        return told[-1] if told else ""

    @cached_property
    def remedy(self) -> str:
        """What may be done about it."""
        told = [sample.reasons["remedy"] for sample in self.samples if "remedy" in sample.reasons]
        return told[-1] if told else ""

    @cached_property
    def totals(self) -> dict[int, float]:
        """Total time over the passes, by round.

        Where all passes take as long, later launches have fewer (`has_alike_passes`): the others
        count as if they had been made.
        """
        return {
            turn: self.passes / count * total
            for turn, total in self._by_round(self.samples).items()
            for count in [self._counts[turn]]
        }

    @cached_property
    def first_passes(self) -> dict[int, float]:
        """Time of the first pass, by round."""
        return self._by_round(sample for sample in self.samples if sample.pass_ == 0)

    @cached_property
    def later_passes(self) -> dict[int, float]:
        """Mean time of a pass after the first, by round that has such."""
        sums = self._by_round(sample for sample in self.samples if sample.pass_ > 0)
        return {turn: total / (self._counts[turn] - 1) for turn, total in sums.items()}

    @property
    def total_s(self) -> float:
        """Time over the passes: the median first pass, and as many median later ones.

        So that the rate fits the medians that tables show beside it.
        """
        return self.first_s + (self.passes - 1) * (self.later_s or 0.0)

    @property
    def first_s(self) -> float:
        """Median time of the first pass."""
        return median(list(self.first_passes.values()))

    @property
    def later_s(self) -> float | None:
        """Median time of a pass after the first, of whole rounds; None where there is one pass.

        Where a launch had fewer passes, since all are alike, its only one counts.
        """
        took = [
            wall
            for sample in self.samples
            if (sample.pass_ > 0 or sample.passes == 1 < self.passes)
            and sample.round in self.totals
            and (wall := sample.metrics.get("wall_s")) is not None
        ]
        return median(took) if took else None

    @property
    def has_figures(self) -> bool:
        """Whether there is a rate: it took some time, and had rows."""
        return bool(self.totals) and min(self.totals.values()) > 0 and self.rows > 0

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        return max((sample.rows or 0 for sample in self.samples), default=0)

    @property
    def passes(self) -> int:
        """Passes a run."""
        return max(1 + last_pass(self.samples), self.planned_passes)

    @property
    def rows_per_s(self) -> float:
        """Rows delivered a second, over all passes."""
        return self.rows * self.passes / self.total_s

    @property
    def launches(self) -> int:
        """Processes that the samples came from."""
        return len({one.launch for one in self.samples})

    @property
    def page_cache(self) -> PageCacheState:
        """Where the dataset's files were when the passes began."""
        return self.samples[0].page_cache if self.samples else "as-is"

    @property
    def verified_every(self) -> int:
        """The sample of files on which the rows were compared, by the rule of `picked`; 1: all."""
        return max((sample.verified_every for sample in self.samples), default=1)

    @property
    def peak_pss_bytes(self) -> float | None:
        """Highest peak of memory among the launches that measured it; None where none did."""
        peaks = [
            peak
            for sample in (*self.memory, *self.samples)
            if (peak := sample.metrics.get("peak_pss_bytes")) is not None
        ]
        return max(peaks, default=None)

    def metric(self, name: str, *, later: bool = False) -> float | None:
        """The median of a metric over the first passes, or over the later ones."""
        values = self.values(name, later=later)
        return median(values) if values else None

    def values(self, name: str, *, later: bool = False) -> list[float]:
        """A metric of each first pass, or of each later one, from the launches that have it."""
        found: list[float] = []
        for samples in (self.samples, self.explained, self.memory):
            found = found or [
                value
                for sample in samples
                if (sample.pass_ > 0) == later and (value := sample.metrics.get(name)) is not None
            ]
        return found

    @cached_property
    def _counts(self) -> Mapping[int, int]:
        """The passes of each round."""
        return Counter(sample.round for sample in self.samples)

    def _by_round(self, samples: Iterable[Sample]) -> dict[int, float]:
        """Sums over the passes of rounds that have all of them; a kill may have cut one."""
        sums: dict[int, float] = defaultdict(float)
        for sample in samples:
            planned = sample.passes or self.passes
            whole = self._counts[sample.round] == planned
            if whole and sample.metrics.get("wall_s") is not None:
                sums[sample.round] += sample.metrics["wall_s"] or 0.0
        return dict(sums)


def usable(samples: Iterable[Sample]) -> bool:
    """Whether nothing went wrong in these samples."""
    return all(sample.verdict in (*RIGHT, "unverified") for sample in samples)


def are_alike(walls: Sequence[float]) -> bool:
    """Whether the passes of a launch are long, and there are later ones that take as long."""
    return len(walls) > 1 and min(walls) >= LONG_S and max(walls) <= ALIKE * min(walls)


def has_alike_passes(samples: Sequence[Sample], passes: int) -> bool:
    """Whether one pass a launch is enough from the second launch on, by the samples of a trial.

    Only of the original, which keeps nothing from pass to pass whatever the data.

    Args:
        samples: of one trial.
        passes: of a whole launch.
    """
    if not samples or samples[0].backend != "original":
        return False
    launches: dict[int, dict[int, Sample]] = defaultdict(dict)
    for one in samples:
        if one.phase == "confirming":
            launches[one.round][one.pass_] = one  # after a kill a round is measured again
    return any(
        len(launch) == passes and usable(launch.values()) and are_alike(walls_of(launch.values()))
        for launch in launches.values()
    )


def walls_of(samples: Iterable[Sample]) -> list[float]:
    """The time of each pass of a launch; empty where one is unknown."""
    walls = [sample.metrics.get("wall_s") for sample in samples]
    return [wall for wall in walls if wall is not None] if None not in walls else []


def last_pass(samples: Iterable[Sample]) -> int:
    """The number of the last pass that was measured; 0 of none.

    The row of a trial that failed after its last pass has the next number, but is no pass.
    """
    return max((one.pass_ for one in samples if one.metrics.get("wall_s") is not None), default=0)


def established(samples: Iterable[Sample]) -> list[Sample]:
    """Without samples of an unknown state of the page cache, where a trial has others."""
    every = list(samples)
    known = {(s.trial, s.phase) for s in every if s.page_cache != "unknown"}
    return [s for s in every if s.page_cache != "unknown" or (s.trial, s.phase) not in known]


def summarise(samples: Iterable[Sample], passes: int | None = None) -> list[Summary]:
    """One summary a trial that was launched, in the order of their first samples.

    Args:
        samples: of a sweep.
        passes: how many each run was to have; None takes the most that a run of the job had.
    """
    every = established(samples)
    groups: dict[tuple[str, Phase], dict[tuple[int, int], Sample]] = defaultdict(dict)
    explained: dict[str, dict[tuple[int, int], Sample]] = defaultdict(dict)
    memory: dict[str, dict[tuple[int, int], Sample]] = defaultdict(dict)
    most: dict[Job, int] = {}
    if passes is None:
        jobs = {sample.job for sample in every}
        most = {job: 1 + last_pass(one for one in every if one.job == job) for job in jobs}
    for sample in every:
        if sample.phase == "explaining":
            explained[sample.trial][sample.round, sample.pass_] = sample
        elif sample.phase == "memory":
            memory[sample.trial][sample.round, sample.pass_] = sample
        else:
            # A round that was cut by a kill is measured again when the sweep is resumed.
            groups[sample.trial, sample.phase][sample.round, sample.pass_] = sample
    return [
        Summary(
            trial=trial,
            job=first.job,
            backend=first.backend,
            settings=first.settings,
            files=first.files,
            phase=phase,
            samples=tuple(group.values()),
            planned_passes=passes or most[first.job],
            explained=tuple(one for one in apart if usable([one])),
            unexplained=tuple(one for one in apart if not usable([one])),
            memory=tuple(_whole(memory[trial].values(), passes or most[first.job])),
            unmeasured=tuple(one for one in memory[trial].values() if not usable([one])),
        )
        for (trial, phase), group in groups.items()
        for apart in [explained[trial].values()]
        for first in list(group.values())[:1]
    ]


def _whole(memory: Iterable[Sample], passes: int) -> list[Sample]:
    """The launches that measured memory in all their passes: less is less than a peak."""
    rounds: dict[int, list[Sample]] = defaultdict(list)
    for sample in memory:
        rounds[sample.round].append(sample)
    planned = min(passes, MEMORY_PASSES)
    return [
        one for some in rounds.values() if usable(some) and len(some) >= planned for one in some
    ]


def of_trials(
    samples: Iterable[Sample],
    trials: Iterable[str],
    before: int | None = None,
    passes: int | None = None,
) -> list[Summary]:
    """What may be ranked of some trials.

    Args:
        samples: of a sweep.
        trials: the ids of those wanted.
        before: only rounds before this one count; by default all.
        passes: as in `summarise`.
    """
    wanted = set(trials)
    return ranked(
        summarise(
            (
                sample
                for sample in samples
                if sample.trial in wanted and (before is None or sample.round < before)
            ),
            passes,
        )
    )


def ranked(summaries: Iterable[Summary], verdicts: Iterable[Verdict] = RIGHT) -> list[Summary]:
    """Those whose rows are right, fastest first, by the total over the declared passes.

    Args:
        summaries: of any trials.
        verdicts: those that are let in.
    """
    return sorted(
        (summary for summary in summaries if summary.verdict in verdicts and summary.has_figures),
        key=lambda summary: summary.total_s,
    )


LEANEST_FIRST: tuple[Cache, ...] = ("none", "disk", "memory")
"""Caches by the memory that they are likely to need."""


def fewest_workers(summaries: Iterable[Summary]) -> list[Summary]:
    """Those with the fewest workers."""
    every = list(summaries)
    fewest = min((one.settings.num_workers for one in every), default=0)
    return [one for one in every if one.settings.num_workers == fewest]


def simplest(tied: Iterable[Summary]) -> Summary:
    """Of settings that are as good, the one with the fewest workers, then the least memory.

    Where memory was not measured of all with the fewest workers, the kinds of cache tell.
    """
    every = fewest_workers(tied)
    is_known = all(one.peak_pss_bytes is not None for one in every)
    return min(
        every,
        key=lambda summary: (
            (summary.peak_pss_bytes or 0.0) if is_known else 0.0,
            LEANEST_FIRST.index(summary.settings.cache),
            summary.settings.prefetch,
            summary.total_s,
        ),
    )


def compare(slower: Summary, faster: Summary) -> Ratio | None:
    """How many times longer `slower` took, paired by round; None without a common round."""
    return paired_by_round(slower.totals, faster.totals)


def compare_first(slower: Summary, faster: Summary) -> Ratio | None:
    """The same for the first pass alone."""
    return paired_by_round(slower.first_passes, faster.first_passes)


def paired_by_round(slower: Mapping[int, float], faster: Mapping[int, float]) -> Ratio | None:
    """How many times as much the first took, over the rounds in common; None without any."""
    common = sorted(slower.keys() & faster.keys())
    if not common:
        return None
    return paired_ratio([slower[turn] for turn in common], [faster[turn] for turn in common])
