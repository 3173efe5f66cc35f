"""Progress on stderr: a live bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from ..plan.spec import Trial
from ..record.results import Sample
from ..record.speedup import loader_text
from ..record.statistics import median
from ..record.summary import RANKABLE_VERDICTS
from ..system.formats import MISSING, format_rows_per_s, format_seconds
from ..system.units import counted, without_numbers
from .text import Text, say

LINE_EVERY_S = 10.0  # between two plain lines


class Progress(Protocol):
    """Receives the events of measuring."""

    def phase(self, name: str, total: int, seconds: float | None = None) -> None:
        """A phase begins, of at most `total` runs, or as many as fit into `seconds`."""
        ...

    def running(self, trial: Trial) -> None:
        """A run begins."""
        ...

    def finished(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """A run ended with these samples."""
        ...

    def tell(self, text: str) -> None:
        """A message to show while measuring goes on."""
        ...

    def close(self) -> None:
        """Measuring ended or was stopped."""
        ...


class Silent:
    """Progress that shows nothing."""

    def phase(self, name: str, total: int, seconds: float | None = None) -> None:
        """Do nothing."""

    def running(self, trial: Trial) -> None:
        """Do nothing."""

    def finished(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Do nothing."""

    def tell(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def make_progress() -> Progress:
    """A live bar if stderr is a terminal, else plain lines."""
    return LiveBar() if sys.stderr.isatty() else PlainLines()


class WithResultsPath:
    """Progress that first shows the path of the results file, if there is one.

    Args:
        progress: shows everything else.
        results: the journal, which has its header when the first phase begins.
    """

    def __init__(self, progress: Progress, results: Path | None) -> None:
        self._progress = progress
        self._results = results

    def phase(self, name: str, total: int, seconds: float | None = None) -> None:
        """Show the path of the results before the first phase, while nothing is drawn."""
        if self._results is not None:
            say(f"results: {self._results}")
            self._results = None
        self._progress.phase(name, total, seconds)

    def running(self, trial: Trial) -> None:
        """Show the current run."""
        self._progress.running(trial)

    def finished(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Count a run."""
        self._progress.finished(trial, samples)

    def tell(self, text: str) -> None:
        """Write a line."""
        self._progress.tell(text)

    def close(self) -> None:
        """Close the display."""
        self._progress.close()


class _Best:
    """The correct trial with the highest median rate so far in this phase.

    The fastest single run would be a lucky one, and no table shows it.
    """

    def __init__(self) -> None:
        self._rates: dict[Trial, list[float]] = {}

    @property
    def text(self) -> str:
        """The trial and its rate; empty before one has run."""
        # Too little is known of trials with at most half of the most rounds.
        enough = max(map(len, self._rates.values()), default=0) / 2
        known = [
            (median(rates), trial) for trial, rates in self._rates.items() if len(rates) > enough
        ]
        if not known:
            return ""
        rate, trial = max(known, key=lambda one: one[0])
        return f"best {label(trial)} {format_rows_per_s(rate)}"

    def add(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Add a run, if it was correct."""
        seconds = sum(sample.metrics.get("wall_s") or 0.0 for sample in samples)
        rows = sum(sample.rows or 0 for sample in samples)
        right = bool(samples) and all(sample.verdict in RANKABLE_VERDICTS for sample in samples)
        if right and seconds:
            self._rates.setdefault(trial, []).append(rows / seconds)


def label(trial: Trial) -> str:
    """A trial in words."""
    return loader_text(trial.job, trial.settings)


class _Left(TimeRemainingColumn):
    """The time left, or a dash if unknown."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self._seconds = seconds

    def render(self, task: Task) -> Text:
        """As hours, minutes and seconds."""
        left = _time_left(task.time_remaining, self._seconds, task.elapsed or 0.0)
        return Text(MISSING if left is None else str(timedelta(seconds=int(left))))


def _time_left(pace: float | None, seconds: float | None, elapsed: float) -> float | None:
    """Time left by the pace so far, or by a budget if less; None if unknown or over."""
    budget = None if seconds is None else seconds - elapsed
    left = min((one for one in (pace, budget) if one is not None), default=None)
    return None if left is None or left < 0 else left


class LiveBar:
    """A live bar; below it, the current run and the best trial so far."""

    def __init__(self) -> None:
        self._best = _Best()
        self._now = Text(no_wrap=True, overflow="ellipsis")
        self._bar: RichProgress | None = None
        self._live: Live | None = None

    def phase(self, name: str, total: int, seconds: float | None = None) -> None:
        """Start a new bar."""
        self.close()
        self._best = _Best()
        self._now.plain = ""
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            _Left(seconds),
        )
        self._bar.add_task(name, total=total)
        self._live = Live(
            Group(self._bar, self._now),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=4,
        )
        self._live.start()

    def running(self, trial: Trial) -> None:
        """Show the current run."""
        self._now.plain = f"now {label(trial)}\n{self._best.text}"

    def finished(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Advance the bar by one run."""
        self._best.add(trial, samples)
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    def tell(self, text: str) -> None:
        """Write a line above the bar."""
        if self._live is not None:
            self._live.console.print(Text(text))
        else:
            say(text)

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = self._bar = None


class PlainLines:
    """Plain lines: the current run at most every `LINE_EVERY_S` seconds.

    Args:
        who: what begins each line, where several measure at once.
    """

    def __init__(self, who: str = "") -> None:
        self._who = f"{who}: " if who else ""
        self._best = _Best()
        self._name, self._total, self._done = "", 0, 0
        self._told = self._began = 0.0
        self._seconds: float | None = None
        self._bad: set[tuple[str, str]] = set()

    def phase(self, name: str, total: int, seconds: float | None = None) -> None:
        """Write that the phase begins."""
        self._best = _Best()
        self._seconds = seconds
        self._name, self._total, self._done = name, total, 0
        self._began = time.monotonic()
        limit = f" within {format_seconds(seconds)}" if seconds else ""
        self.tell(f"{name}: up to {counted(total, 'run')}{limit}")

    def running(self, trial: Trial) -> None:
        """Write the current run, if the last line is older than `LINE_EVERY_S`."""
        if time.monotonic() - self._told > LINE_EVERY_S:
            left = self._left()
            self.tell(
                f"{self._name}: {self._done}/{self._total}, {left}now {label(trial)}; "
                f"{self._best.text}"
            )

    def finished(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Count the run, and report a new kind of failure at once."""
        self._done += 1
        self._best.add(trial, samples)
        fine = ("ok", "unverified", "idle-workers")
        bad = next((sample for sample in samples if sample.verdict not in fine), None)
        if bad is None:
            return
        why = bad.reasons.get("verdict", "")
        alike = bad.verdict, without_numbers(why)
        if alike not in self._bad:  # the summary at the end counts the others
            self._bad.add(alike)
            self.tell(f"{bad.verdict}: {label(trial)}, {counted(trial.files, 'file')}: {why}")

    def tell(self, text: str) -> None:
        """Write a line."""
        self._told = time.monotonic()
        say(f"{self._who}{text.rstrip('; ')}")

    def close(self) -> None:
        """Do nothing: plain lines stay."""

    def _left(self) -> str:
        """The time left, by the pace so far or by the budget."""
        elapsed = time.monotonic() - self._began
        rest = elapsed / self._done * (self._total - self._done) if self._done else None
        left = _time_left(rest, self._seconds, elapsed)
        return "" if left is None else f"about {format_seconds(left)} left, "
