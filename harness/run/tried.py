"""The part of a sweep that a budget left time for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...loaders.choosing.profile import Job
from ..plan.spec import Spec
from ..record.results import Sample
from ..system.formats import format_seconds
from ..system.units import counted
from .budget import Allotment
from .launches import MIN_LAUNCHES_IN_BUDGET


@dataclass(frozen=True)
class Coverage:
    """The part of one job's present grid that a budget left time for."""

    plan: Allotment
    settings: int
    """Settings tried on the most files."""
    others: int
    """Settings that a resumed journal has from another grid."""
    launches: tuple[int, ...]
    """Launches of each setting that raced on the most files to the end, or nearly."""
    explained: bool
    memory_measured: bool = True
    """Whether the memory of any setting was measured."""
    unsettled: tuple[int, ...] = ()
    """Smaller file counts on which not all settings were tried: nothing is chosen for them."""

    @classmethod
    def of(cls, plan: Allotment, samples: Sequence[Sample], *, explained: bool) -> Coverage:
        """Summarize the samples of a planned job."""
        there = [one for one in samples if (one.job, one.files) == (plan.job, plan.files)]
        grid = {trial.id for trial in plan.trials}
        mine = [one for one in there if one.trial in grid]
        rounds: dict[str, set[int]] = {}
        for one in mine:
            if one.phase == "confirming":
                rounds.setdefault(one.trial, set()).add(one.round)
        most = max(map(len, rounds.values()), default=0)
        raced = (len(turns) for turns in rounds.values())
        launches = tuple(sorted(count for count in raced if 2 * count > most))
        tried = {one.trial for one in mine}
        others = {one.trial for one in there} - grid
        known = {one.trial for one in samples}
        fewer = {
            trial.files
            for trial in plan.trials
            if trial.files < plan.files and trial.backend != "original" and trial.id not in known
        }
        unsettled = tuple(sorted(fewer, reverse=True))
        memory_measured = any(one.phase == "memory" for one in mine)
        return cls(plan, len(tried), len(others), launches, explained, memory_measured, unsettled)

    @property
    def is_whole(self) -> bool:
        """Whether all settings were tried on all file counts, raced, explained and weighed."""
        enough = bool(self.launches) and self.launches[-1] >= MIN_LAUNCHES_IN_BUDGET
        whole = not self.plan.cut and self.settings == self.plan.settings
        complete = self.explained and self.memory_measured and not self.unsettled
        return whole and enough and complete

    def __str__(self) -> str:
        plan = self.plan
        some = f"{plan.files:,} of " if plan.files < plan.of_files else ""
        before = f" (and {self.others:,} of an earlier grid)" if self.others else ""
        told = [
            f"{plan.job} measured on {some}{counted(plan.of_files, 'file')}",
            f"{self.settings} of {counted(plan.settings, 'setting')}{before}",
            launched_each(self.launches),
        ]
        told += [
            f"{backend} left out (about {format_seconds(took)} a launch)"
            for backend, took in plan.left_out.items()
        ]
        if self.unsettled:
            fewer = " and ".join(f"{files:,}" for files in self.unsettled)
            told.append(f"no choice of its own for {fewer} files")
        if not self.memory_measured:
            told.append("memory not measured")
        if not self.explained:
            told.append("stages not measured alone")
        return ", ".join(told)


def budget_notes(spec: Spec, tried: Mapping[Job, Coverage]) -> list[str]:
    """A sentence, if the budget left time for only a part of the requested sweep."""
    told = [str(one) for one in tried.values() if not one.is_whole]
    if spec.budget_s is None or not told:
        return []
    cut = "; ".join(told)
    more = "a larger --budget with new --results measures more"
    return [f"budget {format_seconds(spec.budget_s)}: {cut}; {more}"]


def launched_each(rounds: Sequence[int]) -> str:
    """How often settings were launched, in words.

    >>> launched_each([3, 3]), launched_each([2, 3]), launched_each([])
    ('3 launches each', '2 to 3 launches each', 'no launch')
    """
    if not rounds:
        return "no launch"
    low, high = min(rounds), max(rounds)
    return f"{counted(high, 'launch')} each" if low == high else f"{low} to {high} launches each"
