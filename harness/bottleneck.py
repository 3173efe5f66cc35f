"""Where the time of a trial goes, what limits it, and what would help by how much at most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..loaders.machine import Machine
from .metrics import STAGES, WHAT_IFS, format_percent, format_ratio
from .statistics import median
from .summary import Summary, compare

CEILINGS = {
    "read": ("ceiling_read_s", "read"),
    "decode": ("ceiling_decode_s", "decode"),
    "convert": ("ceiling_copy_s", "copy"),
    "gather": ("ceiling_gather_s", "gather"),
}
"""Stages that something was measured for which no setting can beat, and the verb for it."""

WORTH_TELLING_PCT = 5.0  # of a pass; less would be lost in its variation
MOST_ADVICE = 2
LEAST_SHARE = 0.01  # of a ceiling that is told as a number

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
    """The median over the launches."""
    low: float
    """The lowest of the launches' medians; with the highest, an interval: see `confidence`."""
    high: float
    ceiling_s: float | None
    """The least that it can take, where that was measured."""


@dataclass(frozen=True)
class Waterfall:
    """The stages that one pass of a trial consists of; they add up to it."""

    summary: Summary
    first: bool
    """Whether it is the first pass; else a later one, of the training jobs."""
    shares: tuple[Share, ...]
    wall_s: float
    launches: int

    @property
    def confidence(self) -> float:
        """That a stage's true median lies between the lowest and the highest launch.

        All n launches lie on one side of it with probability 2 * 0.5**n: the sign test.
        """
        return 1 - 2 * 0.5**self.launches

    @property
    def limiting(self) -> Share:
        """The stage that takes the most time."""
        return max(self.shares, key=lambda share: share.seconds)

    @property
    def of_ceiling(self) -> float | None:
        """Achieved over the ceiling of the limiting stage: the least it takes, over the pass."""
        least = self.limiting.ceiling_s
        return None if least is None else least / self.wall_s


def waterfall(summary: Summary) -> Waterfall | None:
    """The stages of a trial that was confirmed; None where they were not measured.

    Of the frame job it is the first pass, before anything is cached. Of a training job it is an
    epoch after the first, which alone holds what is done once.
    """
    first = summary.job == "frame" or summary.passes == 1
    samples = [
        sample
        for sample in summary.samples
        if (sample.pass_ == 0) == first and sample.metrics.get("stage_handover_s") is not None
    ]
    if not samples:
        return None

    launches = dict.fromkeys(sample.launch for sample in samples)

    def values(name: str) -> list[float]:
        """Of each launch that has it, the median over its passes."""
        by_launch = (
            [
                value
                for sample in samples
                if sample.launch == launch and (value := sample.metrics.get(name)) is not None
            ]
            for launch in launches
        )
        return [median(found) for found in by_launch if found]

    shares = []
    for stage in STAGES:
        took = values(f"stage_{stage}_s")
        least = values(CEILINGS[stage][0]) if stage in CEILINGS else []
        shares.append(
            Share(stage, median(took), min(took), max(took), median(least) if least else None)
        )
    return Waterfall(summary, first, tuple(shares), median(values("wall_s")), len(launches))


def sentence(found: Waterfall, machine: Machine, others: Iterable[Summary] = ()) -> str:
    """What limits a trial, and what would help by how much at most, as measured.

    Args:
        found: its waterfall.
        machine: whose CPUs the ceilings were measured with.
        others: trials of the same results, which tell whether more workers help.
    """
    share = found.limiting
    cpus = machine.effective_cpus
    part = share.seconds / found.wall_s
    told = [f"{_BOUND[share.stage]}: {part:.0%} of the time is {STAGES[share.stage][1]}"]
    if found.of_ceiling is not None:
        verb = CEILINGS[share.stage][1]
        who = "one core" if verb == "copy" or cpus == 1 else f"{cpus} cores"
        share_of = "less than 1%" if found.of_ceiling < LEAST_SHARE else f"{found.of_ceiling:.0%}"
        told.append(f"the pass runs at {share_of} of what {who} can {verb}")
    told += filter(None, [_workers(found, list(others))])
    told += _advice(found.summary)
    return "; ".join(told)


def _workers(found: Waterfall, others: Sequence[Summary]) -> str | None:
    """Whether more workers help, by the trials that had more of them and nothing else."""
    mine = found.summary
    like_mine = [
        one
        for one in others
        if one.phase == "screening"
        and one.totals
        and (one.job, one.backend, one.files) == (mine.job, mine.backend, mine.files)
    ]
    same = next((one for one in like_mine if one.settings == mine.settings), None)
    if same is None:
        return None
    more = [
        one
        for one in like_mine
        if one.settings.num_workers > mine.settings.num_workers
        and _but_workers(one) == _but_workers(mine)
        and compare(one, same) is not None
    ]
    if not more:
        return None
    best = min(more, key=lambda one: one.total_s)
    ratio = compare(best, same)
    if ratio is None:
        return None
    count = best.settings.num_workers
    if ratio.estimate >= 1:
        return f"more workers do not help ({count} took {format_ratio(ratio.estimate)} as long)"
    saved = format_percent(100 * (1 - ratio.estimate))
    return f"more workers would save {saved} at most ({count} of them)"


def _but_workers(summary: Summary) -> tuple[object, ...]:
    settings = summary.settings
    return settings.prefetch, settings.cache, settings.batch_size


def _advice(summary: Summary) -> list[str]:
    """What was measured to save time, the most first."""
    saved = {name: _median_of(summary, name) for name in WHAT_IFS}
    worth = sorted(
        ((pct, name) for name, pct in saved.items() if pct is not None and pct > WORTH_TELLING_PCT),
        reverse=True,
    )
    if worth:
        return [
            f"{WHAT_IFS[name]}, it would take {pct:.0f}% less" for pct, name in worth[:MOST_ADVICE]
        ]
    if any(pct is not None for pct in saved.values()):
        return ["no other columns, codec or size of files was measured to save more than 5%"]
    return []


def _median_of(summary: Summary, name: str) -> float | None:
    values = [
        value
        for sample in summary.samples
        if sample.pass_ == 0 and (value := sample.metrics.get(name)) is not None
    ]
    return median(values) if values else None
