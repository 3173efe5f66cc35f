"""Objectives for choosing settings: a cost for each round, lower is better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...loaders.choosing.profile import Job
from .statistics import median
from .summary import Summary

TIE = 1.03  # settings whose estimate is within this ratio of the best's are as good


@dataclass(frozen=True)
class Objective:
    """A criterion for choosing settings."""

    name: str
    costs: Callable[[Summary], Mapping[int, float]]
    """Costs by round, in seconds or bytes; only rounds with a known cost."""
    timed: bool = True
    """Whether timed launches measure it."""
    pair_sd: float = 0.11
    """The usual standard deviation, between launches, of the log ratio of two equal settings.

    Times: pairs of launches on a shared virtual machine. Peak memory: 0.011 to 0.019 in pairs of 12
    launches over 15 files of flights, 0.010 to 0.021 in pairs of 6 over 60 files.
    """
    has_winners_curse: bool = True
    """Whether it has a winner's curse, as times do: the best of several is often a lucky one."""
    compared: str = "took {:.2f} times as long"
    """How a sentence compares settings that cost more."""
    called: Callable[[Job], str | None] = lambda _: None
    """By job, the column name of its cost; None if the tables already have a column for it."""

    def cost(self, summary: Summary) -> float | None:
        """The median cost of the rounds; None if unknown."""
        costs = list(self.costs(summary).values())
        return median(costs) if costs else None


def _total(summary: Summary) -> Mapping[int, float]:
    return summary.totals


def _epoch(summary: Summary) -> Mapping[int, float]:
    """The time of a pass after the first, or of the only pass."""
    return _of_passes(summary, "wall_s", median)


def _latency(summary: Summary) -> Mapping[int, float]:
    """Frame job: the first load. Training jobs: the 95th percentile of the wait for a batch."""
    if summary.job == "frame":
        return summary.first_passes
    return _of_passes(summary, "batch_p95_s", median)


def _memory(summary: Summary) -> Mapping[int, float]:
    """The peak of each launch that measured it."""
    peaks: dict[int, float] = {}
    for sample in summary.memory:
        peak = sample.metrics.get("peak_pss_bytes")
        if peak is not None:
            peaks[sample.round] = max(peak, peaks.get(sample.round, 0.0))
    return peaks


def _of_passes(
    summary: Summary,
    metric: str,
    of: Callable[[list[float]], float],
) -> dict[int, float]:
    """A metric by round, combined by `of` over the passes after the first, or of the only pass."""
    passes: dict[int, list[float]] = defaultdict(list)
    for sample in sorted(summary.samples, key=lambda one: one.pass_):
        value = sample.metrics.get(metric)
        if sample.round in summary.totals and value is not None:
            passes[sample.round].append(value)
    return {turn: of(values[1:] or values) for turn, values in passes.items()}


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("throughput", _total),
        Objective(
            "latency",
            _latency,
            called=lambda job: None if job == "frame" else "p95 wait",
        ),
        Objective(
            "memory",
            _memory,
            timed=False,
            pair_sd=0.02,
            has_winners_curse=False,
            compared="needed {:.2f} times as much",
        ),
        Objective("epoch-time", _epoch),
    )
}
THROUGHPUT = OBJECTIVES["throughput"]
