"""The timed loop over batches, with or without a training step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

Step = Callable[[Any], object]
"""A training step, called with each batch."""

NULL_BATCHES = 2000  # of the null loader: enough to take some milliseconds
NULL_ROUNDS = 3
ALONE_STEPS = 20


@dataclass(frozen=True)
class Consumption:
    """The times and rows of a loop over batches. Times are in seconds on one clock."""

    asked: list[float]
    """When each batch was requested; then one more request, which got no batch."""
    came: list[float]
    """When each batch came."""
    rows: list[int]
    """The number of rows of each batch."""
    last: Any
    """The last batch."""
    end: float
    """When the loop ended."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """Latencies, the steady rate and the time spent waiting."""
        if not self.came:
            return {}
        asked, came = np.array(self.asked), np.array(self.came)
        waits = came - asked[:-1]
        p50, p95, p99 = np.percentile(waits, [50, 95, 99])
        values: dict[str, float | None] = {
            "first_batch_s": float(waits[0]),
            "batch_p50_s": float(p50),
            "batch_p95_s": float(p95),
            "batch_p99_s": float(p99),
            "wait_s": float(waits.sum()),
        }
        # Batches that were ready before the loop, or piled up at its start, are used up by then.
        half = len(came) // 2
        if half and came[-1] > came[half - 1]:
            values["steady_rows_per_s"] = sum(self.rows[half:]) / float(came[-1] - came[half - 1])
        return values

    @property
    def steps(self) -> list[tuple[float, float]]:
        """When the consumer started and finished its step on each batch."""
        return list(zip(self.came, self.asked[1:], strict=True))

    @property
    def step_metrics(self) -> dict[str, float | None]:
        """The median time of a step, and the share of the time spent waiting."""
        if not self.came:
            return {}
        steps = np.array(self.asked[1:]) - np.array(self.came)
        waits = np.array(self.came) - np.array(self.asked[:-1])
        total_s = self.end - self.asked[0]
        return {
            "step_s": float(np.median(steps)),
            "stall_pct": 100 * float(waits.sum()) / total_s if total_s else None,
        }


def consume(batches: Callable[[], Iterable[Any]], step: Step | None = None) -> Consumption:
    """Take all batches.

    Args:
        batches: begins an epoch; its time counts for the first batch.
        step: called with each batch.
    """
    asked: list[float] = []
    came: list[float] = []
    rows: list[int] = []
    batch = None
    asked.append(perf_counter())
    for batch in batches():
        came.append(perf_counter())
        rows.append(length(batch))
        if step is not None:
            step(batch)
        asked.append(perf_counter())
    return Consumption(asked, came, rows, batch, perf_counter())


def loop_seconds(batch: Any) -> float:
    """The loop's own time per batch, on ready-made batches: the median of a few rounds."""

    def seconds_per_batch() -> float:
        consumption = consume(lambda: itertools.repeat(batch, NULL_BATCHES))
        return (consumption.end - consumption.asked[0]) / NULL_BATCHES

    return float(np.median([seconds_per_batch() for _ in range(NULL_ROUNDS)]))


def alone_seconds(step: Step, batch: Any) -> float:
    """The median time of a step on a ready-made batch, while nothing is loaded."""
    consumption = consume(lambda: itertools.repeat(batch, ALONE_STEPS), step)
    return float(np.median(np.array(consumption.asked[1:]) - np.array(consumption.came)))


def parts(batch: Any) -> Sequence[Any]:
    """The arrays or tensors of a batch."""
    return batch if isinstance(batch, tuple | list) else [batch]


def length(batch: Any) -> int:
    """The number of rows of a batch; for a mapping, of its first value."""
    first = parts(batch)[0]
    return len(next(iter(first.values()), ())) if isinstance(first, Mapping) else len(first)
