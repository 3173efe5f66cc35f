"""Run decode work in the caller's thread or in a pool: in order, with a bounded prefetch."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

WAITS_S = 0.5e-3
TRIED = 8
AT_ONCE = 16  # most items per task of the pool

Part = TypeVar("Part")
Result = TypeVar("Result")


class Scheduler(Protocol):
    """Runs work over parts."""

    num_workers: int

    @property
    def ahead(self) -> int:
        """The number of parts taken before waiting for the first result."""
        ...

    def run(self, parts: Iterable[Part], work: Callable[[Part], Result]) -> list[Result]:
        """The results in the parts' order; an exception of `work` is raised unchanged."""
        ...


class ThreadScheduler:
    """Runs work in threads of this process; decoding releases the interpreter lock.

    Args:
        num_workers: number of threads; 0: work in the caller's thread.
        prefetch: decoded parts that may wait for the consumer, besides those being decoded.
    """

    def __init__(self, num_workers: int, prefetch: int = 0) -> None:
        self.num_workers = num_workers
        self.prefetch = prefetch

    @property
    def ahead(self) -> int:
        """The number of parts taken before waiting for the first result."""
        return max(0, self.num_workers + self.prefetch - 1) if self.num_workers else 0

    def run(self, parts: Iterable[Part], work: Callable[[Part], Result]) -> list[Result]:
        """The results in the parts' order; the first exception of `work` is raised."""
        return list(ordered_map(work, parts, self.num_workers, self.prefetch))


def ordered_map(
    work: Callable[[Part], Result], parts: Iterable[Part], num_workers: int, prefetch: int
) -> Iterator[Result]:
    """`map` in threads: results in order, at most `num_workers + prefetch` parts in flight.

    Threads end with the call, even if the consumer stops early. So nothing has to be rebuilt
    after a fork or left out of a pickle.
    """
    if num_workers == 0:
        yield from map(work, parts)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="feedrate") as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(work, part))
                if len(waiting) >= num_workers + prefetch:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            # Close the parts, or workers might wait for what only later parts provide.
            getattr(parts, "close", lambda: None)()


def map_waiting(
    work: Callable[[Part], Result], items: Sequence[Part], num_workers: int
) -> Iterator[Result]:
    """`map` for work that may wait, such as for a network: in order, in threads if it waits.

    Reading a footer without waiting takes 12 us, which threads cannot shorten. So threads work on
    the rest only if each of the first `TRIED` items took longer than `WAITS_S`.
    """
    waits = num_workers > 0
    for item in items[:TRIED]:
        began = time.perf_counter()
        result = work(item)
        waits = waits and time.perf_counter() - began > WAITS_S
        yield result
    rest = items[TRIED:]
    if not waits or not rest:
        yield from map(work, rest)
        return
    parts = split(rest, max(num_workers, -(-len(rest) // AT_ONCE)))

    def work_on_all(part: Sequence[Part]) -> list[Result]:
        return [work(item) for item in part]

    yield from itertools.chain.from_iterable(
        ordered_map(work_on_all, parts, num_workers, num_workers)
    )


def split(items: Sequence[Part], parts: int) -> list[Sequence[Part]]:
    """Contiguous parts of nearly equal length, none empty.

    >>> split([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4, 5]]
    """
    count = min(parts, len(items))
    edges = [len(items) * step // count for step in range(count + 1)] if count else []
    return [items[low:high] for low, high in itertools.pairwise(edges)]
