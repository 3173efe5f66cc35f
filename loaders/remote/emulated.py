"""A store of local files that answers as slowly as the store that it stands for.

Requests wait for their latency, then for their turns on a connection that all share. The local disk
must be faster than the store, and no CPU is spent on HTTP and TLS.
"""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base.atomic import replacing
from .emulation import Emulation, emulated_path, published, version_of
from .faults import Fault
from .store import PAGE, Body, Span, bounds
from .urls import RemotePath, split_url

PIECE_BYTES = 256 << 10  # of a body, after which other requests have their turn
BURST_S = 1.0  # requests of this long a time are accepted at once before the store throttles
_LINK, _REQUESTS, _THROTTLE = 0, 8, 16  # offsets of times in the shared file
_TIME = struct.Struct("d")


class SharedTimes:
    """The times at which something that processes share is free again, in a file.

    They are counted by `time.monotonic`, which is the same in all processes.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._path = path

    def take(
        self, slot: int, seconds: float, not_before: float, at_most: float | None = None
    ) -> float | None:
        """Occupy one thing for some time, as soon as it is free.

        Args:
            slot: the thing.
            seconds: how long.
            not_before: the earliest start.
            at_most: the latest start; occupy nothing beyond it.

        Returns:
            The time at which it is free again; None if it is not free in time.
        """
        # Opened each time, in 40 us, so that a fork and the end of a process leave nothing behind.
        with self._lock, io.FileIO(self._path, "r+") as file, _locked(file):
            file.seek(slot)
            found = file.read(_TIME.size)
            free = _TIME.unpack(found)[0] if len(found) == _TIME.size else 0.0
            start = max(free, not_before)
            if at_most is not None and start > at_most:
                return None
            file.seek(slot)
            file.write(_TIME.pack(start + seconds))
            return start + seconds


@contextmanager
def _locked(file: io.FileIO) -> Iterator[None]:
    """Lock a file against other processes, if the system can."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


class EmulatedStore:
    """Local files as the objects of a store.

    Args:
        root: the URL that `publish` returned.
        emulation: the store's times.
        times: when its connection is free again.
        clock: seconds.
        sleep: waits so many of them.
    """

    pages = False

    def __init__(
        self,
        root: str,
        emulation: Emulation,
        times: SharedTimes,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._root, self._emulation, self._times = root, emulation, times
        self._clock, self._sleep = clock, sleep
        self._random = random.Random(root)  # noqa: S311 - the same latencies in each run

    @classmethod
    def open(cls, root: str) -> EmulatedStore:
        """The store of a root URL.

        Raises:
            InputError: no such emulation.
        """
        found = published(root)
        return cls(root, found.emulation, SharedTimes(found.clock))

    def get(self, key: str, span: Span | None, version: str | None) -> Body:
        """As in `Store`."""
        return self.get_since(key, span, version, self._clock())

    def get_since(self, key: str, span: Span | None, version: str | None, sent: float) -> Body:
        """As `get`, for a request that was sent some time ago."""
        with self._answered(sent) as first_byte:
            body = _read(key, span, version)
        self._transfer(len(body.data), first_byte())
        return body

    def head(self, key: str) -> os.stat_result:
        """The size and the time of the last change of an object, by one request.

        Raises:
            Fault: there is no such object, or the request was refused.
        """
        with self._answered(self._clock()), _faults():
            return _status(os.stat(_path(key)))  # noqa: PTH116 - as for an open file

    def page(self, prefix: str, after: str) -> list[RemotePath]:
        """Not available: listings are read in order."""
        raise NotImplementedError(prefix, after)

    def all(self, prefix: str) -> Iterator[list[RemotePath]]:
        """As in `Store`."""
        top = _path(prefix)
        files = sorted(Path(folder, name) for folder, _, names in os.walk(top) for name in names)
        for start in range(0, max(1, len(files)), PAGE):
            self._request()
            yield [emulated_path(self._root, path) for path in files[start : start + PAGE]]

    def folders(self, prefix: str) -> tuple[list[str], list[RemotePath]]:
        """As in `Store`."""
        folder = _path(prefix)
        with _faults():
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
        for _ in range(0, max(1, len(entries)), PAGE):
            self._request()
        folders = [split_url(emulated_path(self._root, one)).key for one in entries if one.is_dir()]
        return folders, [emulated_path(self._root, one) for one in entries if one.is_file()]

    def put(self, key: str, data: bytes) -> None:
        """As in `Store`."""
        with self._answered(self._clock()) as first_byte, _faults():
            path = _path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(data)
        self._transfer(len(data), first_byte())

    def now(self) -> float:
        """The time by the store's clock."""
        return self._clock()

    def _request(self) -> None:
        """A request whose answer has no body."""
        with self._answered(self._clock()):
            pass

    @contextmanager
    def _answered(self, sent: float) -> Iterator[Callable[[], float]]:
        """Do a request's work, and wait until its first byte, or its refusal, comes.

        Args:
            sent: when the request was sent.

        Yields:
            Returns when the first byte came, after the block.

        Raises:
            Fault: the store has too many requests.
        """
        emulation = self._emulation
        due = sent + emulation.latency(self._random.random())
        if emulation.throttled_per_s is not None:
            pause = 1 / emulation.throttled_per_s
            if self._times.take(_THROTTLE, pause, sent, at_most=sent + BURST_S) is None:
                self._wait_until(due)
                raise Fault("throttled", "the store asks for fewer requests (emulated)", "SlowDown")
        if emulation.requests_per_s is not None:
            pause = 1 / emulation.requests_per_s
            free = self._times.take(_REQUESTS, pause, sent) or sent
            due += max(0.0, free - pause - sent)
        try:
            yield lambda: max(due, sent)
        finally:
            self._wait_until(due)

    def _transfer(self, size: int, first_byte: float) -> None:
        """Wait until a body of this size has come, piece by piece."""
        emulation = self._emulation
        if emulation.bytes_per_s is None and emulation.connection_bytes_per_s is None:
            return
        due = first_byte
        for start in range(0, size, PIECE_BYTES):
            piece = min(PIECE_BYTES, size - start)
            if emulation.connection_bytes_per_s is not None:
                end = first_byte + (start + piece) / emulation.connection_bytes_per_s
            else:
                end = due
            if emulation.bytes_per_s is not None:
                due = self._times.take(_LINK, piece / emulation.bytes_per_s, due) or due
            due = max(due, end)
            self._wait_until(due)

    def _wait_until(self, due: float) -> None:
        left = due - self._clock()
        if left > 0:
            self._sleep(left)


def _path(key: str) -> Path:
    return Path("/", key)


def _status(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise Fault("missing", "it does not exist")
    return status


def _read(key: str, span: Span | None, version: str | None) -> Body:
    """Read a local file, or a part of it."""
    with _faults(), _path(key).open("rb") as file:
        status = _status(os.fstat(file.fileno()))
        now = version_of(status)
        if version is not None and version != now:
            raise Fault("changed", "it was replaced while it was being read")
        start, stop = bounds(span, status.st_size)
        file.seek(start)
        data = file.read(max(0, stop - start))
        if version_of(os.fstat(file.fileno())) != now or len(data) < stop - start:
            raise Fault("changed", "it was replaced while it was being read")
    return Body(data, start, status.st_size, now, status.st_mtime_ns)


@contextmanager
def _faults() -> Iterator[None]:
    """Turn an error of the system into a `Fault`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Fault("missing", "it does not exist") from None
    except PermissionError:
        raise Fault("denied", "access is denied") from None
    except OSError as error:
        raise Fault("other", error.strerror or type(error).__name__) from None
