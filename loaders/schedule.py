"""Running decode work: in the caller's thread or in threads, in order, bounded ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Scheduler(Protocol):
    """Runs work over parts."""

    num_workers: int

    def run(self, parts: Sequence[Part], work: Callable[[Part], Result]) -> list[Result]:
        """The results in the parts' order; an exception of `work` comes out as it is."""
        ...


class ThreadScheduler:
    """Threads of this process; decoding releases the interpreter lock.

    Args:
        num_workers: threads; 0 works in the caller's thread.
        prefetch: parts that may be decoded beyond those in work and not yet taken.
    """

    def __init__(self, num_workers: int, prefetch: int = 0) -> None:
        self.num_workers = num_workers
        self.prefetch = prefetch

    def run(self, parts: Sequence[Part], work: Callable[[Part], Result]) -> list[Result]:
        """The results in the parts' order; the first exception of `work` is raised."""
        return list(ordered_map(work, parts, self.num_workers, self.prefetch))


def ordered_map(
    work: Callable[[Part], Result], parts: Iterable[Part], num_workers: int, prefetch: int
) -> Iterator[Result]:
    """`map` over threads: results in order, at most `num_workers + prefetch` parts under way.

    Threads are made for the call and end with it, also when the consumer stops early, so that
    nothing has to be rebuilt after a fork or left out of a pickle.
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


def split(items: Sequence[Part], parts: int) -> list[Sequence[Part]]:
    """Contiguous parts of nearly equal length, none empty.

    >>> split([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4, 5]]
    """
    count = min(parts, len(items))
    edges = [len(items) * step // count for step in range(count + 1)] if count else []
    return [items[low:high] for low, high in itertools.pairwise(edges)]
