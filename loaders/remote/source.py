"""An object as a file: its size and version, and its bytes, of which parts are held in memory."""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor

from .byte_file import ByteFile
from .options import options_for
from .ranges import Range, divided, merged
from .requests import ChangedError, get
from .store import Body, Span
from .urls import RemotePath, split_url

ENDS_BYTES = 32 << 20
"""Ends of large objects kept by this process: opening one again then takes no request."""
NO_SUFFIX = ("az", "abfs")
"""Schemes whose stores cannot send the last bytes of an object of unknown size."""
_KEPT_MISSES = 16  # parts read on demand that a source keeps, such as one for each of some columns
_KEPT_BYTES = 1 << 20  # of such a part; a longer one is a column chunk, which Arrow reads once


class _Ends:
    """The ends of recently opened objects, by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: OrderedDict[str, Body] = OrderedDict()
        self._bytes = 0

    def find(self, path: str) -> Body | None:
        with self._lock:
            body = self._bodies.get(path)
            if body is not None:
                self._bodies.move_to_end(path)
            return body

    def keep(self, path: str, body: Body) -> None:
        with self._lock:
            self._drop(path)
            self._bodies[str(path)] = body
            self._bytes += len(body.data)
            while self._bytes > ENDS_BYTES:
                _, oldest = self._bodies.popitem(last=False)
                self._bytes -= len(oldest.data)

    def drop(self, path: str) -> None:
        with self._lock:
            self._drop(path)

    def _drop(self, path: str) -> None:
        if (body := self._bodies.pop(path, None)) is not None:
            self._bytes -= len(body.data)


_ends = _Ends()


class RemoteSource:
    """One version of an object; parts that are not held are requested when they are read.

    Args:
        path: its URL.
        body: a part of it that has been read.
    """

    def __init__(self, path: str, body: Body) -> None:
        self.path = path
        self.size, self.version, self.modified_ns = body.size, body.version, body.modified_ns
        self._limits = options_for(path).limits
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._parts: list[bytes] = []
        self._on_demand: OrderedDict[int, bytes] = OrderedDict()
        self._hold(body.start, body.data)

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes from offset `at`, or fewer at the end of the object.

        Raises:
            ChangedError: the object was replaced since it was opened.
            StorageError: the store refuses, or does not answer.
        """
        count = max(0, min(count, self.size - at))
        if not count:
            return b""
        held = self._held(at, count)
        return self._missed(at, count) if held is None else held

    def fetch(self, ranges: Iterable[Range], pool: Executor | None = None) -> None:
        """Request parts that will be read, several at a time; hold them in memory.

        Args:
            ranges: the parts.
            pool: threads that request; None requests one part after the other.

        Raises:
            ChangedError: as `read`.
            StorageError: as `read`.
        """
        parts = self.missing(ranges)
        for _ in map(self.request, parts) if pool is None else pool.map(self.request, parts):
            pass

    def request(self, part: Range) -> None:
        """Request one part, and hold it.

        Raises:
            ChangedError: as `read`.
            StorageError: as `read`.
        """
        self._hold(part.start, self._request(part))

    def missing(self, ranges: Iterable[Range]) -> list[Range]:
        """The requests for parts that are not held."""
        # A damaged footer may name bytes beyond the end: Arrow raises the error.
        inside = (Range(part.start, min(part.stop, self.size)) for part in ranges)
        wanted = [part for part in inside if self._held(part.start, part.size) is None]
        limits = self._limits
        return [
            part
            for whole in merged(wanted, limits.gap_bytes)
            for part in divided(whole, limits.split_bytes)
        ]

    def whole(self, pool: Executor | None = None) -> bytes:
        """All bytes."""
        self.fetch([Range(0, self.size)], pool)
        return self.read(0, self.size)

    @property
    def content(self) -> bytes | None:
        """All bytes, if they are held."""
        return self._held(0, self.size)

    def file(self) -> SourceFile:
        """It as a binary file."""
        return SourceFile(self)

    def _request(self, part: Range) -> bytes:
        try:
            body = get(self.path, Span(*part), self.version)
        except ChangedError:
            _ends.drop(_end_key(self.path))
            raise
        if not self._is_of(body):  # of a store that ignores If-Match, or has no ETags
            _ends.drop(_end_key(self.path))
            raise ChangedError(self.path, "it was replaced while it was being read; load again")
        return body.data

    def _is_of(self, body: Body) -> bool:
        """Whether a part belongs to this version; without an ETag, the time of change tells."""
        if (body.size, body.version) != (self.size, self.version):
            return False
        return self.version is not None or body.modified_ns == self.modified_ns

    def _missed(self, at: int, count: int) -> bytes:
        """Read a part on demand; a small one together with what follows it, which is kept."""
        limits = self._limits
        with self._lock:
            for start, data in self._on_demand.items():
                if start <= at and at + count <= start + len(data):
                    return data[at - start : at - start + count]
        size = max(count, min(limits.gap_bytes, _KEPT_BYTES, self.size - at))
        parts = divided(Range(at, at + size), limits.split_bytes)
        data = b"".join(map(self._request, parts))
        if size > _KEPT_BYTES:
            return data[:count]
        with self._lock:
            self._on_demand[at] = data
            while len(self._on_demand) > _KEPT_MISSES:
                self._on_demand.popitem(last=False)
        return data[:count]

    def _hold(self, start: int, data: bytes) -> None:
        """Hold a part; one that continues another is joined with it only when read."""
        with self._lock:
            position = bisect.bisect(self._starts, start)
            self._starts.insert(position, start)
            self._parts.insert(position, data)

    def _held(self, at: int, count: int) -> bytes | None:
        """Bytes that are held in one part or in several that follow each other."""
        with self._lock:
            position = bisect.bisect(self._starts, at) - 1
            pieces: list[bytes] = []
            stop = at + count
            while at < stop:
                # Parts may overlap: of those that begin before `at`, take one that contains it.
                while position >= 0 and self._starts[position] + len(self._parts[position]) <= at:
                    position -= 1
                if position < 0:
                    return None
                start, data = self._starts[position], self._parts[position]
                pieces.append(data[at - start : stop - start])
                at += len(pieces[-1])
                position = bisect.bisect(self._starts, at) - 1
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class SourceFile(ByteFile):
    """A source as a file that Arrow and pandas read."""

    def __init__(self, source: RemoteSource) -> None:
        super().__init__(source.size)
        self.source = source

    def read_at(self, at: int, count: int) -> bytes:
        """As `RemoteSource.read`."""
        return self.source.read(at, count)


def open_source(path: str, *, fresh: bool = False, whole: bool = False) -> RemoteSource:
    """Open an object, of which at least the end is then held.

    Args:
        path: its URL.
        fresh: open its current version, or the listed one; else a version that this process has
            opened before will do.
        whole: hold all of a small object, by one request.

    Raises:
        ParquetFileError: it does not exist.
        StorageError: the store refuses, or does not answer.
    """
    limits = options_for(path).limits
    known = _ends.find(_end_key(path))
    if known is not None and (not fresh or _is_listed(path, known)):
        return RemoteSource(path, known)
    size = getattr(path, "size", None)
    may_be_small = size is None or size <= limits.whole_bytes
    body = _read_end(path, limits.whole_bytes if whole and may_be_small else limits.tail_bytes)
    if body.size > limits.whole_bytes:  # of a small one, its whole is read again
        start = max(0, len(body.data) - limits.tail_bytes)
        _ends.keep(_end_key(path), body._replace(data=body.data[start:], start=body.start + start))
    return RemoteSource(path, body)


def _end_key(path: str) -> str:
    """The name of an object among those of all storages."""
    return f"{id(options_for(path))} {path}"


def source_of_version(path: str, size: int, version: str | None) -> RemoteSource:
    """A known version of an object, of which nothing is held yet."""
    return RemoteSource(path, Body(b"", 0, size, version, 0))


def _is_listed(path: str, body: Body) -> bool:
    """Whether a listing says that this is the object's version."""
    if not isinstance(path, RemotePath) or path.version is None:
        return False
    return (path.version, path.size) == (body.version, body.size)


def _read_end(path: str, count: int) -> Body:
    """The last `count` bytes of an object, or all of a smaller one."""
    size = getattr(path, "size", None)
    if size is not None and size <= count:
        return get(path)
    if split_url(path).scheme not in NO_SUFFIX:
        return get(path, Span(-count))
    now = get(path, Span(0, 1))  # its size and version
    return get(path, Span(max(0, now.size - count), now.size), now.version)


def forget_ends() -> None:
    """Forget the ends of all objects."""
    global _ends  # noqa: PLW0603 - a cache of this process
    _ends = _Ends()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_ends)
