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
    """The part of one job's grid that a budget left time for."""

    plan: Allotment
    settings: int
    """Settings tried on the most files."""
    others: int
    """Settings that a resumed journal has from another grid."""
    launches: tuple[int, ...]
    """Launches on the most files of each setting that had more than half of the most launches."""
    explained: bool
    memory_measured: bool = True
    """Whether the memory of any setting was measured."""
    unsettled: tuple[int, ...] = ()
    """Smaller file counts on which not all settings were tried: nothing is chosen for them."""

    @classmethod
    def of(cls, plan: Allotment, samples: Sequence[Sample], *, explained: bool) -> Coverage:
        """Summarize the samples of a planned job."""
        all_largest = [s for s in samples if (s.job, s.files) == (plan.job, plan.files)]
        grid = {trial.id for trial in plan.trials}
        largest = [sample for sample in all_largest if sample.trial in grid]
        rounds: dict[str, set[int]] = {}
        for sample in largest:
            if sample.phase == "confirming":
                rounds.setdefault(sample.trial, set()).add(sample.round)
        counts = [len(turns) for turns in rounds.values()]
        launches = tuple(sorted(count for count in counts if 2 * count > max(counts)))
        tried = {sample.trial for sample in largest}
        others = {sample.trial for sample in all_largest} - grid
        measured = {sample.trial for sample in samples}
        fewer = {
            trial.files
            for trial in plan.trials
            if trial.files < plan.files and trial.backend != "original" and trial.id not in measured
        }
        unsettled = tuple(sorted(fewer, reverse=True))
        memory_measured = any(sample.phase == "memory" for sample in largest)
        return cls(plan, len(tried), len(others), launches, explained, memory_measured, unsettled)

    @property
    def is_whole(self) -> bool:
        """Whether everything that was requested was measured."""
        return (
            not self.plan.cut
            and self.settings == self.plan.settings
            and bool(self.launches)
            and self.launches[-1] >= MIN_LAUNCHES_IN_BUDGET
            and self.explained
            and self.memory_measured
            and not self.unsettled
        )

    def __str__(self) -> str:
        plan = self.plan
        part = f"{plan.files:,} of " if plan.files < plan.of_files else ""
        earlier = f" (and {self.others:,} of an earlier grid)" if self.others else ""
        parts = [
            f"{plan.job} measured on {part}{counted(plan.of_files, 'file')}",
            f"{self.settings} of {counted(plan.settings, 'setting')}{earlier}",
            launched_each(self.launches),
        ]
        parts += [
            f"{backend} left out (about {format_seconds(launch_s)} a launch)"
            for backend, launch_s in plan.left_out.items()
        ]
        if self.unsettled:
            fewer = " and ".join(f"{files:,}" for files in self.unsettled)
            parts.append(f"no separate choice for {fewer} files")
        if not self.memory_measured:
            parts.append("memory not measured")
        if not self.explained:
            parts.append("stages not measured alone")
        return ", ".join(parts)


def budget_notes(spec: Spec, tried: Mapping[Job, Coverage]) -> list[str]:
    """At most one sentence: on the part of the requested sweep that the budget left time for."""
    parts = [str(one) for one in tried.values() if not one.is_whole]
    if spec.budget_s is None or not parts:
        return []
    advice = "a larger --budget with new --results measures more"
    return [f"budget {format_seconds(spec.budget_s)}: {'; '.join(parts)}; {advice}"]


def launched_each(rounds: Sequence[int]) -> str:
    """Say how often settings were launched.

    >>> launched_each([3, 3]), launched_each([2, 3]), launched_each([])
    ('3 launches each', '2 to 3 launches each', 'no launch')
    """
    if not rounds:
        return "no launch"
    low, high = min(rounds), max(rounds)
    return f"{counted(high, 'launch')} each" if low == high else f"{low} to {high} launches each"
