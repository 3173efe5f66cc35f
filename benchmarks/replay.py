"""Give interleaved samples to pytest-benchmark as if it had timed them.

pytest-benchmark runs all rounds of one test before those of the next, so it cannot interleave. We
measure first, and then let it time a clock that advances only by the samples: its table and its
JSON hold the samples, one per round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ReplayedClock:
    """A timer that only moves when a sample is replayed."""

    __name__ = "interleaved"  # pytest-benchmark shows this as the timer

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """The seconds replayed so far."""
        return self.now

    def replay(self, benchmark: Any, samples: Sequence[float]) -> None:
        """Record samples, in seconds, with the `benchmark` fixture, whose timer this must be."""
        self.now = 0.0  # small, so that differences lose no digits
        left = list(reversed(samples))

        def advance() -> None:
            self.now += left.pop()

        benchmark.pedantic(advance, rounds=len(samples), iterations=1)


CLOCK = ReplayedClock()
