"""Check cheaply whether loads are as fast as the profile measured, and warn once if not."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .profile import Entry

log = logging.getLogger("feedrate.loaders")

# On a shared machine single loads are slow now and then. Five in a row below 80% of the slowest
# measured launch are no chance.
LATEST = 5
SLACK = 0.8
WAITING = 0.5  # share of the time; with less waiting for batches, the loader is not the limit
ALIKE = 2.0  # only loads of half to twice the measured rows are compared


@dataclass
class Promise:
    """The rows per second that a profile's entry promised, and those of the latest loads.

    Attributes:
        entry: the entry, with the measured rates.
        retune: the command that measures again.
    """

    entry: Entry
    retune: str
    _latest: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    _wait_share: float | None = None
    _has_warned: bool = False

    def covers(self, data_type: str | None, columns: Sequence[str] | None) -> bool:
        """Whether a load has the measured data type, and measured columns only.

        Args:
            data_type: None if unknown, as for a frame.
            columns: None for all.
        """
        measured = self.entry.evidence.columns
        if data_type not in (None, self.entry.data_type):
            return False
        if measured is None:
            return True
        return columns is not None and set(columns) <= set(measured)

    def note(self, rows: int, seconds: float, *, first: bool, wait_share: float = 1.0) -> None:
        """Record a load or an epoch, and warn once if rates stay below those measured.

        Args:
            rows: number of rows loaded.
            seconds: duration.
            first: whether nothing was cached yet.
            wait_share: share of the time spent waiting for the loader.
        """
        evidence = self.entry.evidence
        expected = evidence.first if first else evidence.later or evidence.first
        alike = evidence.rows <= ALIKE * rows <= ALIKE**2 * evidence.rows
        if expected is None or not rows or not alike or seconds <= 0:
            return
        rate = rows / seconds
        self._rates.append(rate)
        self._wait_share = wait_share
        # A consumer that hardly waits gets rows fast enough: this counts as the measured rate.
        self._latest.append(rate / expected.lowest if wait_share > WAITING else 1.0)
        if not self._has_warned and self.is_broken:
            self._has_warned = True
            log.warning(
                "the %s job ran at %.3g rows/s in the latest %d loads; the profile measured %.3g "
                "and never less than %.3g. The profile may no longer hold here. Tune again with: "
                "%s",
                self.entry.job,
                median(self._rates),
                LATEST,
                expected.rows_per_s,
                expected.lowest,
                self.retune,
            )

    @property
    def is_broken(self) -> bool:
        """Whether all of the latest loads were below 80% of the slowest rate measured."""
        return len(self._latest) == LATEST and max(self._latest) < SLACK

    def figures(self) -> dict[str, Any]:
        """The measured and the actual rates, in rows per second, and the share of waiting."""
        evidence = self.entry.evidence
        return {
            "data_type": self.entry.data_type,
            "files_measured": self.entry.files,
            "first_rows_per_s": evidence.first and evidence.first.rows_per_s,
            "later_rows_per_s": evidence.later and evidence.later.rows_per_s,
            "rows_per_s": median(self._rates) if self._rates else None,
            "wait_share": self._wait_share,
            "kept": not self.is_broken if self._rates else None,
        }


@dataclass
class EpochWatch:
    """Reports epochs to a promise."""

    promise: Promise
    is_first: bool = True

    def __call__(self, rows: int, seconds: float, waited: float) -> None:
        """Record an epoch: its rows, its seconds, and the seconds spent waiting."""
        share = waited / seconds if seconds else 0.0
        self.promise.note(rows, seconds, first=self.is_first, wait_share=share)
        self.is_first = False


@dataclass
class Promises:
    """The promises of the profile entries in use.

    Attributes:
        retune: the command that measures again.
    """

    retune: str
    _promises: dict[tuple[str, str | None, int | None], Promise] = field(default_factory=dict)

    def of(
        self, entry: Entry | None, data_type: str | None, columns: Sequence[str] | None
    ) -> Promise | None:
        """The promise that covers a load; None if there is none.

        Args:
            entry: the entry that is used in full, if any.
            data_type: the data type loaded; None if unknown.
            columns: the columns loaded; None for all.
        """
        if entry is None:
            return None
        key = (entry.job, entry.data_type, entry.max_files)
        promise = self._promises.get(key) or Promise(entry, self.retune)
        if not promise.covers(data_type, columns):
            return None
        return self._promises.setdefault(key, promise)

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Measured and actual rates by job, for each data type and band of file counts."""
        figures: dict[str, list[dict[str, Any]]] = {}
        for promise in list(self._promises.values()):  # another thread may load
            figures.setdefault(promise.entry.job, []).append(promise.figures())
        return figures
