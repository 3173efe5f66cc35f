"""Caches of decoded files: in memory, or on disk for other processes too.

A file is known by its path, size and modification time, and by the columns that were asked for,
so a changed file is read again and a wider date range reads only what is new.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from .machine import memory_limit
from .settings import Cache

MEMORY_SHARE = 4  # the memory cache may hold a quarter of what the process may use


class Key(NamedTuple):
    """What identifies a decoded file."""

    path: str
    size: int
    mtime_ns: int
    columns: tuple[str, ...] | None


class FileCache(Protocol):
    """Decoded tables by key. What the caller does to frames made of them never comes back."""

    hits: int
    misses: int

    def get(self, keys: Mapping[str, Key]) -> dict[str, pa.Table]:
        """The tables that are known, by path."""
        ...

    def put(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        """Keep tables under the keys taken before they were read."""
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


def keys_of(paths: Sequence[str], columns: Sequence[str] | None) -> dict[str, Key]:
    """The keys of the files that exist, by path, as they are now."""
    wanted = None if columns is None else tuple(columns)
    keys = {}
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError:
            continue  # reading it will say what is wrong
        keys[path] = Key(os.path.realpath(path), status.st_size, status.st_mtime_ns, wanted)
    return keys


class MemoryCache:
    """Tables of this process; the least recently used go first.

    Args:
        max_bytes: bound on what is held; by default a quarter of the memory limit.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = memory_limit() // MEMORY_SHARE if max_bytes is None else max_bytes
        self.hits = self.misses = self.held_bytes = 0
        self._tables: OrderedDict[Key, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keys: Mapping[str, Key]) -> dict[str, pa.Table]:
        """The tables that are known, by path."""
        found = {}
        with self._lock:
            for path, key in keys.items():
                if (table := self._tables.get(key)) is not None:
                    self._tables.move_to_end(key)
                    found[path] = table
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def put(self, keys: Mapping[str, Key], tables: Mapping[str, pa.Table]) -> None:
        """Keep tables that fit, dropping the least recently used beyond `max_bytes`."""
        with self._lock:
            for path, table in tables.items():
                key = keys.get(path)
                if key is None or key in self._tables:
                    continue
                if table.nbytes <= self.max_bytes:  # else it would only drive out the others
                    self._tables[key] = table
                    self.held_bytes += table.nbytes
            while self.held_bytes > self.max_bytes and self._tables:
                _, dropped = self._tables.popitem(last=False)
                self.held_bytes -= dropped.nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tables.clear()
            self.held_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}  # a pickled loader starts with an empty cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_bytes"])  # type: ignore[misc]  # made anew, as unpickling does
