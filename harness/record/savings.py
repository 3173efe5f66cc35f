"""Savings of time by other columns or other files, with intervals, and the savings ruled out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .metrics import FEWER_COLUMNS, WHAT_IFS, what_if_bounds
from .statistics import Ratio

MIN_REPORTED_PCT = 5.0  # of a pass; its variation hides smaller savings
MAX_REPORTED = 2
RULED_OUT_PCT = 10.0  # a saving whose interval lies below needs no more rounds
# Rounds of one process are not independent, so their interval is widened by this much, in
# logarithms, on either side. Between 8 processes with 40 rounds each (two loaders, 40 files of
# flights, 2 CPUs under load), median log ratios had an sd of 0.007 to 0.045; the rounds within a
# process (sd 0.14 to 0.22) explain 0.028 to 0.042 of it. The rest, pooled, is 0 (Arrow) and 0.023
# (PyTorch). This is twice the latter.
BETWEEN_PROCESSES = 0.045


@dataclass(frozen=True)
class Saving:
    """A saving of time in percent, with its interval."""

    name: str
    """A key of `WHAT_IFS`."""
    percent: float
    low: float
    high: float
    columns: str = ""
    """The columns that are left out, in words, or empty."""

    @property
    def shown(self) -> bool:
        """Whether the interval is above 0 and the saving is large enough to report."""
        return self.low > 0 and self.percent >= MIN_REPORTED_PCT

    @property
    def settled(self) -> bool:
        """Whether no more rounds are needed: it is shown, or a large saving is ruled out."""
        return self.shown or self.high < RULED_OUT_PCT

    @property
    def metrics(self) -> dict[str, float]:
        """The saving as metrics of a sample."""
        low, high = what_if_bounds(self.name)
        return {self.name: self.percent, low: self.low, high: self.high}

    def sentence(self, doing: str) -> str:
        """Say how much less time `doing` would take.

        >>> Saving("merged_pct", 60.2, 55.4, 64.0).sentence("loading")
        'from files merged, up to 30 into one, loading would take 60% less [55, 64]'
        """
        interval = f"[{self.low:.0f}, {self.high:.0f}]"
        change = f"without {self.columns}" if self.columns else WHAT_IFS[self.name].how
        return f"{change}, {doing} would take {self.percent:.0f}% less {interval}"

    @property
    def tried(self) -> str:
        """Its label in a list of changes that were tried."""
        return f"leaving out {self.columns}" if self.columns else WHAT_IFS[self.name].tried


def saved(name: str, ratio: Ratio) -> Saving:
    """Return the saving for a ratio of times in one process, widened by `BETWEEN_PROCESSES`.

    Args:
        name: a key of `WHAT_IFS`.
        ratio: of the times, after the change over before.
    """
    factor = math.exp(BETWEEN_PROCESSES)
    return Saving(
        name,
        100 * (1 - ratio.estimate),
        100 * (1 - ratio.high * factor),
        100 * (1 - ratio.low / factor),
    )


def known_savings(
    metric: Callable[[str], float | None], columns: str | None = None
) -> Iterator[Saving]:
    """Yield the savings whose interval is known.

    Args:
        metric: the value of a metric by its name, or None.
        columns: the columns that `FEWER_COLUMNS` leaves out, in words.
    """
    for name in WHAT_IFS:
        percent, low, high = map(metric, (name, *what_if_bounds(name)))
        if percent is not None and low is not None and high is not None:
            left_out = columns if name == FEWER_COLUMNS else None
            yield Saving(name, percent, low, high, left_out or "")


def advice(savings: Sequence[Saving]) -> list[str]:
    """The clear savings, largest first; if there are none, the changes that were tried."""
    shown = sorted((one for one in savings if one.shown), key=lambda one: -one.percent)
    if shown:
        return [one.sentence("loading") for one in shown[:MAX_REPORTED]]
    return [f"tried without a clear saving: {tried(savings)}"] if savings else []


def tried(savings: Sequence[Saving]) -> str:
    """List the changes that were tried, and say which savings the intervals rule out.

    >>> tried([Saving("merged_pct", 1.0, -5.0, 7.2), Saving("uncompressed_pct", 0.0, -4.0, 3.9)])
    'merged files, no compression (savings above 8% are ruled out)'
    """
    names = ", ".join(one.tried for one in savings)
    highest = max(1, *(math.ceil(one.high) for one in savings))
    return f"{names} (savings above {highest}% are ruled out)"
