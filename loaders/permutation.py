"""The order in which an epoch visits rows that are all at hand, made a part at a time."""

from __future__ import annotations

import threading

import numpy as np

from .epochs import Order

GROUPS = 8  # a power of two
GROUPED_FROM = 1 << 18  # fewer rows are permuted sooner than they are grouped
_KEPT = 3  # groups that neighbouring chunks may need


class Visits:
    """Row numbers in the order of an epoch.

    Many rows are permuted in groups: each row falls into one at random, and the groups, each
    permuted by itself, follow one another, so that every order is as likely as before. The first
    group of a million rows is there after 2 ms, all of them after 10, and whoever needs a later
    one makes it, in its own thread.

    Args:
        order: whether and how they are shuffled.
        rows: how many there are.
    """

    def __init__(self, order: Order, rows: int) -> None:
        self._order = order
        self._rows = rows
        self._lock = threading.Lock()
        self._made: dict[int, np.ndarray] = {}
        self._groups: np.ndarray | None = None
        self._ends = [rows]
        if order.shuffle and rows >= GROUPED_FROM:
            random = np.random.default_rng((order.seed, order.epoch))
            self._groups = np.frombuffer(random.bytes(rows), np.uint8) & (GROUPS - 1)
            sizes = [np.count_nonzero(self._groups == group) for group in range(GROUPS)]
            self._ends = np.cumsum(sizes).tolist()

    def __len__(self) -> int:
        return self._rows

    def at(self, positions: range) -> np.ndarray:
        """The row numbers at ascending positions of the order, int64."""
        if not self._order.shuffle:
            return np.arange(positions.start, positions.stop, positions.step)
        parts = []
        for group, end in enumerate(self._ends):
            start = self._ends[group - 1] if group else 0
            ahead = -(-max(0, start - positions.start) // positions.step)
            here = positions[ahead : -(-(end - positions.start) // positions.step)]
            if start < end and positions.start < end and here:
                parts.append(self._group(group)[here.start - start : here.stop - start : here.step])
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def _group(self, group: int) -> np.ndarray:
        with self._lock:
            if group not in self._made:
                self._made = {at: rows for at, rows in self._made.items() if at > group - _KEPT}
                self._made[group] = self._make(group)
            return self._made[group]

    def _make(self, group: int) -> np.ndarray:
        if self._groups is None:
            return self._order.permutation(self._rows)
        rows = np.flatnonzero(self._groups == group)
        permuted: np.ndarray = rows[self._order.permutation(len(rows), group + 1)]
        return permuted
