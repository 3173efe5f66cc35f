"""Where the time of a trial goes, what limits it, and how much changes could save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from ...loaders.base.machine import Machine
from ..system.formats import format_percent
from ..system.units import counted
from .metrics import ALONE_METRICS, FEWER_COLUMNS, FILES_BY_PANDAS, STAGES, UNSEEN, what_if_bounds
from .results import Sample
from .savings import MIN_REPORTED_PCT, Saving, advice, known_savings
from .stages import Numbers, complete_stages
from .statistics import CONFIDENCE
from .summary import Summary, compare

CEILINGS = {"read": "read", "decode": "decode", "convert": "copy", "gather": "gather"}
"""Stages with a measured ceiling that no setting can beat, each with its operation."""

LEAST_SHARE = 0.01  # of a ceiling; smaller shares are not given as a number

_BOUND = {
    "plan": "bound by looking at files",
    "read": "read-bound",
    "decode": "decode-bound",
    "convert": "bound by conversion",
    "gather": "gather-bound",
    "cache": "bound by its cache",
    "handover": "bound by handing over",
    "step": "bound by the consumer, not by loading",
}


@dataclass(frozen=True)
class Share:
    """One stage of a waterfall."""

    stage: str
    seconds: float
    """Of the pass with the median time, so that stages add up."""
    low: float
    """The lowest of all passes; with `high` it is an interval, see `Waterfall.confidence`."""
    high: float
    ceiling_s: float | None
    """The least time that it can take, if measured."""

    @property
    def least_s(self) -> float | None:
        """The ceiling if it is lower; alone, a stage may take longer than behind others."""
        is_lower = self.ceiling_s is not None and self.ceiling_s < self.seconds
        return self.ceiling_s if is_lower else None


@dataclass(frozen=True)
class Waterfall:
    """The stages of one pass of a trial; they add up to it."""

    summary: Summary
    first: bool
    """Whether it is the first pass; else it is a later pass of a training job."""
    shares: tuple[Share, ...]
    wall_s: float
    launches: int

    @property
    def confidence(self) -> float:
        """Confidence that a stage's true median lies between its lowest and highest launch.

        By the sign test: all n launches lie on one side of the median with probability 2 * 0.5**n.
        """
        return 1 - 2 * 0.5**self.launches

    @property
    def limiting(self) -> Share:
        """The stage that takes the most time."""
        return max(self.shares, key=lambda share: share.seconds)

    @property
    def of_ceiling(self) -> float | None:
        """The share of the limiting stage's ceiling that is reached: its least time over the pass.

        At most 1; None if there is no ceiling, or if the stage took no less alone.
        """
        least = self.limiting.least_s
        return None if least is None else least / self.wall_s


def waterfall(summary: Summary) -> Waterfall | None:
    """The stages of a pass of a confirmed trial; None if they were not measured.

    Of the frame job it is the first pass, before anything is cached; of a training job, an epoch
    after the first, since only the first includes one-time work. The passes are those whose median
    the tables show, so that the stages add up to it.
    """
    first = summary.job == "frame" or summary.passes == 1
    alone = {name: summary.metric(name) for name in ALONE_METRICS}
    passes: list[Numbers] = []
    launches: set[int] = set()
    for sample in summary.samples:
        if (sample.pass_ == 0) != first or sample.round not in summary.totals:
            continue
        known = {name: value for name, value in sample.metrics.items() if value is not None}
        metrics = complete_stages({**alone, **known})
        if metrics.get("stage_handover_s") is not None and not any(
            metrics.get(f"stage_{name}_s") for name in UNSEEN
        ):
            passes.append(metrics)
            launches.add(sample.launch)
    if not passes:
        return None
    middle = _median_pass(passes)
    shares = []
    for stage in STAGES:
        name = f"stage_{stage}_s"
        seconds = [one[name] or 0.0 for one in passes]
        ceiling = alone[f"ceiling_{CEILINGS[stage]}_s"] if stage in CEILINGS else None
        shares.append(Share(stage, middle[name] or 0.0, min(seconds), max(seconds), ceiling))
    return Waterfall(summary, first, tuple(shares), middle["wall_s"] or 0.0, len(launches))


def _median_pass(passes: Sequence[Numbers]) -> Numbers:
    """The pass with the median time; for an even number, the mean of the middle two."""
    ordered = sorted(passes, key=lambda one: one["wall_s"] or 0.0)
    low, high = ordered[(len(passes) - 1) // 2], ordered[len(passes) // 2]
    names = ("wall_s", *(f"stage_{stage}_s" for stage in STAGES))
    return {name: ((low[name] or 0.0) + (high[name] or 0.0)) / 2 for name in names}


def sentence(found: Waterfall, machine: Machine, others: Iterable[Summary] = ()) -> str:
    """Say what limits a trial, and how much changes would save, as measured.

    Args:
        found: its waterfall.
        machine: the ceilings were measured with its CPUs.
        others: trials of the same results, to see whether more workers help.
    """
    limiting, others = found.limiting, list(others)
    cpus = machine.effective_cpus
    share = limiting.seconds / found.wall_s
    if limiting.stage == "read" and found.summary.metric("requests") is not None:
        parts = [f"bound by the object store: {share:.0%} of the time is waiting for requests"]
        parts += filter(None, [_requests(found, others)])
    else:
        what = STAGES[limiting.stage][1]
        parts = [f"{_BOUND[limiting.stage]}: {share:.0%} of the time is {what}"]
        parts += _of_ceiling(found, cpus)
    parts += filter(None, [_workers(found, others), _by_pandas(found, others)])
    if limiting.stage != "step":  # else faster loading would not help
        parts += advice(_savings(found.summary))
    return "; ".join(parts)


def _of_ceiling(found: Waterfall, cpus: int) -> Iterator[str]:
    """Say how close the limiting stage is to the least time that it can take."""
    limiting, reached = found.limiting, found.of_ceiling
    if reached is not None:
        verb = CEILINGS[limiting.stage]
        cores = "one core" if cpus == 1 else f"{cpus} cores"
        percent = "less than 1%" if reached < LEAST_SHARE else f"{reached:.0%}"
        yield f"the pass runs at {percent} of what {cores} can {verb}"
    elif limiting.ceiling_s is not None:
        yield "alone, with all CPUs, that takes no less"


def _by_pandas(found: Waterfall, others: Sequence[Summary]) -> str | None:
    """Say how many files left the fast path in the measured passes, and why.

    The original has no fast path: for it, report the files of another loader, which explain why
    that is no faster.
    """
    trial = found.summary
    alike = [one for one in others if (one.job, one.files) == (trial.job, trial.files)]
    for one in (trial, *alike):
        count = one.metric(FILES_BY_PANDAS, later=not found.first)
        if count is None:
            continue
        reason = _usual_reason(one, FILES_BY_PANDAS)
        files = counted(trial.files, "file")
        loader = "" if one is trial else f" with {one.backend} too"
        since = f", since {reason}" if reason else ""
        return f"pandas read {count:.0f} of {files} itself{loader}{since}" if count else None
    return None


def _savings(summary: Summary) -> list[Saving]:
    """The savings from other columns and other files.

    Launches may differ in the columns that cost most. For `FEWER_COLUMNS`, only those launches
    count that left out the columns that most launches left out.
    """
    columns = _usual_reason(summary, FEWER_COLUMNS)
    alike = replace(
        summary,
        samples=tuple(one for one in summary.samples if _reason_of(one, FEWER_COLUMNS) == columns),
        explained=tuple(
            one for one in summary.explained if _reason_of(one, FEWER_COLUMNS) == columns
        ),
    )
    of_columns = (FEWER_COLUMNS, *what_if_bounds(FEWER_COLUMNS))

    def metric(name: str) -> float | None:
        return (alike if name in of_columns else summary).metric(name)

    return list(known_savings(metric, columns))


def _usual_reason(summary: Summary, name: str) -> str | None:
    """The most frequent reason that samples give for a metric that they have."""
    samples = (*summary.samples, *summary.explained)
    reasons = Counter(filter(None, (_reason_of(one, name) for one in samples)))
    return reasons.most_common(1)[0][0] if reasons else None


def _reason_of(sample: Sample, name: str) -> str | None:
    """The reason that a sample gives for a metric that it has."""
    return sample.reasons.get(name) if sample.metrics.get(name) is not None else None


def _workers(found: Waterfall, others: Sequence[Summary]) -> str | None:
    """Say whether more workers help, from trials that differ in nothing else."""
    return _effect_of_more(found.summary, others, "num_workers", "workers")


def _requests(found: Waterfall, others: Sequence[Summary]) -> str | None:
    """Say whether more requests in flight help, from such trials, or from reading alone."""
    measured = _effect_of_more(found.summary, others, "requests", "requests in flight")
    if measured is not None:
        return measured
    alone, least = map(found.summary.metric, ("read_alone_s", "ceiling_read_s"))
    if not alone or least is None or 100 * (1 - least / alone) < MIN_REPORTED_PCT:
        return None
    saved = format_percent(100 * (1 - least / alone))
    return f"with more requests in flight, reading alone takes {saved} less: try --requests"


def _effect_of_more(trial: Summary, others: Sequence[Summary], name: str, what: str) -> str | None:
    """Say whether a higher value of a setting helps, from trials that differ in nothing else."""
    key = trial.job, trial.backend, trial.files
    alike = [one for one in others if one.totals and (one.job, one.backend, one.files) == key]
    same = next((one for one in alike if one.settings == trial.settings), None)
    value = getattr(trial.settings, name)
    more = [
        one
        for one in alike
        if getattr(one.settings, name) > value
        and structs.replace(one.settings, **{name: value}) == trial.settings
    ]
    if same is None or not more:
        return None
    most = min(more, key=lambda one: one.total_s)
    return _effect(same, most, getattr(most.settings, name), what)


def _effect(few: Summary, more: Summary, count: int, what: str) -> str | None:
    ratio = compare(more, few)
    if ratio is None:
        return None
    low, high = ratio.low, ratio.high
    is_sure = ratio.confidence >= CONFIDENCE
    if is_sure and high < 1:
        most = format_percent(100 * (1 - low))
        return f"more {what} would save {most} at most ({count} of them)"
    if is_sure and 100 * (1 - low) <= MIN_REPORTED_PCT:
        return f"more {what} do not help ({count} were tried)"
    took = f"took {ratio.estimate:.2f} times as long, n={ratio.n}"
    if ratio.n > 1:
        took += f", {ratio.confidence:.0%} interval {low:.2f} to {high:.2f}"
    if ratio.n > 1 and not low <= 1 <= high:
        return f"{count} {what} {took}"
    return f"unclear whether more {what} help: {count} of them {took}"
