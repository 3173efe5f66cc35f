"""Where the time of a trial goes, what limits it, and how much changes could save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
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
"""Stages with a measured ceiling that no setting can beat, and the operation it is for."""

LEAST_SHARE = 0.01  # of a ceiling; less is not given as a number

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
    """The lowest of all passes; with `high` an interval, see `Waterfall.confidence`."""
    high: float
    ceiling_s: float | None
    """The least time that it can take, if measured."""

    @property
    def least_s(self) -> float | None:
        """The ceiling if it is lower; alone, a stage may take longer than hidden behind others."""
        below = self.ceiling_s is not None and self.ceiling_s < self.seconds
        return self.ceiling_s if below else None


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

        By the sign test: all n launches lie on one side of it with probability 2 * 0.5**n.
        """
        return 1 - 2 * 0.5**self.launches

    @property
    def limiting(self) -> Share:
        """The stage that takes the most time."""
        return max(self.shares, key=lambda share: share.seconds)

    @property
    def of_ceiling(self) -> float | None:
        """Share of the limiting stage's ceiling that is reached: its least time over the pass.

        At most 1; None if there is no ceiling, or if alone the stage took no less.
        """
        least = self.limiting.least_s
        return None if least is None else least / self.wall_s


def waterfall(summary: Summary) -> Waterfall | None:
    """The stages of a trial that was confirmed; None if they were not measured.

    For the frame job it is the first pass, before anything is cached. For a training job it is an
    epoch after the first, since only the first includes one-time work. The passes are those whose
    median the tables show, so that the stages add up to it.
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
    shown = _middle(passes)
    shares = []
    for stage in STAGES:
        took = [one[f"stage_{stage}_s"] or 0.0 for one in passes]
        least = alone[f"ceiling_{CEILINGS[stage]}_s"] if stage in CEILINGS else None
        shares.append(Share(stage, shown[f"stage_{stage}_s"] or 0.0, min(took), max(took), least))
    return Waterfall(summary, first, tuple(shares), shown["wall_s"] or 0.0, len(launches))


def _middle(passes: Sequence[Numbers]) -> Numbers:
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
    share, others = found.limiting, list(others)
    cpus = machine.effective_cpus
    part = share.seconds / found.wall_s
    told = [f"{_BOUND[share.stage]}: {part:.0%} of the time is {STAGES[share.stage][1]}"]
    if found.of_ceiling is not None:
        verb = CEILINGS[share.stage]
        who = "one core" if cpus == 1 else f"{cpus} cores"
        share_of = "less than 1%" if found.of_ceiling < LEAST_SHARE else f"{found.of_ceiling:.0%}"
        told.append(f"the pass runs at {share_of} of what {who} can {verb}")
    elif share.ceiling_s is not None:
        told.append("alone, with all CPUs, that takes no less")
    told += filter(None, [_workers(found, others), _by_pandas(found, others)])
    if share.stage != "step":  # faster loading would not help
        told += advice(_savings(found.summary))
    return "; ".join(told)


def _by_pandas(found: Waterfall, others: Sequence[Summary]) -> str | None:
    """Say how many files left the fast path in the measured passes, and why.

    The original has no fast path: for it, report other loaders' files, the reason why these
    loaders are no faster.
    """
    mine = found.summary
    like_mine = [one for one in others if (one.job, one.files) == (mine.job, mine.files)]
    for one in (mine, *like_mine):
        count = one.metric(FILES_BY_PANDAS, later=not found.first)
        if count is None:
            continue
        why = _usual_reason(one, FILES_BY_PANDAS)
        of = counted(mine.files, "file")
        where = "" if one is mine else f" with {one.backend} too"
        since = f", since {why}" if why else ""
        return f"pandas read {count:.0f} of {of} itself{where}{since}" if count else None
    return None


def _savings(summary: Summary) -> list[Saving]:
    """The savings from other columns and other files.

    Launches may differ in which columns cost most. For `FEWER_COLUMNS`, only launches count that
    left out the columns that most launches left out.
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
    mine = found.summary
    like_mine = [
        one
        for one in others
        if one.totals and (one.job, one.backend, one.files) == (mine.job, mine.backend, mine.files)
    ]
    same = next((one for one in like_mine if one.settings == mine.settings), None)
    more = [
        one
        for one in like_mine
        if one.settings.num_workers > mine.settings.num_workers
        and structs.replace(one.settings, num_workers=mine.settings.num_workers) == mine.settings
    ]
    if same is None or not more:
        return None
    return _told_of_workers(same, min(more, key=lambda one: one.total_s))


def _told_of_workers(same: Summary, best: Summary) -> str | None:
    ratio = compare(best, same)
    if ratio is None:
        return None
    count = best.settings.num_workers
    low, high = ratio.low, ratio.high
    enough = ratio.confidence >= CONFIDENCE
    span = f" [{low:.2f}, {high:.2f}]" if ratio.n > 1 else ""
    if enough and high < 1:
        most = format_percent(100 * (1 - low))
        return f"more workers would save {most} at most ({count} of them)"
    if enough and 100 * (1 - low) <= MIN_REPORTED_PCT:
        return f"more workers do not help ({count} were tried)"
    return (
        f"unclear whether more workers help: {count} of them took {ratio.estimate:.2f} times as "
        f"long{span}, in {counted(ratio.n, 'pair')}"
    )
