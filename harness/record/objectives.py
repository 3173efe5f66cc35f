"""What settings are chosen by: a cost of each round, the less the better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...loaders.choosing.profile import Job
from .statistics import median
from .summary import Summary

TIE = 1.03  # settings whose estimate is this close to the best's are as good as it


@dataclass(frozen=True)
class Objective:
    """One way to judge settings."""

    name: str
    what: str
    """What is made small, in words."""
    costs: Callable[[Summary], Mapping[int, float]]
    """By round, in seconds or bytes; only rounds in which it is known."""
    timed: bool = True
    """Whether it is known from timed launches."""
    pair_sd: float = 0.11
    """The usual standard deviation of the log ratio of two equal settings, launch to launch.

    Times: pairs of launches on a shared virtual machine. Peak memory: 0.011 to 0.019 in pairs of 12
    launches over 15 files of flights, 0.010 to 0.021 in pairs of 6 over 60 files.
    """
    lucky: bool = True
    """Whether the best of several is most often one that was lucky, as with times."""
    compared: str = "took {:.2f} times as long"
    """What is said of one that costs more."""
    called: Callable[[Job], str | None] = lambda _: None
    """What a cost is called that the tables have no column for, by job; None where they have."""

    def cost(self, summary: Summary) -> float | None:
        """The median of the rounds; None where it is not known."""
        costs = list(self.costs(summary).values())
        return median(costs) if costs else None


def _total(summary: Summary) -> Mapping[int, float]:
    return summary.totals


def _epoch(summary: Summary) -> Mapping[int, float]:
    """The time of a pass after the first; of the only one where there is one."""
    return _of_passes(summary, "wall_s", median)


def _latency(summary: Summary) -> Mapping[int, float]:
    """Of a frame the first load; of training jobs the 95th percentile of the wait for a batch."""
    if summary.job == "frame":
        return summary.first_passes
    return _of_passes(summary, "batch_p95_s", median)


def _memory(summary: Summary) -> Mapping[int, float]:
    """The peak of each launch that measured it; journals of before have it beside the times."""
    found: dict[int, float] = {}
    for sample in summary.memory or summary.samples:
        peak = sample.metrics.get("peak_pss_bytes")
        if peak is not None:
            found[sample.round] = max(peak, found.get(sample.round, 0.0))
    return found


def _of_passes(
    summary: Summary,
    metric: str,
    of: Callable[[list[float]], float],
) -> dict[int, float]:
    """A metric of each round, over the passes after the first, or over the only one."""
    passes: dict[int, list[float]] = defaultdict(list)
    for sample in sorted(summary.samples, key=lambda one: one.pass_):
        value = sample.metrics.get(metric)
        if sample.round in summary.totals and value is not None:
            passes[sample.round].append(value)
    return {turn: of(values[1:] or values) for turn, values in passes.items()}


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("throughput", "the time over all passes", _total),
        Objective(
            "latency",
            "the wait: of a frame its first load, of batches the p95",
            _latency,
            called=lambda job: None if job == "frame" else "p95 wait",
        ),
        Objective(
            "memory",
            "peak memory, of those no slower than the original",
            _memory,
            timed=False,
            pair_sd=0.02,
            lucky=False,
            compared="needed {:.2f} times as much",
        ),
        Objective("epoch-time", "the time of a pass after the first", _epoch),
    )
}
THROUGHPUT = OBJECTIVES["throughput"]
