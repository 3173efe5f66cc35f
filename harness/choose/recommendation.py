"""Recommend settings from results: the choice, how sure it is, and the alternatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from ...loaders.base.errors import InputError, unknown
from ...loaders.choosing.profile import Job, Strength
from ..record.objectives import OBJECTIVES, THROUGHPUT, TIE, Objective
from ..record.results import Results
from ..record.sampling import described
from ..record.speedup import short_settings, shown_name
from ..record.statistics import MIN_LAUNCHES, Ratio
from ..record.summary import Summary, compare, compare_first, ranked, summarise
from ..system.formats import MISSING, format_bytes, format_percent
from ..system.units import as_seconds, counted, parse_size
from .race import FEWEST_ROUNDS, LARGEST_SHARE, MAX_LAUNCHES, NEAR, Race, contest

MORE = 1.25  # a suggested budget is at least this many times one that was too short
MOST_NAMED = 3  # settings of a tie that are named
MOST_RACING = 4  # settings that run in a round, when few are left


@dataclass(frozen=True)
class Wanted:
    """The criteria for choosing settings."""

    objective: Objective = THROUGHPUT
    tie: float = TIE
    max_memory: int | None = None
    """The most bytes of peak PSS that settings may need."""
    raced: bool = True
    """Whether the launches raced by this objective."""

    @classmethod
    def of(
        cls,
        results: Results,
        max_memory: int | None = None,
        objective: str | None = None,
        tie: float | None = None,
    ) -> Wanted:
        """The criteria of the sweep, unless others are given here.

        Raises:
            InputError: a criterion given here or in the journal's header is unknown or invalid.
        """
        spec = results.header.spec
        if objective is None:
            name, where = spec.get("objective", THROUGHPUT.name), "the results' header: "
        else:
            name, where = objective, ""
        if name not in OBJECTIVES:
            raise InputError(f"{where}{unknown('objective', name, OBJECTIVES)}")
        near = spec.get("tie", TIE) if tie is None else tie
        if isinstance(near, bool) or not isinstance(near, int | float):
            raise InputError(f"the results' header: tie is {near!r}; it is a ratio such as {TIE}")
        then = spec.get("max_memory")
        if max_memory is None and then is not None:
            max_memory = parse_size(str(then), "max_memory")
        raced = name == spec.get("objective", THROUGHPUT.name)
        return cls(OBJECTIVES[name], float(near), max_memory, raced)

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
    """All ranked settings, fastest first."""
    speedup: Ratio | None
    """Over the original, in total time over the passes."""
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
        """First pass and all passes over the original; None if the choice is it, or unknown."""
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
        max_memory: the most bytes of peak PSS that settings may need; by default the sweep's.
        objective: its name; by default the sweep's.
        tie: settings within this ratio of the best are as good; by default the sweep's.

    Raises:
        InputError: no job has a correct trial within the memory limit.
    """
    wanted = Wanted.of(results, max_memory, objective, tie)
    summaries = summarise(results.samples, results.passes)
    jobs = list(dict.fromkeys(summary.job for summary in summaries))
    if not jobs:
        if results.left_out:
            raise InputError(
                "the results are of an earlier feedrate, whose sweeps ran trials in processes that "
                "they shared; measure again"
            )
        raise InputError("the results hold no sample yet; nothing can be recommended")
    data_type = str(results.header.dataset.data_type)
    advice = Advice()
    for job in jobs:
        mine = [summary for summary in summaries if summary.job == job]
        try:
            found = _recommend(mine, data_type, wanted, results)
            advice.found.append(_weakened_by(found, shortfall(results, job)))
        except InputError as error:
            advice.problems.append(str(error))
    if not advice.found:
        raise InputError(advice.problems[0])
    return advice


def _recommend(
    summaries: Sequence[Summary], data_type: str, wanted: Wanted, results: Results
) -> Recommendation:
    job = summaries[0].job
    most = max(summary.files for summary in summaries)
    largest = [summary for summary in summaries if summary.files == most]
    candidates = ranked(largest)
    if not candidates:
        told = next((summary.message for summary in largest if summary.message), "no sample")
        raise InputError(f"no correct trial of the {job} job: {told}")
    race = wanted.race(candidates)
    if not len(race):
        raise InputError(_nothing_allowed(candidates, largest, wanted, job))
    chosen = race.choice
    original = next((found for found in candidates if found.backend == "original"), None)
    strength, why = _strength(race, wanted, results)
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
        objective=wanted.objective,
        front=tuple(pareto_front(candidates)),
        fewer=tuple(_fewer(summaries, chosen, wanted)),
    )


def _fewer(summaries: Sequence[Summary], chosen: Summary, wanted: Wanted) -> list[Summary]:
    """The choices for fewer files that differ from the next larger number's; most files first.

    Fewer files get the choice for the most files if launches show no difference, or if not all
    settings of the most files were tried on them, for which a budget may leave no time.
    """
    found = [chosen]
    others = [one for one in summaries if one.backend != "original"]
    asked = {one.settings for one in others if one.files == chosen.files}
    for files in sorted({one.files for one in summaries if one.files < chosen.files}, reverse=True):
        some = [one for one in summaries if one.files == files]
        if not asked <= {one.settings for one in some}:
            continue
        best = _at(some, chosen, found[-1], wanted)
        if best is not None and best.settings != found[-1].settings:
            found.append(best)
    return found[1:]


def _at(
    summaries: Sequence[Summary], chosen: Summary, above: Summary, wanted: Wanted
) -> Summary | None:
    """The choice for one number of files: `chosen` if tied, else `above` if tied, else its own."""
    race = wanted.race(ranked(summaries))
    known = race.tied() if len(race) else []
    for settings in (chosen.settings, above.settings):
        for one in known:
            if one.settings == settings:
                return one
    return race.choice if len(race) else None


def pareto_front(summaries: Iterable[Summary]) -> list[Summary]:
    """The settings of known peak memory that no other beats in both time and memory."""
    front: list[Summary] = []
    for summary in sorted(summaries, key=lambda one: one.total_s):
        peak = summary.peak_pss_bytes
        least = min((one.peak_pss_bytes or 0.0 for one in front), default=float("inf"))
        if peak is not None and peak < least:
            front.append(summary)
    return front


def _nothing_allowed(
    candidates: Sequence[Summary], every: Sequence[Summary], wanted: Wanted, job: Job
) -> str:
    """Say why none of the candidates may be chosen."""
    peaks = [peak for one in candidates if (peak := one.peak_pss_bytes) is not None]
    limit = format_bytes(wanted.max_memory)
    if not peaks and any(one.verdict == "out-of-memory" for one in every):
        return (
            f"no settings of the {job} job keep to max_memory {limit}: they were not started, "
            "since they would need more. Raise the limit, or load fewer files at a time"
        )
    if not peaks:
        return (
            f"peak memory of the {job} job was not measured: a sweep measures time alone, and a "
            "tune that had no time left, or was ended, measured none; measure it with feedrate "
            "tune --max-memory SIZE"
        )
    return (
        f"no settings of the {job} job keep to max_memory {limit}; the "
        f"least that was needed is {format_bytes(min(peaks))}. Raise the limit, or load fewer "
        "files at a time"
    )


def _strength(race: Race, wanted: Wanted, results: Results) -> tuple[Strength, str]:
    """How strong the evidence for the choice is, and why in a few words."""
    chosen = race.choice
    rival = race.runner_up
    ratio = None if rival is None else race.ratio(rival.trial, chosen.trial)
    if rival is None or ratio is None:
        return "weak", "nothing to compare with"
    compared = wanted.objective.compared.format(ratio.estimate)
    span = f"runner-up {_named(rival)} {compared}, n={ratio.n}"
    if ratio.n > 1:
        span += f", {ratio.confidence:.0%} interval {ratio.low:.2f} to {ratio.high:.2f}"
    still_open = race.open_rivals(running=False)
    if race.rounds(chosen.trial) < FEWEST_ROUNDS:
        why = f"too few launches: {span}"
    elif still_open:
        why = f"{span}: too wide to tell"
    else:
        return "strong", f"{_no_difference(race)}{span}"
    if race.rounds(chosen.trial) >= FEWEST_ROUNDS and (most := race.worst_case_loss()) <= NEAR:
        return "tie", f"{_tied_with(still_open, most)}; {span}"
    return "weak", f"{why}{_suggested_budget(race, still_open, results)}"


def _tied_with(rivals: Sequence[Summary], most: float) -> str:
    """Name the tied settings, and the most that the choice costs more than the best."""
    names = [_named(one) for one in rivals]
    shown = ", ".join(names[:MOST_NAMED])
    more = f" and {counted(len(names) - MOST_NAMED, 'other')}" if names[MOST_NAMED:] else ""
    share = format_percent(100 * (most - 1))
    return f"{shown}{more} may be as good: the choice costs at most {share} more than the best"


def _named(summary: Summary) -> str:
    settings = short_settings(summary.job, summary.settings)
    name = shown_name(summary.backend)
    return name if settings == MISSING else f"{name} ({settings})"


def shortfall(results: Results, job: Job) -> list[str]:
    """Say how many of the planned files and settings of a job were not measured."""
    asked = results.header.asked.get(job)
    mine = [one for one in results.samples if one.job == job]
    if asked is None or not mine:
        return []
    files = max(one.files for one in mine)
    tried = len({one.trial for one in mine if one.files == files})
    missing = []
    if files < asked.files:
        missing.append(f"measured on {files:,} of {counted(asked.files, 'file')}")
    if tried < asked.settings and not results.left_out:
        missing.append(f"{tried} of {counted(asked.settings, 'setting')} tried")
    return missing


def _weakened_by(found: Recommendation, missing: Sequence[str]) -> Recommendation:
    """Make the evidence weak if something is missing; the reason for weakness comes first."""
    if not missing:
        return found
    reasons = [found.why, *missing] if found.strength == "weak" else [*missing, found.why]
    return replace(found, strength="weak", why="; ".join(reasons))


def _no_difference(race: Race) -> str:
    """Say which worker counts tie, if several do."""
    counts = sorted({one.settings.num_workers for one in race.tied()})
    if len(counts) > 1:
        return f"{' and '.join(map(str, counts))} workers tie, by estimates that allow for luck; "
    return ""


def _suggested_budget(race: Race, still_open: Sequence[Summary], results: Results) -> str:
    """Suggest a budget that would settle the open rivals, from the durations of runs so far."""
    done = race.rounds(race.choice.trial)
    wanted = max((race.rounds_to_settle(one.trial) for one in still_open), default=0.0)
    if wanted > MAX_LAUNCHES or done >= MAX_LAUNCHES:
        told = "did" if done >= MAX_LAUNCHES else "would"
        return f"; {MAX_LAUNCHES} launches of each, the most that tune makes, {told} not settle it"
    more = max(1, max(MIN_LAUNCHES, ceil(wanted)) - done)
    runs = {(one.job, one.trial, one.phase, one.round): one.run_s for one in results.samples}
    spent, jobs = sum(runs.values()), len({one.job for one in results.samples})
    racing = {race.choice.trial, *(one.trial for one in still_open[:MOST_RACING])}
    each = [
        took
        for (_, trial, phase, _), took in runs.items()
        if trial in racing and phase == "confirming"
    ]
    if not spent or not each:
        return ""
    needed = spent + jobs * more * len(racing) * sum(each) / len(each)
    had = results.header.spec.get("budget")  # part of which was not spent in runs
    least = MORE * as_seconds(had, "budget") if had not in (None, "none") else 0.0
    return f"; --budget {format_budget(max(needed / LARGEST_SHARE, least))} would do"


def format_budget(seconds: float) -> str:
    """A budget of at least that many seconds, as users type it.

    >>> format_budget(42), format_budget(130)
    ('60s', '3m')
    """
    return "60s" if seconds <= 60 else f"{ceil(seconds / 60)}m"  # noqa: PLR2004 - a minute
