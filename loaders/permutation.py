"""The order in which an epoch visits rows that are all at hand, drawn by whoever needs it first."""

from __future__ import annotations

import threading

import numpy as np

from .epochs import Order


class Visits:
    """Row numbers in the order of an epoch; threads may share it.

    A permutation of a million rows takes 9 ms. To draw it in eight groups, each when its first
    row is needed, took 17, and made epochs of 34 ms 39 long.

    Args:
        order: whether and how they are shuffled.
        rows: how many there are.
    """

    def __init__(self, order: Order, rows: int) -> None:
        self._order = order
        self._rows = rows
        self._lock = threading.Lock()
        self._permutation: np.ndarray | None = None

    def __len__(self) -> int:
        return self._rows

    def at(self, positions: range) -> np.ndarray:
        """The row numbers at positions of the order, int64."""
        if not self._order.shuffle:
            return np.arange(positions.start, positions.stop, positions.step)
        with self._lock:
            if self._permutation is None:
                self._permutation = self._order.permutation(self._rows)
        return self._permutation[positions.start : positions.stop : positions.step]
