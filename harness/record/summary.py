"""Summarise samples by trial: which may be ranked, how long they took, how they compare."""

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

MEMORY_PASSES = 2  # passes of a launch that measures memory: the second may hold two frames

# One pass per launch is enough if each takes at least LONG_S seconds, and the longest at most ALIKE
# times as long as the shortest: then nothing is cached.
LONG_S, ALIKE = 0.5, 1.5

RANKABLE_VERDICTS: tuple[Verdict, ...] = ("ok", "idle-workers")
"""Verdicts of trials that may be ranked: idle workers do not affect the rows."""


@dataclass(frozen=True)
class Summary:
    """The results of one trial in one phase.

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
    """Planned passes of a run; a kill may have cut the only run of this trial."""
    explained: tuple[Sample, ...] = ()
    """Launches of the same trial, if it was confirmed, that measured its stages alone."""
    unexplained: tuple[Sample, ...] = ()
    """Failed samples of such launches."""
    memory: tuple[Sample, ...] = ()
    """Launches of the same trial that measured its memory and ran to their end."""
    unmeasured: tuple[Sample, ...] = ()
    """Failed samples of such launches."""

    @cached_property
    def verdict(self) -> Verdict:
        """`ok`, or the worst verdict of the samples."""
        verdicts = [sample.verdict for sample in self.samples]
        failures = [one for one in verdicts if one not in (*RANKABLE_VERDICTS, "unverified")]
        mild: list[Verdict] = ["unverified", "idle-workers"]
        return next(iter([*failures, *(one for one in mild if one in verdicts)]), "ok")

    @cached_property
    def message(self) -> str:
        """The last error message; empty if nothing went wrong."""
        return self._last_reason("verdict")

    @cached_property
    def remedy(self) -> str:
        """The last remedy given for it; else empty."""
        return self._last_reason("remedy")

    @cached_property
    def totals(self) -> dict[int, float]:
        """Total time over the passes, by round.

        If all passes take equally long, later launches have fewer (`has_alike_passes`); their
        totals are scaled up to all passes.
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
        """Mean time of a pass after the first, by round; only rounds that have such passes."""
        sums = self._by_round(sample for sample in self.samples if sample.pass_ > 0)
        return {turn: total / (self._counts[turn] - 1) for turn, total in sums.items()}

    @property
    def total_s(self) -> float:
        """Time over the passes: the median first pass, plus a median later pass for each other.

        This way the rate agrees with the medians in the same table.
        """
        return self.first_s + (self.passes - 1) * (self.later_s or 0.0)

    @cached_property
    def first_s(self) -> float:
        """Median time of the first pass."""
        return median(list(self.first_passes.values()))

    @cached_property
    def later_s(self) -> float | None:
        """Median time of a pass after the first, in complete rounds; None if there is one pass.

        If a launch had only one pass because all are alike, that pass counts.
        """
        walls = [
            wall
            for sample in self.samples
            if (sample.pass_ > 0 or sample.passes == 1 < self.passes)
            and sample.round in self.totals
            and (wall := sample.metrics.get("wall_s")) is not None
        ]
        return median(walls) if walls else None

    @cached_property
    def has_figures(self) -> bool:
        """Whether there is a rate: time and rows are above 0."""
        return bool(self.totals) and min(self.totals.values()) > 0 and self.rows > 0

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        return max((sample.rows or 0 for sample in self.samples), default=0)

    @cached_property
    def passes(self) -> int:
        """Passes per run."""
        return max(1 + last_pass(self.samples), self.planned_passes)

    @property
    def rows_per_s(self) -> float:
        """Rows delivered per second, over all passes."""
        return self.rows * self.passes / self.total_s

    @property
    def launches(self) -> int:
        """Number of processes that the samples came from."""
        return len({one.launch for one in self.samples})

    @property
    def page_cache(self) -> PageCacheState:
        """State of the dataset's files when the passes began."""
        return self.samples[0].page_cache if self.samples else "as-is"

    @property
    def verified_every(self) -> int:
        """Rows were compared on every n-th file and the last, see `picked`; 1: on all."""
        return max((sample.verified_every for sample in self.samples), default=1)

    @property
    def peak_pss_bytes(self) -> float | None:
        """Highest memory peak of the launches that measured it; None if none did."""
        peaks = [
            peak
            for sample in self.memory
            if (peak := sample.metrics.get("peak_pss_bytes")) is not None
        ]
        return max(peaks, default=None)

    def metric(self, name: str, *, later: bool = False) -> float | None:
        """The median of a metric over the first passes, or over the later ones."""
        values = self.values(name, later=later)
        return median(values) if values else None

    def values(self, name: str, *, later: bool = False) -> list[float]:
        """A metric of each first pass, or of each later one, from the launches that have it."""
        for samples in (self.samples, self.explained, self.memory):
            values = [
                value
                for sample in samples
                if (sample.pass_ > 0) == later and (value := sample.metrics.get(name)) is not None
            ]
            if values:
                return values
        return []

    def _last_reason(self, name: str) -> str:
        """The last reason of this name; empty if there is none."""
        return next((s.reasons[name] for s in reversed(self.samples) if name in s.reasons), "")

    @cached_property
    def _counts(self) -> Mapping[int, int]:
        """Number of passes by round."""
        return Counter(sample.round for sample in self.samples)

    def _by_round(self, samples: Iterable[Sample]) -> dict[int, float]:
        """Total time by round, only of complete rounds; a kill may have cut one."""
        sums: dict[int, float] = defaultdict(float)
        for sample in samples:
            is_complete = self._counts[sample.round] == (sample.passes or self.passes)
            wall = sample.metrics.get("wall_s")
            if is_complete and wall is not None:
                sums[sample.round] += wall
        return dict(sums)


def usable(samples: Iterable[Sample]) -> bool:
    """Whether nothing went wrong in these samples."""
    return all(sample.verdict in (*RANKABLE_VERDICTS, "unverified") for sample in samples)


def are_alike(walls: Sequence[float]) -> bool:
    """Whether a launch has several passes, which are long and take about the same time."""
    return len(walls) > 1 and min(walls) >= LONG_S and max(walls) <= ALIKE * min(walls)


def has_alike_passes(samples: Sequence[Sample], passes: int) -> bool:
    """Whether one pass per launch is enough from the second launch on.

    Only for the original, which caches nothing between passes.

    Args:
        samples: of one trial.
        passes: of a complete launch.
    """
    if not samples or samples[0].backend != "original":
        return False
    launches: dict[int, dict[int, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.phase == "confirming":
            launches[sample.round][sample.pass_] = sample  # after a kill a round is measured again
    return any(
        len(launch) == passes and usable(launch.values()) and are_alike(walls_of(launch.values()))
        for launch in launches.values()
    )


def walls_of(samples: Iterable[Sample]) -> list[float]:
    """The time of each pass of a launch; empty if one is unknown."""
    walls = [sample.metrics.get("wall_s") for sample in samples]
    return [wall for wall in walls if wall is not None] if None not in walls else []


def last_pass(samples: Iterable[Sample]) -> int:
    """The number of the last measured pass; 0 if there is none.

    If a trial failed after its last pass, the failed sample has the next number, but is no pass.
    """
    return max((one.pass_ for one in samples if one.metrics.get("wall_s") is not None), default=0)


def established(samples: Iterable[Sample]) -> list[Sample]:
    """Drop samples of an unknown page cache state, if their trial has others in that phase."""
    samples = list(samples)
    known = {(s.trial, s.phase) for s in samples if s.page_cache != "unknown"}
    return [s for s in samples if s.page_cache != "unknown" or (s.trial, s.phase) not in known]


def summarise(samples: Iterable[Sample], passes: int | None = None) -> list[Summary]:
    """Return one summary per launched trial and phase, in the order of their first samples.

    Args:
        samples: of a sweep.
        passes: planned passes of each run; None takes the most that a run of the job had.
    """
    samples = established(samples)
    groups: dict[tuple[str, Phase], dict[tuple[int, int], Sample]] = defaultdict(dict)
    explained: dict[str, dict[tuple[int, int], Sample]] = defaultdict(dict)
    memory: dict[str, dict[tuple[int, int], Sample]] = defaultdict(dict)
    most: dict[Job, int] = {}
    if passes is None:
        jobs = {sample.job for sample in samples}
        most = {job: 1 + last_pass(one for one in samples if one.job == job) for job in jobs}
    for sample in samples:
        if sample.phase == "explaining":
            explained[sample.trial][sample.round, sample.pass_] = sample
        elif sample.phase == "memory":
            memory[sample.trial][sample.round, sample.pass_] = sample
        else:
            # If a kill cut a round, the resumed sweep measures it again.
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
            explained=tuple(one for one in explained[trial].values() if usable([one])),
            unexplained=tuple(one for one in explained[trial].values() if not usable([one])),
            memory=tuple(_complete(memory[trial].values(), passes or most[first.job])),
            unmeasured=tuple(one for one in memory[trial].values() if not usable([one])),
        )
        for (trial, phase), group in groups.items()
        for first in list(group.values())[:1]
    ]


def _complete(memory: Iterable[Sample], passes: int) -> list[Sample]:
    """The samples of launches that measured memory in all passes; else the peak may be missed."""
    rounds: dict[int, list[Sample]] = defaultdict(list)
    for sample in memory:
        rounds[sample.round].append(sample)
    planned = min(passes, MEMORY_PASSES)
    complete = [one for one in rounds.values() if usable(one) and len(one) >= planned]
    return [sample for launch in complete for sample in launch]


def of_trials(
    samples: Iterable[Sample],
    trials: Iterable[str],
    before: int | None = None,
    passes: int | None = None,
) -> list[Summary]:
    """Return the summaries of some trials that may be ranked, fastest first.

    Args:
        samples: of a sweep.
        trials: their ids.
        before: only rounds before this one count; by default all.
        passes: as in `summarise`.
    """
    ids = set(trials)
    kept = (s for s in samples if s.trial in ids and (before is None or s.round < before))
    return ranked(summarise(kept, passes))


def ranked(
    summaries: Iterable[Summary], verdicts: Iterable[Verdict] = RANKABLE_VERDICTS
) -> list[Summary]:
    """Return the summaries with figures and one of `verdicts`, fastest first by total time."""
    return sorted(
        (summary for summary in summaries if summary.verdict in verdicts and summary.has_figures),
        key=lambda summary: summary.total_s,
    )


LEANEST_FIRST: tuple[Cache, ...] = ("none", "disk", "memory")
"""Caches, ordered by the memory that they are likely to need."""


def fewest_workers(summaries: Iterable[Summary]) -> list[Summary]:
    """The summaries with the fewest workers."""
    summaries = list(summaries)
    fewest = min((one.settings.num_workers for one in summaries), default=0)
    return [one for one in summaries if one.settings.num_workers == fewest]


def simplest(tied: Iterable[Summary]) -> Summary:
    """Of tied settings, the one with the fewest workers, then the least memory.

    Unless the memory of all with the fewest workers was measured, the kind of cache decides.
    """
    candidates = fewest_workers(tied)
    is_known = all(one.peak_pss_bytes is not None for one in candidates)
    return min(
        candidates,
        key=lambda summary: (
            (summary.peak_pss_bytes or 0.0) if is_known else 0.0,
            LEANEST_FIRST.index(summary.settings.cache),
            summary.settings.prefetch,
            summary.settings.requests,
            summary.total_s,
        ),
    )


def compare(slower: Summary, faster: Summary) -> Ratio | None:
    """How many times longer `slower` took, paired by round; None without a common round."""
    return paired_by_round(slower.totals, faster.totals)


def compare_first(slower: Summary, faster: Summary) -> Ratio | None:
    """As `compare`, for the first pass only."""
    return paired_by_round(slower.first_passes, faster.first_passes)


def paired_by_round(slower: Mapping[int, float], faster: Mapping[int, float]) -> Ratio | None:
    """The ratio of `slower` to `faster` over their common rounds; None without any."""
    common = sorted(slower.keys() & faster.keys())
    if not common:
        return None
    return paired_ratio([slower[turn] for turn in common], [faster[turn] for turn in common])
