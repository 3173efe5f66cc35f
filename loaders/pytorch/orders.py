"""The orders in which epochs visit rows in memory, each drawn during the epoch before."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch  # noqa: TID253 - it draws; imported when needed

from ..base.stages import stage
from ..training.epochs import Order

INT32_ROWS = 1 << 31


class Visits:
    """Row numbers in the order of an epoch, drawn when they are first needed.

    Threads may share it. It takes four bytes a row, eight from 2**31 rows on.

    Args:
        order: whether and how rows are shuffled.
        rows: number of rows.
    """

    def __init__(self, order: Order, rows: int) -> None:
        self.order = order
        self._rows = rows
        self._lock = threading.Lock()
        self._permutation: np.ndarray | None = None

    def at(self, positions: range) -> np.ndarray:
        """The row numbers at positions of the order, int32 or int64."""
        if not self.order.shuffle:
            return np.arange(positions.start, positions.stop, positions.step)
        return self._draw_once()[positions.start : positions.stop : positions.step]

    def following(self) -> Visits:
        """The visits of the next epoch, drawn now."""
        visits = Visits(replace(self.order, epoch=self.order.epoch + 1), self._rows)
        visits._draw_once()
        return visits

    def _draw_once(self) -> np.ndarray:
        with self._lock:
            if self._permutation is None:
                self._permutation = _permutation(self.order, self._rows)
        return self._permutation


class Orders:
    """The orders of rows in memory, epoch after epoch.

    Drawing a permutation of a million rows took 12 to 17 ms of epochs of 35 to 41 ms, most of it
    for fresh memory from the kernel, and no row was gathered meanwhile. With 32-bit numbers it
    takes 8 ms; drawn ahead, while rows are gathered, it delays only the first epoch.

    Args:
        rows: number of rows.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ahead: Visits | None = None

    def visits(self, order: Order) -> Visits:
        """The row numbers in an order: those drawn ahead if they are for this order."""
        ahead, self._ahead = self._ahead, None
        return ahead if ahead is not None and ahead.order == order else Visits(order, self._rows)

    def draw_ahead(self, visits: Visits) -> None:
        """Draw the order that follows a running epoch, and keep it until the next one begins."""
        if visits.order.shuffle:
            with stage("gather"):
                self._ahead = visits.following()

    def __reduce__(self) -> tuple[type[Orders], tuple[int]]:
        return Orders, (self._rows,)  # a copy in another process draws its own


def _permutation(order: Order, rows: int) -> np.ndarray:
    entropy = np.random.SeedSequence((order.seed, order.epoch))
    generator = torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
    dtype = torch.int32 if rows < INT32_ROWS else torch.int64
    return torch.randperm(rows, generator=generator, dtype=dtype).numpy()
