"""The cache of decoded files in memory, and what it has in common with the one on disk.

A file is known by its path, size and modification time, by the columns that were asked for and
how they are held, so a changed file is read again and a wider date range reads only what is new.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from .layout import Layout, held_alike
from .machine import memory_limit
from .private_memory import aligned, blank_memory, can_map, map_private, map_shared
from .segments import HeapStore, Place, Segment, copies
from .settings import Cache, Decoder, DtypeBackend

MEMORY_SHARE = 4  # the memory cache may hold a quarter of what the process may use
# It forgets a sixteenth of that at a time, or a file where a file is larger; a frame keeps the
# memory of all its segment alive.
SEGMENTS = 16
MOST_SEGMENTS = 64  # each holds a descriptor; files of many schemas have many segments
COPIED_BYTES = 1 << 20  # numbers of smaller frames are copied, lest they keep a segment alive


class Key(NamedTuple):
    """What identifies a decoded file."""

    path: str
    size: int
    mtime_ns: int
    columns: tuple[str, ...] | None
    dtype_backend: DtypeBackend = "numpy"
    decoder: Decoder = "auto"


class FileCache(Protocol):
    """Rows by file. What the caller does to frames made of them never comes back."""

    hits: int
    misses: int

    def expect(self, paths: Sequence[str]) -> None:
        """Files that will be asked for next, once their keys are known."""
        ...

    def find(self, keys: Mapping[str, Key]) -> dict[str, Place]:
        """The rows that are known, by path."""
        ...

    def room(self, layout: Layout, rows: int) -> Place | None:
        """Where rows that are about to be decoded may be put to be kept; None for anywhere."""
        ...

    def keep(self, keys: Mapping[str, Key], places: Mapping[str, Place]) -> None:
        """Keep files' rows under the keys taken before they were read."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


def make_cache(kind: Cache, folder: str | os.PathLike[str] | None = None) -> FileCache | None:
    """The cache of a setting; None for `none`.

    Args:
        kind: `none`, `memory` or `disk`.
        folder: where the disk cache lives; the user's cache folder by default.
    """
    if kind == "memory":
        return MemoryCache()
    if kind == "disk":
        from .disk_cache import DiskCache

        return DiskCache(folder)
    return None


def keys_of(
    paths: Sequence[str],
    columns: Sequence[str] | None,
    dtype_backend: DtypeBackend = "numpy",
    decoder: Decoder = "auto",
) -> dict[str, Key]:
    """The keys of the files that exist, by path, as they are now.

    Links among a path's folders are followed once a folder; a link to a file is a file of its own.
    """
    wanted = None if columns is None else tuple(columns)
    folders: dict[str, str] = {}
    keys = {}
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path for each of many files costs more
        except OSError:
            continue  # reading it will say what is wrong
        name = path.rpartition(os.sep)[2]
        folder = path[: len(path) - len(name)]
        real = folders.get(folder)
        if real is None:
            real = folders[folder] = os.path.realpath(folder) + os.sep
        file = real + name, status.st_size, status.st_mtime_ns
        keys[path] = Key(*file, wanted, dtype_backend, decoder)
    return keys


class SharedStore:
    """Numbers in memory without a name, which every frame has a private mapping of.

    Args:
        layout: the columns.
        rows: how many rows there is room for; room that is not used costs nothing.

    Raises:
        OSError: no such memory can be had.
    """

    def __init__(self, layout: Layout, rows: int) -> None:
        self._shapes = []
        end = 0
        for dtype, positions in layout.numbers:
            stride = aligned(rows * dtype.itemsize)
            self._shapes.append((dtype, len(positions), stride, end))
            end += stride * len(positions)
        self.rows = rows
        self._size = max(end, 1)
        self._descriptor = blank_memory(self._size)
        self.blocks = self._blocks(map_shared(self._descriptor, self._size))

    def own(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows of each block: copied a page at a time when they are written to.

        A few rows are copied at once, and so are all where a process has no mappings left.
        """
        if sum(block[:, start:stop].nbytes for block in self.blocks) <= COPIED_BYTES:
            return copies(self.blocks, start, stop)
        try:
            blocks = self._blocks(map_private(self._descriptor, self._size))
        except OSError:
            return copies(self.blocks, start, stop)
        return [block[:, start:stop] for block in blocks]

    def _blocks(self, memory: np.ndarray) -> list[np.ndarray]:
        return [
            np.ndarray((columns, self.rows), dtype, memory, offset, (stride, dtype.itemsize))
            for dtype, columns, stride, offset in self._shapes
        ]

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class CopiedStore(HeapStore):
    """Numbers in the process's own memory, of which every frame gets a copy."""

    def own(self, start: int, stop: int) -> list[np.ndarray]:
        """Copies of rows of each block."""
        return copies(self.blocks, start, stop)


@dataclass(eq=False)
class _Held:
    """A segment in the cache."""

    segment: Segment
    process: int
    used: int = 0
    """Rows that have been given out, from the first."""
    keys: set[Key] = field(default_factory=set)
    latest: int = 0
    """When rows were last asked for."""

    @property
    def bytes(self) -> int:
        return self.used * self.segment.layout.row_bytes + self.segment.arrow_bytes


class MemoryCache:
    """Rows of this process; the least recently used go first, a segment at a time.

    Files that are loaded one after the other lie one after the other, so that a range of dates
    is a view of what is held: numbers are mapped, not copied, and text is shared.

    Args:
        max_bytes: bound on what is held; by default a quarter of the memory limit.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = memory_limit() // MEMORY_SHARE if max_bytes is None else max_bytes
        self.hits = self.misses = self.held_bytes = 0
        self._places: dict[Key, Place] = {}
        self._held: dict[Segment, _Held] = {}
        self._clock = 0
        self._lock = threading.Lock()

    def expect(self, paths: Sequence[str]) -> None:
        """Nothing is to be prepared."""
        del paths

    def find(self, keys: Mapping[str, Key]) -> dict[str, Place]:
        """The rows that are known, by path."""
        with self._lock:
            known = self._places
            found = {path: place for path, key in keys.items() if (place := known.get(key))}
            self._clock += 1
            for segment in {place.segment for place in found.values()}:
                self._held[segment].latest = self._clock
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def room(self, layout: Layout, rows: int) -> Place | None:
        """Rows of a segment to be written; None where they could not be kept."""
        if not rows or rows * layout.row_bytes > self.max_bytes:
            return None
        with self._lock:
            self._clock += 1
            for held in reversed(self._held.values()):
                segment = held.segment
                fits = held.used + rows <= segment.rows and held.process == os.getpid()
                if fits and held_alike(segment.layout, layout):
                    break
            else:
                segment = self._segment(layout, rows)
                held = self._held[segment] = _Held(segment, os.getpid())
            start = held.used
            held.used += rows
            held.latest = self._clock
            self._shrink()  # also for loads that fail, whose rows are never kept
        return Place(segment, start, start + rows)

    def keep(self, keys: Mapping[str, Key], places: Mapping[str, Place]) -> None:
        """Keep rows that were put where `room` said, and forget the least recently used."""
        with self._lock:
            for path, place in places.items():
                held = self._held.get(place.segment)
                if held is not None and path in keys:
                    self._places[keys[path]] = place
                    held.keys.add(keys[path])
            self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._places.clear()
            self._held.clear()
            self.held_bytes = 0

    def _segment(self, layout: Layout, rows: int) -> Segment:
        room = max(rows, self.max_bytes // SEGMENTS // max(1, layout.row_bytes))
        if can_map():
            try:
                return Segment(layout, SharedStore(layout, room), room)
            except OSError:  # as where too many files are open
                pass
        return Segment(layout, CopiedStore(layout, rows), rows)

    def _shrink(self) -> None:
        self.held_bytes = sum(held.bytes for held in self._held.values())
        too_large = [held for held in self._held.values() if held.bytes > self.max_bytes]
        for held in too_large:  # it would only drive out the others
            self._forget(held)
        for held in sorted(self._held.values(), key=lambda held: held.latest):
            if self.held_bytes <= self.max_bytes and len(self._held) <= MOST_SEGMENTS:
                break
            self._forget(held)

    def _forget(self, held: _Held) -> None:
        del self._held[held.segment]
        self.held_bytes -= held.bytes
        for key in held.keys:  # another thread may have put the same file elsewhere
            place = self._places.get(key)
            if place is not None and place.segment is held.segment:
                del self._places[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}  # a pickled loader starts with an empty cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_bytes"])  # type: ignore[misc]  # made anew, as unpickling does
