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

# Single loads on a shared machine are slow now and then; five in a row, each more than a fifth
# slower than the slowest launch that was measured, are not.
LATEST = 5
SLACK = 0.8
WAITING = 0.5  # share of the time; with less waiting for batches, the loader is not the limit
ALIKE = 2.0  # loads of half to twice the measured rows are compared with the measurement


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
    _told: bool = False

    def covers(self, data_type: str | None, columns: Sequence[str] | None) -> bool:
        """Whether a load has the measured data type, and no columns that were not measured.

        Args:
            data_type: None if it is not known, as for a given frame.
            columns: None for all.
        """
        measured = self.entry.evidence.columns
        if data_type not in (None, self.entry.data_type):
            return False
        if measured is None:
            return True
        return columns is not None and set(columns) <= set(measured)

    def note(self, rows: int, seconds: float, *, first: bool, wait_share: float = 1.0) -> None:
        """Record a load or an epoch, and warn once when rates stay below those measured.

        Args:
            rows: number of rows loaded.
            seconds: how long it took.
            first: whether nothing was cached yet.
            wait_share: share of the time that was spent waiting for the loader.
        """
        evidence = self.entry.evidence
        expected = evidence.first if first else evidence.later or evidence.first
        alike = evidence.rows <= ALIKE * rows <= ALIKE**2 * evidence.rows
        if expected is None or not rows or not alike or seconds <= 0:
            return
        rate = rows / seconds
        self._rates.append(rate)
        self._wait_share = wait_share
        # A consumer that hardly waits gets rows as fast as it needs them.
        self._latest.append(rate / expected.lowest if wait_share > WAITING else 1.0)
        if not self._told and self.is_broken:
            self._told = True
            log.warning(
                "the %s job ran at %.3g rows/s in the latest %d loads, where the profile measured "
                "%.3g and never less than %.3g; it may no longer hold here. Tune again with: %s",
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
    """The promises of those entries of a profile that are used.

    Attributes:
        retune: the command that measures again.
    """

    retune: str
    _kept: dict[tuple[str, str | None, int | None], Promise] = field(default_factory=dict)

    def of(
        self, entry: Entry | None, data_type: str | None, columns: Sequence[str] | None
    ) -> Promise | None:
        """The promise to compare a load with; None if there is none for such a load.

        Args:
            entry: the entry that is used in full, if any.
            data_type: the data type loaded; None if it is not known.
            columns: the columns loaded; None for all.
        """
        if entry is None:
            return None
        key = (entry.job, entry.data_type, entry.max_files)
        promise = self._kept.get(key) or Promise(entry, self.retune)
        if not promise.covers(data_type, columns):
            return None
        return self._kept.setdefault(key, promise)

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Measured and actual rates by job, for each data type and band of file counts."""
        found: dict[str, list[dict[str, Any]]] = {}
        for promise in list(self._kept.values()):  # another thread may load
            found.setdefault(promise.entry.job, []).append(promise.figures())
        return found
