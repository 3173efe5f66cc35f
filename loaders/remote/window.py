"""Request objects in the order in which they are needed, within a bound of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .ahead import Begun, RequestPool
from .ranges import Range
from .source import RemoteSource

Planned = tuple[RemoteSource, Sequence[Range]]


class Wanted(NamedTuple):
    """An object of which some bytes are needed."""

    plan: Callable[[], Planned]
    """Opens it, and returns the parts that are needed; called in a thread."""
    stored: float
    """The bytes of all its columns; some of these are needed."""


class Window:
    """Requests objects ahead of those who take them.

    Objects are requested while those that were requested and not taken have at most the pool's
    `ahead_bytes`, so memory grows neither with their number nor with their size. Taking one
    requests the next one in any case. The bytes of an object are estimated by the share of
    bytes that was needed of those before it.

    Args:
        pool: threads that request; its windows share its bound. Of an object that needs more than
            this, parts are requested when they are read.
    """

    def __init__(self, pool: RequestPool) -> None:
        self._lock = pool.lock
        self._wanted: list[Wanted] = []
        self._begun: dict[int, tuple[Begun, float]] = {}
        self._next = 0
        self._needed_bytes, self._stored_bytes = 0.0, 0.0
        self.pool = pool
        with self._lock:
            pool.begin_more.append(self._begin_more)

    def add(self, wanted: Sequence[Wanted]) -> range:
        """Add objects that will be taken after all others; return the number of each."""
        with self._lock:
            numbers = range(len(self._wanted), len(self._wanted) + len(wanted))
            self._wanted += wanted
            self._begin_more()
        return numbers

    def take(self, number: int) -> RemoteSource | None:
        """Wait for an object; None if it was taken before.

        Raises:
            ParquetFileError: it does not exist, was replaced, or has a damaged footer.
            StorageError: the store refuses, or does not answer.
        """
        with self._lock:
            while self._next <= number:
                self._begin()
            begun, size = self._begun.pop(number, (None, 0.0))
            self.pool.waiting_bytes -= size
            if not self._begun and self._next < len(self._wanted):
                self._begin()
            for begin_more in (self._begin_more, *self.pool.begin_more):
                begin_more()
        return None if begun is None else begun.result()

    def _begin_more(self) -> None:
        while self._next < len(self._wanted) and self._fits(self._wanted[self._next]):
            self._begin()

    def _fits(self, wanted: Wanted) -> bool:
        waiting = self.pool.waiting_bytes
        return not waiting or waiting + self._size(wanted) <= self.pool.ahead_bytes

    def _size(self, wanted: Wanted) -> float:
        """The estimated number of bytes that are needed."""
        share = self._needed_bytes / self._stored_bytes if self._stored_bytes else 1.0
        return wanted.stored * min(1.0, share)

    def _begin(self) -> None:
        wanted = self._wanted[self._next]
        size = self._size(wanted)
        self._begun[self._next] = self.pool.begin(lambda: self._plan(wanted)), size
        self.pool.waiting_bytes += size
        self._next += 1

    def _plan(self, wanted: Wanted) -> Planned:
        source, parts = wanted.plan()
        needed = sum(part.size for part in parts)
        with self._lock:
            self._needed_bytes += needed
            self._stored_bytes += wanted.stored
        return source, parts if needed <= self.pool.ahead_bytes else []
