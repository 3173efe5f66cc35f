"""Recommend settings from results: the choice, its evidence, and the alternatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from ...loaders.base.errors import InputError, unknown
from ...loaders.base.sizes import parse_size
from ...loaders.choosing.profile import Job, Strength
from ..record.objectives import OBJECTIVES, THROUGHPUT, TIE, Objective
from ..record.results import Results
from ..record.sampling import described
from ..record.speedup import settings_text, shown_name
from ..record.statistics import MIN_LAUNCHES, Ratio
from ..record.summary import Summary, compare, compare_first, ranked, summarise
from ..system.formats import MISSING, format_bytes, format_percent
from ..system.units import as_seconds, counted
from .race import FEWEST_ROUNDS, LARGEST_SHARE, MAX_LAUNCHES, NEAR, Race, contest

MORE = 1.25  # a suggested budget is at least this many times the one that was too short
MOST_NAMED = 3  # settings of a tie that are named
MOST_RACING = 4  # rivals assumed to run in each further round


@dataclass(frozen=True)
class Criteria:
    """The criteria for choosing settings."""

    objective: Objective = THROUGHPUT
    tie: float = TIE
    max_memory: int | None = None
    """Limit of peak PSS in bytes."""
    raced: bool = True
    """Whether this was the objective of the sweep's race."""

    @classmethod
    def of(
        cls,
        results: Results,
        max_memory: int | None = None,
        objective: str | None = None,
        tie: float | None = None,
    ) -> Criteria:
        """The criteria of the sweep, unless others are given here.

        Raises:
            InputError: a criterion given here or in the journal's header is unknown or invalid.
        """
        spec = results.header.spec
        sweep_objective = spec.get("objective", THROUGHPUT.name)
        name = sweep_objective if objective is None else objective
        if name not in OBJECTIVES:
            source = "the results' header: " if objective is None else ""
            raise InputError(f"{source}{unknown('objective', name, OBJECTIVES)}")
        if tie is None:
            tie = spec.get("tie", TIE)
        if isinstance(tie, bool) or not isinstance(tie, int | float):
            raise InputError(f"the results' header: tie is {tie!r}; it is a ratio such as {TIE}")
        sweep_limit = spec.get("max_memory")
        if max_memory is None and sweep_limit is not None:
            max_memory = parse_size(str(sweep_limit), "max_memory")
        return cls(OBJECTIVES[name], float(tie), max_memory, name == sweep_objective)

    def race(self, summaries: Iterable[Summary]) -> Race:
        """The race of the settings that may be chosen."""
        return contest(summaries, self.objective, self.tie, self.max_memory, raced=self.raced)


@dataclass(frozen=True)
class Recommendation:
    """The settings chosen for one job, and what they were compared with."""

    job: Job
    data_type: str
    chosen: Summary
    original: Summary | None
    candidates: tuple[Summary, ...]
    """All ranked settings on the most files, fastest first."""
    speedup: Ratio | None
    """Over the original, in the total time of all passes."""
    first_speedup: Ratio | None
    """Over the original, on the first pass, when nothing is cached yet."""
    strength: Strength
    why: str
    objective: Objective = THROUGHPUT
    front: tuple[Summary, ...] = ()
    """Settings that no other beats in both time and peak memory, fastest first."""
    fewer: tuple[Summary, ...] = ()
    """The choices for fewer files, if they differ; the most files first."""

    @property
    def speedups(self) -> tuple[Ratio, Ratio] | None:
        """First pass and all passes over the original; None if it is the choice, or unknown."""
        if self.first_speedup is None or self.speedup is None or self.chosen is self.original:
            return None
        return self.first_speedup, self.speedup


@dataclass(frozen=True)
class Advice:
    """The recommendations, and why other jobs have none."""

    found: list[Recommendation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def recommend_all(
    results: Results,
    max_memory: int | None = None,
    *,
    objective: str | None = None,
    tie: float | None = None,
) -> Advice:
    """Choose settings for each measured job, at the most files that it was measured with.

    Of the settings whose estimate is tied with the best's, those with the fewest workers are
    chosen, then those with the least memory.

    Args:
        results: a sweep's journal.
        max_memory: limit of peak PSS in bytes; by default the sweep's.
        objective: its name; by default the sweep's.
        tie: settings within this ratio of the best are equally good; by default the sweep's.

    Raises:
        InputError: no job has a correct trial within the memory limit.
    """
    criteria = Criteria.of(results, max_memory, objective, tie)
    summaries = summarise(results.samples, results.passes)
    jobs = list(dict.fromkeys(summary.job for summary in summaries))
    if not jobs:
        raise InputError("the results hold no sample yet; nothing can be recommended")
    data_type = str(results.header.dataset.data_type)
    advice = Advice()
    for job in jobs:
        of_job = [summary for summary in summaries if summary.job == job]
        try:
            recommendation = _recommend(of_job, data_type, criteria, results)
            advice.found.append(_weakened_by(recommendation, shortfall(results, job)))
        except InputError as error:
            advice.problems.append(str(error))
    if not advice.found:
        raise InputError(advice.problems[0])
    return advice


def _recommend(
    summaries: Sequence[Summary], data_type: str, criteria: Criteria, results: Results
) -> Recommendation:
    job = summaries[0].job
    most = max(summary.files for summary in summaries)
    largest = [summary for summary in summaries if summary.files == most]
    candidates = ranked(largest)
    if not candidates:
        message = next((summary.message for summary in largest if summary.message), "no sample")
        raise InputError(f"no correct trial of the {job} job: {message}")
    race = criteria.race(candidates)
    if not len(race):
        raise InputError(_why_none_fits(candidates, largest, criteria, job))
    chosen = race.choice
    original = next((one for one in candidates if one.backend == "original"), None)
    strength, why = _strength(race, criteria, results)
    if unmeasured := _without_peak(candidates, chosen, criteria):
        count = counted(len(unmeasured), "setting")
        strength, why = "weak", f"peak memory of {count} that may be better not measured; {why}"
    if chosen.verified_every > 1:
        why += f"; rows verified on {described(most, chosen.verified_every)}"
    return Recommendation(
        job=job,
        data_type=data_type,
        chosen=chosen,
        original=original,
        candidates=tuple(candidates),
        speedup=None if original is None else compare(original, chosen),
        first_speedup=None if original is None else compare_first(original, chosen),
        strength=strength,
        why=why,
        objective=criteria.objective,
        front=tuple(pareto_front(candidates)),
        fewer=tuple(_fewer(summaries, chosen, criteria)),
    )


def _fewer(summaries: Sequence[Summary], chosen: Summary, criteria: Criteria) -> list[Summary]:
    """The choices for fewer files that differ from the next larger number's; most files first.

    Fewer files get the choice for the most files if launches show no difference, or if a budget
    left no time to try all settings of the most files on them.
    """
    choices = [chosen]
    others = [one for one in summaries if one.backend != "original"]
    tried = {one.settings for one in others if one.files == chosen.files}
    for files in sorted({one.files for one in summaries if one.files < chosen.files}, reverse=True):
        on_files = [one for one in summaries if one.files == files]
        if not tried <= {one.settings for one in on_files}:
            continue
        best = _choice_at(on_files, chosen, choices[-1], criteria)
        if best is not None and best.settings != choices[-1].settings:
            choices.append(best)
    return choices[1:]


def _choice_at(
    summaries: Sequence[Summary], chosen: Summary, above: Summary, criteria: Criteria
) -> Summary | None:
    """The choice for one number of files: `chosen` if tied, else `above` if tied, else the best."""
    race = criteria.race(ranked(summaries))
    if not len(race):
        return None
    tied = {one.settings: one for one in race.tied()}
    return tied.get(chosen.settings) or tied.get(above.settings) or race.choice


def pareto_front(summaries: Iterable[Summary]) -> list[Summary]:
    """The settings of known peak memory that no other beats in both time and memory."""
    front: list[Summary] = []
    for summary in sorted(summaries, key=lambda one: one.total_s):
        peak = summary.peak_pss_bytes
        least = min((one.peak_pss_bytes or 0.0 for one in front), default=float("inf"))
        if peak is not None and peak < least:
            front.append(summary)
    return front


def _without_peak(
    candidates: Sequence[Summary], chosen: Summary, criteria: Criteria
) -> list[Summary]:
    """The settings that might be chosen if their peak memory were known."""
    by_memory = not criteria.objective.timed
    if criteria.max_memory is None and not by_memory:
        return []
    return [
        one
        for one in candidates
        if one.peak_pss_bytes is None and (by_memory or one.total_s < chosen.total_s)
    ]


def _why_none_fits(
    candidates: Sequence[Summary], summaries: Sequence[Summary], criteria: Criteria, job: Job
) -> str:
    """Say why none of the candidates may be chosen."""
    peaks = [peak for one in candidates if (peak := one.peak_pss_bytes) is not None]
    limit = format_bytes(criteria.max_memory)
    if not peaks and any(one.verdict == "out-of-memory" for one in summaries):
        return (
            f"no settings of the {job} job keep to max_memory {limit}: they were not started, "
            "since they would need more. Raise the limit, or load fewer files at a time"
        )
    if not peaks:
        return (
            f"peak memory of the {job} job was not measured: a sweep measures only time, or tune "
            "ran out of time or was stopped; measure it with feedrate tune --max-memory SIZE"
        )
    unknown = len(candidates) - len(peaks)
    others = f"; {counted(unknown, 'setting')} had no peak measured" if unknown else ""
    return (
        f"no settings of the {job} job keep to max_memory {limit}; the lowest peak is "
        f"{format_bytes(min(peaks))}{others}. Raise the limit, load fewer files at a time"
        + (f", or measure with feedrate tune --max-memory {criteria.max_memory}" if unknown else "")
    )


def _strength(race: Race, criteria: Criteria, results: Results) -> tuple[Strength, str]:
    """Grade the evidence for the choice, with the reason in a few words."""
    chosen = race.choice
    still_open = race.open_rivals(running=False)
    rival = still_open[0] if still_open else race.runner_up
    if rival is None:
        return "weak", "nothing to compare with"
    comparison = _comparison(race, rival, criteria)
    has_few = race.rounds(chosen.trial) < FEWEST_ROUNDS
    if not has_few and not still_open:
        return "strong", f"{_tied_workers(race)}{comparison}"
    if not has_few and (loss := race.worst_case_loss()) <= NEAR:
        return "tie", _tied_with(still_open, loss)
    too_wide = f"{comparison}; the interval is too wide to decide"
    reason = f"too few launches: {comparison}" if has_few else too_wide
    return "weak", f"{reason}{_suggested_budget(race, still_open, results)}"


def _comparison(race: Race, rival: Summary, criteria: Criteria) -> str:
    """How the closest rival compares with the choice."""
    ratio = race.ratio(rival.trial, race.choice.trial)
    if ratio is None:
        return f"closest rival {_named(rival)} had no round in common with the choice"
    cost = criteria.objective.compared.format(ratio.estimate)
    text = f"closest rival {_named(rival)} {cost}, n={ratio.n}"
    if ratio.n == 1:
        return text
    return f"{text}, {ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}"


def _tied_with(rivals: Sequence[Summary], loss: float) -> str:
    """Name the tied settings, and bound the cost of the choice over that of the best."""
    names = [_named(one) for one in rivals]
    shown = names[:MOST_NAMED]
    left = names[MOST_NAMED:]
    shown += left if len(left) == 1 else [f"one of {len(left)} others"] if left else []
    *first, last = shown
    either = f"{', '.join(first)} or {last}" if first else last
    share = format_percent(100 * (loss - 1))
    return f"the choice costs at most {share} more than the best, which may be {either}"


def _named(summary: Summary) -> str:
    settings = settings_text(summary.job, summary.settings)
    name = shown_name(summary.backend)
    return name if settings == MISSING else f"{name} ({settings})"


def shortfall(results: Results, job: Job) -> list[str]:
    """Say how many of the planned files and settings of a job were not measured."""
    planned = results.header.planned.get(job)
    samples = [sample for sample in results.samples if sample.job == job]
    if planned is None or not samples:
        return []
    files = max(sample.files for sample in samples)
    tried = len({sample.trial for sample in samples if sample.files == files})
    missing = []
    if files < planned.files:
        missing.append(f"measured on {files:,} of {counted(planned.files, 'file')}")
    if tried < planned.settings:
        missing.append(f"{tried} of {counted(planned.settings, 'setting')} tried")
    return missing


def _weakened_by(recommendation: Recommendation, missing: Sequence[str]) -> Recommendation:
    """Make the evidence weak if something is missing; the reason for weakness comes first."""
    if not missing:
        return recommendation
    was_weak, why = recommendation.strength == "weak", recommendation.why
    reasons = [why, *missing] if was_weak else [*missing, why]
    return replace(recommendation, strength="weak", why="; ".join(reasons))


def _tied_workers(race: Race) -> str:
    """Say which worker counts tie, if several do."""
    counts = sorted({one.settings.num_workers for one in race.tied()})
    if len(counts) > 1:
        return f"{' and '.join(map(str, counts))} workers are tied; "
    return ""


def _suggested_budget(race: Race, still_open: Sequence[Summary], results: Results) -> str:
    """Suggest a budget that would settle the open rivals, from the durations of runs so far."""
    done = race.rounds(race.choice.trial)
    needed = max((race.rounds_to_settle(one.trial) for one in still_open), default=0.0)
    if needed > MAX_LAUNCHES or done >= MAX_LAUNCHES:
        verb = "did" if done >= MAX_LAUNCHES else "would"
        return f"; {MAX_LAUNCHES} launches of each, the most that tune makes, {verb} not settle it"
    rounds = max(1, max(MIN_LAUNCHES, ceil(needed)) - done)
    run_s = {(s.job, s.trial, s.phase, s.round): s.run_s for s in results.samples}
    spent, jobs = sum(run_s.values()), len({sample.job for sample in results.samples})
    racing = {race.choice.trial, *(one.trial for one in still_open[:MOST_RACING])}
    launches = [
        seconds
        for (_, trial, phase, _), seconds in run_s.items()
        if trial in racing and phase == "confirming"
    ]
    if not spent or not launches:
        return ""
    total = spent + jobs * rounds * len(racing) * sum(launches) / len(launches)
    budget = results.header.spec.get("budget")  # part of which was not spent in runs
    lowest = MORE * as_seconds(budget, "budget") if budget not in (None, "none") else 0.0
    return f"; suggested: --budget {format_budget(max(total / LARGEST_SHARE, lowest))}"


def format_budget(seconds: float) -> str:
    """Format a budget of at least that many seconds, as users type it.

    >>> format_budget(42), format_budget(130)
    ('60s', '3m')
    """
    return "60s" if seconds <= 60 else f"{ceil(seconds / 60)}m"  # noqa: PLR2004 - a minute
