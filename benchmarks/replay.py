"""Samples measured elsewhere, given to pytest-benchmark as if it had timed them itself.

pytest-benchmark runs all rounds of one test before those of the next, and so cannot take turns.
We measure first, interleaved, and then let it time a clock that stands still but for the
samples: its table and its JSON hold them as they were measured, one a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ReplayedClock:
    """A timer that only moves when a sample is replayed."""

    __name__ = "interleaved"  # what pytest-benchmark shows as the timer

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Tell what has been replayed so far, in seconds."""
        return self.now

    def replay(self, benchmark: Any, samples: Sequence[float]) -> None:
        """Record samples, in seconds, with the `benchmark` fixture, whose timer this must be."""
        self.now = 0.0  # differences of small numbers lose no digits
        left = list(reversed(samples))

        def advance() -> None:
            self.now += left.pop()

        benchmark.pedantic(advance, rounds=len(samples), iterations=1)


CLOCK = ReplayedClock()
