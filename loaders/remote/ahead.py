"""Request objects ahead of those who decode them: in order, within a bound of bytes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar
from weakref import WeakSet

from ..base.schedule import map_waiting
from ..base.settings import REQUESTS
from .options import LIMITS, options_for
from .ranges import Range
from .requests import stop_with
from .source import RemoteSource
from .urls import is_url

BEGUN = 3  # items begun per thread, so that none is idle while the consumer works

Item = TypeVar("Item")
Result = TypeVar("Result")


class RequestPool:
    """Threads that send requests.

    Args:
        requests: requests in flight.
        ahead_bytes: of objects that were requested and not taken, by all windows.
    """

    def __init__(self, requests: int, ahead_bytes: int = LIMITS.ahead_bytes) -> None:
        self.ahead_bytes = ahead_bytes
        self.lock = threading.Lock()
        self.waiting_bytes = 0.0
        """Of objects that were requested and not taken, by all windows."""
        self.begin_more: list[Callable[[], None]] = []
        """Each window's function that requests more if there is room; called with the lock."""
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(
            requests, "feedrate-request", initializer=stop_with, initargs=(self._stop,)
        )
        _pools.add(self)

    def submit(self, work: Callable[[Item], Result], item: Item) -> Future[Result]:
        """Call `work(item)` in one of the threads."""
        return self._threads.submit(work, item)

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
        """Drop the requests that have not begun, and repeat none any more."""
        self._stop.set()
        self.begin_more.clear()  # windows refer to the pool
        self._threads.shutdown(wait=False, cancel_futures=True)


_pools: WeakSet[RequestPool] = WeakSet()


def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


# A stream may still be open when the interpreter ends. Then `concurrent.futures` would first run
# all that waits, with its retries; what is registered later, runs before it.
if (register := getattr(threading, "_register_atexit", None)) is not None:
    register(_close_all)
if hasattr(os, "register_at_fork"):  # the threads, and what they have locked, stay behind
    os.register_at_fork(after_in_child=_pools.clear)


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


def bytes_with_footer(path: str, *, whole: bool) -> int:
    """The bytes that are read with the footer of an object.

    Args:
        path: its URL; a path takes none.
        whole: whether a small object is read whole.
    """
    if not is_url(path):
        return 0
    limits, size = options_for(path).limits, getattr(path, "size", None)
    is_small = size is None or size <= limits.whole_bytes
    most = limits.whole_bytes if whole and is_small else limits.tail_bytes
    return most if size is None else min(most, size)


def ahead_bytes_of(paths: Iterable[str]) -> int:
    """The bound for reading some paths: the least `ahead_bytes` of the objects among them."""
    bounds = (options_for(path).limits.ahead_bytes for path in paths if is_url(path))
    return min(bounds, default=LIMITS.ahead_bytes)


def map_ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    requests: int,
    size_of: Callable[[Item], int],
    max_bytes: int = LIMITS.ahead_bytes,
    pool: RequestPool | None = None,
) -> Iterator[Result]:
    """`map` in threads for work that waits for a network: results in order.

    Args:
        work: called with each item.
        items: the items, in order.
        requests: calls at once.
        size_of: the bytes that an item's result may take.
        max_bytes: items are begun while all unfinished and waiting results take less; at least one
            always is.
        pool: the threads; by default some that end with the call.
    """
    waiting: deque[tuple[Future[Result], int]] = deque()
    threads = RequestPool(requests) if pool is None else pool
    ahead = 0
    try:
        for item in items:
            size = size_of(item)
            while waiting and (ahead + size > max_bytes or len(waiting) >= BEGUN * requests):
                future, taken = waiting.popleft()
                yield future.result()
                ahead -= taken
            waiting.append((threads.submit(work, item), size))
            ahead += size
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()
        if pool is None:
            threads.close()


def map_paths(
    work: Callable[[str], Result],
    paths: Sequence[str],
    num_workers: int,
    requests: int = REQUESTS,
    size_of: Callable[[str], int] | None = None,
    pool: RequestPool | None = None,
) -> Iterator[Result]:
    """`map` for work that reads the end of each file: results in order.

    Args:
        work: called with each path.
        paths: files, objects, or both.
        num_workers: calls at once for files.
        requests: calls at once if some are objects.
        size_of: the bytes that the work reads of an object; by default the end of one.
        pool: the threads for objects; by default some that end with the call.
    """
    if not any(map(is_url, paths)):
        return map_waiting(work, paths, num_workers)

    size_of = size_of or partial(bytes_with_footer, whole=False)
    return map_ahead(work, paths, requests, size_of, ahead_bytes_of(paths), pool)
