"""The loop that takes batches, timed batch by batch, with a training step or without."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

Step = Callable[[Any], object]
"""What is done with a batch: a training step."""

NULL_BATCHES = 2000  # of the null loader: enough for its time to be some milliseconds
NULL_ROUNDS = 3
ALONE_STEPS = 20


@dataclass(frozen=True)
class Consumption:
    """What a loop over batches saw. Times are in seconds on one clock."""

    asked: list[float]
    """When each batch was asked for, and when one more was, which did not come."""
    came: list[float]
    """When each batch came."""
    rows: list[int]
    """How many rows each had."""
    last: Any
    """The last batch."""
    end: float
    """When the loop was over."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """Latencies, the steady rate and the share of the time that was spent waiting."""
        if not self.came:
            return {}
        asked, came = np.array(self.asked), np.array(self.came)
        waits = came - asked[:-1]
        p50, p95, p99 = np.percentile(waits, [50, 95, 99])
        found: dict[str, float | None] = {
            "first_batch_s": float(waits[0]),
            "batch_p50_s": float(p50),
            "batch_p95_s": float(p95),
            "batch_p99_s": float(p99),
            "wait_s": float(waits.sum()),
        }
        # What was ready before the loop began, or piled up while it started, is used up by then.
        half = len(came) // 2
        if half and came[-1] > came[half - 1]:
            found["steady_rows_per_s"] = sum(self.rows[half:]) / float(came[-1] - came[half - 1])
        return found

    @property
    def steps(self) -> list[tuple[float, float]]:
        """When the consumer was at work with each batch, from and to."""
        return list(zip(self.came, self.asked[1:], strict=True))

    @property
    def step_metrics(self) -> dict[str, float | None]:
        """How a consumer with a step fared: the step's time, and the share of waiting."""
        if not self.came:
            return {}
        steps = np.array(self.asked[1:]) - np.array(self.came)
        waits = np.array(self.came) - np.array(self.asked[:-1])
        whole = self.end - self.asked[0]
        return {
            "step_s": float(np.median(steps)),
            "stall_pct": 100 * float(waits.sum()) / whole if whole else None,
        }


def consume(batches: Callable[[], Iterable[Any]], step: Step | None = None) -> Consumption:
    """Take all batches.

    Args:
        batches: begins an epoch; what that takes counts for the first batch.
        step: what is done with each batch.
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
    """What the loop itself takes for a batch: the time over ready-made ones, a null loader.

    The median of a few rounds.
    """

    def once() -> float:
        found = consume(lambda: itertools.repeat(batch, NULL_BATCHES))
        return (found.end - found.asked[0]) / NULL_BATCHES

    return float(np.median([once() for _ in range(NULL_ROUNDS)]))


def alone_seconds(step: Step, batch: Any) -> float:
    """What a step takes on a batch that is at hand, while nothing is loaded; the median."""
    found = consume(lambda: itertools.repeat(batch, ALONE_STEPS), step)
    return float(np.median(np.array(found.asked[1:]) - np.array(found.came)))


def parts(batch: Any) -> Sequence[Any]:
    """The arrays or tensors of a batch."""
    return batch if isinstance(batch, tuple | list) else [batch]


def length(batch: Any) -> int:
    """Rows of a batch; of a mapping, those of its first value."""
    first = parts(batch)[0]
    return len(next(iter(first.values()), ())) if isinstance(first, Mapping) else len(first)
