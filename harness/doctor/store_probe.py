"""Send requests to an object store, one by one or many at once, within bounds of time and bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from ...loaders.base.errors import StorageError
from ...loaders.remote.faults import AGAIN, Fault
from ...loaders.remote.requests import raise_for
from ...loaders.remote.store import Span, Store
from ..record.measured_store import Step
from ..system.units import counted

IN_FLIGHT = (1, 4, 16, 64, 128, 256)
GROWTH = 1.1  # of a rate, from one number of requests to the next; else the next is not tried
LATENCIES = 200  # requests one by one
AT_ONCE_BYTES = 128 << 20  # of all answers together, which are held in memory
MOST_PART, LEAST_PART = 8 << 20, 64 << 10  # bytes of a large request
LARGE_ENOUGH = 256 << 10  # bytes of a request, to measure rates of bytes
PART_S = 0.25  # of a large request, by the rate of one connection
WARM_UP_SHARE = 0.2  # of a step, in which connections are opened
TELLING_SHARE = 0.2  # of a large request's time that is not latency, to tell the two apart
CONNECTION_BYTES = 1 / 8  # of the bytes that may be read
GRACE_S = 3.0  # for the last answers of a step
THROTTLED_ENOUGH = 20  # refusals that end a step
THROTTLED_PAUSE_S = 0.1
_TRIES = 3  # of the first request, since a network may lose one


class StoredObject(NamedTuple):
    """An object that can be read."""

    key: str
    size: int


@dataclass
class Account:
    """The requests that were sent, and the time and bytes that they may take."""

    end: float
    """By the monotonic clock."""
    most_bytes: int
    requests: int = 0
    bytes: int = 0
    throttled: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """Other faults, by reason."""
    objects: set[str] = field(default_factory=set)
    reserved: int = 0
    """The bytes of all requests, sent or answered."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left_s(self) -> float:
        """The time that is left."""
        return max(0.0, self.end - time.monotonic())

    @property
    def most_bytes_left(self) -> int:
        """The bytes that may still be requested."""
        return self.most_bytes - self.reserved

    def begin(self, key: str, size: int, most_bytes: int) -> bool:
        """Count a request; False if its bytes are too many."""
        with self._lock:
            if self.reserved + size > min(self.most_bytes, most_bytes):
                return False
            self.reserved += size
            self.requests += 1
            self.objects.add(key)
            return True

    def received(self, size: int) -> None:
        """Count the bytes of an answer."""
        with self._lock:
            self.bytes += size

    def refused(self, fault: Fault) -> None:
        """Count a request that failed."""
        with self._lock:
            if fault.kind == "throttled":
                self.throttled += 1
            else:
                self.failed[fault.reason] = self.failed.get(fault.reason, 0) + 1


class Call(NamedTuple):
    """A request that was answered."""

    sent: float
    done: float
    size: int


class Probe:
    """Sends requests, one by one or many at once.

    Args:
        store: the store.
        account: counts them.
        objects: those to read.
    """

    def __init__(self, store: Store, account: Account, objects: Sequence[StoredObject]) -> None:
        self._store, self._account, self._objects = store, account, objects
        self._numbers = count()

    def connect(self, root: str) -> None:
        """Send the first request, which opens a connection.

        Raises:
            StorageError: the store refuses, or does not answer.
        """
        one = self._objects[0]
        for again in reversed(range(_TRIES)):
            self._account.begin(one.key, 1, self._account.most_bytes)
            try:
                body = self._store.get(one.key, Span(0, 1), None)
            except Fault as fault:
                if fault.kind not in AGAIN or not again:
                    raise_for(f"{root}/{one.key}", fault)
                time.sleep(THROTTLED_PAUSE_S)
            else:
                self._account.received(len(body.data))
                return

    def latencies(self, seconds: float) -> list[float]:
        """The times of small requests, one after the other.

        Raises:
            StorageError: all of them failed.
        """
        calls: list[Call] = []
        end = time.monotonic() + seconds
        while len(calls) < LATENCIES and time.monotonic() < end:
            call = self._call(1, self._account.most_bytes)
            if call is not None:
                calls.append(call)
        if not calls:
            sent = counted(self._account.requests, "request")
            raise StorageError(f"the store answered none of {sent}; try later")
        return [call.done - call.sent for call in calls]

    def connection(self, seconds: float, latency_s: float) -> float | None:
        """The rate of one request after its first byte; None if it cannot be told from latency."""
        calls: list[Call] = []
        end = time.monotonic() + seconds
        most = int(CONNECTION_BYTES * self._account.most_bytes)
        size, largest = LEAST_PART, min(MOST_PART, self._objects[0].size)
        while time.monotonic() < end:
            call = self._call(min(size, largest), most)
            if call is None:
                break
            calls.append(call)
            size *= 2
        longest = max((call.size for call in calls), default=0)
        if longest < LARGE_ENOUGH:
            return None
        telling = [call for call in calls if 2 * call.size > longest]
        took = sum(call.done - call.sent for call in telling)
        transfer = took - len(telling) * latency_s
        if transfer < TELLING_SHARE * took:
            return None
        return sum(call.size for call in telling) / transfer

    def steps(self, seconds: float, size_of: Callable[[int], int]) -> Iterator[Step]:
        """The rates with more and more requests in flight, while they grow and no limit is met.

        Args:
            seconds: for each step.
            size_of: the bytes of each request, by the number in flight.
        """
        best = 0.0
        for in_flight in IN_FLIGHT:
            if self._account.left_s < seconds / 2:
                return
            share = self._account.most_bytes_left // 3  # rates most often stop growing soon
            step, size = self._step(in_flight, size_of(in_flight), seconds, share)
            if step is None:
                return
            yield step
            rate = step.requests_per_s if size == 1 else step.bytes_per_s
            if step.throttled or rate < GROWTH * best:
                return
            best = rate

    def _step(
        self, in_flight: int, size: int, seconds: float, most_bytes: int
    ) -> tuple[Step | None, int]:
        """The rates with some requests in flight."""
        account, calls, stop = self._account, list[Call](), threading.Event()
        before = account.throttled
        limit = account.reserved + most_bytes
        began = time.monotonic()
        end = began + min(seconds, account.left_s)

        def work() -> None:
            while time.monotonic() < end and not stop.is_set():
                call = self._call(size, limit)
                if call is not None:
                    calls.append(call)
                elif account.reserved + size > limit:
                    return
                elif account.throttled - before >= THROTTLED_ENOUGH:
                    stop.set()
                else:
                    time.sleep(THROTTLED_PAUSE_S)

        # Daemons: an answer that never comes must not keep the program from ending.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(in_flight)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end + GRACE_S - time.monotonic()))
        found = list(calls)
        if not found and account.throttled == before:
            return None, size
        requests, received, took = rates(found, began, end)
        throttled = account.throttled - before
        return Step(
            in_flight=in_flight, requests_per_s=requests, bytes_per_s=received, seconds=took,
            throttled=throttled,
        ), size  # fmt: skip

    def _call(self, size: int, most_bytes: int) -> Call | None:
        """Read a part of one of the objects; None if that was refused, or too much."""
        number = next(self._numbers)
        # Smaller objects would give the rate of small requests.
        large = [one for one in self._objects if one.size >= size] or self._objects[:1]
        one = large[number % len(large)]
        parts = max(1, one.size // size)
        start = (number // len(large)) % parts * size
        stop = min(one.size, start + size)
        if not self._account.begin(one.key, size, most_bytes):
            return None
        sent = time.monotonic()
        try:
            body = self._store.get(one.key, Span(start, stop), None)
        except Fault as fault:
            self._account.refused(fault)
            return None
        self._account.received(len(body.data))
        return Call(sent, time.monotonic(), len(body.data))


def part_bytes(connection: float | None) -> Callable[[int], int]:
    """The bytes of a large request, by the number in flight."""
    fit = MOST_PART if connection is None else int(PART_S * connection)

    def size(in_flight: int) -> int:
        return max(LEAST_PART, min(MOST_PART, fit, AT_ONCE_BYTES // in_flight))

    return size


def rates(calls: Sequence[Call], began: float, end: float) -> tuple[float, float, float]:
    """Requests/s and bytes/s of a step, and the seconds that they are of.

    Each request counts evenly for the time from when it was sent until it was answered. The first
    part of a step, in which connections are opened, is left out.

    >>> rates([Call(0.0, 1.0, 100), Call(0.5, 1.5, 100)], 0.0, 1.0)
    (1.625, 162.5, 0.8)
    """
    last = min(end, max((call.done for call in calls), default=end))
    first = began + WARM_UP_SHARE * (last - began)
    took = last - first
    if not calls or took <= 0:
        return 0.0, 0.0, max(0.0, took)
    requests = received = 0.0
    for call in calls:
        inside = max(0.0, min(call.done, last) - max(call.sent, first))
        share = inside / max(call.done - call.sent, 1e-9)
        requests += share
        received += share * call.size
    return requests / took, received / took, took
