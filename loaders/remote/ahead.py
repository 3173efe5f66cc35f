"""Request objects ahead of those who decode them: in order, within a bound of bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..base.schedule import map_waiting
from ..base.settings import REQUESTS
from .options import LIMITS, options_for
from .ranges import Range
from .source import RemoteSource
from .urls import is_url

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    size_of: Callable[[Item], int],
    max_bytes: int,
) -> Iterator[Result]:
    """`map` in threads for work that waits for a network: results in order.

    Args:
        work: called with each item.
        items: the items, in order.
        threads: calls at once.
        size_of: the bytes that an item's result may take.
        max_bytes: items are begun while all unfinished and waiting results take less; at least one
            always is.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    ahead = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="feedrate-request") as pool:
        try:
            for item in items:
                size = size_of(item)
                while waiting and (ahead + size > max_bytes or len(waiting) >= 3 * threads):
                    future, taken = waiting.popleft()
                    yield future.result()
                    ahead -= taken
                waiting.append((pool.submit(work, item), size))
                ahead += size
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()


class RequestPool:
    """Threads that request parts of objects.

    Args:
        requests: requests in flight.
    """

    def __init__(self, requests: int) -> None:
        self._threads = ThreadPoolExecutor(requests, thread_name_prefix="feedrate-request")

    def begin(self, plan: Callable[[], tuple[RemoteSource, Sequence[Range]]]) -> Begun:
        """Open an object and request parts of it.

        Args:
            plan: opens it, and returns the parts to request; called in one of the threads.
        """

        def planned() -> tuple[RemoteSource, list[Future[None]]]:
            source, parts = plan()
            missing = source.missing(parts)
            if len(missing) == 1:  # by this thread
                source.request(missing[0])
                return source, []
            return source, [self._threads.submit(source.request, part) for part in missing]

        return Begun(self._threads.submit(planned))

    def close(self) -> None:
        """Drop the requests that have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Begun:
    """An object that is on its way."""

    def __init__(self, future: Future[tuple[RemoteSource, list[Future[None]]]]) -> None:
        self._future = future

    def result(self) -> RemoteSource:
        """Wait for the requested parts.

        Raises:
            ParquetFileError: the object does not exist, or was replaced.
            StorageError: the store refuses, or does not answer.
        """
        source, parts = self._future.result()
        for part in parts:
            part.result()
        return source


def map_paths(
    work: Callable[[str], Result],
    paths: Sequence[str],
    num_workers: int,
    requests: int = REQUESTS,
    size_of: Callable[[str], int] | None = None,
) -> Iterator[Result]:
    """`map` for work that reads a part of each file: results in order.

    Args:
        work: called with each path.
        paths: files, objects, or both.
        num_workers: calls at once for files.
        requests: calls at once if some are objects.
        size_of: the bytes that the work reads of an object; by default the end of one.
    """
    if not any(map(is_url, paths)):
        return map_waiting(work, paths, num_workers)

    def end_of(path: str) -> int:
        return options_for(path).limits.tail_bytes if is_url(path) else 0

    return map_ahead(work, paths, requests, size_of or end_of, LIMITS.ahead_bytes)
