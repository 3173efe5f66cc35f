"""What a budget left time for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..loaders.profile import Job
from .budget import Allotment
from .launches import MIN_LAUNCHES_IN_BUDGET
from .metrics import format_seconds
from .results import Sample
from .spec import Spec
from .units import counted


@dataclass(frozen=True)
class Tried:
    """What a budget left time for, of one job and of the present grid."""

    plan: Allotment
    settings: int
    """At the most files."""
    others: int
    """Settings beside the grid's, which a resumed journal has from another grid."""
    launches: tuple[int, ...]
    """Of each that raced there to the end, or nearly."""
    explained: bool

    @classmethod
    def of(cls, plan: Allotment, samples: Iterable[Sample], *, explained: bool) -> Tried:
        """What samples there are."""
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
        return cls(plan, len(tried), len(others), launches, explained)

    @property
    def is_whole(self) -> bool:
        """Whether all settings were tried on all files, with launches enough, and explained."""
        enough = bool(self.launches) and self.launches[-1] >= MIN_LAUNCHES_IN_BUDGET
        whole = not self.plan.cut and self.settings == self.plan.settings
        return whole and enough and self.explained

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
        return ", ".join(told if self.explained else [*told, "time not explained"])


def short_of_time(spec: Spec, tried: Mapping[Job, Tried]) -> list[str]:
    """A sentence, if the budget left time for less than was asked for."""
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
