"""Memory for chunks that is used again once nobody holds any of it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np

# Buffers that are remembered: those in flight at the usual settings and a few that are held. A
# consumer that holds more makes the oldest its own, and gets fresh memory.
KEPT = 8

Arrays = tuple[np.ndarray, ...]


class Buffers:
    """Hands out arrays, and the same memory again when the arrays handed out before are gone.

    Fresh memory of the kernel's can cost more than what is written to it: gathering chunks of
    2 MiB took 1.5 times as long whenever the allocator had given theirs back. What is held is
    never handed out: a tensor made of an array keeps that array for as long as any view of its
    storage lives, and a weak reference tells when it has gone.

    Args:
        like: arrays whose dtypes and shapes, but for the rows, the buffers have.
    """

    def __init__(self, like: Sequence[np.ndarray]) -> None:
        self._like = [(array.shape[1:], array.dtype) for array in like]
        self._lock = threading.Lock()
        self._lent: list[tuple[Arrays, list[weakref.ref[np.ndarray]]]] = []

    def lend(self, rows: int) -> Arrays:
        """Arrays of so many rows, with anything in them."""
        with self._lock:
            memory = self._free(rows) or self._fresh(rows)
            views = tuple(array[:rows] for array in memory)
            self._lent.append((memory, [weakref.ref(view) for view in views]))
            del self._lent[:-KEPT]
        return views

    def _free(self, rows: int) -> Arrays | None:
        """Memory that nobody holds; what is too small is forgotten."""
        for number, (memory, held) in enumerate(self._lent):
            if all(view() is None for view in held):
                del self._lent[number]
                return memory if len(memory[0]) >= rows else None
        return None

    def _fresh(self, rows: int) -> Arrays:
        return tuple(np.empty((rows, *shape), dtype) for shape, dtype in self._like)
