"""How fast a machine works while the tests run."""

from __future__ import annotations

import time
from pathlib import Path

EVERY_S = 10.0


def yardstick() -> float:
    """Seconds of CPU time that a fixed piece of work takes in this thread."""
    start = time.thread_time()
    counts: dict[int, int] = {}
    for number in range(500_000):
        counts[number & 1023] = counts.get(number & 1023, 0) + number
    return time.thread_time() - start


def pace_file(results: Path) -> Path:
    """The file of a run's pace, beside its results as JUnit XML."""
    return results.with_suffix(".pace")


class Pace:
    """A plugin of pytest that notes the pace every ten seconds.

    A yardstick after the tests misjudges: 661 to 867 s of the same tests, each divided by it.

    Args:
        results: where pytest writes the results as JUnit XML.
    """

    def __init__(self, results: Path) -> None:
        self._file = pace_file(results)
        self._noted: list[str] = []
        self._next = 0.0

    def pytest_runtest_logfinish(self) -> None:
        """Note the pace if it is time."""
        if time.monotonic() >= self._next:
            self._noted.append(f"{yardstick():.6f}")
            self._next = time.monotonic() + EVERY_S

    def pytest_sessionfinish(self) -> None:
        """Write what was noted, in seconds."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("\n".join(self._noted), encoding="utf-8")
