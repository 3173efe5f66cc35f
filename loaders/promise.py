"""Whether loads keep what the profile promised of them, noticed cheaply and told once."""

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
WAITING = 0.5  # of the time: who waits less for batches is held up by something else
ALIKE = 2.0  # times as many files, or half of them, are compared with what was measured


@dataclass
class Promise:
    """The rows a second that an entry of a profile promised, and those of the latest loads.

    Attributes:
        entry: what was measured.
        retune: the command that measures anew.
    """

    entry: Entry
    retune: str
    _latest: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    _wait_share: float | None = None
    _told: bool = False

    def is_about(self, files: int | None) -> bool:
        """Whether a load of so many files is like the one that was measured."""
        measured = self.entry.files
        return files is None or measured <= ALIKE * files <= ALIKE**2 * measured

    def covers(self, columns: Sequence[str] | None) -> bool:
        """Whether no more columns are loaded than were measured."""
        measured = self.entry.evidence.columns
        if measured is None or self.entry.job != "frame":
            return True
        return columns is not None and set(columns) <= set(measured)

    def note(self, rows: int, seconds: float, *, first: bool, wait_share: float = 1.0) -> None:
        """Take note of a load or an epoch, and tell once when they stay below what was measured.

        Args:
            rows: how many came.
            seconds: how long it took.
            first: whether nothing was cached yet.
            wait_share: of the time, that was spent waiting for the loader.
        """
        evidence = self.entry.evidence
        expected = evidence.first if first else evidence.later or evidence.first
        if expected is None or not rows or seconds <= 0:
            return
        rate = rows / seconds
        self._rates.append(rate)
        self._wait_share = wait_share
        # Who hardly waits gets rows as fast as they are wanted.
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
        """Whether all of the latest loads were slower than anything measured."""
        return len(self._latest) == LATEST and max(self._latest) < SLACK

    def figures(self) -> dict[str, Any]:
        """What was promised and what came, in rows a second, and the share of waiting."""
        evidence = self.entry.evidence
        return {
            "files_measured": self.entry.files,
            "first_rows_per_s": evidence.first and evidence.first.rows_per_s,
            "later_rows_per_s": evidence.later and evidence.later.rows_per_s,
            "rows_per_s": median(self._rates) if self._rates else None,
            "wait_share": self._wait_share,
            "kept": not self.is_broken,
        }


@dataclass
class Promises:
    """The promises of a profile's entries, as far as they are obeyed.

    Attributes:
        retune: the command that measures anew.
    """

    retune: str
    _kept: dict[tuple[str, str | None, int | None], Promise] = field(default_factory=dict)

    def of(
        self, entry: Entry | None, files: int | None, columns: Sequence[str] | None = None
    ) -> Promise | None:
        """The promise that a load is held to; None where none was made of such a load.

        Args:
            entry: what is obeyed in full, if anything is.
            files: how many are loaded; None where that is not known.
            columns: those that are loaded; None for all, or for batches.
        """
        if entry is None:
            return None
        key = (entry.job, entry.data_type, entry.max_files)
        promise = self._kept.get(key)
        if promise is None:
            promise = self._kept[key] = Promise(entry, self.retune)
        return promise if promise.is_about(files) and promise.covers(columns) else None

    def figures(self) -> dict[str, Any]:
        """By job, what was promised and what came."""
        return {promise.entry.job: promise.figures() for promise in self._kept.values()}
